// SPDX-License-Identifier: Apache-2.0

package bpftest

import (
	"encoding/binary"
	"maps"
	"math"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"

	"weft/bpf/row"
)

// Edge is the model of the edge's programs: its tables, and what it knows of flows.
type Edge struct {
	VIPs     map[row.EdgeVIPKey]row.EdgeVIP
	Slots    []row.EdgeSlot
	Backends []row.EdgeBackend
	Flows    map[row.EdgeFlowKey]uint32 // backend
	// Connections are QUIC connection ids, to backends other than 0.
	Connections map[row.EdgeConnectionKey]uint32
	// Hops are the MACs, to and from, of frames to nodes whose next hop XDP knows already.
	Hops map[row.Addr][12]uint8

	Addr       netip.Addr // of the node
	TunnelPort uint16
	// TunnelPort2 is the second one, 0: there is none.
	TunnelPort2 uint16
	Seed        uint64
	Room        bool // flows can be learnt
}

// EdgeOutcome is what the edge does with a frame.
type EdgeOutcome struct {
	Reason  row.Reason // ReasonNone: not the edge's
	Backend row.EdgeBackend
	Hash    uint64
	// ByKernel says that XDP leaves the packet to tc.
	ByKernel bool
}

// Fill makes the maps of a set hold the tables and the flows.
func (m *Edge) Fill(s *Set) error {
	for i, slot := range m.Slots {
		if err := s.Maps["edge_slots"].Put(uint32(i), slot); err != nil {
			return err
		}
	}
	for i, b := range m.Backends {
		if err := s.Maps["edge_backends"].Put(uint32(i), b); err != nil {
			return err
		}
	}
	flows := make(map[row.EdgeFlowKey]row.EdgeFlow)
	for key, backend := range m.Flows {
		flows[key] = row.EdgeFlow{Backend: backend}
	}
	if err := fill(s, "edge_flows", flows); err != nil {
		return err
	}
	if err := fill(s, "edge_vips", maps.Clone(m.VIPs)); err != nil {
		return err
	}
	if err := fill(s, "edge_connections", m.Connections); err != nil {
		return err
	}
	for node, macs := range m.Hops {
		if err := KnowHop(s, node, macs); err != nil {
			return err
		}
	}
	var generation uint32
	if err := s.Maps["edge_generation"].Lookup(uint32(0), &generation); err != nil {
		return err
	}
	return s.Maps["edge_generation"].Put(uint32(0), generation+1)
}

// edgeHop is struct edge_hop of bpf/src/lib/edge_maps.h, which no one but XDP reads.
type edgeHop struct {
	Node            row.Addr
	Ingress, Egress uint32
	MACs            [12]uint8
	_               uint32
	Until, Ask      uint64
}

// KnowHop makes XDP know for good by which MACs a node is reached, out of the interface that test runs come in by.
func KnowHop(s *Set, node row.Addr, macs [12]uint8) error {
	const loopback = 1
	return putHop(s, node, edgeHop{Node: node, Ingress: loopback, Egress: loopback, MACs: macs, Until: math.MaxUint64, Ask: math.MaxUint64})
}

// ForgetHop makes XDP know nothing of how a node is reached.
func ForgetHop(s *Set, node row.Addr) error { return putHop(s, node, edgeHop{}) }

func putHop(s *Set, node row.Addr, hop edgeHop) error {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return err
	}
	word := func(i int) uint32 { return binary.BigEndian.Uint32(node.Bytes[4*i:]) }
	hash := word(3)
	if node.Netip().Is6() {
		hash ^= word(1) ^ word(2)
	}
	return s.Maps["edge_hops"].Put(hash*0x9e3779b1>>22, slices.Repeat([]edgeHop{hop}, cpus))
}

// edgeKind is what a frame is to the edge.
type edgeKind int

const (
	edgeForeign edgeKind = iota
	edgeFlow
	edgeFragment
	edgeExtension
	edgeOther
)

