// SPDX-License-Identifier: Apache-2.0

package decision

import (
	"fmt"
	"net/netip"
	"slices"

	"weft/discovery"
	"weft/overlay"
)

// maxBlocks bounds how many blocks of a family one node may hold in a network, so that a node gone
// mad does not take the others' addresses.
const maxBlocks = 256

// takeBack frees the blocks that a node gives back. It gives no address of them any more, whether it has
// heard of this or not, and gets none of them again while it says so.
func (p *planner) takeBack(w wantClaim) {
	for _, block := range w.Return {
		key := w.Network + "/" + block.String()
		if b, ok := p.s.blocks[key]; ok && b.Node == w.node && !p.d.full() {
			p.d.drop(discovery.KindBlock, key)
		}
	}
}

// grantAddrs gives a node the blocks that hold the addresses which its tasks asked for. A block is never cut:
// one look-up of one length finds where an address lives.
func (p *planner) grantAddrs(w wantClaim, n overlay.Network) {
	for _, addr := range w.Addrs {
		subnet := n.Subnet4
		if addr.Is6() {
			subnet = n.Subnet6
		}
		if !subnet.IsValid() || !subnet.Contains(addr) {
			p.refuse(w.node, discovery.KindWant, w.key, "address %s is not part of network %s (%s)", addr, n.Name, n.Form())
			continue
		}
		cursor := p.cursor(n, subnet)
		block := netip.PrefixFrom(addr, cursor.bits).Masked()
		switch holder, taken := cursor.taken[block]; {
		case p.goingBack(w, block):
			// Not taken and given in turns: the node asks when the block has gone.
		case taken && holder != w.node:
			p.refuse(w.node, discovery.KindWant, w.key, "address %s lies in block %s of node %s: the task can have it there only",
				addr, block, holder)
		case taken:
		case cursor.held[w.node] >= maxBlocks:
			p.refuse(w.node, discovery.KindWant, w.key, "address %s needs block %s: a node may hold %d of network %s and has them",
				addr, block, maxBlocks, n.Name)
		case !p.d.full():
			cursor.take(block, w.node)
			p.give(n, w.node, block)
		}
	}
}

// goingBack tells whether a node gives a block back in any of its wants.
func (p *planner) goingBack(w wantClaim, block netip.Prefix) bool {
	return slices.ContainsFunc(p.wants, func(o wantClaim) bool { return o.node == w.node && slices.Contains(o.Return, block) })
}

func (p *planner) grantBlocks(w wantClaim, n overlay.Network, subnet netip.Prefix, wanted int) {
	if !subnet.IsValid() || wanted <= 0 {
		return
	}
	if wanted > maxBlocks {
		p.refuse(w.node, discovery.KindWant, w.key, "%d blocks of network %s are wanted: a node may hold %d", wanted, n.Name, maxBlocks)
		wanted = maxBlocks
	}
	cursor := p.cursor(n, subnet)
	for cursor.held[w.node] < wanted && !p.d.full() {
		block, ok := cursor.next(w.Return)
		if !ok {
			p.note(discovery.Refusal{
				Node: w.node, Kind: discovery.KindWant, Key: w.key, Network: n.Name,
				Reason: fmt.Sprintf("network %s has no free block left: all %d of %s (each a /%d) are given", n.Name, cursor.given, subnet, cursor.bits),
			})
			return
		}
		cursor.take(block, w.node)
		p.give(n, w.node, block)
	}
}

// cursor returns the one of a family of a network.
func (p *planner) cursor(n overlay.Network, subnet netip.Prefix) *blockCursor {
	key := fmt.Sprintf("%s/%v", n.Name, subnet.Addr().Is4())
	if p.cursors[key] == nil {
		p.cursors[key] = newBlockCursor(p.s, n.Name, subnet, n.BlockBits(subnet.Addr()))
	}
	return p.cursors[key]
}

func (p *planner) give(n overlay.Network, node discovery.NodeID, block netip.Prefix) {
	p.d.set(discovery.KindBlock, n.Name+"/"+block.String(), overlay.Block{Network: n.Name, Node: node, Prefix: block})
}
