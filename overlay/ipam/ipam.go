// SPDX-License-Identifier: Apache-2.0

// Package ipam decides which address and which block is next: always the lowest that is free, so that
// the same facts give the same answer. Who holds what, and asking the masters for more, it leaves to
// the engine.
package ipam

import (
	"math"
	"net/netip"
	"slices"

	"weft/overlay"
)

// Free returns how many addresses of blocks are left, at most math.MaxInt. Each used address is
// counted once; those outside of the blocks do not count.
func Free(blocks []netip.Prefix, used []netip.Addr) int {
	left := 0
	for _, b := range blocks {
		n := overlay.Usable(b)
		if n == math.MaxInt || left > math.MaxInt-n {
			return math.MaxInt
		}
		left += n
	}
	for _, a := range used {
		if slices.ContainsFunc(blocks, func(b netip.Prefix) bool { return b.Contains(a) }) {
			left--
		}
	}
	return left
}

// Lowest returns the lowest address of the blocks that is not used, and whether there is one.
func Lowest(blocks []netip.Prefix, used func(netip.Addr) bool) (netip.Addr, bool) {
	sorted := slices.Clone(blocks)
	slices.SortFunc(sorted, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	for _, b := range sorted {
		for a := range each(b) {
			if !used(a) {
				return a, true
			}
		}
	}
	return netip.Addr{}, false
}

// each yields the usable addresses of a block, lowest first.
func each(block netip.Prefix) func(yield func(netip.Addr) bool) {
	return func(yield func(netip.Addr) bool) {
		for a, n := block.Masked().Addr().Next(), overlay.Usable(block); n > 0; a, n = a.Next(), n-1 {
			if !yield(a) {
				return
			}
		}
	}
}

// LowestBlock returns the lowest block of the given length in subnet that overlaps none of taken, and
// whether there is one.
func LowestBlock(subnet netip.Prefix, bits int, taken []netip.Prefix) (netip.Prefix, bool) {
	if bits < subnet.Bits() || bits > subnet.Addr().BitLen() {
		return netip.Prefix{}, false
	}
	sorted := slices.Clone(taken)
	slices.SortFunc(sorted, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	next := netip.PrefixFrom(subnet.Masked().Addr(), bits)
	for _, t := range sorted {
		if !next.Overlaps(t) {
			continue
		}
		// The block behind the larger of the two; none is there at the end of the address space.
		past := t.Masked()
		if past.Bits() > bits {
			past = next
		}
		after, ok := behind(past)
		if !ok || !subnet.Contains(after) {
			return netip.Prefix{}, false
		}
		next = netip.PrefixFrom(after, bits)
	}
	return next, subnet.Contains(next.Addr())
}

// behind returns the first address after p, and whether there is one.
func behind(p netip.Prefix) (netip.Addr, bool) {
	b := p.Masked().Addr().AsSlice()
	// Add one at the last bit of the prefix.
	for i, carry := (p.Bits()-1)/8, byte(1<<(7-(p.Bits()+7)%8)); p.Bits() > 0 && i >= 0; i-- {
		b[i] += carry
		if b[i] >= carry {
			a, _ := netip.AddrFromSlice(b)
			return a, true
		}
		carry = 1
	}
	return netip.Addr{}, false
}

// Wanted returns how many blocks a node should hold: as many as it has, and more when what is free,
// less those that wait for an address, falls under the low-water mark. The mark is an eighth of a
// block, 32 at most, so that the next block is there before the last address is gone.
func Wanted(held, free, waiting, usable int) int {
	if usable <= 0 {
		return held
	}
	short := lowWater(usable) + waiting - free
	if short <= 0 {
		return held
	}
	return held + 1 + (short-1)/usable
}

// Spare reports whether a node can do without a block, when free addresses are left in the others: twice
// the low-water mark, so that it is not asked for again with the next task.
func Spare(free, waiting, usable int) bool { return free-waiting >= 2*lowWater(usable) }

func lowWater(usable int) int { return min(max(usable/8, 1), 32) }
