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

	"weft/discovery/dns/dnstest"
)

var (
	newResolver = dnstest.NewResolver
	records     = dnstest.Records
	answering   = dnstest.Answering
	failing     = dnstest.Failing
	silent      = dnstest.Silent
	closed      = dnstest.Closed
)

func TestForeignNamesAreForwarded(t *testing.T) {
	r := newResolver(t, answering("example.com. 300 IN A 192.0.2.1"))
	f := start(t, Options{Resolvers: []netip.AddrPort{r.Addr}}, sample())
	for _, transport := range []string{"udp", "tcp"} {
		m := new(wire.Msg).SetQuestion("eXample.com.", wire.TypeA)
		got := f.ask(m, transport, "")
		if want := []string{"192.0.2.1"}; !slices.Equal(values(got.Answer), want) || got.Authoritative || !got.RecursionAvailable {
			t.Errorf("over %s: %v, want %v, ra", transport, got, want)
		}
	}
	if n := r.Asked.Load(); n != 1 {
		t.Errorf("the resolver was asked %d times, want once: answers are remembered", n)
	}
	// Names of ours are never sent away.
	if got := f.query("nothing.mesos.", wire.TypeA); got.Rcode != wire.RcodeNameError || !got.RecursionAvailable || r.Asked.Load() != 1 {
		t.Errorf("own name: %v, the resolver was asked %d times", got, r.Asked.Load())
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
	f := start(t, Options{Resolvers: []netip.AddrPort{r.Addr}}, nil)
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
		for deadline := time.Now().Add(2 * time.Second); bad.Asked.Load() == 0 && time.Now().Before(deadline); {
		}
		answering("example.com. 300 IN A 192.0.2.1")(w, m)
	})
	f := start(t, Options{Resolvers: []netip.AddrPort{bad.Addr, good.Addr}}, nil)
	if got := f.query("example.com.", wire.TypeA); got.Rcode != wire.RcodeSuccess {
		t.Errorf("got %v, want NOERROR", got)
	}
}

func TestSilentResolverDelaysNothing(t *testing.T) {
	dumb, good := newResolver(t, silent), newResolver(t, answering("example.com. 300 IN A 192.0.2.1"))
	f := start(t, Options{Resolvers: []netip.AddrPort{dumb.Addr, good.Addr}}, nil)
	before := time.Now()
	if got := f.query("example.com.", wire.TypeA); got.Rcode != wire.RcodeSuccess || time.Since(before) > time.Second {
		t.Errorf("got %v after %v, want NOERROR at once", got, time.Since(before))
	}
}

// However many are broken, the one that works is found with the first question.
func TestOneGoodResolverAmongBrokenOnesIsEnough(t *testing.T) {
	good := newResolver(t, answering("example.com. 0 IN A 192.0.2.1"))
	list := []netip.AddrPort{good.Addr}
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
	f := start(t, Options{Resolvers: []netip.AddrPort{r.Addr}}, nil)
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
	f := start(t, Options{Resolvers: []netip.AddrPort{r.Addr}}, nil)
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

// A resolver that sends more than anybody takes has failed, and the next one is asked at once.
func TestAnswerBeyondEverySizeIsAFailure(t *testing.T) {
	r := newResolver(t, func(w wire.ResponseWriter, m *wire.Msg) {
		reply := new(wire.Msg).SetReply(m)
		for i := range 400 {
			reply.Answer = append(reply.Answer, records(fmt.Sprintf("example.com. 300 IN A 192.0.2.%d", i%250))...)
		}
		_ = w.WriteMsg(reply)
	})
	good := newResolver(t, answering("example.com. 0 IN A 192.0.2.1"))
	for _, strict := range []bool{true, false} {
		f := start(t, Options{
			Mesos: &Mesos{Strict: strict}, ResolverTimeout: time.Minute, Resolvers: []netip.AddrPort{r.Addr, good.Addr},
		}, nil)
		if got := f.query("example.com.", wire.TypeA); len(got.Answer) != 1 {
			t.Errorf("strict %t: %v, want the other one's answer", strict, got)
		}
		f.stop()
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
	f := start(t, Options{Resolvers: []netip.AddrPort{r.Addr}}, nil)
	q := new(wire.Msg).SetQuestion("example.com.", wire.TypeA).SetEdns0(1232, false)
	f.ask(q, "udp", "")
	fails.Store(true)
	for deadline := time.Now().Add(10 * time.Second); f.Stats().Stale == 0; { // it is true for a second
		got := f.ask(q, "udp", "")
		if got.Rcode != wire.RcodeSuccess || time.Now().After(deadline) {
			t.Fatalf("got %v, want the old answer, in the end marked as such", got)
		}
		if f.Stats().Stale > 0 && len(got.IsEdns0().Option) != 1 {
			t.Errorf("%v has no mark", got)
		}
	}
}
