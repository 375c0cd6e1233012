// SPDX-License-Identifier: Apache-2.0

// Package bpftest runs one program on one packet and shows what came of it: action, bytes, counters,
// maps. It builds packets, reads them back and says by a plain model of the tables what should have
// happened; it leaves loading and attaching for good to package bpf.
package bpftest

import (
	"encoding/binary"
	"net/netip"
	"slices"
)

// MAC is an Ethernet address.
type MAC [6]byte

// Gateway is the MAC of every host end (lib/config.h).
var Gateway = MAC{0x0a, 0x77, 0x65, 0x66, 0x74, 0x01}

// EtherTypes and IP protocols of packets that tests build.
const (
	TypeIPv4 = 0x0800
	TypeARP  = 0x0806
	TypeVLAN = 0x8100
	TypeIPv6 = 0x86dd

	HopOpts  = 0
	ICMP     = 1
	IGMP     = 2
	TCP      = 6
	UDP      = 17
	Routing  = 43
	Fragment = 44
	GRE      = 47
	ICMPv6   = 58
	NoNext   = 59
	DstOpts  = 60
)

// TCP flags.
const (
	FIN = 0x01
	SYN = 0x02
	RST = 0x04
	ACK = 0x10
)

// Bits of Packet.Frag, as in the IPv4 header.
const (
	DontFragment  = 0x4000
	MoreFragments = 0x2000
)

// Packet describes a frame. The zero value of most fields means what a plain stack would send;
// lengths and checksums are computed, so that a test changes one thing and gets a packet that is
// wrong in that one thing only.
type Packet struct {
	DstMAC, SrcMAC MAC
	Type           uint16     // 0: by the family of Dst
	Src, Dst       netip.Addr // IPv4-mapped addresses are put into IPv6 headers as they are
	TTL            uint8      // 0: 64
	TOS            uint8
	ID             uint16
	Frag           uint16      // flags and offset in 8 bytes; in IPv6 a fragment header if not 0
	Options        []byte      // IPv4, a multiple of 4
	Extensions     []Extension // IPv6, before the fragment header

	Proto        uint8 // IP protocol, of what follows all extension headers
	SPort, DPort uint16
	Flags        uint8  // TCP; 0: ACK
	Seq, Ack     uint32 // TCP; 0: 1
	ICMPType     uint8
	ICMPCode     uint8
	ICMPRest     [4]byte // id and sequence, or what the type has there
	Payload      []byte
	// L4 replaces the transport header and payload when not nil.
	L4 []byte
	// NoSum leaves the transport's checksum 0.
	NoSum bool
}

// Extension is an IPv6 extension header.
type Extension struct {
	Proto uint8
	Data  []byte // after next header and length; 6 bytes, or 8 more each
}

// PadExtension is an extension header of size bytes that says nothing.
func PadExtension(proto uint8, size int) Extension {
	data := make([]byte, size-2)
	if proto != Routing {
		data[0], data[1] = 1, byte(size-4) // PadN
	}
	return Extension{Proto: proto, Data: data}
}

// Bytes returns the frame.
func (p Packet) Bytes() []byte {
	l4 := p.L4
	if l4 == nil {
		l4 = p.transport()
	}
	v6 := p.Dst.Is6() || p.Src.Is6()
	etherType := p.Type
	if etherType == 0 {
		etherType = TypeIPv4
		if v6 {
			etherType = TypeIPv6
		}
	}
	b := append([]byte(nil), p.DstMAC[:]...)
	b = append(b, p.SrcMAC[:]...)
	b = binary.BigEndian.AppendUint16(b, etherType)
	if v6 {
		return append(b, p.ipv6(l4)...)
	}
	return append(b, p.ipv4(l4)...)
}

func (p Packet) ttl() uint8 {
	if p.TTL == 0 {
		return 64
	}
	return p.TTL
}

func (p Packet) ipv4(l4 []byte) []byte {
	head := 20 + len(p.Options)
	b := []byte{0x40 | byte(head/4), p.TOS}
	b = binary.BigEndian.AppendUint16(b, uint16(head+len(l4)))
	b = binary.BigEndian.AppendUint16(b, p.ID)
	b = binary.BigEndian.AppendUint16(b, p.Frag)
	b = append(b, p.ttl(), p.Proto, 0, 0)
	src, dst := four(p.Src), four(p.Dst)
	b = append(b, src[:]...)
	b = append(b, dst[:]...)
	b = append(b, p.Options...)
	binary.BigEndian.PutUint16(b[10:], Sum(b))
	return append(b, l4...)
}

func four(a netip.Addr) [4]byte {
	if !a.IsValid() {
		return [4]byte{}
	}
	return a.As4()
}

func sixteen(a netip.Addr) [16]byte {
	if !a.IsValid() {
		return [16]byte{}
	}
	return a.As16()
}

