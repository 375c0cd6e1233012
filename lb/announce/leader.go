// SPDX-License-Identifier: Apache-2.0

// Package announce tells the network outside where published addresses are: on a link by gratuitous ARP and unsolicited
// neighbour advertisements of the node that leads an address, to routers by BGP. What answers the neighbours that ask is
// bpf/src/lib/edge_neighbour.h, and what takes the packets the edge of every node, whoever leads.
package announce

import (
	"hash/fnv"
	"net/netip"

	"weft/discovery"
)

// Leader returns the node that a link's neighbours are to send an address's packets to: the one with the greatest hash
// of both (rendezvous hashing), so that every node chooses the same from the same members, nobody asks anybody, and a
// node that comes or goes moves the addresses that are its own. Empty: there is no node.
func Leader(addr netip.Addr, nodes []discovery.NodeID) (leader discovery.NodeID) {
	var most uint64
	for _, n := range nodes {
		if w := weight(addr, n); leader == "" || w > most || w == most && n < leader {
			leader, most = n, w
		}
	}
	return leader
}

func weight(addr netip.Addr, node discovery.NodeID) uint64 {
	h := fnv.New64a()
	b := addr.As16()
	_, _ = h.Write(b[:]) // never an error
	_, _ = h.Write([]byte(node))
	x := h.Sum64() // its last bytes move few bits: SplitMix64's finish spreads them
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
