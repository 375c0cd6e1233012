// SPDX-License-Identifier: Apache-2.0

package bpftest

import (
	"bytes"
	"encoding/binary"
	"net/netip"

	"weft/bpf/row"
)

// Tables is what Go writes for the packet programs, as plain maps: what the model decides by, and
// what Fill puts into a set.
type Tables struct {
	Workloads map[uint32]row.Workload
	Endpoints map[row.EndpointKey]row.Endpoint
	Blocks    map[row.BlockKey]row.Block
	Prefixes  map[row.PrefixKey]row.Prefix
	VTEPs     map[row.Addr]row.VTEP
	Verdicts  map[row.VerdictKey]row.Verdict
	Openings  map[row.OpeningKey]row.Opening
	Clauses   map[row.ClausesKey]row.Clauses
	Sources   map[row.SourceKey]row.Source
	VIPs
	// What the programs remember; the model writes it too.
	Attempts, Flows, Datagrams map[row.FlowKey]row.Flow
	TakingOver                 bool // links change over from another layout's programs
}

// Set writes a verdict and, where there are several, its clauses.
func (t *Tables) Set(key row.VerdictKey, clauses ...row.Clause) {
	if len(clauses) == 1 {
		t.Verdicts[key] = row.Verdict{Action: clauses[0].Action(), Rule: clauses[0].Rule}
		return
	}
	id := row.ClausesID(clauses)
	t.Verdicts[key] = row.Verdict{Clauses: id}
	for i, page := range row.PagesOf(clauses) {
		t.Clauses[row.ClausesKey{ID: id, Page: uint32(i)}] = page
	}
}

// Fill makes the maps of a set hold the tables and nothing else.
func (t *Tables) Fill(s *Set) error {
	for _, err := range []error{
		fill(s, "workloads", t.Workloads),
		fill(s, "endpoints", t.Endpoints),
		fill(s, "blocks", t.Blocks),
		fill(s, "prefixes", t.Prefixes),
		fill(s, "vteps", t.VTEPs),
		fill(s, "verdicts", t.Verdicts),
		fill(s, "clauses", t.Clauses),
		fill(s, "sources", t.Sources),
		fill(s, "openings", t.Openings),
		fill(s, "attempts", t.Attempts),
		fill(s, "flows", t.Flows),
		fill(s, "datagrams", t.Datagrams),
		t.VIPs.Fill(s),
	} {
		if err != nil {
			return err
		}
	}
	return nil
}

// Node is the constants of the programs that the model knows.
type Node struct {
	Addr       netip.Addr
	TunnelPort uint16
	// TunnelPort2 is the second one, 0: there is none.
	TunnelPort2 uint16
	DNS4, DNS6  netip.Addr
	// Device tells whether there is a VXLAN device.
	Device               bool
	SlowEncap, SlowDecap bool
	// OldDecap: below Linux 6.3 programs can't open IPv6 in IPv4 nor IPv4 in IPv6; it takes the slow path.
	OldDecap bool
}

// Model decides as the programs should, in plain Go, with no name known and nobody served for the edge.
type Model struct {
	Node
	*Tables
	// Chosen returns which backend a new flow to a VIP has got, one of those that are allowed: programs choose at
	// random, so that is asked of them. Not asked where there is no VIP.
	Chosen func(flow row.FlowKey, allowed []row.Peer) row.Peer
}

// Outcome is what should come of a packet.
type Outcome struct {
	Reason row.Reason
	Rule   uint32
	To     row.Endpoint // where it is delivered
	Block  row.Block    // where it is sent
	Left   bool         // what passes is left to the stack, not redirected
	Enters bool         // it goes into the node's stack by the device To
	// Frame is what becomes of the frame by way of a VIP, nil: it stays as it is. Of a frame in a tunnel it is the
	// inner one.
	Frame []byte
}

// Action returns the action that goes with the outcome.
func (o Outcome) Action() Action {
	if o.Enters {
		return Redirect
	}
	switch o.Reason {
	case row.ReasonToHost, row.ReasonFromHost, row.ReasonNotOurs, row.ReasonSlowPath,
		row.ReasonDNSMiss, row.ReasonDNSUnread, row.ReasonDNSChanged:
		return Next
	default:
	}
	if o.Reason.Drop() || o.Reason == row.ReasonChatter {
		return Drop
	}
	if o.Left {
		return Next
	}
	return Redirect
}

func end(reason row.Reason) Outcome { return Outcome{Reason: reason} }

// packet is a frame with who sends it.
type packet struct {
	headers
	frame    []byte
	out      []byte // as translated, nil: as it came
	vni      uint32
	identity uint16
}

