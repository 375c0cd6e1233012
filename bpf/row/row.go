// SPDX-License-Identifier: Apache-2.0

// Package row is the Go form of bpf/src/shared: what the maps of the kernel half hold, as typed
// values. It converts between Go's values and the rows' byte orders and knows no map and no kernel.
package row

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// AddrOf returns a as a row holds it: 128 bit, IPv4 mapped. The zero Addr stays zero (none).
func AddrOf(a netip.Addr) Addr {
	if !a.IsValid() {
		return Addr{}
	}
	return Addr{Bytes: a.As16()}
}

// Netip returns the address a row holds; the zero row is the zero netip.Addr.
func (a Addr) Netip() netip.Addr {
	if a == (Addr{}) {
		return netip.Addr{}
	}
	return netip.AddrFrom16(a.Bytes).Unmap()
}

// PrefixLen returns the length of p over the 128-bit form: an IPv4 /8 is 104.
func PrefixLen(p netip.Prefix) uint32 {
	if p.Addr().Is4() {
		return uint32(p.Bits()) + 96
	}
	return uint32(p.Bits())
}

// PrefixKeyOf returns the LPM key of p.
func PrefixKeyOf(p netip.Prefix) PrefixKey {
	return PrefixKey{Len: PrefixLen(p), Addr: AddrOf(p.Masked().Addr())}
}

// SourceKeyOf returns the LPM key of p as rules of a network name it.
func SourceKeyOf(vni uint32, p netip.Prefix) SourceKey {
	return SourceKey{Len: 32 + PrefixLen(p), VNI: vni, Addr: AddrOf(p.Masked().Addr())}
}

// Port converts a port between host order and the rows' network order, either way.
func Port(p uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], p)
	return binary.NativeEndian.Uint16(b[:])
}

// Word returns an IPv4 address as a row holds it in 32 bits, 0 for any other.
func Word(a netip.Addr) uint32 {
	if !a.Is4() {
		return 0
	}
	b := a.As4()
	return binary.NativeEndian.Uint32(b[:])
}

// PeerOf returns an address and port as a row holds them.
func PeerOf(p netip.AddrPort) Peer {
	return Peer{Addr: AddrOf(p.Addr()), Port: Port(p.Port())}
}

// String returns the short name: no_common_group.
func (r Reason) String() string {
	if name, ok := reasons[r]; ok {
		return name[0]
	}
	return fmt.Sprintf("reason_%d", uint8(r))
}

// Text returns the sentence that reason.h gives.
func (r Reason) Text() string { return reasons[r][1] }

// Drop reports whether the packet was dropped.
func (r Reason) Drop() bool { return r >= ReasonDrop }
