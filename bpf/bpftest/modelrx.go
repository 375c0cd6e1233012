// SPDX-License-Identifier: Apache-2.0

package bpftest

import (
	"encoding/binary"
	"net/netip"

	"weft/bpf/row"
)

// ToWorkload decides about a frame that the node's own stack gives to a task.
func (m Model) ToWorkload(frame []byte, meta Meta) Outcome {
	w, ok := m.Workloads[max(meta.Ifindex, 1)]
	if !ok {
		return end(row.ReasonUnknownLink)
	}
	h, ok := readHeaders(frame, meta.GSOSize != 0)
	switch {
	case meta.Ingress == 0:
		p := packet{headers: h, frame: frame, vni: w.VNI}
		if ok {
			p = m.answered(p, max(meta.Ifindex, 1))
		}
		return Outcome{Reason: row.ReasonFromHost, Frame: p.out}
	case !ok:
		return end(row.ReasonMalformed)
	case h.ethertype != TypeIPv4 && h.ethertype != TypeIPv6:
		return end(row.ReasonNotIP)
	}
	p := packet{headers: h, frame: frame, vni: w.VNI, identity: row.IdentityWorld}
	e, ok := m.Endpoints[row.EndpointKey{VNI: w.VNI, Addr: row.AddrOf(p.dst)}]
	if !ok || e.Ifindex != max(meta.Ifindex, 1) {
		return end(row.ReasonNoEndpoint)
	}
	o := m.judge(p, e)
	if o.Reason == row.ReasonNotPublic && m.open(p) {
		o = Outcome{Reason: row.ReasonDelivered, To: e}
		if p.fragment == 1 {
			m.Datagrams[p.datagram()] = row.Flow{}
		}
	}
	o.Left = true
	return m.delivered(o, p)
}

// open tells whether a port of the node leads where the world's packet goes, or whether it is news of
// what went out there.
func (m Model) open(p packet) bool {
	key := row.OpeningKey{VNI: p.vni, Addr: row.AddrOf(p.dst), Port: row.Port(p.dport), Proto: p.proto}
	switch {
	case p.fragment == 2, p.isICMP() && !p.isError():
		return false
	case p.isICMP():
		quoted, ok := p.quoted()
		if !ok || quoted.Src != key.Addr {
			return false
		}
		key.Port, key.Proto = quoted.Sport, quoted.Proto
	}
	_, ok := m.Openings[key]
	return ok
}

// FromUnderlay decides about a frame that reaches the node.
func (m Model) FromUnderlay(frame []byte, meta Meta) Outcome {
	outer, ok := m.openOuter(frame)
	if !ok {
		return end(row.ReasonNotOurs)
	}
	v, ok := m.VTEPs[row.AddrOf(outer.src)]
	if !ok {
		return end(row.ReasonUnknownVTEP)
	}
	udp := frame[outer.l4:]
	if m.SlowDecap || v.Flags&row.VTEPPlain != 0 || outer.fragment != 0 || outer.l4 != m.outerL4() || udp[6]|udp[7] != 0 {
		return end(row.ReasonSlowPath)
	}
	vxlan := udp[8:]
	if len(vxlan) < 8 {
		return end(row.ReasonMalformed)
	}
	if vxlan[0]&0x7f != 0x08 {
		return end(row.ReasonBadTunnel)
	}
	identity := uint16(row.IdentityNone)
	if vxlan[0]&0x80 != 0 {
		identity = binary.BigEndian.Uint16(vxlan[2:])
	}
	vni := binary.BigEndian.Uint32(vxlan[4:]) >> 8
	inner := vxlan[8:]
	if vni == 0 {
		if meta.GSOSize != 0 || len(inner) < 16 {
			return end(row.ReasonMalformed)
		}
		return end(row.ReasonAnsweredProbe)
	}
	o, p := m.receive(inner, vni, identity, meta)
	if p.frame == nil {
		return o
	}
	if meta.GSOSize != 0 && p.proto != TCP && p.checkInner() == row.ReasonNone {
		return end(row.ReasonSlowPath)
	}
	if o.To != (row.Endpoint{}) && p.v4 != m.Addr.Is4() && m.OldDecap {
		return end(row.ReasonSlowPath)
	}
	if o.To != (row.Endpoint{}) && outer.tos&3 == 3 && p.tos&3 == 0 {
		return end(row.ReasonBadTunnel)
	}
	return m.delivered(o, p)
}

