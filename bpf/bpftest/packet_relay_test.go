// SPDX-License-Identifier: Apache-2.0

package bpftest_test

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft/bpf"
	"weft/bpf/bpftest"
	"weft/bpf/row"
)

// Answers that go back by the edge node that their client came by (docs/decisions/0020).

// Two edge nodes, by what tells them apart: the address of their own processes.
var (
	secondEdge  = addr("192.0.2.4")
	secondEdge6 = addr("2001:db8:a::4")
	hostOf      = row.Word(v4.other)
	secondHost  = row.Word(addr("44.128.0.4"))
)

// edges makes nodes of the world edge nodes that answers may go by.
func edges(t *bpftest.Tables) {
	for vtep, host := range map[netip.Addr]uint32{otherNode: hostOf, otherNode6: hostOf, secondEdge: secondHost, secondEdge6: secondHost} {
		t.VTEPs[row.AddrOf(vtep)] = row.VTEP{Host: host}
	}
}

// TestServeRemembersTheEdge: of each flow it is known by which edge node its client came last, as long as the VIP wants
// that, by both ways in.
func TestServeRemembersTheEdge(t *testing.T) {
	for underlay, at := range edgeUnderlays {
		b := newBench(t, "tunnel", change{tables: edges, config: func(c *bpf.Config) { c.NodeAddr = at }})
		first, second := otherNode, secondEdge
		if at.Is6() {
			first, second = otherNode6, secondEdge6
		}
		for name, a := range families {
			e := edgeFamilies[name]
			if b.OldDecap && a.web.Is4() != at.Is4() {
				continue // the kernel's device opens it, and there is no device in a test run
			}
			frame := client(a, e, 80, bpftest.UDP, 0).Bytes()
			syn := client(a, e, 80, bpftest.TCP, bpftest.SYN).Bytes()
			news := forTask(e.failed(80, bpftest.UDP, a.tooBigType()), served[80].task(a)).Bytes()
			underlayFrom := func(edge netip.Addr, inner []byte) bpftest.Result {
				u := outer(row.IdentityWorld)
				u.Outer.Src, u.Outer.Dst = edge, at
				got, err := b.Run("from_underlay", u.Wrap(inner), bpftest.Meta{})
				if err != nil {
					t.Fatal(err)
				}
				return got
			}
			tunnelFrom := func(edge netip.Addr, inner []byte) bpftest.Result {
				got, err := b.Run("from_tunnel", inner, bpftest.Meta{Tunnel: &bpftest.TunnelMeta{VTEP: edge, VNI: netA, Identity: row.IdentityWorld}})
				if err != nil {
					t.Fatal(err)
				}
				return got
			}
			wants := func(when string, got bpftest.Result, host uint32) {
				t.Helper()
				if got.Reason != row.ReasonDelivered {
					t.Fatalf("%s%s, %s: %s", name, underlay, when, got.Reason)
				}
				var known row.Translation
				key := answerKey(e, bpftest.UDP, served[80].task(a), 8080)
				if err := b.Maps["client_answers"].Lookup(key, &known); err != nil || known.Slot != host || known.To.Port != row.Port(80) {
					t.Errorf("%s%s, %s: the answer goes by %x (%v), want %x", name, underlay, when, known.Slot, err, host)
				}
			}
			putServed(t, b, 0)
			wants("straight", underlayFrom(first, frame), 0)
			putServed(t, b, row.EdgeServedRelayed)
			wants("by the edge", underlayFrom(first, frame), hostOf)
			wants("by another one", underlayFrom(second, frame), secondHost)
			wants("news change nothing", underlayFrom(first, news), secondHost)
			if at.Is4() { // the only family that a test run has a key of
				wants("by the device", tunnelFrom(first, frame), hostOf)
				wants("by the device, another one", tunnelFrom(second, frame), secondHost)
			}
			putServed(t, b, 0)
			wants("straight again", underlayFrom(first, frame), 0)
			putServed(t, b, row.EdgeServedRelayed)
			underlayFrom(second, syn)
			var known row.Translation
			if err := b.Maps["client_attempts"].Lookup(answerKey(e, bpftest.TCP, served[80].task(a), 8080), &known); err != nil || known.Slot != secondHost {
				t.Errorf("%s%s: of a SYN the answer goes by %x (%v), want %x", name, underlay, known.Slot, err, secondHost)
			}
		}
	}
}

