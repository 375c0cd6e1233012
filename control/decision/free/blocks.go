// SPDX-License-Identifier: Apache-2.0

// Package free knows what a network has left to give: blocks of its subnets, and numbers of sets of groups. It gives the
// lowest first. Who may have what, and what is said of it, it leaves to control/decision.
package free

import (
	"math"
	"math/bits"
	"net/netip"
	"slices"

	"weft/discovery"
)

// Blocks walks the free blocks of one family of a network.
type Blocks struct {
	Subnet netip.Prefix
	Bits   int // length of a block

	taken map[netip.Prefix]discovery.NodeID
	held  map[discovery.NodeID]int
	at    netip.Addr // everything before it is taken; not valid: past the end
}

// NewBlocks returns those of a subnet, in which all are free, by their length.
func NewBlocks(subnet netip.Prefix, length int) *Blocks {
	return &Blocks{
		Subnet: subnet, Bits: length, taken: map[netip.Prefix]discovery.NodeID{}, held: map[discovery.NodeID]int{}, at: subnet.Addr(),
	}
}

// Take gives a block to a node.
func (b *Blocks) Take(block netip.Prefix, node discovery.NodeID) {
	b.taken[block] = node
	b.held[node]++
}

// Of returns the block that an address lies in.
func (b *Blocks) Of(addr netip.Addr) netip.Prefix { return netip.PrefixFrom(addr, b.Bits).Masked() }

// Holder returns who has a block; false when it is free.
func (b *Blocks) Holder(block netip.Prefix) (discovery.NodeID, bool) {
	node, ok := b.taken[block]
	return node, ok
}

// Held is how many blocks a node has.
func (b *Blocks) Held(node discovery.NodeID) int { return b.held[node] }

// Given is how many blocks nodes have.
func (b *Blocks) Given() int { return len(b.taken) }

// Next returns the lowest free block that is not among those left out; false when there is none.
func (b *Blocks) Next(leaveOut []netip.Prefix) (netip.Prefix, bool) {
	for at := b.at; at.IsValid() && b.Subnet.Contains(at); {
		p := netip.PrefixFrom(at, b.Bits)
		_, taken := b.taken[p]
		if !taken && !slices.Contains(leaveOut, p) {
			return p, true
		}
		if taken && at == b.at {
			b.at = after(p)
		}
		at = after(p)
	}
	return netip.Prefix{}, false
}

// Left is how many blocks are free, at most 2^31-1.
func (b *Blocks) Left() int {
	if b.Bits-b.Subnet.Bits() >= 32 {
		return math.MaxInt32
	}
	return min(1<<(b.Bits-b.Subnet.Bits())-b.Given(), math.MaxInt32)
}

// after returns the first address behind p, not valid behind the last of all.
func after(p netip.Prefix) netip.Addr {
	if p.Addr().Is4() {
		b := p.Addr().As4()
		v := uint64(b[0])<<24 | uint64(b[1])<<16 | uint64(b[2])<<8 | uint64(b[3])
		if v += 1 << (32 - p.Bits()); v > math.MaxUint32 {
			return netip.Addr{}
		}
		return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
	}
	b := p.Addr().As16()
	var high, low, carry uint64
	for i := range 8 {
		high, low = high<<8|uint64(b[i]), low<<8|uint64(b[8+i])
	}
	if shift := 128 - p.Bits(); shift < 64 {
		low, carry = bits.Add64(low, 1<<shift, 0)
		high, carry = bits.Add64(high, 0, carry)
	} else {
		high, carry = bits.Add64(high, 1<<(shift-64), 0)
	}
	if carry != 0 {
		return netip.Addr{}
	}
	for i := range 8 {
		b[i], b[8+i] = byte(high>>(56-8*i)), byte(low>>(56-8*i))
	}
	return netip.AddrFrom16(b)
}
