// SPDX-License-Identifier: Apache-2.0

package bpftest_test

import (
	"bytes"
	"errors"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft/bpf"
	"weft/bpf/bpftest"
	"weft/bpf/row"
)

// Ports of the edge's VIPs, each for what is to be seen of it.
const (
	portPlain = 80 + iota
	portChanging
	portSettled
	portEmpty
	portGone     // its slots lead to a backend that is gone
	portLocal    // to a task of the node itself
	portRouted   // to a node whose MAC XDP does not know yet
	portNarrow   // to a node behind a small MTU
	portAffinity // by the client's address alone
	portBeyond   // slots that are not there
	portQUIC     // connection ids may name backend 5
	portNone     // no VIP
)

// edgeAddrs are the addresses of one family, as the edge sees them.
type edgeAddrs struct {
	client, vip, shared, other netip.Addr // shared: has VIPs and is the node's own too
}

var edgeFamilies = map[string]edgeAddrs{
	"ipv4": {client: world4, vip: addr("203.0.113.80"), shared: addr("203.0.113.90"), other: addr("203.0.113.99")},
	"ipv6": {client: world6, vip: addr("2001:db8:80::1"), shared: addr("2001:db8:90::1"), other: addr("2001:db8:99::1")},
}

const edgeSlots = 251

// Indexes of backends; 1 to 5 are plain.
const (
	backendGone = 6 + iota
	backendLocal
	backendRouted
	backendNarrow
	edgeBackends
)

// newEdge is the edge of a node whose tunnels run over the family of at.
func newEdge(at netip.Addr) *bpftest.Edge {
	vtep := func(i int) row.Addr {
		b := at.AsSlice()
		b[len(b)-1] = byte(10 + i)
		a, _ := netip.AddrFromSlice(b)
		return row.AddrOf(a)
	}

	m := &bpftest.Edge{
		VIPs: make(map[row.EdgeVIPKey]row.EdgeVIP), Flows: make(map[row.EdgeFlowKey]uint32),
		Connections: make(map[row.EdgeConnectionKey]uint32),
		Backends:    make([]row.EdgeBackend, edgeBackends), Hops: make(map[row.Addr][12]uint8), Addr: at, TunnelPort: 4789, Seed: 0x5eed, Room: true,
	}
	for i := range m.Backends[1:] {
		m.Backends[i+1] = row.EdgeBackend{
			VTEP: vtep(i), VNI: netA + uint32(i), Task: [8]uint8{1, 2, 3, 4, 5, 6, 7, byte(i)}, MTU: 1450,
		}
		m.Hops[m.Backends[i+1].VTEP] = [12]uint8{2, 0, 0, 0, 3, byte(i), 2, 0, 0, 0, 4, byte(i)}
	}
	m.Backends[backendGone] = row.EdgeBackend{}
	m.Backends[backendLocal].VTEP = row.AddrOf(at)
	delete(m.Hops, m.Backends[backendRouted].VTEP)
	m.Backends[backendNarrow].MTU = 100
	m.Backends[4].Flags = row.EdgeBackendSecondPort // where the node has a second one
	table := func(slot func(i uint32) row.EdgeSlot) row.EdgeVIP {
		first := uint32(len(m.Slots))
		for i := range uint32(edgeSlots) {
			m.Slots = append(m.Slots, slot(i))
		}
		return row.EdgeVIP{First: first, Slots: edgeSlots}
	}
	all := func(backend uint32) row.EdgeVIP {
		return table(func(uint32) row.EdgeSlot { return row.EdgeSlot{Current: backend, Previous: backend} })
	}
	plain := table(func(i uint32) row.EdgeSlot { return row.EdgeSlot{Current: i%5 + 1, Previous: i%5 + 1} })
	byPort := map[uint16]row.EdgeVIP{
		portPlain: plain,
		portChanging: table(func(i uint32) row.EdgeSlot {
			return row.EdgeSlot{Current: i%5 + 1, Previous: ((i+1)%5 + 1) | row.EdgeSlotKept}
		}),
		portSettled: table(func(i uint32) row.EdgeSlot {
			return row.EdgeSlot{Current: i%5 + 1, Previous: (i%5 + 1) | row.EdgeSlotKept}
		}),
		portEmpty: {}, portGone: all(backendGone), portLocal: all(backendLocal), portRouted: all(backendRouted),
		portNarrow:   all(backendNarrow),
		portAffinity: {First: plain.First, Slots: plain.Slots, Flags: row.EdgeVIPAffinity},
		portBeyond:   {First: 1 << 30, Slots: 7},
		portQUIC:     {First: plain.First, Slots: plain.Slots, Flags: row.EdgeVIPQUIC},
	}
	for _, a := range edgeFamilies {
		m.VIPs[row.EdgeVIPKey{Addr: row.AddrOf(a.vip)}] = row.EdgeVIP{}
		quic := row.EdgeVIPKey{Addr: row.AddrOf(a.vip), Port: row.Port(portQUIC), Proto: bpftest.UDP}
		m.Connections[row.EdgeConnectionKey{VIP: quic, Task: [8]uint8{1, 2, 3, 4, 5, 6, 7, 4}}] = 5
		m.Connections[row.EdgeConnectionKey{VIP: quic, Task: [8]uint8{1, 2, 3, 4, 5, 6, 7, 5}}] = backendGone
		for _, proto := range []uint8{bpftest.TCP, bpftest.UDP} {
			for port, vip := range byPort {
				m.VIPs[row.EdgeVIPKey{Addr: row.AddrOf(a.vip), Port: row.Port(port), Proto: proto}] = vip
			}
			m.VIPs[row.EdgeVIPKey{Addr: row.AddrOf(a.shared), Port: row.Port(portPlain), Proto: proto}] = plain
		}
	}
	return m
}