// outerL4 is where UDP begins in a tunnel frame that the program opens.
func (m Model) outerL4() int {
	if m.Addr.Is6() {
		return 14 + 40
	}
	return 14 + 20
}

// openOuter tells a tunnel frame for this node. Lengths beyond its headers are the inner frame's.
func (m Model) openOuter(frame []byte) (headers, bool) {
	var h headers
	if m.Addr.Is6() {
		return m.openOuter6(frame)
	}
	if len(frame) < 34 || binary.BigEndian.Uint16(frame[12:]) != TypeIPv4 || MAC(frame[:6]) != (MAC{}) {
		return h, false
	}
	ip := frame[14:]
	head := int(ip[0]&15) * 4
	frag := binary.BigEndian.Uint16(ip[6:])
	h = headers{
		l4: 14 + head, tos: ip[1], fragment: int(frag >> 13 & 1),
		src: netip.AddrFrom4([4]byte(ip[12:16])), dst: netip.AddrFrom4([4]byte(ip[16:20])),
	}
	return h, h.dst == m.Addr && ip[9] == UDP && head >= 20 && frag&0x1fff == 0 &&
		len(frame) >= h.l4+8 && m.isTunnelPort(binary.BigEndian.Uint16(frame[h.l4+2:]))
}

func (m Model) openOuter6(frame []byte) (headers, bool) {
	if len(frame) < 54+8 || binary.BigEndian.Uint16(frame[12:]) != TypeIPv6 || MAC(frame[:6]) != (MAC{}) {
		return headers{}, false
	}
	ip := frame[14:]
	h := headers{
		l4: 54, tos: ip[0]<<4 | ip[1]>>4,
		src: netip.AddrFrom16([16]byte(ip[8:24])), dst: netip.AddrFrom16([16]byte(ip[24:40])),
	}
	return h, h.dst == m.Addr && !h.src.Is4In6() && ip[6] == UDP && m.isTunnelPort(binary.BigEndian.Uint16(frame[56:]))
}

// FromTunnel decides about a frame that the kernel's device opened.
func (m Model) FromTunnel(frame []byte, meta Meta) Outcome {
	v, ok := m.VTEPs[row.AddrOf(meta.Tunnel.VTEP)]
	if !ok {
		return end(row.ReasonUnknownVTEP)
	}
	if v.Flags&row.VTEPPlain != 0 {
		return m.fromPlain(frame, v, meta)
	}
	return m.delivered(m.receive(frame, meta.Tunnel.VNI, meta.Tunnel.Identity, meta))
}

// receive judges what came from another node. Of what can't be read there is no packet.
func (m Model) receive(frame []byte, vni uint32, identity uint16, meta Meta) (Outcome, packet) {
	h, ok := readHeaders(frame, meta.GSOSize != 0)
	if !ok {
		return end(row.ReasonMalformed), packet{}
	}
	p := packet{headers: h, frame: frame, vni: vni, identity: identity}
	if reason := p.checkInner(); reason != row.ReasonNone {
		return end(reason), p
	}
	e, ok := m.Endpoints[row.EndpointKey{VNI: vni, Addr: row.AddrOf(p.dst)}]
	if !ok {
		return m.receiveOwn(p), p
	}
	if _, ofNode := m.Blocks[row.BlockKey{VNI: row.VNINodes, Addr: row.AddrOf(p.src)}]; identity == row.IdentityOtherNode && !ofNode {
		return end(row.ReasonSpoofedAddress), p
	}
	return m.judge(p, e), p
}

// receiveOwn decides about what no task has the address of: the node may.
func (m Model) receiveOwn(p packet) Outcome {
	e, own := m.Endpoints[row.EndpointKey{VNI: row.VNINodes, Addr: row.AddrOf(p.dst)}]
	if !own || p.identity == row.IdentityWorld {
		return end(row.ReasonNoEndpoint)
	}
	if net, known := m.network(p.src); !known || net.VNI != p.vni {
		return end(row.ReasonSpoofedAddress)
	}
	return Outcome{Reason: row.ReasonToHost, To: e, Enters: true}
}

// checkInner tells what no task of ours would have been let send.
func (p packet) checkInner() row.Reason {
	switch {
	case p.ethertype != TypeIPv4 && p.ethertype != TypeIPv6:
		return row.ReasonNotIP
	case p.isLinkTalk():
		return row.ReasonChatter
	case nowhere(p.src) != row.ReasonNone:
		return row.ReasonMalformed
	}
	return nowhere(p.dst)
}
