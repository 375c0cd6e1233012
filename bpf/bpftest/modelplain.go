// SPDX-License-Identifier: Apache-2.0

package bpftest

import (
	"bytes"
	"encoding/binary"
	"net/netip"

	"weft/bpf/row"
)

// fromPlain decides about a frame of a plain node, up to where it is received as any other.
func (m Model) fromPlain(frame []byte, v row.VTEP, meta Meta) Outcome {
	h, ok := readHeaders(frame, meta.GSOSize != 0)
	known := h.ethertype == TypeARP || h.ethertype == TypeIPv4 || h.ethertype == TypeIPv6
	switch {
	case !ok:
		return end(row.ReasonMalformed)
	case !known:
		return end(row.ReasonNotIP)
	case meta.Tunnel.VNI != v.VNI:
		return end(row.ReasonWrongNetwork)
	case h.ethertype == TypeARP:
		return m.plainARP(frame[14:], v, meta)
	}
	p := packet{headers: h, frame: frame, vni: v.VNI, identity: v.As.Identity}
	switch {
	case p.isLinkTalk() && !p.v4 && p.icmp == 135:
		return m.plainSolicitation(p, v, meta)
	case p.isLinkTalk(), nowhere(p.dst) == row.ReasonMulticast:
		return end(row.ReasonChatter)
	case !m.holds(p.src, v, meta):
		return end(row.ReasonSpoofedBlock)
	}
	if v.Flags&row.VTEPDirected != 0 {
		m.remember(p)
	}
	return m.delivered(m.receive(frame, v.VNI, v.As.Identity, meta))
}

// holds tells whether an address is of a block of the frame's sender.
func (m Model) holds(a netip.Addr, v row.VTEP, meta Meta) bool {
	bits := int(v.Block6)
	if a.Is4() {
		bits = int(v.Block4)
	}
	block, err := a.Prefix(bits)
	if err != nil {
		return false
	}
	b, ok := m.Blocks[row.BlockKey{VNI: v.VNI, Addr: row.AddrOf(block.Addr())}]
	return ok && b.VTEP == row.AddrOf(meta.Tunnel.VTEP)
}

func (m Model) isTask(vni uint32, a netip.Addr) bool {
	_, ok := m.Endpoints[row.EndpointKey{VNI: vni, Addr: row.AddrOf(a)}]
	return ok
}

func (m Model) plainARP(b []byte, v row.VTEP, meta Meta) Outcome {
	if len(b) < 28 || !bytes.Equal(b[:6], []byte{0, 1, 8, 0, 6, 4}) {
		return end(row.ReasonMalformed)
	}
	sender, target := netip.AddrFrom4([4]byte(b[14:18])), netip.AddrFrom4([4]byte(b[24:28]))
	switch {
	case binary.BigEndian.Uint16(b[6:]) != 1, sender.IsUnspecified(), !m.isTask(v.VNI, target):
		return end(row.ReasonChatter)
	case !m.holds(sender, v, meta):
		return end(row.ReasonSpoofedBlock)
	case !m.Device:
		return end(row.ReasonEncapFailed)
	}
	return end(row.ReasonAnsweredARP)
}

func (m Model) plainSolicitation(p packet, v row.VTEP, meta Meta) Outcome {
	b := p.frame[p.l4:]
	if p.ttl != 255 || len(b) < 24 {
		return end(row.ReasonMalformed)
	}
	switch {
	case p.src.IsUnspecified(), !m.isTask(v.VNI, netip.AddrFrom16([16]byte(b[8:24]))):
		return end(row.ReasonChatter)
	case !p.src.IsLinkLocalUnicast() && !m.holds(p.src, v, meta):
		return end(row.ReasonSpoofedBlock)
	case !m.Device:
		return end(row.ReasonEncapFailed)
	}
	return end(row.ReasonAnsweredND)
}

// toPlain decides about a packet to a plain node, which judges nothing itself.
func (m Model) toPlain(p packet, to row.Block, meta Meta) Outcome {
	v, ok := m.VTEPs[to.VTEP]
	if !ok {
		return end(row.ReasonNoBlock)
	}
	judged := m.judge(p, v.As)
	if judged.Reason.Drop() {
		return judged
	}
	sent := m.send(p, to, meta)
	if sent.Reason == row.ReasonEncapsulated {
		sent.Reason, sent.Rule = judged.Reason, judged.Rule
		if judged.Reason == row.ReasonDelivered {
			sent.Reason = row.ReasonEncapsulated
		}
		if !m.Device {
			return end(row.ReasonEncapFailed)
		}
	}
	return sent
}