// edgeBench is the loaded edge and its model; room tells whether flows can be learnt.
type edgeBench struct {
	*bpftest.Set
	*bpftest.Edge
	seen map[row.Reason]bool
	many bool
}

func newEdgeBench(tb testing.TB, room bool) *edgeBench {
	tb.Helper()
	return newEdgeBenchAt(tb, node, room)
}

// edgeUnderlays are addresses of the node by the family that its tunnels run over.
var edgeUnderlays = map[string]netip.Addr{"": node, " over ipv6": node6}

func newEdgeBenchAt(tb testing.TB, at netip.Addr, room bool) *edgeBench {
	tb.Helper()
	return newEdgeBenchWith(tb, at, room, 0)
}

// newEdgeBenchWith has a second port of tunnels, 0: none.
func newEdgeBenchWith(tb testing.TB, at netip.Addr, room bool, second uint16) *edgeBench {
	tb.Helper()
	if os.Getuid() != 0 {
		tb.Skip("loading programs needs root")
	}
	m := newEdge(at)
	m.Room, m.TunnelPort2 = room, second
	type loaded struct {
		config bpf.Config
		learns uint32
	}
	key := loaded{learns: 1 << 31, config: bpf.Config{
		NodeAddr: at, Underlay: 1, TunnelPort: 4789, TunnelPort2: second, EventsPerSecond: 100, EdgeSeed: m.Seed,
	}}
	if !room {
		key.learns = 0
	}
	set := bpftest.Borrow(tb, key, func() (*bpftest.Set, error) { return loadEdge(key.config, key.learns) })
	if err := m.Fill(set); err != nil {
		tb.Fatal(err)
	}
	return &edgeBench{Set: set, Edge: m, seen: make(map[row.Reason]bool)}
}

func loadEdge(config bpf.Config, learns uint32) (*bpftest.Set, error) {
	spec, err := bpftest.Spec("edge", config)
	if err != nil {
		return nil, err
	}
	if err := spec.Variables["edge_learns_per_second"].Set(learns); err != nil {
		return nil, err
	}
	return bpftest.Load(spec)
}

