// SPDX-License-Identifier: Apache-2.0

package bpftest_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft/bpf/bpftest"
	"weft/bpf/row"
)

// forwarded is how a packet of the world comes: in by another link.
var forwarded = bpftest.Meta{Ingress: 2}

func TestToWorkload(t *testing.T) {
	benches := make(map[uint16]*bench) // loading takes seconds in a guest
	for _, identity := range []uint16{web, public, stranger} {
		benches[identity] = newBench(t, "workload", change{tables: onLink(identity)})
	}
	for name, a := range families {
		t.Run(name, func(t *testing.T) {
			for _, r := range []struct {
				name     string
				identity uint16 // of the task on the link
				packetRow
				want row.Reason
			}{
				{"from the node", web, packetRow{packet: tcp(a.world, a.web)}, row.ReasonFromHost},
				{"from the node, whatever it is", web, packetRow{packet: tcp(a.world, a.web), change: cut(1)}, row.ReasonFromHost},
				{"from the world", web, packetRow{packet: tcp(a.world, a.web), meta: forwarded}, row.ReasonNotPublic},
				{"from the world to public", public, packetRow{packet: tcp(a.world, a.web), meta: forwarded}, row.ReasonDelivered},
				{"from the world, audited", stranger, packetRow{packet: tcp(a.world, a.web), meta: forwarded}, row.ReasonAudited},
				{"from the world, denied", stranger, packetRow{packet: udp(a.world, a.web), meta: forwarded}, row.ReasonDenied},
				{"as another task", web, packetRow{packet: tcp(a.peer, a.web), meta: forwarded}, row.ReasonNotPublic},
				{"to another task's address", public, packetRow{packet: tcp(a.world, a.peer), meta: forwarded}, row.ReasonNoEndpoint},
				{"to no task's address", public, packetRow{packet: tcp(a.world, a.none), meta: forwarded}, row.ReasonNoEndpoint},
				{"cut", public, packetRow{packet: tcp(a.world, a.web), change: cut(1), meta: forwarded}, row.ReasonMalformed},
				{"another type", public, packetRow{packet: tcp(a.world, a.web), change: set(12, 0x88, 0xcc), meta: forwarded}, row.ReasonNotIP},
				{"arp", public, packetRow{change: func([]byte) []byte { return bpftest.ARPPacket{}.Bytes() }, meta: forwarded}, row.ReasonNotIP},
			} {
				t.Run(r.name, func(t *testing.T) {
					b, frame := benches[r.identity], r.frame()
					b.reset(t)
					got := b.expect(t, "to_workload", frame, r.meta, r.want)
					if diff := cmp.Diff(frame, got); diff != "" {
						t.Errorf("the frame changed (-want +got):\n%s", diff)
					}
				})
			}
		})
	}
	t.Run("link of nobody", func(t *testing.T) {
		testNobody(t, newBench(t, "workload", change{}), "to_workload")
	})
}

// onLink gives web's link a task of another identity, which the world reaches by rules.
func onLink(identity uint16) func(*bpftest.Tables) {
	return func(t *bpftest.Tables) {
		for key, e := range t.Endpoints {
			if e.Ifindex == webLink {
				e.Identity = identity
				t.Endpoints[key] = e
			}
		}
		t.Set(row.VerdictKey{VNI: netA, Src: row.IdentityWorld, Dst: stranger},
			row.ClauseOf(0, 0, row.VerdictAudit, ruleAudit),
			row.ClauseOf(bpftest.UDP, 0, row.VerdictDeny, ruleDeny),
			row.ClauseOf(bpftest.UDP+1, 0, row.VerdictAudit, ruleAudit))
	}
}