type edgePacket struct {
	kind    edgeKind
	v4      bool
	client  netip.Addr
	vip     netip.Addr
	cport   uint16
	vport   uint16
	proto   uint8
	size    int // of the IP packet
	headers int // of IP and transport
	opens   bool
	quoted  bool
	whole   bool   // may not be fragmented
	payload []byte // of UDP
}

// Steer decides about a frame, and remembers what the edge would. joined: bytes of payload per
// segment, where a frame holds several (tc alone); else 0.
func (m *Edge) Steer(frame []byte, joined int) EdgeOutcome {
	p := readEdge(frame)
	if p.kind == edgeForeign || p.kind == edgeFlow && p.isTunnel(m) {
		return EdgeOutcome{}
	}
	vip, reason, served := m.find(&p)
	if !served {
		return EdgeOutcome{Reason: reason}
	}
	hash := m.hash(&p, vip)
	index := uint64(vip.First) + (hash>>32)*uint64(vip.Slots)>>32
	if vip.Slots == 0 || index >= uint64(len(m.Slots)) {
		return EdgeOutcome{Reason: row.ReasonNoBackend}
	}
	chosen := uint32(0)
	if vip.Flags&row.EdgeVIPQUIC != 0 {
		chosen = m.named(&p)
	}
	if chosen == 0 {
		chosen = m.choose(&p, m.Slots[index])
	}
	b, ok := m.backend(chosen)
	if !ok {
		return EdgeOutcome{Reason: row.ReasonNoBackend}
	}
	o := EdgeOutcome{Reason: row.ReasonEncapsulated, Backend: b, Hash: hash}
	size := p.size
	if joined != 0 {
		size = p.headers + joined
	}
	switch {
	case size > int(b.MTU):
		o.Reason, o.ByKernel = row.ReasonTooBig, true
		if p.whole && !p.quoted && len(frame) >= 14+quoteLen {
			o.Reason = row.ReasonAnsweredTooBig
		}
	case b.VTEP.Netip() == m.Addr:
		o.Reason, o.ByKernel = m.serve(frame, joined), true
	default:
		_, known := m.Hops[b.VTEP]
		o.ByKernel = !known
	}
	return o
}

// find returns the VIP that a packet is for. One that is for none has a reason where its address is VIPs' alone.
func (m *Edge) find(p *edgePacket) (vip row.EdgeVIP, reason row.Reason, served bool) {
	_, alone := m.VIPs[row.EdgeVIPKey{Addr: row.AddrOf(p.vip)}]
	vip, found := m.VIPs[p.vipKey()]
	found = found && p.proto != 0
	switch {
	case p.kind == edgeFlow && found:
		return vip, row.ReasonNone, true
	case p.kind == edgeFragment && found:
		return vip, row.ReasonFragment, false
	case !alone:
		return vip, row.ReasonNone, false
	case p.kind == edgeFragment:
		return vip, row.ReasonFragment, false
	case p.kind == edgeExtension:
		return vip, row.ReasonExtension, false
	}
	return vip, row.ReasonNotServed, false
}

// quoteLen is how much of a packet its ICMP error quotes, bytes.
const quoteLen = 128

// serve is for tasks of the node itself, of which the model has none.
func (*Edge) serve(frame []byte, joined int) row.Reason {
	h, ok := readHeaders(frame, joined != 0)
	switch {
	case !ok:
		return row.ReasonMalformed
	case h.fragment != 0:
		return row.ReasonFragment
	}
	return row.ReasonNoEndpoint
}

// named returns the backend that a QUIC connection id names, 0 for none.
func (m *Edge) named(p *edgePacket) uint32 {
	if len(p.payload) < 10 || p.payload[0]&0xc0 != 0x40 || p.payload[1]&0xe0 != 0 {
		return 0
	}
	b := m.Connections[row.EdgeConnectionKey{VIP: p.vipKey(), Task: [8]uint8(p.payload[2:10])}]
	if _, serves := m.backend(b); !serves {
		return 0
	}
	return b
}