// run gives a frame to both programs, and wants of both what the model says. It returns what the model
// says, and whether tc took the frame.
func (b *edgeBench) run(t *testing.T, frame []byte) bpftest.EdgeOutcome {
	t.Helper()
	before := maps.Clone(b.Flows)
	want := b.Steer(frame, 0)
	got, err := b.RunXDP("edge", frame)
	if err != nil {
		t.Fatalf("% x: %v", frame, err)
	}
	b.checkXDP(t, frame, got, want)
	b.moved(t, frame, want.Reason, !want.ByKernel)
	// The second program has to see what the first one saw.
	for k, backend := range b.Flows {
		old, ok := before[k]
		switch {
		case !ok:
			err = b.Maps["edge_flows"].Delete(k)
		case old != backend:
			err = b.Maps["edge_flows"].Put(k, row.EdgeFlow{Backend: old})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	result, err := b.runTC(frame, bpftest.Meta{})
	if errors.Is(err, bpftest.ErrRefused) {
		for k, backend := range b.Flows {
			if old, ok := before[k]; !ok || old != backend {
				if err := b.Maps["edge_flows"].Put(k, row.EdgeFlow{Backend: backend}); err != nil {
					t.Fatal(err)
				}
			}
		}
		return want
	}
	if err != nil {
		t.Fatal(err)
	}
	b.checkTC(t, frame, result, want)
	b.moved(t, frame, want.Reason, true)
	return want
}

func (b *edgeBench) runTC(frame []byte, meta bpftest.Meta) (bpftest.Result, error) {
	return b.RunUncounted("edge_tc", frame, meta)
}

// moved wants one packet counted by the reason, or none. Where there are many packets, it looks at no
// other counters.
func (b *edgeBench) moved(t *testing.T, frame []byte, reason row.Reason, counted bool) {
	t.Helper()
	b.seen[reason] = true
	if b.many {
		if n, err := b.MovedBy(reason); err != nil || counted && reason != row.ReasonNone && n != 1 || !counted && n != 0 {
			t.Fatalf("%d packets were counted %s (%v)\n% x", n, reason, err, frame)
		}
		return
	}
	want := map[row.Reason]uint64{}
	if counted && reason != row.ReasonNone {
		want[reason] = 1
	}
	got, err := b.Moved()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("counted (-want +got):\n%s\n% x", diff, frame)
	}
}

func (b *edgeBench) checkXDP(t *testing.T, frame []byte, got bpftest.XDPResult, want bpftest.EdgeOutcome) {
	t.Helper()
	action, out := bpftest.XDPPass, frame
	switch {
	case want.ByKernel || want.Reason == row.ReasonNone:
	case want.Reason == row.ReasonEncapsulated:
		action, out = bpftest.XDPTX, b.Wrapped(frame, want)
		macs := b.Hops[want.Backend.VTEP]
		copy(out, macs[:])
	default:
		action = bpftest.XDPDrop
	}
	if got.Action != action {
		t.Fatalf("edge: got %s, want %s (%s)\n% x", got.Action, action, want.Reason, frame)
	}
	if bytes.Equal(out, got.Out) {
		return // most do, and telling differences takes long
	}
	if diff := cmp.Diff(out, got.Out); diff != "" {
		t.Fatalf("edge left (-want +got):\n%s\nof % x", diff, frame)
	}
}

func (b *edgeBench) checkTC(t *testing.T, frame []byte, got bpftest.Result, want bpftest.EdgeOutcome) {
	t.Helper()
	action, out := bpftest.Next, frame
	switch want.Reason {
	case row.ReasonNone:
	case row.ReasonEncapsulated:
		action, out = bpftest.Redirect, b.Wrapped(frame, want)
	case row.ReasonAnsweredTooBig:
		action, out = bpftest.Redirect, tooBig(frame, want.Backend.MTU)
	default:
		action = bpftest.Drop
	}
	if got.Action != action {
		t.Fatalf("edge_tc: got %s, want %s (%s)\n% x", got.Action, action, want.Reason, frame)
	}
	if bytes.Equal(out[12:], got.Out[12:]) {
		return
	}
	if diff := cmp.Diff(out[12:], got.Out[12:]); diff != "" {
		t.Fatalf("edge_tc left (-want +got):\n%s\nof % x", diff, frame)
	}
}

// tooBig is what the VIP tells the client of a frame.
func tooBig(frame []byte, mtu uint16) []byte {
	p := bpftest.Packet{
		Proto: bpftest.ICMP, ICMPType: 3, ICMPCode: 4, ICMPRest: [4]byte{2: byte(mtu >> 8), 3: byte(mtu)}, TTL: 64,
		Src: netip.AddrFrom4([4]byte(frame[30:34])), Dst: netip.AddrFrom4([4]byte(frame[26:30])),
	}
	if frame[12] == 0x86 {
		p.Proto, p.ICMPType, p.ICMPCode, p.TTL = bpftest.ICMPv6, 2, 0, 255
		p.Src, p.Dst = netip.AddrFrom16([16]byte(frame[38:54])), netip.AddrFrom16([16]byte(frame[22:38]))
	}
	p.SrcMAC, p.DstMAC = bpftest.MAC(frame[:6]), bpftest.MAC(frame[6:12])
	p.Payload = frame[14 : 14+128]
	return p.Bytes()
}

// forget makes all flows unknown.
func (b *edgeBench) forget(t *testing.T) {
	t.Helper()
	for key := range b.Flows {
		if err := b.Maps["edge_flows"].Delete(key); err != nil {
			t.Fatal(err)
		}
	}
	clear(b.Flows)
}

// sameFlows wants known what the model knows.
func (b *edgeBench) sameFlows(t *testing.T) {
	t.Helper()
	rows, err := bpftest.Rows[row.EdgeFlowKey, row.EdgeFlow](b.Set, "edge_flows")
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[row.EdgeFlowKey]uint32)
	for key, f := range rows {
		got[key] = f.Backend
	}
	if diff := cmp.Diff(b.Flows, got); diff != "" {
		t.Fatalf("known flows (-want +got):\n%s", diff)
	}
}