// TestAnswersPass opens conversations in one direction and wants the other one to pass, as long as
// it is the same conversation.
func TestAnswersPass(t *testing.T) {
	directed := change{tables: func(t *bpftest.Tables) {
		for link, w := range t.Workloads {
			w.Flags = row.WorkloadDirected
			t.Workloads[link] = w
		}
	}}
	for name, a := range families {
		t.Run(name, func(t *testing.T) {
			out := newBench(t, "workload", directed)
			world := func(p bpftest.Packet, want row.Reason) {
				t.Helper()
				out.expect(t, "to_workload", p.Bytes(), forwarded, want)
			}
			send := func(p bpftest.Packet) {
				t.Helper()
				out.expect(t, "from_workload", p.Bytes(), bpftest.Meta{}, row.ReasonToHost)
			}
			syn := with(tcp(a.web, a.world), func(p *bpftest.Packet) { p.Flags = bpftest.SYN })
			answer := with(tcp(a.world, a.web), func(p *bpftest.Packet) {
				p.SPort, p.DPort, p.Flags = 80, 40000, bpftest.SYN|bpftest.ACK
			})

			send(tcp(a.web, a.world)) // opens nothing
			world(answer, row.ReasonNotPublic)
			send(with(syn, func(p *bpftest.Packet) { p.Flags = bpftest.SYN | bpftest.ACK }))
			world(answer, row.ReasonNotPublic)
			send(syn)
			world(answer, row.ReasonDelivered)
			world(with(answer, func(p *bpftest.Packet) { p.SPort = 81 }), row.ReasonNotPublic)
			world(with(answer, func(p *bpftest.Packet) { p.DPort = 40001 }), row.ReasonNotPublic)
			world(with(answer, func(p *bpftest.Packet) { p.Proto = bpftest.UDP }), row.ReasonNotPublic)

			send(a.ping(a.web, a.world, false))
			world(a.ping(a.world, a.web, false), row.ReasonNotPublic)
			send(a.ping(a.web, a.world, true))
			world(a.ping(a.world, a.web, false), row.ReasonDelivered)
			world(a.ping(a.world, a.web, true), row.ReasonNotPublic)
			world(with(a.ping(a.world, a.web, false), func(p *bpftest.Packet) { p.ICMPRest[0]++ }), row.ReasonNotPublic)

			send(udp(a.web, a.world))
			world(with(udp(a.world, a.web), func(p *bpftest.Packet) { p.SPort, p.DPort = 80, 40000 }), row.ReasonDelivered)
			fragment := with(udp(a.world, a.web), func(p *bpftest.Packet) { p.SPort, p.DPort, p.Frag = 80, 40000, bpftest.MoreFragments })
			later := with(fragment, func(p *bpftest.Packet) { p.Frag, p.L4 = 100, make([]byte, 64) })
			world(later, row.ReasonNotPublic)
			world(fragment, row.ReasonDelivered)
			world(later, row.ReasonDelivered)
			world(with(later, func(p *bpftest.Packet) { p.ID++ }), row.ReasonNotPublic)
			world(with(later, func(p *bpftest.Packet) { p.Src = a.foreign }), row.ReasonNotPublic)
		})
	}
}

