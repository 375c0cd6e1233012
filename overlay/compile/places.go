// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"net/netip"
	"slices"

	"weft/bpf/row"
	"weft/discovery"
	"weft/overlay"
)

// Nodes returns the nodes whose frames are accepted: admitted and not removed since. A removed node's
// own row is void up to the incarnation that was removed, so a row that is there is of a later life.
func Nodes(admissions []discovery.Admission, rows []discovery.Node) []Node {
	mtu := make(map[discovery.NodeID]int, len(rows))
	unprobed := make(map[discovery.NodeID]bool)
	addrs := make(map[discovery.NodeID][]netip.Addr, len(rows))
	for _, n := range rows {
		mtu[n.ID], addrs[n.ID] = max(n.MTU, 1), n.Addrs
		if n.Unprobed {
			unprobed[n.ID] = true
		}
	}
	var nodes []Node
	for _, a := range admissions {
		if !a.VTEP.IsValid() || a.Gone != 0 && mtu[a.Node] == 0 {
			continue
		}
		n := Node{ID: a.Node, VTEP: a.VTEP.Unmap(), MTU: mtu[a.Node], Unprobed: unprobed[a.Node], Host4: a.Host4, Host6: a.Host6}
		if n.MTU == 1 {
			n.MTU = 0
		}
		if slices.Contains(addrs[a.Node], a.Former) {
			n.Former = a.Former.Unmap()
		}
		nodes = append(nodes, n)
	}
	return nodes
}

func blocks(f Facts, networks map[string]overlay.Network) map[row.BlockKey]row.Block {
	nodes := make(map[discovery.NodeID]Node, len(f.Nodes)+1)
	for _, n := range f.Nodes {
		nodes[n.ID] = n
	}
	nodes[f.Node] = Node{ID: f.Node, VTEP: f.VTEP, MTU: f.MTU}
	plain := make(map[discovery.NodeID]string, len(f.Plain)) // -> network
	for _, p := range f.Plain {
		nodes[p.Node], plain[p.Node] = Node{ID: p.Node, VTEP: p.VTEP, MTU: p.MTU}, p.Network
	}
	rows := make(map[row.BlockKey]row.Block, len(f.Blocks))
	for _, b := range f.Blocks {
		n, known := networks[b.Network]
		holder, admitted := nodes[b.Node]
		if network, isPlain := plain[b.Node]; isPlain && network != b.Network {
			continue
		}
		if !known || !admitted || !inside(n, b.Prefix) || holder.VTEP.Is6() != f.VTEP.Is6() {
			continue
		}
		r := f.placeOf(holder)
		if _, isPlain := plain[b.Node]; isPlain {
			r.Flags = row.BlockPlain
		}
		rows[row.BlockKey{VNI: uint32(n.VNI), Addr: row.AddrOf(b.Prefix.Masked().Addr())}] = r
	}
	return rows
}

// placeOf returns the row of a block that a node holds.
func (f Facts) placeOf(n Node) row.Block {
	if n.ID == f.Node {
		return row.Block{VTEP: row.AddrOf(f.VTEP), MTU: uint16(overlay.TaskMTU(f.VTEP, f.MTU)), Flags: row.BlockLocal}
	}
	mtu := overlay.TaskMTU(f.VTEP, f.MTU)
	if n.MTU != 0 {
		mtu = min(mtu, overlay.TaskMTU(n.VTEP, n.MTU))
	}
	path := f.Paths[n.VTEP]
	if path.MTU != 0 {
		mtu = min(mtu, overlay.TaskMTU(n.VTEP, path.MTU))
	}
	r := row.Block{VTEP: row.AddrOf(n.VTEP), MTU: uint16(mtu)}
	if path.Second {
		r.Flags = row.BlockSecondPort
	}
	return r
}

// inside reports whether the packet path can find a block: it masks by the network's one length.
func inside(n overlay.Network, block netip.Prefix) bool {
	if !block.IsValid() || block.Bits() != n.BlockBits(block.Addr()) {
		return false
	}
	subnet := n.Subnet6
	if block.Addr().Is4() {
		subnet = n.Subnet4
	}
	return subnet.IsValid() && subnet.Contains(block.Addr())
}

func prefixes(networks map[string]overlay.Network) map[row.PrefixKey]row.Prefix {
	rows := make(map[row.PrefixKey]row.Prefix)
	for _, n := range networks {
		for _, p := range n.Subnets() {
			block := netip.PrefixFrom(p.Addr(), n.BlockBits(p.Addr()))
			rows[row.PrefixKeyOf(p)] = row.Prefix{VNI: uint32(n.VNI), Block: uint8(row.PrefixLen(block))}
		}
	}
	return rows
}

func vteps(f Facts, networks map[string]overlay.Network, directed map[string]bool) map[row.Addr]row.VTEP {
	rows := make(map[row.Addr]row.VTEP, len(f.Nodes)+len(f.Plain))
	for _, n := range f.Nodes {
		if n.ID != f.Node && n.VTEP != f.VTEP {
			v := row.VTEP{Host: row.Word(n.Host4.Addr())}
			rows[row.AddrOf(n.VTEP)] = v
			if n.Former.IsValid() {
				rows[row.AddrOf(n.Former)] = v
			}
		}
	}
	own := f.OwnMAC
	if own == [6]byte{} {
		own = [6]byte(overlay.VTEPMAC(f.VTEP))
	}
	for _, p := range f.Plain {
		n, known := networks[p.Network]
		if _, taken := rows[row.AddrOf(p.VTEP)]; !known || taken || p.VTEP == f.VTEP || p.VTEP.Is6() != f.VTEP.Is6() {
			continue
		}
		v := row.VTEP{
			Flags: row.VTEPPlain, VNI: uint32(n.VNI), As: row.Endpoint{Identity: uint16(p.Identity), MAC: p.HardwareAddr()},
			OwnMAC: own, Block4: blockBits(n.Block4), Block6: blockBits(n.Block6),
		}
		if directed[n.Name] {
			v.Flags |= row.VTEPDirected
		}
		rows[row.AddrOf(p.VTEP)] = v
	}
	return rows
}
