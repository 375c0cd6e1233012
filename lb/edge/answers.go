// SPDX-License-Identifier: Apache-2.0

package edge

import (
	"hash/fnv"
	"maps"
	"slices"

	"weft/bpf/row"
	"weft/lb"
)

// Served returns what tasks of this node serve behind publications, drained or not.
func Served(f Facts) map[row.EdgeServedKey]row.EdgeServed {
	served := make(map[row.EdgeServedKey]row.EdgeServed)
	for _, pub := range f.Publications {
		vni, known := f.Networks[pub.VIP.Network]
		if !known {
			continue
		}
		for _, b := range f.VIPs[pub.VIP].Backends {
			for _, a := range b.Addrs {
				if b.Node == f.Self && a.Is4() == pub.Addr.Is4() {
					key := row.EdgeServedKey{VNI: vni, VIP: vipKey(pub), Task: taskID(a)}
					r := row.EdgeServed{Addr: row.AddrOf(a), Port: row.Port(b.Port)}
					if pub.Return == lb.ReturnEdge {
						r.Flags = row.EdgeServedRelayed
					}
					served[key] = r
				}
			}
		}
	}
	return served
}

// Relays returns the addresses from which an edge node takes answers back, in the network of who answers.
func Relays(f Facts) map[row.EndpointKey]uint32 {
	relays := make(map[row.EndpointKey]uint32)
	for _, pub := range f.Publications {
		if vni, known := f.Networks[pub.VIP.Network]; known && pub.Return == lb.ReturnEdge {
			relays[row.EndpointKey{VNI: vni, Addr: row.AddrOf(pub.Addr)}] = 1
		}
	}
	return relays
}

// Ways returns the other edge nodes that live, by which answers may go, in order.
func Ways(f Facts) []uint32 {
	living := make(map[uint32]bool)
	for id, n := range f.Nodes {
		if n.Edge && n.Host != 0 && id != f.Self {
			living[n.Host] = true
		}
	}
	return slices.Sorted(maps.Keys(living))
}

// Move returns the answers that go by none of these ways, each with one of them: a client that says nothing more
// would get none. The same client gets the same one; its next packet says better. No way: nothing is moved.
func Move(answers map[row.FlowKey]row.Translation, ways []uint32) map[row.FlowKey]row.Translation {
	moved := make(map[row.FlowKey]row.Translation)
	for key, a := range answers {
		if a.Slot == 0 || len(ways) == 0 || slices.Contains(ways, a.Slot) {
			continue
		}
		h := fnv.New32a()
		_, _ = h.Write(key.Dst.Bytes[:]) // never an error
		a.Slot = ways[h.Sum32()%uint32(len(ways))]
		moved[key] = a
	}
	return moved
}