func (a edgeAddrs) to(port uint16, proto, flags uint8) bpftest.Packet {
	return bpftest.Packet{
		DstMAC: bpftest.MAC{2, 1}, SrcMAC: bpftest.MAC{2, 2}, Src: a.client, Dst: a.vip, Frag: bpftest.DontFragment,
		Proto: proto, SPort: 40000, DPort: port, Flags: flags, Payload: []byte("hello"),
	}
}

// failed is the news of a router that an answer of the VIP did not arrive.
func (a edgeAddrs) failed(port uint16, proto, kind uint8) bpftest.Packet {
	answer := a.to(port, proto, 0)
	answer.Src, answer.Dst, answer.SPort, answer.DPort = answer.Dst, answer.Src, answer.DPort, answer.SPort
	p := a.to(0, a.icmp(), 0)
	p.Src, p.ICMPType, p.Payload = a.other, kind, answer.Bytes()[14:]
	return p
}

func (a edgeAddrs) icmp() uint8 { return addrs{web: a.client}.icmp() }

func (a edgeAddrs) unreachable() uint8 {
	if a.client.Is4() {
		return 3
	}
	return 1
}

type edgeRow struct {
	name   string
	packet bpftest.Packet
	change func([]byte) []byte
	want   row.Reason
}

func TestEdge(t *testing.T) {
	for underlay, at := range edgeUnderlays {
		b := newEdgeBenchAt(t, at, true)
		for name, a := range edgeFamilies {
			for _, r := range append(edgeRows(a), edgeHeaderRows(a)...) {
				t.Run(name+underlay+" "+r.name, func(t *testing.T) {
					frame := r.packet.Bytes()
					if r.change != nil {
						frame = r.change(frame)
					}
					if got := b.run(t, frame); got.Reason != r.want {
						t.Errorf("got %s, want %s", got.Reason, r.want)
					}
					b.sameFlows(t)
				})
			}
		}
		b.sawAll(t)
	}
}

// TestEdgeBySecondPort: a node that the first port of tunnels does not reach is sent to by the second one, others are
// not; what comes by either is no VIP's.
func TestEdgeBySecondPort(t *testing.T) {
	anyKernel(t)
	const second = 4790
	for underlay, at := range edgeUnderlays {
		b := newEdgeBenchWith(t, at, true, second)
		for name, a := range edgeFamilies {
			t.Run(name+underlay, func(t *testing.T) {
				ports := make(map[uint16]int)
				for client := range uint16(40) {
					p := a.to(portPlain, bpftest.UDP, 0)
					p.SPort = 1000 + client
					o := b.run(t, p.Bytes()) // the model's frame has the port
					if o.Backend.Flags&row.EdgeBackendSecondPort != 0 {
						ports[second]++
					} else {
						ports[4789]++
					}
				}
				if ports[second] == 0 || ports[4789] == 0 {
					t.Errorf("frames went by %v, want some by each port", ports)
				}
			})
		}
		for _, port := range []uint16{4789, second} {
			p := edgeFamilies["ipv4"].to(port, bpftest.UDP, 0)
			if at.Is6() {
				p = edgeFamilies["ipv6"].to(port, bpftest.UDP, 0)
			}
			p.Dst = at
			if got := b.run(t, p.Bytes()); got.Reason != row.ReasonNone {
				t.Errorf("a frame of the tunnel by port %d: %s", port, got.Reason)
			}
		}
	}
}

// sawAll wants each outcome to have been seen.
func (b *edgeBench) sawAll(t *testing.T) {
	t.Helper()
	for _, reason := range []row.Reason{
		row.ReasonNone, row.ReasonEncapsulated, row.ReasonNoBackend, row.ReasonTooBig, row.ReasonFragment,
		row.ReasonExtension, row.ReasonNotServed, row.ReasonAnsweredTooBig, row.ReasonNoEndpoint,
	} {
		if !b.seen[reason] {
			t.Errorf("no packet was seen to be %s", reason)
		}
	}
}

