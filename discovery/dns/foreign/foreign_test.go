// SPDX-License-Identifier: Apache-2.0

package foreign

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	wire "github.com/miekg/dns"
	"go.uber.org/goleak"

	"weft/discovery/dns/dnstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestRememberedAnswersAge(t *testing.T) {
	start := time.Unix(1000, 0)
	ask := &Question{Name: "example.com.", Type: wire.TypeA, Msg: new(wire.Msg).SetQuestion("example.com.", wire.TypeA)}
	key, ok := keyOf(ask)
	if !ok {
		t.Fatal("a plain question is not memorable")
	}
	soa := "com. 900 IN SOA a. b. 1 2 3 4 60"
	check := func(m *wire.Msg, after time.Duration, ttl uint32, found bool) {
		t.Helper()
		f := newMemory()
		f.remember(key, m, start)
		r := f.recall(key, ask, start.Add(after))
		if (r != nil) != found {
			t.Errorf("after %v: found %t, want %t", after, r != nil, found)
			return
		}
		if r != nil {
			eachRecord(r, func(h *wire.RR_Header) {
				if h.Ttl != ttl {
					t.Errorf("after %v: TTL %d, want %d", after, h.Ttl, ttl)
				}
			})
		}
	}
	reply := func(rcode int, answer, ns []wire.RR) *wire.Msg {
		m := new(wire.Msg).SetRcode(ask.Msg, rcode)
		m.Answer, m.Ns = answer, ns
		return m
	}
	a := dnstest.Records("example.com. 100 IN A 192.0.2.1")
	check(reply(wire.RcodeSuccess, a, nil), 99*time.Second, 1, true)
	check(reply(wire.RcodeSuccess, a, nil), 100*time.Second, 0, false)
	check(reply(wire.RcodeNameError, nil, dnstest.Records(soa)), 59*time.Second, 841, true)
	check(reply(wire.RcodeNameError, nil, dnstest.Records(soa)), 60*time.Second, 0, false)
	check(reply(wire.RcodeSuccess, nil, nil), 0, 0, false)
	check(reply(wire.RcodeServerFailure, nil, dnstest.Records(soa)), 0, 0, false)
	check(reply(wire.RcodeSuccess, dnstest.Records("example.com. 0 IN A 192.0.2.1"), nil), 0, 0, false)
	check(reply(wire.RcodeSuccess, dnstest.Records("example.com. 999999 IN A 192.0.2.1"), nil), maxAge, 0, false)
	alias := dnstest.Records("example.com. 900 IN CNAME example.org.")
	check(reply(wire.RcodeSuccess, alias, dnstest.Records(soa)), 59*time.Second, 841, true)
	check(reply(wire.RcodeSuccess, alias, dnstest.Records(soa)), 60*time.Second, 0, false)
	check(reply(wire.RcodeSuccess, alias, nil), 0, 0, false)
	cut := reply(wire.RcodeSuccess, a, nil)
	cut.Truncated = true
	check(cut, 0, 0, false)
}

func TestQuestionsWithOptionsAreNotRemembered(t *testing.T) {
	m := new(wire.Msg).SetQuestion("example.com.", wire.TypeA)
	m.SetEdns0(1232, true)
	m.IsEdns0().Option = []wire.EDNS0{&wire.EDNS0_COOKIE{Code: wire.EDNS0COOKIE, Cookie: "0011223344556677"}}
	if k, ok := keyOf(&Question{Msg: m}); !ok || !k.do {
		t.Error("a cookie makes a question not memorable, or DO is lost")
	}
	m.IsEdns0().Option = append(m.IsEdns0().Option, &wire.EDNS0_SUBNET{Code: wire.EDNS0SUBNET})
	if _, ok := keyOf(&Question{Msg: m}); ok {
		t.Error("a client subnet is memorable")
	}
	m = new(wire.Msg).SetQuestion("example.com.", wire.TypeA)
	m.RecursionDesired = false
	if _, ok := keyOf(&Question{Msg: m}); ok {
		t.Error("a question without RD is memorable")
	}
}

