// SPDX-License-Identifier: Apache-2.0

package dnsname

import (
	"net/netip"
	"strconv"
	"strings"
)

// The roots of reverse look-up (RFC 1035, 3.5; RFC 3596, 2.5).
const (
	arpa4 = ".in-addr.arpa."
	arpa6 = ".ip6.arpa."
)

// ReverseName is the name that holds an address's PTR records.
func ReverseName(addr netip.Addr) string {
	return ReverseZone(netip.PrefixFrom(addr.Unmap(), addr.Unmap().BitLen()))
}

// ReverseZone is the reverse zone of a prefix: for one that ends between labels, the zone around it.
func ReverseZone(p netip.Prefix) string {
	var b strings.Builder
	bytes := p.Addr().AsSlice()
	if p.Addr().Is4() {
		for i := p.Bits()/8 - 1; i >= 0; i-- {
			b.WriteString(strconv.Itoa(int(bytes[i])))
			b.WriteByte('.')
		}
		return b.String() + arpa4[1:]
	}
	const hex = "0123456789abcdef"
	for i := p.Bits()/4 - 1; i >= 0; i-- {
		b.WriteByte(hex[bytes[i/2]>>(4*(1-i%2))&15])
		b.WriteByte('.')
	}
	return b.String() + arpa6[1:]
}

// ParseReverse is the prefix that a reverse name stands for; ok is false for other names, for example of a label that is no byte.
func ParseReverse(name string) (p netip.Prefix, ok bool) {
	if rest, found := strings.CutSuffix(name, arpa4); found {
		return parseReverse4(rest)
	}
	if rest, found := strings.CutSuffix(name, arpa6); found {
		return parseReverse6(rest)
	}
	return netip.Prefix{}, false
}

func parseReverse4(rest string) (p netip.Prefix, ok bool) {
	var bytes [4]byte
	labels := strings.Split(rest, ".")
	if len(labels) > len(bytes) {
		return netip.Prefix{}, false
	}
	for i, l := range labels {
		n, err := strconv.ParseUint(l, 10, 8)
		if err != nil || len(l) > 1 && l[0] == '0' {
			return netip.Prefix{}, false
		}
		bytes[len(labels)-1-i] = byte(n)
	}
	return netip.PrefixFrom(netip.AddrFrom4(bytes), 8*len(labels)), true
}

func parseReverse6(rest string) (p netip.Prefix, ok bool) {
	var bytes [16]byte
	labels := strings.Split(rest, ".")
	if len(labels) > 2*len(bytes) {
		return netip.Prefix{}, false
	}
	for i, l := range labels {
		n, err := strconv.ParseUint(l, 16, 4)
		if err != nil || len(l) != 1 {
			return netip.Prefix{}, false
		}
		at := len(labels) - 1 - i
		bytes[at/2] |= byte(n) << (4 * (1 - at%2))
	}
	return netip.PrefixFrom(netip.AddrFrom16(bytes), 4*len(labels)), true
}
