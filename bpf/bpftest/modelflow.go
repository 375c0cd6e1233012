// SPDX-License-Identifier: Apache-2.0

package bpftest

import (
	"encoding/binary"
	"net/netip"

	"weft/bpf/row"
)

func (p packet) isError() bool {
	if p.fragment == 2 {
		return false
	}
	if p.v4 {
		return p.icmp == 3 || p.icmp == 11 || p.icmp == 12
	}
	return p.icmp >= 1 && p.icmp <= 4
}

func (p packet) rowProto() uint8 {
	if p.proto == ICMPv6 {
		return ICMP
	}
	return p.proto
}

func (p packet) flow() row.FlowKey {
	return row.FlowKey{
		VNI: p.vni, Src: row.AddrOf(p.src), Dst: row.AddrOf(p.dst),
		Sport: row.Port(p.sport), Dport: row.Port(p.dport), Proto: p.rowProto(),
	}
}

func reverse(k row.FlowKey) row.FlowKey {
	k.Src, k.Dst = k.Dst, k.Src
	k.Sport, k.Dport = k.Dport, k.Sport
	return k
}

func (p packet) tellsOpener() bool { return p.proto == TCP || p.isICMP() }

func (p packet) opens() bool {
	switch {
	case p.proto == TCP:
		return p.flags&(SYN|ACK|RST|FIN) == SYN
	case p.isICMP():
		return p.icmp == 8 && p.v4 || p.icmp == 128 && !p.v4
	}
	return true
}

// remember notes what a task opens, and what it closes.
func (m Model) remember(p packet) {
	key := p.flow()
	if p.fragment == 2 {
		return
	}
	if _, known := m.Flows[key]; known {
		if p.proto == TCP && p.flags&(FIN|RST) != 0 {
			m.move(key, m.Flows, m.Attempts, row.FlowClosed)
		}
		return
	}
	if !p.opens() || !p.tellsOpener() && m.isReply(key) {
		return
	}
	m.Attempts[key] = row.Flow{}
}

func (m Model) move(key row.FlowKey, from, to map[row.FlowKey]row.Flow, flags uint32) {
	delete(from, key)
	to[key] = row.Flow{Flags: flags}
}

// isReply tells whether the flow is the other way of one that is known, which is answered by that.
func (m Model) isReply(key row.FlowKey) bool {
	key = reverse(key)
	if _, attempt := m.Attempts[key]; attempt {
		m.move(key, m.Attempts, m.Flows, 0)
	}
	_, known := m.Flows[key]
	return known
}

// heard notes what others open towards a task, and what answers the task.
func (m Model) heard(p packet) {
	key := p.flow()
	if p.fragment == 2 {
		return
	}
	if p.tellsOpener() {
		if _, attempt := m.Attempts[reverse(key)]; attempt && p.startsAnswer() {
			m.move(reverse(key), m.Attempts, m.Flows, 0)
		}
		return
	}
	if _, known := m.Flows[key]; !known && !m.isReply(key) {
		m.Attempts[key] = row.Flow{}
	}
}

func (p packet) startsAnswer() bool {
	if p.proto == TCP {
		return p.flags&(SYN|ACK|RST) == SYN|ACK
	}
	return p.icmp == 0 && p.v4 || p.icmp == 129 && !p.v4
}

// judge asks the verdicts, then the flows.
func (m Model) judge(p packet, e row.Endpoint) Outcome {
	v, narrow := m.verdict(p, e)
	allowed := v.Action == row.VerdictAllow || v.Action == row.VerdictAudit
	o := Outcome{Reason: row.ReasonDelivered, To: e}
	switch {
	case allowed:
		o.Rule = v.Rule
		if v.Action == row.VerdictAudit {
			o.Reason = row.ReasonAudited
		}
		if w, known := m.Workloads[e.Ifindex]; known && (w.Flags&row.WorkloadDirected != 0 || p.identity == row.IdentityOtherNode) {
			m.heard(p)
		}
	case m.answers(p):
	case v.Action == row.VerdictDeny:
		return Outcome{Reason: row.ReasonDenied, Rule: v.Rule}
	case p.outside():
		return end(row.ReasonNotPublic)
	case p.fragment == 2 && narrow:
		return end(row.ReasonFragment)
	default:
		return end(row.ReasonNoCommonGroup)
	}
	if p.fragment == 1 && (!allowed || narrow) {
		m.Datagrams[p.datagram()] = row.Flow{}
	}
	return o
}

// datagram is the key by which fragments find their first.
func (p packet) datagram() row.FlowKey {
	key := row.FlowKey{VNI: p.vni, Src: row.AddrOf(p.src), Dst: row.AddrOf(p.dst), Proto: Fragment}
	if p.v4 {
		key.Sport, key.Dport = binary.NativeEndian.Uint16(p.frame[p.l3+4:]), uint16(p.proto)
	} else {
		key.Sport = binary.NativeEndian.Uint16(p.frame[p.l4-4:])
		key.Dport = binary.NativeEndian.Uint16(p.frame[p.l4-2:])
	}
	return key
}