// edgeRows change where a packet goes to, and of which kind it is.
func edgeRows(a edgeAddrs) []edgeRow {
	const tcp, udp = bpftest.TCP, bpftest.UDP
	port := func(p uint16) bpftest.Packet { return a.to(p, tcp, bpftest.ACK) }
	later := func(p *bpftest.Packet) { p.Frag, p.L4 = 100, make([]byte, 64) }
	first := func(p *bpftest.Packet) { p.Frag = bpftest.MoreFragments }
	at := func(p bpftest.Packet, dst netip.Addr) bpftest.Packet {
		p.Dst = dst
		return p
	}
	sent, none := row.ReasonEncapsulated, row.ReasonNone
	return []edgeRow{
		{name: "tcp", packet: port(portPlain), want: sent},
		{name: "tcp syn", packet: a.to(portPlain, tcp, bpftest.SYN), want: sent},
		{name: "udp", packet: a.to(portPlain, udp, 0), want: sent},
		{name: "changing, unknown", packet: port(portChanging), want: sent},
		{name: "changing, known", packet: port(portChanging), want: sent},
		{name: "changing, the same ports again", packet: a.to(portChanging, tcp, bpftest.SYN), want: sent},
		{name: "changing, new", packet: with(a.to(portChanging, tcp, bpftest.SYN), func(p *bpftest.Packet) { p.SPort++ }), want: sent},
		{name: "changing, what it goes on with", packet: with(port(portChanging), func(p *bpftest.Packet) { p.SPort++ }), want: sent},
		{name: "changing, an error", packet: a.failed(portChanging, tcp, a.unreachable()), want: sent},
		{name: "changing, udp", packet: a.to(portChanging, udp, 0), want: sent},
		{name: "settled", packet: port(portSettled), want: sent},
		{name: "settled, new", packet: a.to(portSettled, tcp, bpftest.SYN), want: sent},
		{name: "affinity", packet: port(portAffinity), want: sent},
		{name: "no slots", packet: port(portEmpty), want: row.ReasonNoBackend},
		{name: "backend gone", packet: port(portGone), want: row.ReasonNoBackend},
		{name: "slots beyond the table", packet: port(portBeyond), want: row.ReasonNoBackend},
		{name: "this node", packet: port(portLocal), want: row.ReasonNoEndpoint},
		{name: "routed", packet: port(portRouted), want: sent},
		{name: "narrow", packet: port(portNarrow), want: sent},
		{name: "too big", packet: with(port(portNarrow), func(p *bpftest.Packet) { p.Payload = make([]byte, 81) }), want: tooBigAlike(14 + a.head() + 20 + 81)},
		{name: "largest", packet: with(port(portNarrow), func(p *bpftest.Packet) { p.Payload = make([]byte, 80-a.head()) }), want: sent},
		{name: "one more", packet: with(port(portNarrow), func(p *bpftest.Packet) { p.Payload = make([]byte, 81-a.head()) }), want: row.ReasonTooBig},
		{name: "much too big", packet: with(port(portNarrow), func(p *bpftest.Packet) { p.Payload = make([]byte, 1300) }), want: row.ReasonAnsweredTooBig},
		{name: "too big, an error", packet: with(a.failed(portNarrow, tcp, a.unreachable()), func(p *bpftest.Packet) { p.Payload = append(p.Payload, make([]byte, 100)...) }), want: row.ReasonTooBig},
		{name: "quic, a name", packet: quic(a, 0x40, 0x08, 4), want: sent},
		{name: "quic, no such name", packet: quic(a, 0x40, 0x08, 99), want: sent},
		{name: "quic, of one that is gone", packet: quic(a, 0x40, 0x08, 5), want: sent},
		{name: "quic, another configuration", packet: quic(a, 0x40, 0x28, 4), want: sent},
		{name: "quic, a long header", packet: quic(a, 0xc0, 0x08, 4), want: sent},
		{name: "quic, cut", packet: with(quic(a, 0x40, 0x08, 4), func(p *bpftest.Packet) { p.Payload = p.Payload[:9] }), want: sent},
		{name: "no such port", packet: port(portNone), want: row.ReasonNotServed},
		{name: "no such port of a shared address", packet: at(port(portNone), a.shared), want: none},
		{name: "shared address", packet: at(port(portPlain), a.shared), want: sent},
		{name: "other address", packet: at(port(portPlain), a.other), want: none},
		{name: "icmp error, tcp", packet: a.failed(portPlain, tcp, a.unreachable()), want: sent},
		{name: "icmp error, udp", packet: a.failed(portPlain, udp, a.unreachable()), want: sent},
		{name: "icmp error, no such port", packet: a.failed(portNone, udp, a.unreachable()), want: row.ReasonNotServed},
		{name: "icmp error, about icmp", packet: a.failed(portPlain, a.icmp(), a.unreachable()), want: row.ReasonNotServed},
		{name: "icmp error, about another's", packet: at(a.failed(portPlain, tcp, a.unreachable()), a.shared), want: none},
		{name: "icmp error, other type", packet: a.failed(portPlain, tcp, 5), want: row.ReasonNotServed},
		{name: "ping", packet: with(a.to(0, a.icmp(), 0), func(p *bpftest.Packet) { p.ICMPType = addrs{web: a.client}.echo(true) }), want: row.ReasonNotServed},
		{name: "gre", packet: a.to(0, bpftest.GRE, 0), want: row.ReasonNotServed},
		{name: "first fragment", packet: with(port(portPlain), first), want: row.ReasonFragment},
		{name: "first fragment, shared address", packet: at(with(port(portPlain), first), a.shared), want: firstShared(a)},
		{name: "first fragment, other address", packet: at(with(port(portPlain), first), a.other), want: none},
		{name: "later fragment", packet: with(port(portPlain), later), want: row.ReasonFragment},
		{name: "later fragment, shared address", packet: at(with(port(portPlain), later), a.shared), want: none},
	}
}