// sentByEdge is a bench of tasks' links, where web has answered clients by otherNode, the way to which is mtu bytes.
func sentByEdge(t *testing.T, at netip.Addr, way row.Block) *bench {
	t.Helper()
	b := newBench(t, "workload", change{
		config: func(c *bpf.Config) { c.NodeAddr, c.TunnelPort2, c.Tunnel2 = at, 4790, 1 },
		tables: func(t *bpftest.Tables) { t.Blocks[row.BlockKey{VNI: row.VNINodes, Addr: row.AddrOf(v4.other)}] = way },
	})
	if err := b.Maps["vip_links"].Put(uint32(webLink), uint32(3)); err != nil { // it asks, too
		t.Fatal(err)
	}
	for name, a := range families {
		e := edgeFamilies[name]
		vip := row.Translation{To: row.Peer{Addr: row.AddrOf(e.vip), Port: row.Port(80)}, Slot: hostOf}
		for kept, key := range map[string]row.FlowKey{
			"client_attempts": answerKey(e, bpftest.TCP, a.web, 8080), "client_answers": answerKey(e, bpftest.UDP, a.web, 8080),
		} {
			if err := b.Maps[kept].Put(key, vip); err != nil {
				t.Fatal(err)
			}
		}
	}
	return b
}

// answerOf is what web answers to the client of e.
func answerOf(a addrs, e edgeAddrs, proto, flags uint8) bpftest.Packet {
	return with(tcp(a.web, e.client), func(p *bpftest.Packet) { p.Proto, p.Flags, p.SPort, p.DPort = proto, flags, 8080, 40000 })
}

// TestAnswersGoByTheEdge wants what a task answers in the tunnel to the edge node, from the VIP, by the port that reaches
// that node.
func TestAnswersGoByTheEdge(t *testing.T) {
	for underlay, at := range edgeUnderlays {
		to := otherNode
		if at.Is6() {
			to = otherNode6
		}
		for port, flags := range map[uint16]uint16{4789: 0, 4790: row.BlockSecondPort} {
			b := sentByEdge(t, at, row.Block{VTEP: row.AddrOf(to), MTU: 1450, Flags: flags})
			for name, a := range families {
				e := edgeFamilies[name]
				first := func(p *bpftest.Packet) { p.Frag, p.ID = bpftest.MoreFragments, 77 }
				later := func(p *bpftest.Packet) { p.Frag, p.ID, p.L4 = 100, 77, make([]byte, 64) }
				for _, r := range []struct {
					name   string
					packet bpftest.Packet
				}{
					{"syn-ack", answerOf(a, e, bpftest.TCP, bpftest.SYN|bpftest.ACK)},
					{"data", answerOf(a, e, bpftest.TCP, bpftest.ACK)},
					{"udp", answerOf(a, e, bpftest.UDP, 0)},
					{"first fragment", with(answerOf(a, e, bpftest.UDP, 0), first)},
					{"later fragment", with(answerOf(a, e, bpftest.UDP, 0), later)},
					{"news", toldBy(a, e, bpftest.UDP, a.web, 8080)},
				} {
					got, err := b.Run("from_workload", r.packet.Bytes(), bpftest.Meta{})
					if err != nil || got.Reason != row.ReasonEncapsulated || got.Action != bpftest.Redirect {
						t.Fatalf("%s%s, %s: got %s, %s (%v)", name, underlay, r.name, got.Action, got.Reason, err)
					}
					want := r.packet
					if want.Proto == a.icmp() {
						sum := bytes.Clone(quotedSum(want))
						want = toldBy(a, e, bpftest.UDP, e.vip, 80)
						copy(quotedSum(want), sum) // stays as the task saw it
					} else {
						want.SPort = 80
					}
					want.Src = e.vip
					inner := want.Bytes()
					last := e.client.AsSlice()
					copy(inner, append([]byte{0x0a, 0x58}, last[len(last)-4:]...))
					copy(inner[6:], bpftest.Gateway[:])
					frame := bpftest.Tunnel{VNI: netA, Policy: web, Outer: bpftest.Packet{
						DstMAC: bpftest.MAC(got.Out[:6]), SrcMAC: bpftest.MAC(got.Out[6:12]), Src: at, Dst: to, Frag: bpftest.DontFragment,
						SPort: binary.BigEndian.Uint16(got.Out[len(got.Out)-len(inner)-16:]), DPort: port, NoSum: true,
					}}
					if at.Is6() {
						frame.Outer.Frag = 0
					}
					if diff := cmp.Diff(frame.Wrap(inner), got.Out); diff != "" {
						t.Errorf("%s%s, %s (-want +got):\n%s", name, underlay, r.name, diff)
					}
				}
				other := with(answerOf(a, e, bpftest.UDP, 0), func(p *bpftest.Packet) { p.SPort++ })
				if got, err := b.Run("from_workload", other.Bytes(), bpftest.Meta{}); err != nil || got.Reason != row.ReasonToHost {
					t.Errorf("%s%s: what is no answer is %s (%v), want to_host", name, underlay, got.Reason, err)
				}
			}
		}
	}
}