func TestResolversThatFailAreAskedLess(t *testing.T) {
	all := []*upstream{{}, {}, {}, {}}
	all[0].streak.Store(3)
	all[2].streak.Store(1)
	for _, u := range all {
		u.late.Store(time.Now().Unix())
	}
	count := map[*upstream]int{}
	const rounds = 4000
	for range rounds {
		chosen := choose(all)[:atOnce]
		if chosen[0] == chosen[1] {
			t.Fatalf("chosen: %v", chosen)
		}
		for _, u := range chosen {
			count[u]++
		}
	}
	if good := count[all[1]] + count[all[3]]; good < 2*rounds*9/10 || count[all[0]] == 0 || count[all[2]] == 0 {
		t.Errorf("asked %d %d %d %d times, want mostly the second and fourth, and sometimes the others",
			count[all[0]], count[all[1]], count[all[2]], count[all[3]])
	}
	all[0].late.Store(time.Now().Add(-2 * forgiven).Unix())
	if all[0].failures(time.Now()) != 0 {
		t.Error("a failure of long ago still counts")
	}
	if got := choose(all[:1]); len(got) != 1 {
		t.Errorf("of one resolver %d are asked", len(got))
	}
}

// While no resolver answers, an answer is given for a day beyond its time, marked as such.
func TestOldAnswerIsBetterThanNone(t *testing.T) {
	var fails atomic.Bool
	r := dnstest.NewResolver(t, func(w wire.ResponseWriter, m *wire.Msg) {
		if fails.Load() {
			dnstest.Failing(wire.RcodeServerFailure)(w, m)
			return
		}
		dnstest.Answering("example.com. 1 IN A 192.0.2.1")(w, m)
	})
	f := New([]netip.AddrPort{r.Addr}, 0, slog.New(slog.DiscardHandler))
	t.Cleanup(f.Wait)
	q := &Question{Msg: new(wire.Msg).SetQuestion("example.com.", wire.TypeA).SetEdns0(1232, false), Name: "example.com.", Type: wire.TypeA}
	if r, err := f.Ask(t.Context(), q); err != nil || r.Stale != nil {
		t.Fatalf("got %v, %v", r, err)
	}
	fails.Store(true)
	key, _ := keyOf(q)
	for _, past := range []time.Duration{time.Hour, maxStale + time.Hour} {
		m := f.memory.get(key)
		m.expiry = time.Now().Add(-past)
		m.given.Store(0)
		got, err := f.Ask(t.Context(), q)
		if past > maxStale {
			if err != nil || got.Stale != nil || got.Msg.Rcode != wire.RcodeServerFailure {
				t.Errorf("%v too old: %v, %v, want what the resolver says", past, got, err)
			}
			continue
		}
		if err != nil || got.Stale == nil || got.Msg.Rcode != wire.RcodeSuccess {
			t.Fatalf("%v too old: %v, %v, want the old answer", past, got, err)
		}
		if h := got.Msg.Answer[0].Header(); h.Ttl != staleTTL || len(got.Msg.IsEdns0().Option) != 1 {
			t.Errorf("%v: a TTL of %d and a mark are wanted", got.Msg, staleTTL)
		}
	}
}

func TestSystemResolvers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(path, []byte("# a comment\nsearch example.com\nnameserver 10.0.0.2\nnameserver 2001:db8::53\nnameserver nonsense\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := SystemResolvers(path)
	want := []netip.AddrPort{netip.MustParseAddrPort("10.0.0.2:53"), netip.MustParseAddrPort("[2001:db8::53]:53")}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("SystemResolvers = %v, %v, want %v", got, err, want)
	}
	if _, err := SystemResolvers(path + ".none"); err == nil {
		t.Error("SystemResolvers of a missing file: no error")
	}
}