// tooBigAlike: what is shorter than the quote of an ICMP error is not answered.
func tooBigAlike(size int) row.Reason {
	if size < 14+128 {
		return row.ReasonTooBig
	}
	return row.ReasonAnsweredTooBig
}

// quic is a datagram whose connection id names backend number task+1.
func quic(a edgeAddrs, form, first, task byte) bpftest.Packet {
	return with(a.to(portQUIC, bpftest.UDP, 0), func(p *bpftest.Packet) {
		p.Payload = append([]byte{form, first, 1, 2, 3, 4, 5, 6, 7, task}, "and more"...)
	})
}

// firstShared: behind an IPv6 fragment header the edge does not look for ports.
func firstShared(a edgeAddrs) row.Reason {
	if a.client.Is4() {
		return row.ReasonFragment
	}
	return row.ReasonNone
}

func (a edgeAddrs) head() int { return addrs{web: a.client}.head() }

// edgeHeaderRows change headers.
func edgeHeaderRows(a edgeAddrs) []edgeRow {
	p := a.to(portPlain, bpftest.TCP, bpftest.ACK)
	sent, none := row.ReasonEncapsulated, row.ReasonNone
	rows := []edgeRow{
		{name: "to a group's MAC", packet: p, change: set(0, 3), want: none},
		{name: "another type", packet: p, change: set(12, 0x88, 0xcc), want: none},
		{name: "another version", packet: p, change: set(14, 0x55), want: none},
		{name: "cut", packet: p, change: cut(1), want: none},
		{name: "padded", packet: p, change: func(f []byte) []byte { return append(f, make([]byte, 9)...) }, want: sent},
		{name: "marked", packet: with(p, func(p *bpftest.Packet) { p.TOS = 0xb8 | 3 }), want: sent},
		{name: "room for half a header", packet: with(p, func(p *bpftest.Packet) { p.L4 = make([]byte, 19) }), want: none},
	}
	if a.client.Is4() {
		return append(
			rows,
			edgeRow{name: "options", packet: with(p, func(p *bpftest.Packet) { p.Options = make([]byte, 40) }), want: sent},
			edgeRow{name: "header of 16 bytes", packet: p, change: set(14, 0x44), want: none},
			edgeRow{name: "error with options", packet: with(a.failed(portPlain, bpftest.UDP, 11), func(p *bpftest.Packet) { p.Options = make([]byte, 8) }), want: sent},
			edgeRow{name: "error about a later fragment", packet: a.failed(portPlain, bpftest.UDP, 11), change: set(14+20+8+6, 0, 1), want: row.ReasonNotServed},
		)
	}
	extension := func(proto uint8) bpftest.Packet {
		return with(p, func(p *bpftest.Packet) { p.Extensions = []bpftest.Extension{bpftest.PadExtension(proto, 8)} })
	}
	return append(
		rows,
		edgeRow{name: "hop-by-hop", packet: extension(bpftest.HopOpts), want: row.ReasonExtension},
		edgeRow{name: "routing", packet: extension(bpftest.Routing), want: row.ReasonExtension},
		edgeRow{name: "options", packet: extension(bpftest.DstOpts), want: row.ReasonExtension},
		edgeRow{name: "mapped source", packet: with(p, func(p *bpftest.Packet) { p.Src = addr("::ffff:203.0.113.5") }), want: none},
		edgeRow{name: "mapped destination", packet: with(p, func(p *bpftest.Packet) { p.Dst = addr("::ffff:203.0.113.80") }), want: none},
	)
}

// TestEdgeTruncated cuts packets at every length: none is sent, none of a VIP's is counted for another.
func TestEdgeTruncated(t *testing.T) {
	b := newEdgeBench(t, true)
	for _, a := range edgeFamilies {
		for _, p := range []bpftest.Packet{
			a.to(portPlain, bpftest.TCP, bpftest.ACK), a.to(portChanging, bpftest.UDP, 0),
			a.failed(portPlain, bpftest.TCP, a.unreachable()), with(a.to(portPlain, bpftest.UDP, 0), func(p *bpftest.Packet) { p.Frag = 100 }),
		} {
			frame := p.Bytes()
			for size := 14; size < len(frame); size++ {
				if got := b.run(t, bytes.Clone(frame[:size])); got.Reason != row.ReasonNone {
					t.Errorf("%d bytes of %d: got %s, want it left alone", size, len(frame), got.Reason)
				}
			}
		}
	}
	b.sameFlows(t)
}

