// SPDX-License-Identifier: Apache-2.0

package foreign

import (
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
		f := New(nil, 0, nil)
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
		v, _ := f.memory.Get(key)
		m, _ := v.(memo)
		m.expiry = time.Now().Add(-past)
		f.memory.Add(key, m)
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