// TestAnswersTooBigForTheEdge: the task is told, of the packet that it sent; what may be fragmented goes to the kernel's
// device, from the VIP.
func TestAnswersTooBigForTheEdge(t *testing.T) {
	const narrow = 1000
	b := sentByEdge(t, node, row.Block{VTEP: row.AddrOf(otherNode), MTU: narrow})
	for name, a := range families {
		e := edgeFamilies[name]
		large := with(answerOf(a, e, bpftest.UDP, 0), func(p *bpftest.Packet) { p.Payload = make([]byte, narrow) })
		sent := large.Bytes()
		got, err := b.Run("from_workload", sent, bpftest.Meta{})
		if err != nil || got.Reason != row.ReasonAnsweredTooBig {
			t.Fatalf("%s: got %s (%v), want answered_too_big", name, got.Reason, err)
		}
		quote := 14 + a.head() + 8
		if diff := cmp.Diff(sent[14:14+128], got.Out[quote:]); diff != "" {
			t.Errorf("%s: quoted (-sent +got):\n%s", name, diff)
		}
		if a.web.Is6() {
			continue
		}
		large.Frag = 0
		want := large
		want.Src, want.SPort = e.vip, 80
		got, err = b.Run("from_workload", large.Bytes(), bpftest.Meta{})
		if err != nil || got.Reason != row.ReasonEncapsulated {
			t.Fatalf("%s, may be fragmented: got %s (%v), want encapsulated", name, got.Reason, err)
		}
		if diff := cmp.Diff(want.Bytes()[14:], got.Out[14:]); diff != "" {
			t.Errorf("%s: given to the device (-want +got):\n%s", name, diff)
		}
	}
}

// TestAnswersOfAnEdgeThatIsGone go straight, as do those of one that is this node.
func TestAnswersOfAnEdgeThatIsGone(t *testing.T) {
	for name, way := range map[string]row.Block{"gone": {}, "own": {VTEP: row.AddrOf(node), MTU: 1450, Flags: row.BlockLocal}} {
		b := sentByEdge(t, node, way)
		if name == "gone" {
			if err := b.Maps["blocks"].Delete(row.BlockKey{VNI: row.VNINodes, Addr: row.AddrOf(v4.other)}); err != nil {
				t.Fatal(err)
			}
		}
		for family, a := range families {
			e := edgeFamilies[family]
			p := answerOf(a, e, bpftest.UDP, 0)
			got, err := b.Run("from_workload", p.Bytes(), bpftest.Meta{})
			if err != nil || got.Reason != row.ReasonToHost && got.Reason != row.ReasonToClient {
				t.Fatalf("%s, %s: got %s (%v)", name, family, got.Reason, err)
			}
			p.Src, p.SPort = e.vip, 80
			if diff := cmp.Diff(p.Bytes(), got.Out); diff != "" {
				t.Errorf("%s, %s (-want +got):\n%s", name, family, diff)
			}
		}
	}
}

