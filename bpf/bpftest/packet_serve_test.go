// SPDX-License-Identifier: Apache-2.0

package bpftest_test

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft/bpf/bpftest"
	"weft/bpf/row"
)

// served are VIPs of the edge by port: who serves them here, at which port.
var served = map[uint16]struct {
	task func(addrs) netip.Addr
	port uint16
}{
	80:   {func(a addrs) netip.Addr { return a.open }, 8080}, // public
	81:   {func(a addrs) netip.Addr { return a.web }, 80},    // not public
	5002: {func(a addrs) netip.Addr { return a.db }, 5002},   // a rule lets the world in
	5003: {func(a addrs) netip.Addr { return a.db }, 5003},   // but not here
	82:   {func(a addrs) netip.Addr { return a.none }, 80},   // the task is gone
}

func taskOf(a netip.Addr) [8]uint8 {
	b := a.As16()
	return [8]uint8(b[8:])
}

func putServed(t *testing.T, b *bench, flags uint16) {
	t.Helper()
	for name, a := range families {
		for port, s := range served {
			for _, proto := range []uint8{bpftest.TCP, bpftest.UDP} {
				key := row.EdgeServedKey{
					VNI: netA, Task: taskOf(s.task(a)),
					VIP: row.EdgeVIPKey{Addr: row.AddrOf(edgeFamilies[name].vip), Port: row.Port(port), Proto: proto},
				}
				if err := b.Maps["served"].Put(key, row.EdgeServed{Addr: row.AddrOf(s.task(a)), Port: row.Port(s.port), Flags: flags}); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

// client is a packet of a client to a VIP's port, in the frame that the edge makes for the task.
func client(a addrs, e edgeAddrs, port uint16, proto, flags uint8) bpftest.Packet {
	return forTask(e.to(port, proto, flags), served[port].task(a))
}

func forTask(p bpftest.Packet, task netip.Addr) bpftest.Packet {
	b := taskOf(task)
	p.DstMAC = bpftest.MAC{0x0a, 0x58, b[4], b[5], b[6], b[7]}
	p.SrcMAC = bpftest.MAC{0x0a, 0x77, b[0], b[1], b[2], b[3]}
	return p
}

// TestServe gives tasks what the edge sent for them, by both ways in.
func TestServe(t *testing.T) {
	b := newBench(t, "tunnel", change{})
	putServed(t, b, 0)
	type serveRow struct {
		name     string
		packet   bpftest.Packet
		identity uint16
		want     row.Reason
		port     uint16 // of served, where it is delivered
	}
	for name, a := range families {
		e := edgeFamilies[name]
		remembered := map[string]map[row.FlowKey]row.Peer{"client_attempts": {}, "client_answers": {}}
		const tcp, udp, world = bpftest.TCP, bpftest.UDP, row.IdentityWorld
		to := func(port uint16, proto, flags uint8) bpftest.Packet { return client(a, e, port, proto, flags) }
		first := func(p *bpftest.Packet) { p.Frag = bpftest.MoreFragments }
		later := func(p *bpftest.Packet) { p.Frag, p.L4 = 100, make([]byte, 64) }
		news := func(port uint16, proto uint8) bpftest.Packet {
			return forTask(e.failed(port, proto, a.tooBigType()), served[80].task(a))
		}
		rows := []serveRow{
			{"news of a flow that nobody knows", news(80, tcp), world, row.ReasonNotPublic, 0},
			{"syn", to(80, tcp, bpftest.SYN), world, row.ReasonDelivered, 80},
			{"news of what was not answered", news(80, tcp), world, row.ReasonDelivered, 80},
			{"ack", to(80, tcp, bpftest.ACK), world, row.ReasonDelivered, 80},
			{"udp", to(80, udp, 0), world, row.ReasonDelivered, 80},
			{"news, udp", news(80, udp), world, row.ReasonDelivered, 80},
			{"a rule lets it in", to(5002, tcp, bpftest.SYN), world, row.ReasonDelivered, 5002},
			{"no rule lets it in", to(5003, tcp, bpftest.SYN), world, row.ReasonNotPublic, 0},
			{"not public", to(81, tcp, bpftest.SYN), world, row.ReasonNotPublic, 0},
			{"the task is gone", to(82, tcp, bpftest.SYN), world, row.ReasonNoEndpoint, 0},
			{"no such port", forTask(e.to(83, tcp, bpftest.SYN), a.open), world, row.ReasonNoEndpoint, 0},
			{"another task's", forTask(e.to(80, tcp, bpftest.SYN), a.db), world, row.ReasonNoEndpoint, 0},
			{"for no task", e.to(80, tcp, bpftest.SYN), world, row.ReasonNoEndpoint, 0},
			{"from a task", to(80, tcp, bpftest.SYN), web, row.ReasonNoEndpoint, 0},
			{"from nobody", to(80, tcp, bpftest.SYN), 0, row.ReasonNoEndpoint, 0},
			{"gre", forTask(e.to(0, bpftest.GRE, 0), a.open), world, row.ReasonNoEndpoint, 0},
			{"ping", forTask(with(e.to(0, a.icmp(), 0), func(p *bpftest.Packet) { p.ICMPType = a.echo(true) }), a.open), world, row.ReasonNoEndpoint, 0},
			{"news, about another address", with(news(80, tcp), func(p *bpftest.Packet) { p.Dst = e.other }), world, row.ReasonNoEndpoint, 0},
			{"first fragment", with(to(80, udp, 0), first), world, row.ReasonFragment, 0},
			{"later fragment", with(to(80, udp, 0), later), world, row.ReasonFragment, 0},
		}
		for _, r := range rows {
			t.Run(name+" "+r.name, func(t *testing.T) {
				frame := r.packet.Bytes()
				meta := bpftest.Meta{Tunnel: &bpftest.TunnelMeta{VTEP: otherNode, VNI: netA, Identity: r.identity}}
				want := r.want
				if (r.port != 0 || r.want == row.ReasonNotPublic) && a.web.Is6() && b.OldDecap { // before it is judged
					want = row.ReasonSlowPath
				}
				at := served[max(r.port, 80)]
				var out bpftest.Packet
				if r.port != 0 {
					out = inbound(e, r.packet, at.task(a), at.port)
				}
				b.wantServed(t, "from_tunnel", frame, meta, r.want, out)
				b.wantServed(t, "from_underlay", wrapped(r.identity, frame), bpftest.Meta{}, want, out)
				if r.port != 0 && r.packet.Proto != a.icmp() {
					kept := "client_answers"
					if r.packet.Proto == tcp && r.packet.Flags&bpftest.SYN != 0 {
						kept = "client_attempts"
					}
					remembered[kept][answerKey(e, r.packet.Proto, at.task(a), at.port)] = row.Peer{Addr: row.AddrOf(e.vip), Port: row.Port(r.port)}
				}
			})
		}
		for kept, want := range remembered {
			b.wantAnswers(t, kept, want, a.web.Is4())
		}
	}
}

// inbound is what the task gets of a packet of a client, or of the news about an answer to it.
func inbound(e edgeAddrs, p bpftest.Packet, task netip.Addr, port uint16) bpftest.Packet {
	link := uint32(openLink)
	if task == v4.db || task == v6.db {
		link = dbLink
	}
	p.DstMAC, p.SrcMAC, p.Dst = mac(link), bpftest.Gateway, task
	if p.Proto == bpftest.TCP || p.Proto == bpftest.UDP {
		p.DPort = port
		return p
	}
	old := p.Payload
	proto, head := old[9], 20
	if e.vip.Is6() {
		proto, head = old[6], 40
	}
	answer := e.to(0, proto, 0)
	answer.Src, answer.Dst, answer.SPort, answer.DPort = task, e.client, port, answer.SPort
	sum := map[uint8]int{bpftest.TCP: 16, bpftest.UDP: 6}[proto]
	p.Payload = answer.Bytes()[14:]
	copy(p.Payload[head+sum:], old[head+sum:head+sum+2]) // stays as the VIP's was
	return p
}

// toldBy is web's news that what a client sent to an address and port did not arrive.
func toldBy(a addrs, e edgeAddrs, proto uint8, to netip.Addr, port uint16) bpftest.Packet {
	sent := e.to(port, proto, 0)
	sent.Dst = to
	kind := uint8(3)
	if a.web.Is6() {
		kind = 1
	}
	return with(tcp(a.web, e.client), func(p *bpftest.Packet) {
		p.Proto, p.ICMPType, p.Payload = a.icmp(), kind, sent.Bytes()[14:]
	})
}

// protoOf and quotedSum are of what an ICMP error quotes.
func protoOf(p bpftest.Packet) uint8 {
	if p.Src.Is6() {
		return p.Payload[6]
	}
	return p.Payload[9]
}

func quotedSum(p bpftest.Packet) []byte {
	head := 20
	if p.Src.Is6() {
		head = 40
	}
	at := head + map[uint8]int{bpftest.TCP: 16, bpftest.UDP: 6}[protoOf(p)]
	return p.Payload[at : at+2]
}

// answerKey is the key of a task's answer to the client of e.to.
func answerKey(e edgeAddrs, proto uint8, task netip.Addr, port uint16) row.FlowKey {
	return row.FlowKey{
		VNI: netA, Src: row.AddrOf(task), Dst: row.AddrOf(e.client), Sport: row.Port(port), Dport: row.Port(40000), Proto: proto,
	}
}

// wantAnswers wants a map to hold exactly the answers of one family.
func (b *bench) wantAnswers(t *testing.T, name string, want map[row.FlowKey]row.Peer, v4 bool) {
	t.Helper()
	rows, err := bpftest.Rows[row.FlowKey, row.Translation](b.Set, name)
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[row.FlowKey]row.Peer)
	for key, r := range rows {
		if key.Src.Netip().Is4() == v4 {
			got[key] = r.To
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", name, diff)
	}
}

// TestAnswersComeFromTheVIP wants what a task answers to a client of the edge to have the VIP as its source, and
// what it sends to others to be left alone.
func TestAnswersComeFromTheVIP(t *testing.T) {
	b := newBench(t, "workload", change{})
	if err := b.Maps["vip_links"].Put(uint32(webLink), uint32(2)); err != nil {
		t.Fatal(err)
	}
	for name, a := range families {
		e := edgeFamilies[name]
		vip := row.Translation{To: row.Peer{Addr: row.AddrOf(e.vip), Port: row.Port(80)}}
		for kept, key := range map[string]row.FlowKey{
			"client_attempts": answerKey(e, bpftest.TCP, a.web, 8080), "client_answers": answerKey(e, bpftest.UDP, a.web, 8080),
		} {
			if err := b.Maps[kept].Put(key, vip); err != nil {
				t.Fatal(err)
			}
		}
		answer := func(proto, flags uint8) bpftest.Packet {
			return with(tcp(a.web, e.client), func(p *bpftest.Packet) { p.Proto, p.Flags, p.SPort, p.DPort = proto, flags, 8080, 40000 })
		}
		first := func(p *bpftest.Packet) { p.Frag, p.ID = bpftest.MoreFragments, 77 }
		later := func(p *bpftest.Packet) { p.Frag, p.ID, p.L4 = 100, 77, make([]byte, 64) }
		for _, r := range []struct {
			name   string
			packet bpftest.Packet
			port   uint16 // it comes from, at the VIP; 0: left alone
		}{
			{"syn-ack", answer(bpftest.TCP, bpftest.SYN|bpftest.ACK), 80},
			{"data", answer(bpftest.TCP, bpftest.ACK), 80},
			{"udp", answer(bpftest.UDP, 0), 80},
			{"a later fragment before its first", with(answer(bpftest.UDP, 0), later), 0},
			{"first fragment", with(answer(bpftest.UDP, 0), first), 80},
			{"later fragment", with(answer(bpftest.UDP, 0), later), 80},
			{"news", toldBy(a, e, bpftest.UDP, a.web, 8080), 80},
			{"news, tcp", toldBy(a, e, bpftest.TCP, a.web, 8080), 80},
			{"news, from another port", toldBy(a, e, bpftest.UDP, a.web, 8081), 0},
			{"news, about another's", toldBy(a, e, bpftest.UDP, a.db, 8080), 0},
			{"from another port", with(answer(bpftest.TCP, bpftest.ACK), func(p *bpftest.Packet) { p.SPort++ }), 0},
			{"to another client", with(answer(bpftest.TCP, bpftest.ACK), func(p *bpftest.Packet) { p.DPort++ }), 0},
		} {
			t.Run(name+" "+r.name, func(t *testing.T) {
				frame := r.packet.Bytes()
				got, err := b.Run("from_workload", frame, bpftest.Meta{})
				if err != nil {
					t.Fatal(err)
				}
				// Whether this machine has a way to the client is not the program's: it is left to the stack, or sent.
				if got.Reason != row.ReasonToHost && (r.port == 0 || got.Reason != row.ReasonToClient) {
					t.Fatalf("got %s", got.Reason)
				}
				want := r.packet
				switch {
				case r.port == 0:
				case r.packet.Proto == a.icmp():
					sum := bytes.Clone(quotedSum(r.packet))
					want = toldBy(a, e, protoOf(r.packet), e.vip, r.port)
					want.Src = e.vip
					copy(quotedSum(want), sum) // stays as the task saw it
				default:
					want.Src, want.SPort = e.vip, r.port
				}
				if diff := cmp.Diff(want.Bytes(), got.Out); diff != "" {
					t.Errorf("left (-want +got):\n%s", diff)
				}
			})
		}
	}
}

func (a addrs) tooBigType() uint8 {
	if a.web.Is4() {
		return 3
	}
	return 2
}

// wantServed wants a reason and, of what is delivered, the frame.
func (b *bench) wantServed(t *testing.T, program string, frame []byte, meta bpftest.Meta, want row.Reason, delivered bpftest.Packet) {
	t.Helper()
	got, err := b.Run(program, frame, meta)
	if err != nil {
		t.Fatal(err)
	}
	if got.Reason != want {
		t.Fatalf("%s: got %s, want %s", program, got.Reason, want)
	}
	if want != row.ReasonDelivered {
		return
	}
	if diff := cmp.Diff(delivered.Bytes(), got.Out); diff != "" {
		t.Errorf("%s delivered (-want +got):\n%s", program, diff)
	}
}
