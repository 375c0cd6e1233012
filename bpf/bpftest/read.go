// SPDX-License-Identifier: Apache-2.0

package bpftest

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// Check returns an error when a checksum or length of an IP frame is not right. A transport checksum
// of 0 is right for UDP over IPv4 only.
func Check(frame []byte) error {
	h, ok := readHeaders(frame, false)
	if !ok {
		return fmt.Errorf("no sensible frame: % x", frame[:min(len(frame), 64)])
	}
	if h.v4 && Sum(frame[14:14+h.head]) != 0 {
		return fmt.Errorf("IPv4 header checksum is wrong: % x", frame[14:14+h.head])
	}
	if 14+h.total != len(frame) {
		return fmt.Errorf("IP says %d bytes, the frame has %d", h.total, len(frame)-14)
	}
	if h.fragment != 0 {
		return nil
	}
	return h.checkTransport(frame[h.l4:])
}

func (h *headers) checkTransport(b []byte) error {
	switch h.proto {
	case ICMP:
		if Sum(b) != 0 {
			return fmt.Errorf("ICMP checksum is wrong: % x", b[:min(len(b), 16)])
		}
		return nil
	case UDP:
		if len(b) >= 8 && b[6] == 0 && b[7] == 0 && h.v4 {
			return nil
		}
		if size := int(binary.BigEndian.Uint16(b[4:])); size != len(b) {
			return fmt.Errorf("UDP says %d bytes, IP has %d", size, len(b))
		}
	case TCP, ICMPv6:
	default:
		return nil
	}
	if Sum(pseudo(h.src, h.dst, h.proto, len(b)), b) != 0 {
		return fmt.Errorf("checksum of protocol %d is wrong: % x", h.proto, b[:min(len(b), 20)])
	}
	return nil
}

// headers is what the model knows of a frame: struct packet of lib/packet.h, read in plain Go.
type headers struct {
	ethertype    uint16
	v4           bool
	src, dst     netip.Addr
	head, total  int // bytes of the IP header (with IPv6 extensions) and of the IP packet
	l3, l4       int // offsets
	proto        uint8
	ttl, tos     uint8
	dontFragment bool
	fragment     int // 0, 1 first, 2 later
	sport, dport uint16
	flags        uint8 // TCP
	icmp         uint8
	l4Len        int
}

// readHeaders reads an Ethernet frame; false: what the programs call malformed. Of what is neither
// IPv4 nor IPv6 it reads the type alone. joined: segments or datagrams in one frame, which may be
// longer than an IP header can say, and then says 0.
func readHeaders(frame []byte, joined bool) (h headers, ok bool) {
	if len(frame) < 14 {
		return h, false
	}
	h.ethertype = binary.BigEndian.Uint16(frame[12:])
	h.l3 = 14
	switch h.ethertype {
	case TypeIPv4:
		h.v4 = true
		ok = h.readIPv4(frame[14:], joined)
	case TypeIPv6:
		ok = h.readIPv6(frame[14:], joined)
	default:
		return h, true
	}
	if !ok {
		return h, false
	}
	h.head = h.l4 - h.l3
	return h, h.fragment == 2 || h.readTransport(frame[h.l4:h.l3+h.total])
}

func (h *headers) readIPv4(b []byte, joined bool) bool {
	if len(b) < 20 || b[0]>>4 != 4 {
		return false
	}
	head := int(b[0]&15) * 4
	h.total = int(binary.BigEndian.Uint16(b[2:]))
	if h.total == 0 && joined {
		h.total = len(b)
	}
	if head < 20 || h.total < head || h.total > len(b) {
		return false
	}
	h.l4 = h.l3 + head
	h.tos, h.ttl, h.proto = b[1], b[8], b[9]
	frag := binary.BigEndian.Uint16(b[6:])
	h.dontFragment = frag&DontFragment != 0
	if frag&MoreFragments != 0 {
		h.fragment = 1
	}
	if frag&0x1fff != 0 {
		h.fragment = 2
	}
	h.src = netip.AddrFrom4([4]byte(b[12:16]))
	h.dst = netip.AddrFrom4([4]byte(b[16:20]))
	return true
}

func (h *headers) readIPv6(b []byte, joined bool) bool {
	if len(b) < 40 || b[0]>>4 != 6 {
		return false
	}
	h.total = 40 + int(binary.BigEndian.Uint16(b[4:]))
	if h.total == 40 && joined {
		h.total = len(b)
	}
	if h.total > len(b) {
		return false
	}
	h.tos, h.ttl = b[0]<<4|b[1]>>4, b[7]
	h.dontFragment = true
	h.src = netip.AddrFrom16([16]byte(b[8:24]))
	h.dst = netip.AddrFrom16([16]byte(b[24:40]))
	if h.src.Is4In6() || h.dst.Is4In6() {
		return false
	}
	return h.skipExtensions(b[:h.total], b[6])
}

// skipExtensions walks from the end of the IPv6 header; at most eight headers are passed.
func (h *headers) skipExtensions(b []byte, next uint8) bool {
	at := 40
	for range 8 {
		switch next {
		case HopOpts, Routing, DstOpts, Fragment:
		default:
			h.proto, h.l4 = next, h.l3+at
			return at <= len(b)
		}
		if at+8 > len(b) {
			return false
		}
		size := int(b[at+1])*8 + 8
		if next == Fragment {
			size = 8
			word := binary.BigEndian.Uint16(b[at+2:])
			if word&0xfff8 != 0 {
				h.fragment, h.proto, h.l4 = 2, b[at], h.l3+at+8
				return true
			}
			if word&1 != 0 {
				h.fragment = 1
			}
		}
		next = b[at]
		at += size
	}
	return false
}

func (h *headers) readTransport(b []byte) bool {
	switch {
	case h.proto == TCP:
		if len(b) < 20 || b[12]>>4 < 5 {
			return false
		}
		h.flags, h.l4Len = b[13], int(b[12]>>4)*4
	case h.proto == UDP || h.isICMP():
		if len(b) < 8 {
			return false
		}
		h.l4Len = 8
	default:
		return true
	}
	if h.isICMP() {
		h.icmp = b[0]
		if h.isEcho() {
			h.sport = binary.BigEndian.Uint16(b[4:])
			h.dport = h.sport
		}
		return true
	}
	h.sport = binary.BigEndian.Uint16(b)
	h.dport = binary.BigEndian.Uint16(b[2:])
	return true
}

func (h *headers) isICMP() bool {
	return h.v4 && h.proto == ICMP || !h.v4 && h.proto == ICMPv6
}

func (h *headers) isEcho() bool {
	if h.v4 {
		return h.icmp == 0 || h.icmp == 8
	}
	return h.icmp == 128 || h.icmp == 129
}
