// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	wire "github.com/miekg/dns"
)

// resolver is a resolver under test's control, over UDP and TCP on one port.
type resolver struct {
	addr  netip.AddrPort
	asked atomic.Int64
}

func newResolver(t *testing.T, handle func(w wire.ResponseWriter, m *wire.Msg)) *resolver {
	t.Helper()
	r := &resolver{}
	udp, err := net.ListenPacket("udp", "127.0.0.9:0")
	if err != nil {
		t.Fatal(err)
	}
	tcp, err := net.Listen("tcp", udp.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	r.addr = netip.MustParseAddrPort(udp.LocalAddr().String())
	h := wire.HandlerFunc(func(w wire.ResponseWriter, m *wire.Msg) {
		r.asked.Add(1)
		handle(w, m)
	})
	for _, srv := range []*wire.Server{{PacketConn: udp, Handler: h, UDPSize: 4096}, {Listener: tcp, Handler: h}} {
		started, done := make(chan struct{}), make(chan error, 1)
		srv.NotifyStartedFunc = func() { close(started) }
		go func() { done <- srv.ActivateAndServe() }()
		<-started
		t.Cleanup(func() {
			_ = srv.Shutdown()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
	return r
}

func records(text ...string) []wire.RR {
	var rrs []wire.RR
	for _, s := range text {
		rr, err := wire.NewRR(s)
		if err != nil {
			panic(err)
		}
		rrs = append(rrs, rr)
	}
	return rrs
}

func answering(text ...string) func(wire.ResponseWriter, *wire.Msg) {
	return func(w wire.ResponseWriter, m *wire.Msg) {
		r := new(wire.Msg).SetReply(m)
		r.RecursionAvailable = true
		r.Answer = records(text...)
		if opt := m.IsEdns0(); opt != nil {
			r.SetEdns0(1232, opt.Do())
		}
		_ = w.WriteMsg(r)
	}
}

func failing(rcode int) func(wire.ResponseWriter, *wire.Msg) {
	return func(w wire.ResponseWriter, m *wire.Msg) { _ = w.WriteMsg(new(wire.Msg).SetRcode(m, rcode)) }
}

func silent(wire.ResponseWriter, *wire.Msg) {}

// closed is an address where nobody listens.
func closed(t *testing.T) netip.AddrPort {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.9:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	return netip.MustParseAddrPort(c.LocalAddr().String())
}

func TestForeignNamesAreForwarded(t *testing.T) {
	r := newResolver(t, answering("example.com. 300 IN A 192.0.2.1"))
	f := start(t, Options{Resolvers: []netip.AddrPort{r.addr}}, sample())
	for _, transport := range []string{"udp", "tcp"} {
		m := new(wire.Msg).SetQuestion("eXample.com.", wire.TypeA)
		got := f.ask(m, transport, "")
		if want := []string{"192.0.2.1"}; !slices.Equal(values(got.Answer), want) || got.Authoritative || !got.RecursionAvailable {
			t.Errorf("over %s: %v, want %v, ra", transport, got, want)
		}
	}
	if n := r.asked.Load(); n != 1 {
		t.Errorf("the resolver was asked %d times, want once: answers are remembered", n)
	}
	// Names of ours are never sent away.
	if got := f.query("nothing.mesos.", wire.TypeA); got.Rcode != wire.RcodeNameError || !got.RecursionAvailable || r.asked.Load() != 1 {
		t.Errorf("own name: %v, the resolver was asked %d times", got, r.asked.Load())
	}
}

// An id, a socket and a question of our own: what does not fit them is not believed.
func TestForgedAnswersAreNotBelieved(t *testing.T) {
	ids := make(chan uint16, 4)
	r := newResolver(t, func(w wire.ResponseWriter, m *wire.Msg) {
		ids <- m.Id
		forged := func(change func(*wire.Msg)) {
			r := new(wire.Msg).SetReply(m)
			r.Answer = records("example.com. 300 IN A 203.0.113.66")
			change(r)
			_ = w.WriteMsg(r)
		}
		forged(func(r *wire.Msg) { r.Id++ })
		forged(func(r *wire.Msg) { r.Question[0].Name = "example.org." })
		forged(func(r *wire.Msg) { r.Question[0].Qtype = wire.TypeAAAA })
		forged(func(r *wire.Msg) { r.Question = nil })
		forged(func(r *wire.Msg) { r.Response = false })
		_, _ = w.Write([]byte("nonsense"))
		answering("example.com. 0 IN A 192.0.2.1")(w, m)
	})
	f := start(t, Options{Resolvers: []netip.AddrPort{r.addr}}, nil)
	m := new(wire.Msg).SetQuestion("example.com.", wire.TypeA)
	m.Id = 4711
	for range 4 {
		if got := f.ask(m, "udp", ""); !slices.Equal(values(got.Answer), []string{"192.0.2.1"}) || got.Id != 4711 {
			t.Errorf("got %v, want 192.0.2.1 with the asker's id", got)
		}
	}
	own := 0
	for range 4 {
		if <-ids != 4711 {
			own++
		}
	}
	if own == 0 {
		t.Error("the asker's id was sent on")
	}
}

func TestGoodAnswerIsPreferredToAFasterFailure(t *testing.T) {
	bad := newResolver(t, failing(wire.RcodeRefused))
	good := newResolver(t, func(w wire.ResponseWriter, m *wire.Msg) {
		for deadline := time.Now().Add(2 * time.Second); bad.asked.Load() == 0 && time.Now().Before(deadline); {
		}
		answering("example.com. 300 IN A 192.0.2.1")(w, m)
	})
	f := start(t, Options{Resolvers: []netip.AddrPort{bad.addr, good.addr}}, nil)
	if got := f.query("example.com.", wire.TypeA); got.Rcode != wire.RcodeSuccess {
		t.Errorf("got %v, want NOERROR", got)
	}
}

func TestSilentResolverDelaysNothing(t *testing.T) {
	dumb, good := newResolver(t, silent), newResolver(t, answering("example.com. 300 IN A 192.0.2.1"))
	f := start(t, Options{Resolvers: []netip.AddrPort{dumb.addr, good.addr}}, nil)
	before := time.Now()
	if got := f.query("example.com.", wire.TypeA); got.Rcode != wire.RcodeSuccess || time.Since(before) > time.Second {
		t.Errorf("got %v after %v, want NOERROR at once", got, time.Since(before))
	}
}

// However many are broken, the one that works is found with the first question.
func TestOneGoodResolverAmongBrokenOnesIsEnough(t *testing.T) {
	good := newResolver(t, answering("example.com. 0 IN A 192.0.2.1"))
	list := []netip.AddrPort{good.addr}
	for range 5 {
		list = append(list, closed(t))
	}
	for range 8 { // the order is by lot
		f := start(t, Options{Resolvers: list}, nil)
		for _, transport := range []string{"udp", "tcp"} {
			if got := f.ask(new(wire.Msg).SetQuestion("example.com.", wire.TypeA), transport, ""); got.Rcode != wire.RcodeSuccess {
				t.Errorf("over %s: %v, want the good one's answer", transport, got)
			}
		}
		f.stop()
	}
}

func TestNoResolverAnswersIsServfail(t *testing.T) {
	var log bytes.Buffer
	dead := closed(t)
	f := start(t, Options{Resolvers: []netip.AddrPort{dead}, Log: slog.New(slog.NewTextHandler(&log, nil))}, nil)
	for _, transport := range []string{"udp", "tcp"} {
		if got := f.ask(new(wire.Msg).SetQuestion("example.com.", wire.TypeA), transport, ""); got.Rcode != wire.RcodeServerFailure {
			t.Errorf("over %s: %v, want SERVFAIL", transport, got)
		}
	}
	st := f.Stats()
	if st.Failed != 2 || len(st.Upstream) != 1 || st.Upstream[0].Failed != 2 {
		t.Errorf("stats = %+v, want 2 failures", st)
	}
	f.stop()
	if got := log.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "address="+dead.String()) {
		t.Errorf("log has not one line with the resolver:\n%s", got)
	}
}

// A name that was resolved once does not fail while the resolvers do, in whatever way.
func TestOldAnswerIsBetterThanNone(t *testing.T) {
	var fails atomic.Bool
	r := newResolver(t, func(w wire.ResponseWriter, m *wire.Msg) {
		if fails.Load() {
			failing(wire.RcodeServerFailure)(w, m)
			return
		}
		answering("example.com. 1 IN A 192.0.2.1")(w, m)
	})
	f := start(t, Options{Resolvers: []netip.AddrPort{r.addr}}, nil)
	q := new(wire.Msg).SetQuestion("example.com.", wire.TypeA).SetEdns0(1232, false)
	f.ask(q, "udp", "")
	fails.Store(true)
	key, _ := memoryKeyOf(&question{msg: q, name: "example.com.", qtype: wire.TypeA})
	for _, past := range []time.Duration{time.Hour, maxStale + time.Hour} {
		want := wire.RcodeSuccess
		if past > maxStale {
			want = wire.RcodeServerFailure
		}
		v, _ := f.foreign.memory.Get(key)
		m, _ := v.(memo)
		m.expiry = time.Now().Add(-past)
		f.foreign.memory.Add(key, m)
		got := f.ask(q, "udp", "")
		if got.Rcode != want {
			t.Errorf("%v too old: %v, want %s", past, got, wire.RcodeToString[want])
		}
		if want == wire.RcodeSuccess {
			if h := got.Answer[0].Header(); h.Ttl != staleTTL || len(got.IsEdns0().Option) != 1 {
				t.Errorf("%v: a TTL of %d and a mark are wanted", got, staleTTL)
			}
		}
	}
	if f.Stats().Stale != 1 {
		t.Errorf("%d stale answers counted, want 1", f.Stats().Stale)
	}
}

func TestOwnAddressIsNoResolver(t *testing.T) {
	s, err := Open(Options{Listen: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.7:0")}})
	if err != nil {
		t.Fatal(err)
	}
	own := s.Addrs()[0]
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	f := start(t, Options{Listen: []netip.AddrPort{own}, Resolvers: []netip.AddrPort{own}}, nil)
	if got := f.query("example.com.", wire.TypeA); got.Rcode != wire.RcodeServerFailure || len(f.Stats().Upstream) != 0 {
		t.Errorf("got %v, %+v, want SERVFAIL, no resolver", got, f.Stats())
	}
}

// The resolver sees the asker's EDNS and the asker the resolver's TC: who wants all comes by TCP.
func TestTruncationPassesThrough(t *testing.T) {
	r := newResolver(t, func(w wire.ResponseWriter, m *wire.Msg) {
		reply := new(wire.Msg).SetReply(m)
		if _, tcp := w.RemoteAddr().(*net.TCPAddr); !tcp {
			reply.Truncated = true
		} else {
			reply.Answer = records("example.com. 300 IN A 192.0.2.1")
		}
		_ = w.WriteMsg(reply)
	})
	f := start(t, Options{Resolvers: []netip.AddrPort{r.addr}}, nil)
	m := new(wire.Msg).SetQuestion("example.com.", wire.TypeA)
	if got := f.ask(m, "udp", ""); !got.Truncated || len(got.Answer) != 0 {
		t.Errorf("over udp: %v, want tc", got)
	}
	if got := f.ask(m, "tcp", ""); got.Truncated || len(got.Answer) != 1 {
		t.Errorf("over tcp: %v, want the answer", got)
	}
	if got := f.ask(m, "udp", ""); got.Truncated || len(got.Answer) != 1 {
		t.Errorf("over udp again: %v, want the remembered answer", got)
	}
}

func TestLongRememberedAnswerIsCutForAShortAsker(t *testing.T) {
	var list []string
	for i := range 60 {
		list = append(list, fmt.Sprintf("example.com. 300 IN A 192.0.2.%d", i))
	}
	r := newResolver(t, answering(list...))
	f := start(t, Options{Resolvers: []netip.AddrPort{r.addr}}, nil)
	m := new(wire.Msg).SetQuestion("example.com.", wire.TypeA)
	if got := f.ask(m, "tcp", ""); len(got.Answer) != 60 {
		t.Fatalf("over tcp %d answers, want 60", len(got.Answer))
	}
	got := f.ask(m, "udp", "")
	got.Compress = true
	if !got.Truncated || got.Len() > 512 || got.IsEdns0() != nil {
		t.Errorf("over udp: tc %t, %d bytes, want tc, 512 or fewer, no OPT", got.Truncated, got.Len())
	}
}

func TestRememberedAnswersAge(t *testing.T) {
	start := time.Unix(1000, 0)
	ask := &question{name: "example.com.", qtype: wire.TypeA, msg: new(wire.Msg).SetQuestion("example.com.", wire.TypeA)}
	key, ok := memoryKeyOf(ask)
	if !ok {
		t.Fatal("a plain question is not memorable")
	}
	soa := "com. 900 IN SOA a. b. 1 2 3 4 60"
	check := func(m *wire.Msg, after time.Duration, ttl uint32, found bool) {
		t.Helper()
		f := newForeign(nil, 0, nil)
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
		m := new(wire.Msg).SetRcode(ask.msg, rcode)
		m.Answer, m.Ns = answer, ns
		return m
	}
	a := records("example.com. 100 IN A 192.0.2.1")
	check(reply(wire.RcodeSuccess, a, nil), 99*time.Second, 1, true)
	check(reply(wire.RcodeSuccess, a, nil), 100*time.Second, 0, false)
	check(reply(wire.RcodeNameError, nil, records(soa)), 59*time.Second, 841, true)
	check(reply(wire.RcodeNameError, nil, records(soa)), 60*time.Second, 0, false)
	check(reply(wire.RcodeSuccess, nil, nil), 0, 0, false)
	check(reply(wire.RcodeServerFailure, nil, records(soa)), 0, 0, false)
	check(reply(wire.RcodeSuccess, records("example.com. 0 IN A 192.0.2.1"), nil), 0, 0, false)
	check(reply(wire.RcodeSuccess, records("example.com. 999999 IN A 192.0.2.1"), nil), maxAge, 0, false)
	cut := reply(wire.RcodeSuccess, a, nil)
	cut.Truncated = true
	check(cut, 0, 0, false)
}

func TestQuestionsWithOptionsAreNotRemembered(t *testing.T) {
	m := new(wire.Msg).SetQuestion("example.com.", wire.TypeA)
	m.SetEdns0(1232, true)
	m.IsEdns0().Option = []wire.EDNS0{&wire.EDNS0_COOKIE{Code: wire.EDNS0COOKIE, Cookie: "0011223344556677"}}
	if k, ok := memoryKeyOf(&question{msg: m}); !ok || !k.do {
		t.Error("a cookie makes a question not memorable, or DO is lost")
	}
	m.IsEdns0().Option = append(m.IsEdns0().Option, &wire.EDNS0_SUBNET{Code: wire.EDNS0SUBNET})
	if _, ok := memoryKeyOf(&question{msg: m}); ok {
		t.Error("a client subnet is memorable")
	}
	m = new(wire.Msg).SetQuestion("example.com.", wire.TypeA)
	m.RecursionDesired = false
	if _, ok := memoryKeyOf(&question{msg: m}); ok {
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
