// SPDX-License-Identifier: Apache-2.0

package bpftest_test

import (
	"net/netip"
	"testing"

	"weft/bpf/bpftest"
	"weft/bpf/row"
)

// directed gives every task of the world a network with rules.
func directed(t *bpftest.Tables) {
	for link, w := range t.Workloads {
		w.Flags = row.WorkloadDirected
		t.Workloads[link] = w
	}
}

// dialogue is web's conversation with the world, TCP.
type dialogue struct{ syn, synack, data, answer, fin bpftest.Packet }

func talk(a addrs, port uint16) dialogue {
	out := func(flags uint8) bpftest.Packet {
		return with(tcp(a.web, a.world), func(p *bpftest.Packet) { p.SPort, p.Flags = port, flags })
	}
	in := func(flags uint8) bpftest.Packet {
		return with(tcp(a.world, a.web), func(p *bpftest.Packet) { p.SPort, p.DPort, p.Flags = 80, port, flags })
	}
	return dialogue{
		out(bpftest.SYN), in(bpftest.SYN | bpftest.ACK), out(bpftest.ACK), in(bpftest.ACK), out(bpftest.FIN | bpftest.ACK),
	}
}

func (b *bench) sends(t *testing.T, p bpftest.Packet, want row.Reason) {
	t.Helper()
	b.expect(t, "from_workload", p.Bytes(), bpftest.Meta{}, want)
}

func (b *bench) hears(t *testing.T, p bpftest.Packet, want row.Reason) {
	t.Helper()
	b.expect(t, "to_workload", p.Bytes(), forwarded, want)
}

// in counts the entries of a table that the programs write.
func (b *bench) in(t *testing.T, name string) int {
	t.Helper()
	rows, err := bpftest.Rows[row.FlowKey, row.Flow](b.Set, name)
	if err != nil {
		t.Fatal(err)
	}
	return len(rows)
}

// TestAFlowMovesAsItIsAnsweredAndClosed follows a connection through its tables; the model has the same.
func TestAFlowMovesAsItIsAnsweredAndClosed(t *testing.T) {
	for name, a := range families {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, "workload", change{tables: directed})
			where := func(attempts, flows int) {
				t.Helper()
				if b.in(t, "attempts") != attempts || b.in(t, "flows") != flows {
					t.Errorf("got %d attempts and %d flows, want %d and %d", b.in(t, "attempts"), b.in(t, "flows"), attempts, flows)
				}
			}
			d := talk(a, 40000)
			b.sends(t, d.syn, row.ReasonToHost)
			where(1, 0)
			b.hears(t, with(d.synack, func(p *bpftest.Packet) { p.Flags = bpftest.RST | bpftest.ACK }), row.ReasonDelivered)
			where(1, 0) // refused is not answered
			b.hears(t, d.synack, row.ReasonDelivered)
			where(0, 1)
			b.sends(t, d.data, row.ReasonToHost)
			b.sends(t, d.fin, row.ReasonToHost)
			where(1, 0)
			b.hears(t, d.answer, row.ReasonDelivered) // the other side is not done yet
			where(1, 0)
			b.sends(t, d.syn, row.ReasonToHost) // the same ports again
			b.hears(t, d.synack, row.ReasonDelivered)
			where(0, 1)
			b.hears(t, with(d.answer, func(p *bpftest.Packet) { p.Flags = bpftest.RST }), row.ReasonDelivered)
			where(1, 0)
		})
	}
}

// TestLayoutsChangeAtOnce: until its turn comes a program leaves everything to the one behind it. Then what may
// answer a connection that the other let out passes, what opens one does not.
func TestLayoutsChangeAtOnce(t *testing.T) {
	for name, a := range families {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, "workload", change{tables: directed})
			d := talk(a, 40000)
			syn := with(d.synack, func(p *bpftest.Packet) { p.Flags = bpftest.SYN })
			datagram := with(d.synack, func(p *bpftest.Packet) { p.Proto = bpftest.UDP })
			turn := func(value uint32) {
				t.Helper()
				b.TakingOver = value == 2
				if err := b.Variables["taking_over"].Set(value); err != nil { // enum takeover
					t.Fatal(err)
				}
			}
			turn(1)
			for _, p := range []bpftest.Packet{d.syn, d.synack} {
				got, err := b.RunExpecting("to_workload", p.Bytes(), forwarded, row.ReasonNotPublic)
				if err != nil || got.Action != bpftest.Next || got.Reason != row.ReasonNone {
					t.Errorf("a program that waits: %s, %s, %v", got.Action, got.Reason, err)
				}
			}
			for value, want := range map[uint32]row.Reason{2: row.ReasonDelivered, 0: row.ReasonNotPublic} {
				turn(value)
				b.hears(t, d.synack, want)
				b.hears(t, d.answer, want)
				b.hears(t, syn, row.ReasonNotPublic)
				b.hears(t, datagram, row.ReasonNotPublic)
			}
		})
	}
}

