// SPDX-License-Identifier: Apache-2.0

package overlay

import (
	"bytes"
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"weft/discovery"
)

// maxPlainBlocks is how many blocks a plain node may hold.
const maxPlainBlocks = 64

// PlainNode is a host that is in a network by a VXLAN device of its kernel's (or any other VXLAN end) and runs
// no Weft. It can't say who sends on it, so all of it counts as one sender and receiver, in the groups that
// the operator gave it, and the nodes of Weft judge in both directions.
type PlainNode struct {
	Node    discovery.NodeID `json:"node"`
	VTEP    netip.Addr       `json:"vtep"` // where its tunnel frames come from and go to
	Network string           `json:"network"`
	Groups  []string         `json:"groups,omitempty"`
	// Blocks are what it sends from, each of the length of the network's.
	Blocks []netip.Prefix `json:"blocks"`
	MAC    string         `json:"mac"`           // of its VXLAN device; default VTEPMAC(VTEP)
	MTU    int            `json:"mtu,omitempty"` // of the way there, bytes of underlay packets; 0: that of a node's own link
	// Identity is the masters' choice.
	Identity Identity `json:"identity"`
}

// VTEPMAC is the link address that a node has towards plain nodes, and by default a plain node's device:
// 0a:58 and the last four bytes of its underlay address.
func VTEPMAC(vtep netip.Addr) net.HardwareAddr {
	b := vtep.As16()
	return append(net.HardwareAddr{0x0a, 0x58}, b[12:]...)
}

// Normal returns the node with defaults filled in, groups and blocks sorted and each once.
func (n PlainNode) Normal() PlainNode {
	n.VTEP = n.VTEP.Unmap().WithZone("")
	n.Groups = slices.Compact(slices.Sorted(slices.Values(n.Groups)))
	n.Blocks = slices.Compact(slices.SortedFunc(slices.Values(n.Blocks), ComparePrefixes))
	if mac, err := net.ParseMAC(n.MAC); err == nil {
		n.MAC = mac.String()
	}
	if n.VTEP.IsValid() {
		n.MAC = cmp.Or(n.MAC, VTEPMAC(n.VTEP).String())
	}
	return n
}

// Same reports whether a and b say the same, but for what masters choose.
func (n PlainNode) Same(b PlainNode) bool {
	n, b = n.Normal(), b.Normal()
	return n.Node == b.Node && n.VTEP == b.VTEP && n.Network == b.Network && n.MAC == b.MAC && n.MTU == b.MTU &&
		slices.Equal(n.Groups, b.Groups) && slices.Equal(n.Blocks, b.Blocks)
}

// HardwareAddr returns the parsed MAC.
func (n PlainNode) HardwareAddr() (mac [6]byte) {
	if parsed, err := net.ParseMAC(n.MAC); err == nil {
		copy(mac[:], parsed)
	}
	return mac
}

// Validate reports everything that is wrong with the node by itself; whether network, groups and blocks are there
// and free is for the masters.
func (n PlainNode) Validate() error {
	n = n.Normal()
	p := problems{what: fmt.Sprintf("plain node %q", n.Node)}
	p.label("node", string(n.Node))
	p.label("network", n.Network)
	for _, g := range n.Groups {
		p.label("groups", g)
	}
	if !n.VTEP.IsValid() || n.VTEP.IsUnspecified() || n.VTEP.IsLoopback() || n.VTEP.IsMulticast() || n.VTEP.IsLinkLocalUnicast() {
		p.addf("vtep %s is no address of a host in the underlay", n.VTEP)
	}
	mac, err := net.ParseMAC(n.MAC)
	if err != nil || len(mac) != 6 || mac[0]&1 != 0 || bytes.Equal(mac, make([]byte, 6)) {
		p.addf("mac %q is none of an interface: six bytes, such as 0a:58:c0:00:02:05", n.MAC)
	}
	if n.MTU != 0 && (n.MTU < 1350 || n.MTU > 65535) { // IPv6's least in a tunnel over IPv6
		p.addf("mtu is %d: allowed are 0, that of each node's own link, and 1350 to 65535", n.MTU)
	}
	if len(n.Blocks) == 0 || len(n.Blocks) > maxPlainBlocks {
		p.addf("blocks are %d: 1 to %d are allowed", len(n.Blocks), maxPlainBlocks)
	}
	for _, b := range n.Blocks {
		if !b.IsValid() {
			p.addf("block is empty: ADDRESS/LENGTH is allowed, such as 9.0.250.0/24")
		} else if b != b.Masked() {
			p.addf("block %s has bits behind its length: allowed is %s", b, b.Masked())
		}
	}
	return p.err()
}

// Addrs returns the first address of the node's first block of each family, where it has one.
func (n PlainNode) Addrs() (addr4, addr6 netip.Addr) {
	for _, b := range n.Blocks {
		first := b.Addr()
		if b.Bits() < first.BitLen() {
			first = first.Next()
		}
		switch {
		case first.Is4() && !addr4.IsValid():
			addr4 = first
		case first.Is6() && !addr6.IsValid():
			addr6 = first
		}
	}
	return addr4, addr6
}

// Holds reports whether an address is of a block of the node.
func (n PlainNode) Holds(a netip.Addr) bool {
	return slices.ContainsFunc(n.Blocks, func(b netip.Prefix) bool { return b.Contains(a) })
}