// TestEdgeSegments: what tc gets may hold several packets of a flow, each of which has to fit.
func TestEdgeSegments(t *testing.T) {
	b := newEdgeBench(t, true)
	// A test run has no TCP segments to send: the kernel refuses room for those of no kind.
	for name, a := range edgeFamilies {
		frame := with(a.to(portNarrow, bpftest.TCP, bpftest.ACK), func(p *bpftest.Packet) { p.Payload = make([]byte, 150) }).Bytes()
		for size, want := range map[uint32]row.Reason{
			uint32(80 - a.head()): row.ReasonEncapFailed, uint32(81 - a.head()): row.ReasonAnsweredTooBig,
		} {
			model := b.Steer(frame, int(size))
			if (model.Reason == row.ReasonAnsweredTooBig) != (want == row.ReasonAnsweredTooBig) {
				t.Errorf("%s, segments of %d: model says %s, want %s", name, size, model.Reason, want)
			}
			if _, err := b.runTC(frame, bpftest.Meta{GSOSize: size}); err != nil {
				t.Fatal(err)
			}
			b.moved(t, frame, want, true)
		}
	}
}

// TestEdgeFloodCutsNoFlow: with no room to learn, SYN and what follows it meet the same backend.
func TestEdgeFloodCutsNoFlow(t *testing.T) {
	b := newEdgeBench(t, false)
	b.many = true
	for _, a := range edgeFamilies {
		for i := range 500 {
			frame := func(flags uint8) []byte {
				return with(a.to(portChanging, bpftest.TCP, flags), func(p *bpftest.Packet) { p.SPort = uint16(1024 + i) }).Bytes()
			}
			first, next := b.run(t, frame(bpftest.SYN)), b.run(t, frame(bpftest.ACK))
			if first.Backend != next.Backend {
				t.Fatalf("flow %d: its SYN went to %v, then it to %v", i, first.Backend.VTEP.Netip(), next.Backend.VTEP.Netip())
			}
		}
	}
	if len(b.Flows) != 0 {
		t.Errorf("%d flows were learnt without room", len(b.Flows))
	}
	b.sameFlows(t)
}

// TestEdgeLearnsUpToItsLimit runs more new flows than a second has room for.
func TestEdgeLearnsUpToItsLimit(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("loading programs needs root")
	}
	const limit = 10
	spec, err := bpftest.Spec("edge", bpf.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if err := spec.Variables["edge_learns_per_second"].Set(uint32(limit)); err != nil {
		t.Fatal(err)
	}
	set, err := bpftest.Load(spec)
	if err != nil {
		t.Fatal(err)
	}
	defer set.Close()
	m := newEdge(node)
	if err := m.Fill(set); err != nil {
		t.Fatal(err)
	}
	a := edgeFamilies["ipv4"]
	for i := range 1000 {
		p := with(a.to(portChanging, bpftest.TCP, bpftest.SYN), func(p *bpftest.Packet) { p.SPort = uint16(1024 + i) })
		if _, err := set.RunXDP("edge", p.Bytes()); err != nil {
			t.Fatal(err)
		}
	}
	flows, err := bpftest.Rows[row.EdgeFlowKey, row.EdgeFlow](set, "edge_flows")
	if err != nil {
		t.Fatal(err)
	}
	var learnt []struct {
		Since      uint64
		Flows, Pad uint32
	}
	if err := set.Maps["edge_learnings"].Lookup(uint32(0), &learnt); err != nil {
		t.Fatal(err)
	}
	// A second may have ended meanwhile, and the test may have moved between CPUs.
	if n := len(flows); n < limit || n > 3*limit*len(learnt) {
		t.Errorf("learnt %d of 1,000 flows, want about %d", n, limit)
	}
}