func (p Packet) ipv6(l4 []byte) []byte {
	body := l4
	next := p.Proto
	if p.Frag&^DontFragment != 0 {
		offset := p.Frag << 3
		if p.Frag&MoreFragments != 0 {
			offset |= 1
		}
		head := binary.BigEndian.AppendUint16([]byte{next, 0}, offset)
		head = append(head, 0, 0, byte(p.ID>>8), byte(p.ID))
		body = append(head, body...)
		next = Fragment
	}
	for _, e := range slices.Backward(p.Extensions) {
		head := append([]byte{next, byte((len(e.Data)+2)/8 - 1)}, e.Data...)
		body = append(head, body...)
		next = e.Proto
	}
	b := []byte{0x60 | p.TOS>>4, p.TOS << 4, 0, 0}
	b = binary.BigEndian.AppendUint16(b, uint16(len(body)))
	b = append(b, next, p.ttl())
	src, dst := sixteen(p.Src), sixteen(p.Dst)
	b = append(b, src[:]...)
	b = append(b, dst[:]...)
	return append(b, body...)
}

// transport returns the header of the packet's protocol and its payload.
func (p Packet) transport() []byte {
	b := binary.BigEndian.AppendUint16(nil, p.SPort)
	b = binary.BigEndian.AppendUint16(b, p.DPort)
	var sum int // offset of the checksum
	switch p.Proto {
	case TCP:
		flags := p.Flags
		if flags == 0 {
			flags = ACK
		}
		b = binary.BigEndian.AppendUint32(b, max(p.Seq, 1))
		b = binary.BigEndian.AppendUint32(b, max(p.Ack, 1))
		b = append(b, 5<<4, flags, 0xff, 0xff, 0, 0, 0, 0)
		sum = 16
	case UDP:
		b = binary.BigEndian.AppendUint16(b, uint16(8+len(p.Payload)))
		b = append(b, 0, 0)
		sum = 6
	case ICMP, ICMPv6:
		b = append([]byte{p.ICMPType, p.ICMPCode, 0, 0}, p.ICMPRest[:]...)
		sum = 2
	default:
		return p.Payload
	}
	b = append(b, p.Payload...)
	if !p.NoSum {
		binary.BigEndian.PutUint16(b[sum:], p.transportSum(b))
	}
	return b
}

func (p Packet) transportSum(b []byte) uint16 {
	if p.Proto == ICMP {
		return Sum(b)
	}
	sum := Sum(pseudo(p.Src, p.Dst, p.Proto, len(b)), b)
	if sum == 0 && p.Proto == UDP {
		return 0xffff
	}
	return sum
}

// pseudo is the header that transport checksums cover beside their own (RFC 9293, RFC 8200 8.1).
func pseudo(src, dst netip.Addr, proto uint8, size int) []byte {
	var b []byte
	if src.Is4() && dst.Is4() {
		s, d := src.As4(), dst.As4()
		b = append(s[:], d[:]...)
		return append(b, 0, proto, byte(size>>8), byte(size))
	}
	s, d := sixteen(src), sixteen(dst)
	b = append(s[:], d[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(size))
	return append(b, 0, 0, 0, proto)
}

// Sum is the internet checksum (RFC 1071) of parts, each of even length but the last.
func Sum(parts ...[]byte) uint16 {
	var sum uint32
	for _, b := range parts {
		for i := 0; i < len(b); i += 2 {
			word := uint32(b[i]) << 8
			if i+1 < len(b) {
				word |= uint32(b[i+1])
			}
			sum += word
		}
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// ARPPacket is an ARP message in its frame.
type ARPPacket struct {
	DstMAC, SrcMAC         MAC
	Operation              uint16
	SenderMAC, TargetMAC   MAC
	SenderAddr, TargetAddr netip.Addr
}

// Bytes returns the frame.
func (a ARPPacket) Bytes() []byte {
	b := append([]byte(nil), a.DstMAC[:]...)
	b = append(b, a.SrcMAC[:]...)
	b = append(b, 0x08, 0x06, 0, 1, 0x08, 0x00, 6, 4)
	b = binary.BigEndian.AppendUint16(b, a.Operation)
	sender, target := four(a.SenderAddr), four(a.TargetAddr)
	b = append(b, a.SenderMAC[:]...)
	b = append(b, sender[:]...)
	b = append(b, a.TargetMAC[:]...)
	return append(b, target[:]...)
}

// Neighbour is a neighbour solicitation (135) or advertisement (136) with an option that tells mac.
func Neighbour(kind uint8, src, dst, target netip.Addr, mac MAC) Packet {
	t := target.As16()
	option := byte(1) // source link-layer address
	if kind == 136 {
		option = 2
	}
	return Packet{
		Src: src, Dst: dst, TTL: 255, Proto: ICMPv6, ICMPType: kind,
		Payload: append(append(t[:], option, 1), mac[:]...),
	}
}

// Tunnel describes the outer headers of a frame between nodes.
type Tunnel struct {
	Outer  Packet // addresses, ports (DPort 0: 4789), TOS, Frag, Options
	VNI    uint32
	Policy uint16
	// Flags of the VXLAN header; 0: network and policy are valid.
	Flags uint8
}

// Wrap returns frame inside the tunnel.
func (t Tunnel) Wrap(frame []byte) []byte {
	flags := t.Flags
	if flags == 0 {
		flags = 0x88
	}
	head := []byte{flags, 0, byte(t.Policy >> 8), byte(t.Policy)}
	head = binary.BigEndian.AppendUint32(head, t.VNI<<8)
	outer := t.Outer
	outer.Proto = UDP
	if outer.DPort == 0 {
		outer.DPort = 4789
	}
	if outer.L4 == nil {
		outer.Payload = append(head, frame...)
	}
	return outer.Bytes()
}