func ask(name string) *Question {
	return &Question{Msg: new(wire.Msg).SetQuestion(name, wire.TypeA).SetEdns0(1232, false), Name: name, Type: wire.TypeA}
}

// resolvers asks these; a test is not over before they are done.
func resolvers(t *testing.T, list ...*dnstest.Resolver) *Resolvers {
	t.Helper()
	var addrs []netip.AddrPort
	for _, r := range list {
		addrs = append(addrs, r.Addr)
	}
	f := New(addrs, 0, slog.New(slog.DiscardHandler))
	t.Cleanup(f.Wait)
	return f
}

// Silence is how resolvers fail most: a stub resolver that waits a second gets the old answer within its first try, and the
// next ones are not made to wait again.
func TestOldAnswerComesBeforeTheAskerGivesUp(t *testing.T) {
	var silent atomic.Bool
	r := dnstest.NewResolver(t, func(w wire.ResponseWriter, m *wire.Msg) {
		if !silent.Load() {
			dnstest.Answering("example.com. 300 IN A 192.0.2.1")(w, m)
		}
	})
	f := resolvers(t, r)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel() // or the test would wait for what nobody answers
	q := ask("example.com.")
	if _, err := f.Ask(ctx, q); err != nil {
		t.Fatal(err)
	}
	silent.Store(true)
	key, _ := keyOf(q)
	f.memory.get(key).expiry = time.Now().Add(-time.Minute)
	if staleAfter >= time.Second {
		t.Errorf("old answers come after %s, want them within a second", staleAfter)
	}
	for _, why := range []error{errSlow, errFailing} { // waited for, then not: a busy machine may take its time for either
		before := time.Now()
		got, err := f.Ask(ctx, q)
		if took := time.Since(before); err != nil || !errors.Is(got.Stale, why) || took > askFor/2 {
			t.Errorf("got %v, %v after %v, want the old answer since %v", got, err, took, why)
		}
	}
	if n := r.Asked.Load(); n != 2 {
		t.Errorf("the resolver was asked %d times, want 2", n)
	}
}

// Refusals are no answer while there is somebody else to ask.
func TestOneGoodResolverAmongRefusingOnesIsEnough(t *testing.T) {
	list := []*dnstest.Resolver{dnstest.NewResolver(t, dnstest.Answering("example.com. 0 IN A 192.0.2.1"))}
	for _, rcode := range []int{wire.RcodeRefused, wire.RcodeServerFailure, wire.RcodeRefused, wire.RcodeNotImplemented} {
		list = append(list, dnstest.NewResolver(t, dnstest.Failing(rcode)))
	}
	for range 16 { // the order is by lot
		if got, err := resolvers(t, list...).Ask(t.Context(), ask("example.com.")); err != nil || got.Msg.Rcode != wire.RcodeSuccess {
			t.Fatalf("got %v, %v, want the good one's answer", got.Msg, err)
		}
	}
	f := resolvers(t, list[1])
	if got, err := f.Ask(t.Context(), ask("example.com.")); err != nil || got.Msg.Rcode != wire.RcodeRefused || f.Stats()[0].Failed != 1 {
		t.Errorf("got %v, %v, %+v, want the refusal, counted as a failure", got.Msg, err, f.Stats())
	}
}

// What two asked are silent about, a third is asked after a second, not after five.
func TestSilentResolversDelayTheOthersByASecond(t *testing.T) {
	good := dnstest.NewResolver(t, dnstest.Answering("example.com. 300 IN A 192.0.2.1"))
	dumb := []*dnstest.Resolver{dnstest.NewResolver(t, dnstest.Silent), dnstest.NewResolver(t, dnstest.Silent)}
	f := resolvers(t, good, dumb[0], dumb[1])
	for _, u := range f.upstreams {
		if u.addr == good.Addr { // so that it is the last to be asked
			u.streak.Store(9)
			u.late.Store(time.Now().Unix())
		}
	}
	before := time.Now()
	got, err := f.Ask(t.Context(), ask("example.com."))
	if took := time.Since(before); err != nil || got.Msg.Rcode != wire.RcodeSuccess || took > 4*nextAfter {
		t.Errorf("got %v, %v after %v, want the answer after %v", got.Msg, err, took, nextAfter)
	}
}