// TestSYNFloodHurtsItselfAlone lets a task open far more than its budget: what was established goes on, what
// needs no entry is not hurt, other tasks open as before, and the task itself may again when it is answered.
func TestSYNFloodHurtsItselfAlone(t *testing.T) {
	if testing.Short() {
		t.Skip("a flood takes long in a guest, and is no matter of kernels")
	}
	b := newBench(t, "workload", change{tables: directed})
	a := v4
	old := talk(a, 1000)
	b.sends(t, old.syn, row.ReasonToHost)
	b.hears(t, old.synack, row.ReasonDelivered)

	flood := func(n int) {
		for i := range n {
			p := talk(a, uint16(2000+i%60000)).syn
			p.DPort = uint16(1 + i/60000)
			if _, err := b.RunExpecting("from_workload", p.Bytes(), bpftest.Meta{}, row.ReasonToHost); err != nil {
				t.Fatal(err)
			}
		}
	}
	flood(60_000)
	var own row.Opener
	if err := b.Maps["openers"].Lookup(uint32(2*webLink), &own); err != nil {
		t.Fatal(err)
	}
	if own.Left > 2000 {
		t.Errorf("the flood left a budget of %d", own.Left)
	}
	run := func(program string, p bpftest.Packet, meta bpftest.Meta) row.Reason {
		t.Helper()
		r, err := b.Run(program, p.Bytes(), meta)
		if err != nil {
			t.Fatal(err)
		}
		return r.Reason
	}
	if got := run("to_workload", old.answer, forwarded); got != row.ReasonDelivered {
		t.Errorf("the established flow was cut: %s", got)
	}
	if got := run("from_workload", tcp(a.web, a.peer), bpftest.Meta{}); got != row.ReasonDelivered {
		t.Errorf("unruled traffic was hurt: %s", got)
	}
	// Another task's budget is its own.
	if err := b.Maps["openers"].Lookup(uint32(2*dbLink), &own); err != nil || own.Left != 0 || own.Since != 0 {
		t.Errorf("got %+v, %v of the other task's budget, want it untouched", own, err)
	}
	// An answer to what was recorded gives one attempt back.
	key := row.FlowKey{}
	rows, err := bpftest.Rows[row.FlowKey, row.Flow](b.Set, "attempts")
	if err != nil || len(rows) == 0 {
		t.Fatalf("%d attempts, %v", len(rows), err)
	}
	for key = range rows {
		break
	}
	if err := b.Maps["openers"].Put(uint32(2*webLink), row.Opener{Since: 1 << 62}); err != nil {
		t.Fatal(err)
	}
	answer := with(tcp(a.world, a.web), func(p *bpftest.Packet) {
		p.SPort, p.DPort, p.Flags = row.Port(key.Dport), row.Port(key.Sport), bpftest.SYN|bpftest.ACK
	})
	if got := run("to_workload", answer, forwarded); got != row.ReasonDelivered {
		t.Errorf("the answer to an attempt was refused: %s", got)
	}
	if err := b.Maps["openers"].Lookup(uint32(2*webLink), &own); err != nil || own.Left != 1 {
		t.Errorf("got %+v, %v, want one attempt given back", own, err)
	}
}

// TestFragmentsHaveATableOfTheirOwn floods with first fragments and keeps the flows.
func TestFragmentsHaveATableOfTheirOwn(t *testing.T) {
	b := newBench(t, "workload", change{tables: directed})
	d := talk(v4, 1000)
	b.sends(t, d.syn, row.ReasonToHost)
	b.hears(t, d.synack, row.ReasonDelivered)
	// By a rule about ports, so that later fragments need the first.
	for i := range 6000 {
		p := with(tcp(v4.web, v4.db), func(p *bpftest.Packet) { p.DPort, p.Frag, p.ID = 5432, bpftest.MoreFragments, uint16(i) })
		if _, err := b.RunExpecting("from_workload", p.Bytes(), bpftest.Meta{}, row.ReasonDelivered); err != nil {
			t.Fatal(err)
		}
	}
	if b.in(t, "flows") != 1 || b.in(t, "datagrams") < 1000 {
		t.Errorf("got %d flows and %d datagrams", b.in(t, "flows"), b.in(t, "datagrams"))
	}
}

// TestRulesFromAddressesOfTheWorld wants the longest prefix to say who sends, towards tasks that such rules
// are about, and nothing of it for tasks, whatever their addresses are.
func TestRulesFromAddressesOfTheWorld(t *testing.T) {
	for name, a := range families {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, "workload", change{tables: func(t *bpftest.Tables) {
				for key, e := range t.Endpoints {
					if e.Ifindex == webLink {
						e.Identity, e.Flags = db, row.EndpointPrefixed
						t.Endpoints[key] = e
					}
				}
				for _, prefix := range []string{"203.0.113.128/25", "2001:db8:1::/48"} {
					t.Sources[row.SourceKeyOf(netA, netip.MustParsePrefix(prefix))] = row.Source{Src: row.VerdictPrefix | ruleDeny}
				}
				t.Set(row.VerdictKey{VNI: netA, Src: row.VerdictPrefix | ruleDeny, Dst: db}, row.ClauseOf(0, 0, row.VerdictDeny, ruleDeny))
				t.Set(row.VerdictKey{VNI: netA, Src: row.IdentityWorld, Dst: db}, row.ClauseOf(0, 0, row.VerdictAudit, ruleAudit))
			}})
			narrow, elsewhere := addr("203.0.113.200"), addr("198.51.100.77")
			if !a.web.Is4() {
				narrow, elsewhere = addr("2001:db8:1::7"), addr("2001:db9::7")
			}
			from := func(src, dst uint16, p bpftest.Packet) bpftest.Packet {
				p.SPort, p.DPort = src, dst
				return p
			}
			b.hears(t, from(1, 5000, tcp(a.world, a.web)), row.ReasonDelivered)
			b.hears(t, from(1, 5001, tcp(a.world, a.web)), row.ReasonNotPublic)
			b.hears(t, from(1, 5998, tcp(a.world, a.web)), row.ReasonDelivered) // on the last page
			b.hears(t, from(1, 6000, tcp(a.world, a.web)), row.ReasonNotPublic)
			b.hears(t, from(1, 5000, tcp(narrow, a.web)), row.ReasonDenied)
			b.hears(t, from(1, 5000, tcp(elsewhere, a.web)), row.ReasonAudited)
		})
	}
}
