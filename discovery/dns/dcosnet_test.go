// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	wire "github.com/miekg/dns"

	"weft/discovery"
	"weft/discovery/dns/dnstest"
	"weft/discovery/zone"
)

// What dcos-net's own suites ask of its name server, told again. What is not here is asked elsewhere: one good
// resolver among broken ones, and only broken ones, in foreign_test.go; a chain of CNAMEs before all of its
// addresses, in alias_test.go; the order of addresses in server_test.go; too many questions in limits_test.go; the
// tasks' own names in discovery/mesos, the copy of Mesos-DNS's zone in discovery/httpapi.

// Over UDP, over TCP, and one after the other on one connection, whatever zone they are of.
func TestQuestionsOfEachZoneAreAnsweredOverEachTransport(t *testing.T) {
	r := newResolver(t, answering("dcos.io. 0 IN A 192.0.2.1")) // nothing to remember: each question is asked anew
	four := newResolver(t, answering("corp.example. 0 IN A 192.0.2.4"))
	f := start(t, Options{
		Resolvers:     []netip.AddrPort{r.Addr},
		ZoneResolvers: map[string][]netip.AddrPort{"example": slices.Repeat([]netip.AddrPort{four.Addr}, 4)},
	}, sample())
	rows := []struct {
		name  string
		qtype uint16
		rcode int
		want  []string
		own   bool
	}{
		{"ready.spartan.", wire.TypeA, wire.RcodeSuccess, []string{"127.0.0.1"}, true},
		{"dcos.io.", wire.TypeA, wire.RcodeSuccess, []string{"192.0.2.1"}, false},
		{"web.weft.mesos.", wire.TypeA, wire.RcodeSuccess, []string{"127.1.0.2", "127.1.0.3"}, true},
		{"web.weft.mesos.", wire.TypeAAAA, wire.RcodeSuccess, []string{"fd01:b::2"}, true},
		{"corp.example.", wire.TypeA, wire.RcodeSuccess, []string{"192.0.2.4"}, false},
		{"web.weft.l4lb.thisdcos.directory.", wire.TypeA, wire.RcodeSuccess, []string{"11.0.0.7"}, true},
		{"web.weft.containerip.dcos.thisdcos.directory.", wire.TypeA, wire.RcodeSuccess, []string{"127.1.0.2", "127.1.0.3"}, true},
		{"web.weft.mesos.thisdcos.directory.", wire.TypeA, wire.RcodeSuccess, []string{"127.1.0.2", "127.1.0.3"}, true},
		{"localhost.", wire.TypeA, wire.RcodeSuccess, []string{"127.0.0.1"}, true},
		{"none.l4lb.thisdcos.directory.", wire.TypeA, wire.RcodeNameError, []string{}, true},
	}
	check := func(how, name string, m *wire.Msg, rcode int, want []string, own bool) {
		t.Helper()
		if got := values(m.Answer); m.Rcode != rcode || !slices.Equal(got, want) || m.Authoritative != own {
			t.Errorf("%s, %s: %s %v, authoritative %t; want %v", how, name, wire.RcodeToString[m.Rcode], got, m.Authoritative, want)
		}
	}
	conn, err := (&wire.Client{Net: "tcp"}).Dial(f.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	for range 2 {
		for _, row := range rows {
			q := new(wire.Msg).SetQuestion(row.name, row.qtype)
			for _, transport := range []string{"udp", "tcp"} {
				check(transport, row.name, f.ask(q, transport, ""), row.rcode, row.want, row.own)
			}
			m, _, err := (&wire.Client{Net: "tcp"}).ExchangeWithConn(q, conn)
			if err != nil {
				t.Fatalf("%s on one connection: %v", row.name, err)
			}
			check("one connection", row.name, m, row.rcode, row.want, row.own)
		}
	}
}

// Of several questions the first is answered, where it belongs; who answers for foreign names hears of no other.
func TestFirstOfSeveralQuestionsIsAnswered(t *testing.T) {
	own := wire.Question{Name: "web.weft.mesos.", Qtype: wire.TypeA, Qclass: wire.ClassINET}
	ready := wire.Question{Name: "ready.spartan.", Qtype: wire.TypeA, Qclass: wire.ClassINET}
	foreign := wire.Question{Name: "dcos.io.", Qtype: wire.TypeA, Qclass: wire.ClassINET}
	heard := make(chan []wire.Question, 16)
	r := newResolver(t, func(w wire.ResponseWriter, m *wire.Msg) {
		heard <- m.Question
		answering("dcos.io. 0 IN A 192.0.2.1")(w, m)
	})
	f := start(t, Options{Resolvers: []netip.AddrPort{r.Addr}}, sample())
	asked := 0
	for _, row := range []struct {
		questions []wire.Question
		want      []string
	}{
		{[]wire.Question{own, own}, []string{"127.1.0.2", "127.1.0.3"}},
		{[]wire.Question{ready, own}, []string{"127.0.0.1"}},
		{[]wire.Question{own, foreign}, []string{"127.1.0.2", "127.1.0.3"}},
		{[]wire.Question{foreign, own, ready}, []string{"192.0.2.1"}},
		{slices.Repeat([]wire.Question{ready}, maxQuestions), []string{"127.0.0.1"}},
	} {
		for _, transport := range []string{"udp", "tcp"} {
			m := &wire.Msg{MsgHdr: wire.MsgHdr{Id: wire.Id(), RecursionDesired: true}, Question: row.questions}
			got := f.ask(m, transport, "")
			if !slices.Equal(values(got.Answer), row.want) || !slices.Equal(got.Question, row.questions[:1]) {
				t.Errorf("%v over %s: %v, want %v to the first", row.questions, transport, got, row.want)
			}
			if row.questions[0] != foreign {
				continue
			}
			if asked++; !slices.Equal(<-heard, []wire.Question{foreign}) {
				t.Error("a resolver heard of more than the first question")
			}
		}
	}
	if n := r.Asked.Load(); n != int64(asked) {
		t.Errorf("the resolver was asked %d times, want %d", n, asked)
	}
}

func TestNobodyToForwardToIsServfailOverEachTransport(t *testing.T) {
	f := start(t, Options{}, nil)
	for _, transport := range []string{"udp", "tcp"} {
		if r := f.ask(new(wire.Msg).SetQuestion("dcos.io.", wire.TypeA), transport, ""); r.Rcode != wire.RcodeServerFailure {
			t.Errorf("over %s: %v", transport, r)
		}
	}
}

func TestManyAddressesAreCutOverUDPAndWholeOverTCP(t *testing.T) {
	var changes []zone.Change
	for i := range 128 {
		changes = append(changes, task(fmt.Sprint("t", i), "many", fmt.Sprintf("127.1.1.%d", i+1)))
	}
	f := start(t, Options{}, changes)
	m := new(wire.Msg).SetQuestion("many.weft.mesos.", wire.TypeA)
	if r := f.ask(m, "udp", ""); !r.Truncated || len(r.Answer) == 128 {
		t.Errorf("over UDP %d addresses, truncated %t", len(r.Answer), r.Truncated)
	}
	if r := f.ask(m, "tcp", ""); r.Truncated || len(r.Answer) != 128 {
		t.Errorf("over TCP %d addresses, truncated %t; want all 128", len(r.Answer), r.Truncated)
	}
}

func TestThisNodeIsThereOnceTheNodeSaysWhatItIs(t *testing.T) {
	f := start(t, Options{}, nil)
	f.z = zone.New(zone.Options{Self: "n1"}).Completed()
	f.change()
	if r := f.query("thisnode.thisdcos.directory.", wire.TypeA); r.Rcode != wire.RcodeNameError {
		t.Errorf("before: %s", wire.RcodeToString[r.Rcode])
	}
	f.change(zone.Change{
		Source: zone.Source{Kind: discovery.KindNode, Key: "n1", Writer: "n1"},
		Fact:   zone.Host{Node: discovery.Node{ID: "n1", Addrs: addrs("192.0.2.7")}},
	})
	if got := values(f.query("thisnode.thisdcos.directory.", wire.TypeA).Answer); len(got) != 1 || got[0] != "192.0.2.7" {
		t.Errorf("then: %v", got)
	}
}

// Names of zones that are called otherwise now.
func TestFormerZonesAreAnswered(t *testing.T) {
	k := dnstest.NewKernel()
	f := start(t, Options{Cache: k}, nil)
	const key = "yd7nqxz5d6fyr1ejkmcpqxot1uwisza345h769ybndrfg8ejkmcp"
	f.z = zone.New(zone.Options{Key: key}).Completed()
	f.change(network("prod", 100, "127.1.0.0/16"))
	names := map[string]string{
		"App.marathon.l4lb.thisdcos.directory.": "Thisdcos.directory.", "app.marathon.l4lb.thisdcos.global.": "thisdcos.global.",
		"app.Marathon.dclb.thisdcos.directory.": "thisdcos.directory.", "app.marathon.DCLB.thisdcos.global.": "thisdcos.global.",
		"app.marathon.l4lb." + key + ".dcos.Directory.": key + ".dcos.Directory.",
	}
	for range 2 { // the second time from memory, where it may be
		for name, apex := range names {
			for _, transport := range []string{"udp", "tcp"} {
				r := f.ask(new(wire.Msg).SetQuestion(name, wire.TypeA), transport, "")
				if r.Rcode != wire.RcodeNameError || len(r.Ns) != 1 || !strings.EqualFold(r.Ns[0].Header().Name, apex) {
					t.Errorf("%s before: %v, want a SOA record of %s", name, r, apex)
				}
			}
		}
	}
	f.change(service("prod", "app.marathon", "11.0.0.7"), task("t1", "web", "127.1.0.2"))
	for range 2 {
		for name := range names {
			r := f.query(name, wire.TypeA)
			if !slices.Equal(values(r.Answer), []string{"11.0.0.7"}) || r.Answer[0].Header().Name != name {
				t.Errorf("%s: %v", name, r)
			}
		}
	}
	if r := f.query("web.weft.containerip.dcos.thisdcos.global.", wire.TypeA); !slices.Equal(values(r.Answer), []string{"127.1.0.2"}) {
		t.Errorf("a task by a former name: %v", r)
	}
	if err := k.Same(f.z, views); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"thisdcos.global.", "app.dcos.global.", "app.x" + key[1:] + ".dcos.directory.", key + ".dcos.directory."} { // ours are the names below
		if r := f.query(name, wire.TypeA); r.Rcode != wire.RcodeServerFailure {
			t.Errorf("%s: %v, want it to be foreign", name, r)
		}
	}
}
