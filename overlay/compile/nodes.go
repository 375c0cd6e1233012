// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"net/netip"
	"slices"

	"weft/bpf/row"
	"weft/overlay"
)

// HostMAC is the link address of the device by which a node's own packets leave for the networks.
func HostMAC() [6]byte { return [6]byte{0x0a, 0x77, 0x65, 0x66, 0x74, 0x02} }

// Self returns this node's addresses towards the networks; none before the masters admitted it.
func (f Facts) Self() []netip.Prefix {
	for _, n := range f.Nodes {
		if n.ID == f.Node {
			return n.Hosts()
		}
	}
	return nil
}

// What nodes' own processes need: each node's address is a block of its own in row.VNINodes, and this node is a workload
// and an endpoint there.

// hostSubnets returns the prefixes that nodes' addresses are of: an address by itself is a block.
func (f Facts) hostSubnets() map[row.PrefixKey]row.Prefix {
	subnets := make(map[row.PrefixKey]row.Prefix)
	for _, n := range f.Nodes {
		for _, p := range n.Hosts() {
			subnets[row.PrefixKeyOf(p)] = row.Prefix{VNI: row.VNINodes, Block: 128}
		}
	}
	return subnets
}

func (f Facts) nodeBlocks(blocks map[row.BlockKey]row.Block) {
	for _, n := range f.Nodes {
		if n.VTEP.Is6() != f.VTEP.Is6() {
			continue
		}
		for _, p := range n.Hosts() {
			blocks[row.BlockKey{VNI: row.VNINodes, Addr: row.AddrOf(p.Addr())}] = f.placeOf(n)
		}
	}
}

// addHost adds this node to its tasks.
func (f Facts) addHost(r Rows) {
	if f.Host.Ifindex == 0 {
		return
	}
	own := f.Self()
	w := row.Workload{VNI: row.VNINodes, Identity: row.IdentityOtherNode, MTU: uint16(overlay.TaskMTU(f.VTEP, f.MTU)), MAC: HostMAC()}
	for _, p := range own {
		if p.Addr().Is4() {
			w.Addr4 = row.AddrOf(p.Addr())
		} else {
			w.Addr6 = row.AddrOf(p.Addr())
		}
		key := row.EndpointKey{VNI: row.VNINodes, Addr: row.AddrOf(p.Addr())}
		r.Endpoints[key] = row.Endpoint{Ifindex: f.Host.Ifindex, Identity: row.IdentityNode, MAC: w.MAC}
	}
	if f.Host.Cookie != 0 {
		r.Spaces[f.Host.Cookie] = row.Space{VNI: row.VNINodes, Identity: row.IdentityNode, Addr4: w.Addr4, Addr6: w.Addr6}
	}
	if len(own) > 0 {
		r.Workloads[f.Host.Ifindex] = w
	}
}

// NodeAt returns the node whose processes have an address towards the networks; false: none.
func (f Facts) NodeAt(a netip.Addr) (Node, bool) {
	i := slices.IndexFunc(f.Nodes, func(n Node) bool {
		return slices.ContainsFunc(n.Hosts(), func(p netip.Prefix) bool { return p.Addr() == a })
	})
	if i < 0 {
		return Node{}, false
	}
	return f.Nodes[i], true
}