// TestErrorsAboutWhatWasOpenedPass wants ICMP errors let in that quote a conversation of the task.
func TestErrorsAboutWhatWasOpenedPass(t *testing.T) {
	for name, a := range families {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, "workload", change{})
			opened := udp(a.web, a.world)
			ping := a.ping(a.web, a.world, true)
			b.expect(t, "from_workload", opened.Bytes(), bpftest.Meta{}, row.ReasonToHost)
			b.expect(t, "from_workload", ping.Bytes(), bpftest.Meta{}, row.ReasonToHost)
			about := func(quoted []byte) bpftest.Packet {
				p := a.ping(a.world, a.web, true)
				p.ICMPType, p.ICMPRest, p.Payload = 3, [4]byte{}, quoted[14:]
				return p
			}
			for _, r := range []struct {
				name   string
				packet bpftest.Packet
				want   row.Reason
			}{
				{"about a datagram", about(opened.Bytes()), row.ReasonDelivered},
				{"about an echo", about(ping.Bytes()), row.ReasonDelivered},
				{"from a router", with(about(opened.Bytes()), func(p *bpftest.Packet) { p.Src = a.foreign }), row.ReasonDelivered},
				{"about another port", about(with(opened, func(p *bpftest.Packet) { p.SPort++ }).Bytes()), row.ReasonNotPublic},
				{"about another's", about(with(opened, func(p *bpftest.Packet) { p.Src = a.peer }).Bytes()), row.ReasonNotPublic},
				{"about a later fragment", about(with(opened, func(p *bpftest.Packet) { p.Frag, p.L4 = 100, make([]byte, 64) }).Bytes()), row.ReasonNotPublic},
				{"about too little", about(opened.Bytes()[:14+a.head()+7]), row.ReasonNotPublic},
				{"about nothing", about(opened.Bytes()[:14]), row.ReasonNotPublic},
			} {
				t.Run(r.name, func(t *testing.T) {
					b.expect(t, "to_workload", r.packet.Bytes(), forwarded, r.want)
				})
			}
		})
	}
}

// TestPortOfTheNodeOpensOnePort lets the world in where a port of the node leads to web, and nowhere
// else.
func TestPortOfTheNodeOpensOnePort(t *testing.T) {
	for name, a := range families {
		t.Run(name, func(t *testing.T) {
			opened := func(identity uint16) change {
				return change{tables: func(t *bpftest.Tables) {
					onLink(identity)(t)
					for _, proto := range []uint8{bpftest.TCP, bpftest.UDP} {
						key := row.OpeningKey{VNI: netA, Addr: row.AddrOf(a.web), Port: row.Port(80), Proto: proto}
						t.Openings[key] = row.Opening{HostPort: 8080}
					}
				}}
			}
			reply := with(tcp(a.web, a.world), func(p *bpftest.Packet) { p.SPort, p.DPort = 80, 40000 })
			about := func(quoted bpftest.Packet) bpftest.Packet {
				p := a.ping(a.world, a.web, true)
				p.ICMPType, p.ICMPRest, p.Payload = 3, [4]byte{}, quoted.Bytes()[14:]
				return p
			}
			fragment := with(udp(a.world, a.web), func(p *bpftest.Packet) { p.Frag = bpftest.MoreFragments })
			later := with(fragment, func(p *bpftest.Packet) { p.Frag, p.L4 = 100, make([]byte, 64) })
			b := newBench(t, "workload", opened(web))
			for _, r := range []struct {
				name   string
				packet bpftest.Packet
				want   row.Reason
			}{
				{"tcp", tcp(a.world, a.web), row.ReasonDelivered},
				{"udp", udp(a.world, a.web), row.ReasonDelivered},
				{"another port", with(tcp(a.world, a.web), func(p *bpftest.Packet) { p.DPort = 81 }), row.ReasonNotPublic},
				{"another task", tcp(a.world, a.db), row.ReasonNoEndpoint},
				{"ping", a.ping(a.world, a.web, true), row.ReasonNotPublic},
				{"news about an answer", about(reply), row.ReasonDelivered},
				{"news about another port", about(with(reply, func(p *bpftest.Packet) { p.SPort = 81 })), row.ReasonNotPublic},
				{"news about another's answer", about(with(reply, func(p *bpftest.Packet) { p.Src = a.peer })), row.ReasonNotPublic},
				{"later fragment alone", later, row.ReasonNotPublic},
				{"first fragment", fragment, row.ReasonDelivered},
				{"later fragment of it", later, row.ReasonDelivered},
			} {
				t.Run(r.name, func(t *testing.T) { b.expect(t, "to_workload", r.packet.Bytes(), forwarded, r.want) })
			}
			t.Run("a rule denies", func(t *testing.T) {
				b := newBench(t, "workload", opened(stranger))
				b.expect(t, "to_workload", udp(a.world, a.web).Bytes(), forwarded, row.ReasonDenied)
			})
		})
	}
}