// verdict goes through all clauses, from the first to the last that begins before the packet; narrow
// tells that there are several.
func (m Model) verdict(p packet, e row.Endpoint) (v row.Verdict, narrow bool) {
	v, ok := m.Verdicts[row.VerdictKey{VNI: p.vni, Src: m.source(p, e), Dst: uint32(e.Identity)}]
	if !ok {
		return row.Verdict{Action: row.VerdictNone}, false
	}
	if v.Clauses == 0 {
		return v, false
	}
	port := p.dport
	if p.fragment == 2 || p.isICMP() {
		port = 0
	}
	id := v.Clauses
	v = row.Verdict{Action: row.VerdictNone}
	page := m.Clauses[row.ClausesKey{ID: id}]
	pages := []row.Clauses{page}
	if page.Count > 0 && page.List[0].Action() == row.VerdictPage {
		pages = nil
		for i := range page.Count {
			pages = append(pages, m.Clauses[row.ClausesKey{ID: id, Page: page.List[i].Rule}])
		}
	}
	for _, page := range pages {
		for _, c := range page.List[:page.Count] {
			if c.Holds(p.rowProto(), port) {
				v.Action, v.Rule = c.Action(), c.Rule
			}
		}
	}
	return v, true
}

// outside tells what comes from outside of every network: processes of other nodes do.
func (p packet) outside() bool {
	return p.identity == row.IdentityWorld || p.identity == row.IdentityOtherNode
}

// source is the sender's identity or, of the world, the longest prefix that rules name.
func (m Model) source(p packet, e row.Endpoint) uint32 {
	src, longest := uint32(p.identity), uint32(0)
	if !p.outside() || e.Flags&row.EndpointPrefixed == 0 {
		return src
	}
	for key, s := range m.Sources {
		if bits := int(key.Len) - 32; key.VNI == p.vni && key.Len > longest {
			if prefix, err := netip.AddrFrom16(row.AddrOf(p.src).Bytes).Prefix(bits); err == nil && prefix.Addr().As16() == key.Addr.Bytes {
				src, longest = s.Src, key.Len
			}
		}
	}
	return src
}

// answers tells whether the packet belongs to what its receiver opened.
func (m Model) answers(p packet) bool {
	if p.fragment == 2 {
		_, ok := m.Datagrams[p.datagram()]
		return ok
	}
	key := reverse(p.flow())
	if p.isICMP() && p.isError() {
		quoted, ok := p.quoted()
		_, attempt := m.Attempts[quoted]
		_, flow := m.Flows[quoted]
		return ok && quoted.Src == row.AddrOf(p.dst) && (attempt || flow)
	}
	if p.isICMP() && p.opens() {
		return false
	}
	if _, known := m.Flows[key]; known {
		if p.proto == TCP && p.flags&RST != 0 {
			m.move(key, m.Flows, m.Attempts, row.FlowClosed)
		}
		return true
	}
	f, attempt := m.Attempts[key]
	if attempt && f.Flags == 0 && (p.proto != TCP || p.flags&(ACK|RST) == ACK) {
		m.move(key, m.Attempts, m.Flows, 0)
	}
	return attempt || m.TakingOver && p.proto == TCP && !p.opens()
}

// quoted reads the flow of the packet that an ICMP error is about.
func (p packet) quoted() (row.FlowKey, bool) {
	b := p.frame[p.l4+8:]
	key := row.FlowKey{VNI: p.vni}
	var l4 []byte
	if p.v4 {
		if len(b) < 20 || binary.BigEndian.Uint16(b[6:])&0x1fff != 0 {
			return key, false
		}
		key.Src = row.AddrOf(netip.AddrFrom4([4]byte(b[12:16])))
		key.Dst = row.AddrOf(netip.AddrFrom4([4]byte(b[16:20])))
		key.Proto = b[9]
		if len(b) < int(b[0]&15)*4 {
			return key, false
		}
		l4 = b[int(b[0]&15)*4:]
	} else {
		if len(b) < 40 {
			return key, false
		}
		key.Src, key.Dst = row.Addr{Bytes: [16]byte(b[8:24])}, row.Addr{Bytes: [16]byte(b[24:40])}
		key.Proto = b[6]
		l4 = b[40:]
	}
	if len(l4) < 8 {
		return key, false
	}
	word := func(i int) uint16 { return binary.NativeEndian.Uint16(l4[i:]) }
	switch key.Proto {
	case TCP, UDP:
		key.Sport, key.Dport = word(0), word(2)
	case ICMP, ICMPv6:
		key.Proto, key.Sport, key.Dport = ICMP, word(4), word(4)
	}
	return key, true
}