// FromWorkload decides about a frame of a task.
func (m Model) FromWorkload(frame []byte, meta Meta) Outcome {
	w, ok := m.Workloads[max(meta.Ifindex, 1)]
	if !ok {
		return end(row.ReasonUnknownLink)
	}
	h, ok := readHeaders(frame, meta.GSOSize != 0)
	if !ok {
		return end(row.ReasonMalformed)
	}
	if h.ethertype != TypeIPv4 && h.ethertype != TypeIPv6 && h.ethertype != TypeARP {
		return end(row.ReasonNotIP)
	}
	if MAC(frame[6:12]) != w.MAC {
		return end(row.ReasonSpoofedMAC)
	}
	if h.ethertype == TypeARP {
		return fromARP(frame[14:], w)
	}
	p := packet{headers: h, frame: frame, vni: w.VNI, identity: w.Identity}
	if p.isLinkTalk() {
		return p.linkTalk(w)
	}
	if reason := nowhere(p.dst); reason != row.ReasonNone {
		return end(reason)
	}
	own := w.Addr4.Netip()
	if !h.v4 {
		own = w.Addr6.Netip()
	}
	if p.src != own {
		return end(row.ReasonSpoofedAddress)
	}
	if h.proto == UDP && h.dport == 53 && (h.dst == m.DNS4 || h.dst == m.DNS6) {
		return p.question(meta)
	}
	return m.route(p, w, meta)
}

func fromARP(b []byte, w row.Workload) Outcome {
	if len(b) < 28 || !bytes.Equal(b[:6], []byte{0, 1, 8, 0, 6, 4}) {
		return end(row.ReasonMalformed)
	}
	own := w.Addr4.Netip()
	sender, target := netip.AddrFrom4([4]byte(b[14:18])), netip.AddrFrom4([4]byte(b[24:28]))
	operation := binary.BigEndian.Uint16(b[6:])
	switch {
	case MAC(b[8:14]) != w.MAC:
		return end(row.ReasonSpoofedMAC)
	case target == own:
		return end(row.ReasonChatter)
	case sender != own:
		return end(row.ReasonSpoofedAddress)
	case operation == 2:
		return end(row.ReasonToHost)
	case operation != 1:
		return end(row.ReasonMalformed)
	}
	return end(row.ReasonAnsweredARP)
}

// isLinkTalk tells what keeps a link going and is never carried.
func (p packet) isLinkTalk() bool {
	if p.v4 {
		return p.proto == IGMP
	}
	return p.proto == ICMPv6 && p.fragment != 2 && (p.icmp >= 130 && p.icmp <= 137 || p.icmp == 143)
}

func (p packet) linkTalk(w row.Workload) Outcome {
	if p.v4 || p.icmp != 135 && p.icmp != 136 {
		return end(row.ReasonChatter)
	}
	b := p.frame[p.l4:]
	if p.ttl != 255 || len(b) < 24 {
		return end(row.ReasonMalformed)
	}
	target, own := netip.AddrFrom16([16]byte(b[8:24])), w.Addr6.Netip()
	if p.icmp == 136 {
		switch {
		case p.dst.IsMulticast() || target.IsLinkLocalUnicast():
			return end(row.ReasonChatter)
		case target != own:
			return end(row.ReasonSpoofedAddress)
		}
		return end(row.ReasonToHost)
	}
	switch {
	case p.src.IsUnspecified() || target == own:
		return end(row.ReasonChatter)
	case !p.src.IsLinkLocalUnicast() && p.src != own:
		return end(row.ReasonSpoofedAddress)
	case target.IsMulticast():
		return end(row.ReasonMalformed)
	}
	return end(row.ReasonAnsweredND)
}

// nowhere tells an address that is not carried.
func nowhere(a netip.Addr) row.Reason {
	if a.Is4() {
		first := a.As4()[0]
		switch {
		case first >= 224:
			return row.ReasonMulticast
		case first == 0 || first == 127:
			return row.ReasonMalformed
		}
		return row.ReasonNone
	}
	switch {
	case a.IsMulticast():
		return row.ReasonMulticast
	case a.IsUnspecified() || a.IsLoopback():
		return row.ReasonMalformed
	}
	return row.ReasonNone
}

// route finds where the packet goes.
func (m Model) route(p packet, w row.Workload, meta Meta) Outcome {
	link := max(meta.Ifindex, 1)
	block, ok := m.block(p, w)
	if ok {
		m.release(p, link)
	} else {
		if p, ok = m.toVIP(p, link); !ok {
			return end(row.ReasonNoBackend)
		}
		block, ok = m.block(p, w)
	}
	if ok && block.Flags&row.BlockLocal != 0 && block.Flags&row.BlockPlain == 0 {
		return m.here(p, w, link)
	}
	var o Outcome
	switch {
	case !ok:
		o = m.leave(p, w, meta)
	case block.Flags&row.BlockPlain != 0:
		m.opens(p, w)
		o = m.toPlain(p, block, meta)
	default:
		m.opens(p, w)
		o = m.send(p, block, meta)
	}
	o.Frame = p.out
	return o
}

func (m Model) block(p packet, w row.Workload) (block row.Block, ok bool) {
	bits := int(w.Block6)
	if p.v4 {
		bits = int(w.Block4)
	}
	if masked, err := p.dst.Prefix(bits); err == nil {
		block, ok = m.Blocks[row.BlockKey{VNI: w.VNI, Addr: row.AddrOf(masked.Addr())}]
	}
	return block, ok
}