// A resolver is told a size that passes every path, and nothing that is between an asker and this node.
func TestOptionsOfOneHopStayThere(t *testing.T) {
	seen := make(chan *wire.OPT, 1)
	r := dnstest.NewResolver(t, func(w wire.ResponseWriter, m *wire.Msg) {
		seen <- m.IsEdns0()
		dnstest.Answering("example.com. 300 IN A 192.0.2.1")(w, m)
	})
	q := ask("example.com.")
	opt := q.Msg.IsEdns0()
	opt.SetUDPSize(65535)
	opt.SetDo()
	opt.Option = []wire.EDNS0{
		&wire.EDNS0_COOKIE{Code: wire.EDNS0COOKIE, Cookie: "0011223344556677"},
		&wire.EDNS0_SUBNET{Code: wire.EDNS0SUBNET, Family: 1, SourceNetmask: 24, Address: []byte{192, 0, 2, 0}},
	}
	if _, err := resolvers(t, r).Ask(t.Context(), q); err != nil {
		t.Fatal(err)
	}
	got := <-seen
	if got.UDPSize() != udpSize || !got.Do() || len(got.Option) != 1 || got.Option[0].Option() != wire.EDNS0SUBNET {
		t.Errorf("asked with %v, want a size of %d, DO and the subnet", got, udpSize)
	}
	if len(opt.Option) != 2 || opt.UDPSize() != 65535 {
		t.Errorf("the asker's own OPT became %v", opt)
	}
}

// Names that one task asks for once each push out none that is asked for again; long answers are not kept, so that the memory
// has a size.
func TestMemoryIsForNamesThatAreAskedForAgain(t *testing.T) {
	c, now := newMemory(), time.Now()
	put := func(name string, answers ...string) memoryKey {
		q := ask(name)
		m := new(wire.Msg).SetReply(q.Msg)
		m.Answer = dnstest.Records(answers...)
		k, _ := keyOf(q)
		c.remember(k, m, now)
		return k
	}
	often := put("often.example.", "often.example. 300 IN A 192.0.2.1")
	if c.get(often) == nil {
		t.Fatal("not remembered")
	}
	for i := range 3 * maxRemembered {
		put(fmt.Sprintf("x%d.example.", i), fmt.Sprintf("x%d.example. 300 IN A 192.0.2.1", i))
	}
	if c.get(often) == nil || c.answers.Len() > maxRemembered {
		t.Errorf("%d answers, the one of often.example among them %t", c.answers.Len(), c.get(often) != nil)
	}
	var long []string
	for i := range 300 {
		long = append(long, fmt.Sprintf("often.example. 300 IN A 192.0.%d.%d", i/256, i%256))
	}
	if k := put("often.example.", long...); c.get(k) != nil {
		t.Error("an answer of 300 records is remembered, or the one before it still is")
	}
}

// A name that was said to be missing is not found again in what was said before.
func TestWhatIsNotKeptEndsWhatWas(t *testing.T) {
	c, q, now := newMemory(), ask("example.com."), time.Now()
	k, _ := keyOf(q)
	m := new(wire.Msg).SetReply(q.Msg)
	m.Answer = dnstest.Records("example.com. 300 IN A 192.0.2.1")
	c.remember(k, m, now)
	c.remember(k, new(wire.Msg).SetRcode(q.Msg, wire.RcodeServerFailure), now)
	if c.old(k, now) == nil {
		t.Fatal("a failure ended an answer")
	}
	c.remember(k, new(wire.Msg).SetRcode(q.Msg, wire.RcodeNameError), now) // without SOA
	if c.old(k, now) != nil {
		t.Error("the old answer is still there")
	}
}
