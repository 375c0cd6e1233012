// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	wire "github.com/miekg/dns"

	"weft/discovery/zone"
	"weft/discovery/zone/record"
)

// What Mesos-DNS does with messages that are no usual questions, as it was seen to.
func TestMessagesToTheLetter(t *testing.T) {
	s := mesosServer(mesosZone(t, "../mesos/testdata/golden/003-one-task", true))
	check := func(what, want string, edit func(m *wire.Msg)) {
		t.Helper()
		m := new(wire.Msg).SetQuestion("leader.mesos.", wire.TypeA)
		edit(m)
		r := askMesos(t, s, m, false)
		if r == nil || r.Id != m.Id || r.Opcode != m.Opcode {
			t.Fatalf("%s: %v", what, r)
		}
		got := wire.RcodeToString[r.Rcode]
		if r.Authoritative {
			got += " aa"
		}
		if len(r.Answer) > 0 {
			got += " answered"
		}
		if r.IsEdns0() != nil {
			got += " opt"
		}
		if got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	check("a question", "NOERROR aa answered", func(*wire.Msg) {})
	check("a notification", "NOERROR aa answered", func(m *wire.Msg) { m.Opcode = wire.OpcodeNotify })
	check("an unknown opcode", "NOERROR aa answered", func(m *wire.Msg) { m.Opcode = 15 })
	check("class CH", "NOERROR aa answered", func(m *wire.Msg) { m.Question[0].Qclass = wire.ClassCHAOS })
	check("EDNS version 1", "NOERROR aa answered", func(m *wire.Msg) { m.SetEdns0(4096, true).IsEdns0().SetVersion(1) })
	check("a transfer", "NOERROR aa", func(m *wire.Msg) { m.Question[0].Qtype = wire.TypeAXFR })
	check("type 0", "NOERROR aa", func(m *wire.Msg) { m.Question[0].Qtype = 0 })
	check("DS", "REFUSED", func(m *wire.Msg) { m.Question[0].Qtype = wire.TypeDS })
	check("no question", "SERVFAIL", func(m *wire.Msg) { m.Question = nil })
	check("a foreign name", "REFUSED", func(m *wire.Msg) { m.SetEdns0(4096, true).Question[0].Name = "example.com." })
	check("a foreign name in another class", "REFUSED", func(m *wire.Msg) { m.Question[0] = wire.Question{Name: "example.com.", Qclass: 9} })
	check("two questions", "NOERROR aa answered", func(m *wire.Msg) {
		m.Question = append(m.Question, wire.Question{Name: "example.com.", Qtype: wire.TypeA, Qclass: wire.ClassINET})
	})
}

// Six services and a SOA record from outside of the domain: the message has 512 bytes at most, but for Mesos-DNS more.
func TestLengthIsGuessedAsMesosDNSDoes(t *testing.T) {
	fact := zone.MesosTask{
		Framework: "slave", ID: "t", Name: "a--bmesosa046b", Agent: "S-S0", AgentAddrs: addrs("10.0.0.1"),
		HostPorts: []int{31005, 31006, 31007, 32000, 32001, 32002},
	}
	ask := func(strict bool) *wire.Msg {
		z, _ := zone.New(zone.Options{
			Domain: "a-b.c.d", MesosOnly: true, Strict: strict, Start: record.Start{Server: "ns1.mesos.", Mailbox: "root.ns1.mesos."},
		}).With([]zone.Change{{Source: zone.Source{Key: "t"}, Fact: fact}})
		return askMesos(t, mesosServer(z), new(wire.Msg).SetQuestion("_a--bmesosa046b._tcp.slave.a-b.c.d.", wire.TypeANY), false)
	}
	if r := ask(true); !r.Truncated || len(r.Answer) != 6 || len(r.Extra) != 0 {
		t.Errorf("strict: %v, want it cut", r)
	}
	if r := ask(false); r.Truncated || len(r.Answer) != 6 || len(r.Extra) != 1 {
		t.Errorf("%v, want all of it", r)
	}
}

// Resolvers are asked one after the other; the first that says anything has the last word, and nothing is remembered.
func TestForwardingToTheLetter(t *testing.T) {
	failing := newResolver(t, func(w wire.ResponseWriter, m *wire.Msg) { _ = w.WriteMsg(failure(m, wire.RcodeServerFailure)) })
	good := newResolver(t, answering("a.example.com. 300 IN A 192.0.2.1"))
	f := start(t, Options{
		Mesos: &Mesos{Recursion: true, Truncate: true, Strict: true}, ResolverTimeout: time.Second, Resolvers: []netip.AddrPort{failing.Addr, good.Addr},
		ZoneResolvers: map[string][]netip.AddrPort{"example.com": {good.Addr}},
	}, nil)
	f.SetZone(mesosZone(t, "../mesos/testdata/golden/003-one-task", true), zone.Diff{})
	if got := f.query("a.example.org.", wire.TypeA); got.Rcode != wire.RcodeServerFailure {
		t.Errorf("the first resolver fails: %v", got)
	}
	for range 2 {
		if got := f.query("a.example.com.", wire.TypeA); !slices.Equal(values(got.Answer), []string{"192.0.2.1"}) {
			t.Errorf("a zone's resolver: %v", got)
		}
	}
	if got := f.query("leader.mesos.", wire.TypeA); len(got.Answer) != 1 {
		t.Errorf("leader.mesos: %v", got)
	}
	asked := map[netip.AddrPort]uint64{}
	for _, u := range f.Stats().Upstream {
		asked[u.Addr] += u.Asked
	}
	if asked[failing.Addr] != 1 || asked[good.Addr] != 2 {
		t.Errorf("asked %v, want the failing one once, the other twice", asked)
	}
}

// A resolver hears of the size that the asker takes, however long that is.
func TestQuestionIsForwardedAsItCame(t *testing.T) {
	var list []string
	for i := range 300 {
		list = append(list, fmt.Sprintf("example.com. 300 IN A 192.0.2.%d", i%250))
	}
	r := newResolver(t, func(w wire.ResponseWriter, m *wire.Msg) {
		reply := new(wire.Msg).SetReply(m)
		reply.Answer = records(list...)
		reply.SetEdns0(8192, false)
		reply.Truncate(int(m.IsEdns0().UDPSize()))
		_ = w.WriteMsg(reply)
	})
	for _, strict := range []bool{true, false} {
		f := start(t, Options{Mesos: &Mesos{Recursion: true, Truncate: true, Strict: strict}, Resolvers: []netip.AddrPort{r.Addr}}, nil)
		f.SetZone(mesosZone(t, "../mesos/testdata/golden/003-one-task", strict), zone.Diff{})
		c := wire.Client{UDPSize: 8192}
		got, _, err := c.Exchange(new(wire.Msg).SetQuestion("example.com.", wire.TypeA).SetEdns0(8192, false), f.addr)
		if err != nil || got.Truncated != !strict || strict && len(got.Answer) != len(list) {
			t.Errorf("strict %t: %d answers, tc %t, %v", strict, len(got.Answer), got.Truncated, err)
		}
		f.stop()
	}
}