// TestEdgeCacheFollows: a VIP that was seen before is not served by what it was.
func TestEdgeCacheFollows(t *testing.T) {
	b := newEdgeBench(t, true)
	a := edgeFamilies["ipv4"]
	frame := a.to(portPlain, bpftest.TCP, bpftest.ACK).Bytes()
	key := row.EdgeVIPKey{Addr: row.AddrOf(a.vip), Port: row.Port(portPlain), Proto: bpftest.TCP}
	plain := b.VIPs[key]
	for _, vip := range []row.EdgeVIP{{}, plain, b.VIPs[row.EdgeVIPKey{Addr: key.Addr, Port: row.Port(portLocal), Proto: bpftest.TCP}], plain} {
		b.VIPs[key] = vip
		if err := b.Fill(b.Set); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			b.run(t, frame)
		}
	}
	delete(b.VIPs, key)
	if err := b.Fill(b.Set); err != nil {
		t.Fatal(err)
	}
	if got := b.run(t, frame); got.Reason != row.ReasonNotServed {
		t.Errorf("a VIP that is no more: got %s, want %s", got.Reason, row.ReasonNotServed)
	}
}

// TestEdgeSpreads wants like clients on all backends alike: slots are chosen by every bit of a flow.
func TestEdgeSpreads(t *testing.T) {
	m := newEdge(node)
	for name, a := range edgeFamilies {
		for what, change := range map[string]func(p *bpftest.Packet, i int){
			"ports": func(p *bpftest.Packet, i int) { p.SPort = uint16(i) },
			"addresses": func(p *bpftest.Packet, i int) {
				b := p.Src.AsSlice()
				b[len(b)-1], b[len(b)-2] = byte(i), byte(i>>8)
				p.Src, _ = netip.AddrFromSlice(b)
			},
			"networks": func(p *bpftest.Packet, i int) {
				b := p.Src.AsSlice()
				b[1], b[2] = byte(i), byte(i>>8)
				p.Src, _ = netip.AddrFromSlice(b)
			},
		} {
			const flows = 50000
			count := make(map[row.EdgeBackend]int)
			for i := range flows {
				p := a.to(portPlain, bpftest.UDP, 0)
				change(&p, i)
				count[m.Steer(p.Bytes(), 0).Backend]++
			}
			for b, n := range count {
				// 251 slots of 5 backends: 10,000 flows, +-4 % by chance at the most, 1 % by slots
				if n < flows/5*94/100 || n > flows/5*106/100 {
					t.Errorf("%s, flows that differ in %s: %v has %d of %d", name, what, b.VTEP.Netip(), n, flows)
				}
			}
		}
	}
}

// TestEdgeRandom runs random packets through both programs, with room to learn and without.
func TestEdgeRandom(t *testing.T) {
	count := bpftest.Packets(t)
	for name, r := range map[string]struct {
		room bool
		at   netip.Addr
	}{"room": {true, node}, "no room": {false, node}, "over ipv6": {true, node6}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newEdgeBenchAt(t, r.at, r.room)
			b.many = true
			g := &generator{Rand: rand.New(rand.NewPCG(*seed, 7))}
			for i := range count / 3 {
				b.run(t, g.edgeFrame())
				if i%100 == 99 {
					b.sameFlows(t)
					b.forget(t)
				}
			}
		})
	}
}

// edgeFrame returns a packet that is mostly to a VIP, and often not quite.
func (g *generator) edgeFrame() []byte {
	a := pick(g, edgeFamilies["ipv4"], edgeFamilies["ipv6"])
	port := uint16(portPlain + g.IntN(portNone-portPlain+1))
	if g.chance(40) {
		port = pick[uint16](g, portChanging, portSettled)
	}
	p := a.to(port, pick[uint8](g, bpftest.TCP, bpftest.TCP, bpftest.UDP, bpftest.GRE),
		pick[uint8](g, bpftest.SYN, bpftest.ACK, bpftest.SYN|bpftest.ACK, bpftest.FIN|bpftest.ACK, bpftest.RST))
	p.Payload = make([]byte, pick(g, 0, 5, 60, 90, 1410+g.IntN(40)))
	if g.chance(15) {
		p = a.failed(port, pick(g, bpftest.TCP, bpftest.UDP, a.icmp()), pick[uint8](g, 0, 1, 2, 3, 4, 5, 8, 11, 12, 128))
	}
	p.SPort, p.TOS = 40000+uint16(g.IntN(20)), uint8(g.IntN(256))
	p.Dst = pick(g, a.vip, a.vip, a.vip, a.vip, a.vip, a.shared, a.other)
	if g.chance(10) {
		p.Frag = pick[uint16](g, bpftest.MoreFragments, 1, bpftest.MoreFragments|185)
	}
	if a.client.Is4() && g.chance(10) {
		p.Options = make([]byte, 4*g.IntN(11))
	}
	if !a.client.Is4() && g.chance(5) {
		p.Extensions = []bpftest.Extension{bpftest.PadExtension(pick[uint8](g, bpftest.HopOpts, bpftest.DstOpts, bpftest.Routing), 8)}
	}
	frame := g.spoil(p.Bytes())
	if len(frame) < 14 {
		return p.Bytes()
	}
	return frame
}