// opens remembers what a task opens inside a network, where rules may have need of it.
func (m Model) opens(p packet, w row.Workload) {
	if w.Flags&row.WorkloadDirected != 0 {
		m.remember(p)
	}
}

// here decides about a packet to a task of this node. What a task sends to itself nobody judges.
func (m Model) here(p packet, w row.Workload, link uint32) Outcome {
	m.opens(p, w)
	e, ok := m.Endpoints[row.EndpointKey{VNI: w.VNI, Addr: row.AddrOf(p.dst)}]
	if !ok {
		return end(row.ReasonNoEndpoint)
	}
	o := Outcome{Reason: row.ReasonDelivered, To: e}
	if e.Ifindex != link {
		o = m.judge(p, e)
	}
	return m.delivered(o, p)
}

// network returns the longest prefix of a network, or of nodes, that an address is of.
func (m Model) network(a netip.Addr) (found row.Prefix, known bool) {
	longest := -1
	for key, net := range m.Prefixes {
		bits := int(key.Len)
		addr := key.Addr.Netip()
		if addr.Is4() {
			bits -= 96
		}
		if addr.BitLen() == a.BitLen() && netip.PrefixFrom(addr, bits).Contains(a) && bits > longest {
			longest, found, known = bits, net, true
		}
	}
	return found, known
}

func (m Model) leave(p packet, w row.Workload, meta Meta) Outcome {
	net, known := m.network(p.dst)
	switch {
	case known && net.VNI != row.VNINodes && net.VNI == w.VNI:
		return end(row.ReasonNoBlock)
	case known && net.VNI != row.VNINodes:
		return end(row.ReasonOtherNetwork)
	case p.proto == UDP && m.isTunnelPort(p.dport):
		return end(row.ReasonSpoofedTunnel)
	}
	m.remember(p)
	if !known {
		return end(row.ReasonToHost)
	}
	node, known := m.Blocks[row.BlockKey{VNI: row.VNINodes, Addr: row.AddrOf(p.dst)}]
	switch {
	case !known:
		return end(row.ReasonNoBlock)
	case node.Flags&row.BlockLocal != 0:
		return end(row.ReasonToHost)
	}
	return m.send(p, node, meta)
}

// FromNode decides about a frame of the node's own processes.
func (m Model) FromNode(frame []byte, meta Meta) Outcome {
	w, ok := m.Workloads[max(meta.Ifindex, 1)]
	if !ok {
		return end(row.ReasonUnknownLink)
	}
	h, ok := readHeaders(frame, meta.GSOSize != 0)
	if !ok {
		return end(row.ReasonMalformed)
	}
	if h.ethertype != TypeIPv4 && h.ethertype != TypeIPv6 {
		return end(row.ReasonNotIP)
	}
	p := packet{headers: h, frame: frame, identity: w.Identity}
	own := w.Addr4.Netip()
	if !h.v4 {
		own = w.Addr6.Netip()
	}
	switch {
	case p.isLinkTalk() || nowhere(p.dst) == row.ReasonMulticast:
		return end(row.ReasonChatter)
	case p.src != own:
		return end(row.ReasonSpoofedAddress)
	}
	net, known := m.network(p.dst)
	if !known || net.VNI == row.VNINodes {
		return end(row.ReasonNoBlock)
	}
	bits := int(net.Block)
	if h.v4 {
		bits -= 96
	}
	p.vni = net.VNI
	masked, err := p.dst.Prefix(bits)
	block, held := m.Blocks[row.BlockKey{VNI: net.VNI, Addr: row.AddrOf(masked.Addr())}]
	switch {
	case err != nil || !held:
		return end(row.ReasonNoBlock)
	case block.Flags&row.BlockLocal != 0:
		return end(row.ReasonNoEndpoint)
	case block.Flags&row.BlockPlain != 0:
		return m.toPlain(p, block, meta)
	}
	return m.send(p, block, meta)
}

func (m Model) isTunnelPort(port uint16) bool {
	return port == m.TunnelPort || m.TunnelPort2 != 0 && port == m.TunnelPort2
}

func (m Model) send(p packet, to row.Block, meta Meta) Outcome {
	size := len(p.frame) - p.l3
	if meta.GSOSize != 0 {
		size = p.head + p.l4Len + int(meta.GSOSize)
	}
	fits := size <= int(to.MTU)
	if !fits && p.dontFragment {
		if p.fragment == 2 || p.isICMP() && p.isError() || len(p.frame) < 14+128 {
			return end(row.ReasonTooBig)
		}
		return end(row.ReasonAnsweredTooBig)
	}
	if (!fits || m.SlowEncap) && !m.Device {
		return end(row.ReasonEncapFailed)
	}
	return Outcome{Reason: row.ReasonEncapsulated, Block: to}
}
