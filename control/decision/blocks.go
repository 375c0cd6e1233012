// SPDX-License-Identifier: Apache-2.0

package decision

import (
	"fmt"
	"net/netip"
	"slices"

	"weft/control/decision/free"
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
		blocks := p.blocksOf(n, subnet)
		block := blocks.Of(addr)
		switch holder, taken := blocks.Holder(block); {
		case p.goingBack(w, block):
			// Not taken and given in turns: the node asks when the block has gone.
		case taken && holder != w.node:
			p.refuse(w.node, discovery.KindWant, w.key, "address %s lies in block %s of node %s: the task can have it there only",
				addr, block, holder)
		case taken:
		case blocks.Held(w.node) >= maxBlocks:
			p.refuse(w.node, discovery.KindWant, w.key, "address %s needs block %s: a node may hold %d of network %s and has them",
				addr, block, maxBlocks, n.Name)
		case !p.d.full():
			blocks.Take(block, w.node)
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
	blocks := p.blocksOf(n, subnet)
	for blocks.Held(w.node) < wanted && !p.d.full() {
		block, ok := blocks.Next(w.Return)
		if !ok {
			p.note(discovery.Refusal{
				Node: w.node, Kind: discovery.KindWant, Key: w.key, Network: n.Name,
				Reason: fmt.Sprintf("network %s has no free block left: all %d of %s (each a /%d) are given", n.Name, blocks.Given(), subnet, blocks.Bits),
			})
			return
		}
		blocks.Take(block, w.node)
		p.give(n, w.node, block)
	}
}

// blocksOf returns those of a family of a network.
func (p *planner) blocksOf(n overlay.Network, subnet netip.Prefix) *free.Blocks {
	key := fmt.Sprintf("%s/%v", n.Name, subnet.Addr().Is4())
	if p.blocks[key] == nil {
		p.blocks[key] = p.s.freeBlocks(n.Name, subnet, n.BlockBits(subnet.Addr()))
	}
	return p.blocks[key]
}

// freeBlocks are those of a family of a network.
func (s *Snapshot) freeBlocks(network string, subnet netip.Prefix, length int) *free.Blocks {
	b := free.NewBlocks(subnet, length)
	for _, key := range s.blocks.below(network) {
		if block := s.blocks[key]; block.Prefix.Addr().Is4() == subnet.Addr().Is4() {
			b.Take(block.Prefix, block.Node)
		}
	}
	return b
}

func (p *planner) give(n overlay.Network, node discovery.NodeID, block netip.Prefix) {
	p.d.set(discovery.KindBlock, n.Name+"/"+block.String(), overlay.Block{Network: n.Name, Node: node, Prefix: block})
}
