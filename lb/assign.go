// SPDX-License-Identifier: Apache-2.0

package lb

import (
	"fmt"
	"net/netip"
)

// Assign decides the addresses of a name: those of its pin when it has one, else its hash addresses
// or, where another pin or a literal VIP has them, the next ones up, wrapping at the end of the
// range. It is pure: the masters decide names one after the other in the order of their keys, so
// that collisions come out the same everywhere.
func Assign(existing []Pin, name string, literals ...netip.Addr) (Pin, error) {
	taken := make(map[netip.Addr]bool, 2*len(existing)+len(literals))
	for _, p := range existing {
		if p.Name == name {
			return p, nil
		}
		taken[p.Addr4] = true
		taken[p.Addr6] = true
	}
	for _, a := range literals {
		taken[a] = true
	}
	if name == "" || len(name) > maxName {
		return Pin{}, fmt.Errorf("%w VIP name %q: 1 to %d characters are allowed", ErrInvalid, name, maxName)
	}
	offset4 := uint64(phash2(name) % span4)
	free4, ok4 := firstFree(offset4, span4, taken, func(o uint64) netip.Addr { return addr4(uint32(o)) })
	a6 := HashAddr6(name).As16()
	free6, ok6 := firstFree(low64(a6), span6, taken, addr6)
	if !ok4 || !ok6 {
		return Pin{}, fmt.Errorf("assign an address to VIP %s: every address of the range is taken", name)
	}
	return Pin{Name: name, Addr4: free4, Addr6: free6}, nil
}

// firstFree tries offset and those above it, at most as many as could be taken.
func firstFree(offset, last uint64, taken map[netip.Addr]bool, addr func(uint64) netip.Addr) (netip.Addr, bool) {
	for range uint64(len(taken)) + 1 {
		a := addr(offset)
		if !taken[a] {
			return a, true
		}
		if offset == last {
			offset = 0
			continue
		}
		offset++
	}
	return netip.Addr{}, false
}

func low64(b [16]byte) uint64 {
	var v uint64
	for _, c := range b[8:] {
		v = v<<8 | uint64(c)
	}
	return v
}