func (m *Edge) backend(i uint32) (row.EdgeBackend, bool) {
	if uint64(i) >= uint64(len(m.Backends)) {
		return row.EdgeBackend{}, false
	}
	return m.Backends[i], m.Backends[i].VTEP != row.Addr{}
}

// choose is the table above maglev.Slot.
func (m *Edge) choose(p *edgePacket, s row.EdgeSlot) uint32 {
	if s.Current == s.Previous {
		return s.Current
	}
	previous := s.Previous &^ row.EdgeSlotKept
	changing := previous != s.Current
	key := p.flowKey()
	at, known := m.Flows[key]
	switch {
	case p.quoted && known:
		return at
	case p.quoted:
		return previous
	case p.opens && known:
		m.Flows[key] = s.Current
		return s.Current
	case p.opens && !changing:
		return s.Current
	case p.opens && m.Room:
		m.Flows[key] = s.Current
		return s.Current
	case p.opens:
		return previous
	}
	if _, serves := m.backend(at); known && serves {
		return at
	}
	if changing && m.Room {
		m.Flows[key] = previous
	}
	return previous
}

func (p *edgePacket) vipKey() row.EdgeVIPKey {
	return row.EdgeVIPKey{Addr: row.AddrOf(p.vip), Port: row.Port(p.vport), Proto: p.proto}
}

func (p *edgePacket) flowKey() row.EdgeFlowKey {
	return row.EdgeFlowKey{Client: row.AddrOf(p.client), Port: row.Port(p.cport), VIP: p.vipKey()}
}

func (p *edgePacket) isTunnel(m *Edge) bool {
	return p.vip == m.Addr && p.proto == UDP && (p.vport == m.TunnelPort || m.TunnelPort2 != 0 && p.vport == m.TunnelPort2)
}

func (m *Edge) hash(p *edgePacket, vip row.EdgeVIP) uint64 {
	b := p.client.As16()
	word := func(i int) uint64 { return uint64(binary.NativeEndian.Uint32(b[4*i:])) }
	h := m.Seed ^ word(3)
	if vip.Flags&row.EdgeVIPAffinity == 0 {
		h ^= uint64(row.Port(p.cport)) << 32
	}
	if !p.v4 {
		h = (h ^ word(2)<<24) * 0xbf58476d1ce4e5b9
		h ^= h >> 29
		h = (h ^ (word(0)<<32 | word(1))) * 0x94d049bb133111eb
		h ^= h >> 31
	}
	h *= 0xff51afd7ed558ccd
	h ^= h >> 32
	return h * 0xc4ceb9fe1a85ec53
}

// Wrapped returns the frame as the edge sends it, but for the outer MACs.
func (m *Edge) Wrapped(frame []byte, o EdgeOutcome) []byte {
	inner := append([]byte(nil), frame...)
	task := o.Backend.Task
	copy(inner, append([]byte{0x0a, 0x58}, task[4:]...))
	copy(inner[6:], append([]byte{0x0a, 0x77}, task[:4]...))
	tos := frame[15]
	if frame[12] == 0x86 {
		tos = frame[14]<<4 | frame[15]>>4
	}
	port := m.TunnelPort
	if m.TunnelPort2 != 0 && o.Backend.Flags&row.EdgeBackendSecondPort != 0 {
		port = m.TunnelPort2
	}
	return Tunnel{VNI: o.Backend.VNI, Policy: row.IdentityWorld, Outer: Packet{
		Src: m.Addr, Dst: o.Backend.VTEP.Netip(), SPort: 0x8000 | uint16(o.Hash&0x7fff), DPort: port,
		Frag: DontFragment, TOS: tos & 3, NoSum: true,
	}}.Wrap(inner)
}

func readEdge(frame []byte) edgePacket {
	if len(frame) < 14 || frame[0]&1 != 0 {
		return edgePacket{}
	}
	switch binary.BigEndian.Uint16(frame[12:]) {
	case TypeIPv4:
		return readEdge4(frame[14:])
	case TypeIPv6:
		return readEdge6(frame[14:])
	}
	return edgePacket{}
}