// TestRelay: an edge node opens what comes back from its own VIPs, by both ways in, and nothing else.
func TestRelay(t *testing.T) {
	for underlay, at := range edgeUnderlays {
		b := newBench(t, "tunnel", change{tables: edges, config: func(c *bpf.Config) { c.NodeAddr = at }})
		from := otherNode
		if at.Is6() {
			from = otherNode6
		}
		for name, a := range families {
			e := edgeFamilies[name]
			if err := b.Maps["relays"].Put(row.EndpointKey{VNI: netA, Addr: row.AddrOf(e.vip)}, uint32(1)); err != nil {
				t.Fatal(err)
			}
			answer := func(proto uint8) bpftest.Packet {
				p := e.to(80, proto, bpftest.ACK)
				p.Src, p.Dst, p.SPort, p.DPort = p.Dst, p.Src, p.DPort, p.SPort
				return p
			}
			for _, r := range []struct {
				name    string
				packet  bpftest.Packet
				vni     uint32
				relayed bool
			}{
				{"tcp", answer(bpftest.TCP), netA, true},
				{"udp", answer(bpftest.UDP), netA, true},
				{"later fragment", with(answer(bpftest.UDP), func(p *bpftest.Packet) { p.Frag, p.L4 = 100, make([]byte, 64) }), netA, true},
				{"another network's", answer(bpftest.TCP), netB, false},
				{"another address's", with(answer(bpftest.TCP), func(p *bpftest.Packet) { p.Src = e.other }), netA, false},
				{"a task's", with(answer(bpftest.TCP), func(p *bpftest.Packet) { p.Src = a.remote }), netA, false},
			} {
				u := outer(web)
				u.Outer.Src, u.Outer.Dst, u.VNI = from, at, r.vni
				frame := r.packet.Bytes()
				runs := map[string]func() (bpftest.Result, error){
					"from_underlay": func() (bpftest.Result, error) { return b.Run("from_underlay", u.Wrap(frame), bpftest.Meta{}) },
				}
				if at.Is4() { // the only family that a test run has a key of
					runs["from_tunnel"] = func() (bpftest.Result, error) {
						return b.Run("from_tunnel", frame, bpftest.Meta{Tunnel: &bpftest.TunnelMeta{VTEP: from, VNI: r.vni, Identity: web}})
					}
				}
				for program, run := range runs {
					got, err := run()
					if err != nil {
						t.Fatal(err)
					}
					if !r.relayed {
						if got.Reason != row.ReasonNoEndpoint {
							t.Errorf("%s%s, %s, %s: got %s, want no_endpoint", name, underlay, program, r.name, got.Reason)
						}
						continue
					}
					if b.OldDecap && program == "from_underlay" && a.web.Is4() != at.Is4() {
						if got.Reason != row.ReasonSlowPath {
							t.Errorf("%s%s, %s: got %s, want slow_path below 6.3", name, underlay, r.name, got.Reason)
						}
						continue
					}
					// Whether this machine has a way to the client is not the program's: it is left to the stack, or sent.
					if got.Reason != row.ReasonRelayed && got.Reason != row.ReasonToHost {
						t.Errorf("%s%s, %s, %s: got %s, want relayed", name, underlay, program, r.name, got.Reason)
						continue
					}
					if diff := cmp.Diff(frame[12:], got.Out[12:]); diff != "" {
						t.Errorf("%s%s, %s, %s (-want +got):\n%s", name, underlay, program, r.name, diff)
					}
				}
			}
		}
	}
}