func readEdge4(b []byte) edgePacket {
	if len(b) < 20 || b[0]>>4 != 4 {
		return edgePacket{}
	}
	head, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
	if head < 20 || total < head || total > len(b) {
		return edgePacket{}
	}
	p := edgePacket{
		v4: true, size: total,
		client: netip.AddrFrom4([4]byte(b[12:16])), vip: netip.AddrFrom4([4]byte(b[16:20])),
	}
	frag := binary.BigEndian.Uint16(b[6:])
	p.whole = frag&DontFragment != 0
	if frag&0x1fff != 0 {
		p.kind = edgeFragment
		return p
	}
	// What follows may lie behind the end of the packet, in the frame's padding: an error's quote
	// is read all the same.
	rest := b[min(head, len(b)):]
	if b[9] == ICMP {
		p.readError(rest, 3, 11, 12)
	} else {
		p.readPorts(rest, total-head, head, b[9])
	}
	if frag&MoreFragments != 0 && p.kind != edgeForeign {
		p.kind = edgeFragment
	}
	return p
}

func readEdge6(b []byte) edgePacket {
	if len(b) < 40 || b[0]>>4 != 6 {
		return edgePacket{}
	}
	payload := int(binary.BigEndian.Uint16(b[4:]))
	if payload+40 > len(b) {
		return edgePacket{}
	}
	p := edgePacket{
		size: payload + 40, whole: true, client: netip.AddrFrom16([16]byte(b[8:24])), vip: netip.AddrFrom16([16]byte(b[24:40])),
	}
	if p.client.Is4In6() || p.vip.Is4In6() {
		return edgePacket{}
	}
	switch b[6] {
	case ICMPv6:
		if len(b) > 40 && b[40] >= 130 && b[40] <= 137 { // between neighbours
			return p
		}
		p.readError(b[40:], 1, 2, 3, 4)
	case Fragment:
		p.kind = edgeFragment
	case HopOpts, Routing, DstOpts:
		p.kind = edgeExtension
	default:
		p.readPorts(b[40:], payload, 40, b[6])
	}
	return p
}

func (p *edgePacket) readPorts(b []byte, room, head int, proto uint8) {
	size := map[uint8]int{TCP: 20, UDP: 8}[proto]
	if size == 0 {
		p.kind = edgeOther
		return
	}
	if room < size || len(b) < size {
		return
	}
	p.kind, p.proto = edgeFlow, proto
	p.cport, p.vport = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
	p.headers = head + 8
	if proto == UDP {
		p.payload = b[8:]
	}
	if proto == TCP {
		p.opens = b[13]&(SYN|ACK|RST|FIN) == SYN
		p.headers = head + int(b[12]>>4)*4
	}
}

// readError reads what an ICMP error of one of the types is about, if that is an answer of the VIP.
func (p *edgePacket) readError(b []byte, types ...uint8) {
	p.kind = edgeOther
	ip := 20
	if !p.v4 {
		ip = 40
	}
	if len(b) < 8+ip {
		return
	}
	ours := false
	for _, t := range types {
		ours = ours || t == b[0]
	}
	q := b[8:]
	var head int
	var proto uint8
	var src, dst netip.Addr
	if p.v4 {
		head, proto = int(q[0]&15)*4, q[9]
		src, dst = netip.AddrFrom4([4]byte(q[12:16])), netip.AddrFrom4([4]byte(q[16:20]))
		ours = ours && head >= 20 && binary.BigEndian.Uint16(q[6:])&0x1fff == 0
	} else {
		head, proto = 40, q[6]
		src, dst = netip.AddrFrom16([16]byte(q[8:24])), netip.AddrFrom16([16]byte(q[24:40]))
	}
	if !ours || src != p.vip {
		return
	}
	if proto != TCP && proto != UDP {
		return
	}
	if len(q) < head+8 {
		p.kind = edgeForeign
		return
	}
	p.client, p.proto, p.quoted, p.kind = dst, proto, true, edgeFlow
	p.vport, p.cport = binary.BigEndian.Uint16(q[head:]), binary.BigEndian.Uint16(q[head+2:])
}
