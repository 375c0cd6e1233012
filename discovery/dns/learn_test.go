// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	wire "github.com/miekg/dns"

	"weft/discovery"
	"weft/discovery/dns/dnstest"
	"weft/discovery/zone"
)

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// resident waits until n answers are in the kernel: they are put after the asker has the answer.
func (f *fixture) resident(n int) {
	f.t.Helper()
	for deadline := time.Now().Add(5 * time.Second); f.Stats().Resident != n; {
		if time.Now().After(deadline) {
			f.t.Fatalf("%d answers resident, want %d", f.Stats().Resident, n)
		}
	}
}

func TestAnswersAreLearnt(t *testing.T) {
	k := dnstest.NewKernel()
	f := start(t, Options{Cache: k, CacheLimit: 448}, sample())
	f.query("wEb.wEft.mesos.", wire.TypeA)
	f.query("web.weft.mesos.", wire.TypeA)
	f.query("web.weft.mesos.", wire.TypeAAAA)
	f.query("_web._tcp.weft.mesos.", wire.TypeSRV)
	f.query("nothing.mesos.", wire.TypeA)
	f.query("web.weft.mesos.", wire.TypeMX)
	f.query("2.0.1.127.in-addr.arpa.", wire.TypePTR)
	f.resident(6)
	f.query("web.weft.mesos.", wire.TypeANY) // never
	f.query("many.weft.mesos.", wire.TypeA)  // too long for the kernel
	f.query("example.com.", wire.TypeA)      // foreign
	m := new(wire.Msg).SetQuestion("weft.mesos.", wire.TypeA)
	f.ask(m, "tcp", "") // the kernel sees UDP only
	f.ask(m, "udp", "127.1.0.9")
	f.resident(8)
	if k.Len() != 7 {
		t.Errorf("%d answers in the kernel, want 7", k.Len())
	}
	if err := k.Same(f.z, views); err != nil {
		t.Error(err)
	}
	if a, _ := k.Get(0, "web.weft.mesos.", wire.TypeA); a.Rotate != 16 || a.Count != 2 {
		t.Errorf("A rotates %d of %d records, want 16 of 2", a.Rotate, a.Count)
	}
	if _, ok := k.Get(100, "weft.mesos.", wire.TypeA); !ok {
		t.Error("the answer to a task of prod is not under its VNI")
	}
}

// Who reads the socket answers what needs no waiting, and leaves the rest to who can wait. Either way the answer is learnt.
func TestOnlyNamesThatAreNotHeldAreWaitedFor(t *testing.T) {
	var held atomic.Bool
	var waited atomic.Int32
	k := dnstest.NewKernel()
	f := start(t, Options{
		Cache: k, Held: func(string) bool { return held.Load() },
		Hold: func(context.Context, string) bool { waited.Add(1); return true },
	}, sample())
	for i, name := range []string{"web.weft.mesos.", "web.weft.l4lb.thisdcos.directory."} {
		held.Store(i > 0)
		if r := f.query(name, wire.TypeA); r.Rcode != wire.RcodeSuccess || len(r.Answer) == 0 {
			t.Errorf("%s: %v", name, r)
		}
		f.resident(i + 1)
	}
	if n := waited.Load(); n != 1 {
		t.Errorf("%d questions waited, want the one whose name was not held", n)
	}
	if err := k.Same(f.z, views); err != nil || f.Stats().Own != 2 {
		t.Errorf("%d questions about names of ours, want 2; %v", f.Stats().Own, err)
	}
}

// Exactly what a change makes untrue is replaced, and before the new zone is served.
func TestChangeReplacesWhatItMakesUntrue(t *testing.T) {
	k := dnstest.NewKernel()
	f := start(t, Options{Cache: k}, sample())
	for name, qtype := range map[string]uint16{
		"web.weft.mesos.": wire.TypeA, "_web._tcp.weft.mesos.": wire.TypeSRV, "new.weft.mesos.": wire.TypeA,
		"web.weft.l4lb.thisdcos.directory.": wire.TypeA, "many-5hejh-a.weft.mesos.": wire.TypeA,
		"x.other.mesos.": wire.TypeA, "other.mesos.": wire.TypeA,
	} {
		f.query(name, qtype)
	}
	f.resident(7)
	check := func(want int, c zone.Change) {
		t.Helper()
		before := f.Stats().Renewed
		old := f.zone.Load()
		k.Observe(func() {
			if f.zone.Load() != old {
				t.Error("the kernel was changed after the zone was served")
			}
		})
		f.change(c)
		k.Observe(nil)
		if got := int(f.Stats().Renewed - before); got != want {
			t.Errorf("%d answers renewed, want %d", got, want)
		}
		if err := k.Same(f.z, views); err != nil {
			t.Error(err)
		}
	}
	check(2, task("t2", "web", "127.1.0.77"))         // A, and SRV for its additional record
	check(1, task("t9", "new", "127.1.0.9"))          // NXDOMAIN no more
	check(1, gone(task("t9", "new", "127.1.0.9")))    // and again
	check(0, task("t3", "third", "127.1.0.4"))        // nobody asked
	check(1, service("prod", "web.weft", "11.0.0.8")) // a VIP
	other := task("t4", "y", "127.1.0.5")
	other.Fact = zone.Task{Name: discovery.Name{
		Task: "t4", Label: "y", Framework: "other", Addrs: addrs("127.1.0.5"),
	}}
	check(1, other) // other.mesos exists now; x.other.mesos still does not
}

func TestViewsOfARemovedNetworkGo(t *testing.T) {
	k := dnstest.NewKernel()
	f := start(t, Options{Cache: k}, sample())
	f.ask(new(wire.Msg).SetQuestion("web.weft.mesos.", wire.TypeA), "udp", "127.2.0.5")
	f.query("web.weft.mesos.", wire.TypeA)
	f.query("9.9.2.127.in-addr.arpa.", wire.TypePTR)
	f.resident(3)
	f.change(gone(network("dev", 101, "127.2.0.0/16")))
	f.resident(1)
	if err := k.Same(f.z, views); err != nil || k.Len() != 1 {
		t.Errorf("%d answers in the kernel, want 1: %v", k.Len(), err)
	}
}

func TestRefusedChangeIsTriedAgain(t *testing.T) {
	k := dnstest.NewKernel()
	f := start(t, Options{Cache: k}, sample())
	f.query("web.weft.mesos.", wire.TypeA)
	f.resident(1)
	k.Hear(false)
	f.change(task("t2", "web", "127.1.0.77"))
	k.Hear(true)
	f.change() // or the next second
	if k.Len() != 0 {
		t.Errorf("an untrue answer is in the kernel: %v", k.Same(f.z, views))
	}
	if got := f.Stats(); got.Unkept != 1 {
		t.Errorf("stats = %+v, want 1 unkept", got)
	}
}

func TestNextProcessKeepsAnswersTrue(t *testing.T) {
	k := dnstest.NewKernel()
	journal := filepath.Join(t.TempDir(), "answers")
	first := start(t, Options{Cache: k, Journal: journal}, sample())
	first.query("web.weft.mesos.", wire.TypeA)
	first.query("web.weft.mesos.", wire.TypeAAAA)
	first.query("new.weft.mesos.", wire.TypeA)
	first.ask(new(wire.Msg).SetQuestion("web.weft.mesos.", wire.TypeA), "udp", "127.2.0.5")
	first.resident(4)
	first.stop()

	s, err := Open(Options{Cache: k, Journal: journal, Listen: first.Addrs()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.close() }()
	if got := s.Stats().Resident; got != 4 {
		t.Fatalf("%d resident after the start, want 4", got)
	}
	// What the node knows of from its disk is made true at once, the rest when it has heard all.
	z, diff := zone.New(zone.Options{}).With([]zone.Change{network("prod", 100, "127.1.0.0/16"), network("dev", 101, "127.2.0.0/16")})
	s.SetZone(z, diff)
	if k.Len() != 4 {
		t.Errorf("%d answers in the kernel before the names are known, want 4", k.Len())
	}
	z, diff = z.With([]zone.Change{task("t1", "web", "127.1.0.55"), task("t9", "new", "127.1.0.9")})
	s.SetZone(z, diff)
	s.SetZone(z.Completed(), zone.Diff{})
	if err := k.Same(z, views); err != nil || k.Len() != 4 {
		t.Errorf("%d answers in the kernel, want 4: %v", k.Len(), err)
	}
}

func TestBrokenJournalClearsOnceTheZoneIsKnown(t *testing.T) {
	for _, content := range []string{"", "weftdns1\x00\x00", "weftdns1\x00\x00\x00\x00\x00\x01\x03web\xc0\x00", "nonsense"} {
		k := dnstest.NewKernel()
		if err := k.Put(0, []byte("\x01x\x00"), 1, 0, 0, 0, 0, 0, nil); err != nil {
			t.Fatal(err)
		}
		journal := filepath.Join(t.TempDir(), "answers")
		if content != "" {
			write(t, journal, content)
		}
		f := start(t, Options{Cache: k, Journal: journal}, nil)
		if k.Len() != 0 {
			t.Errorf("journal %q: the kernel still has %d answers", content, k.Len())
		}
		f.query("mesos.", wire.TypeNS)
		f.resident(1)
		f.stop()
		got, err := os.ReadFile(journal)
		if want := "weftdns1\x00\x00\x00\x00\x00\x02\x05mesos\x00"; err != nil || string(got) != want {
			t.Errorf("journal is %q, %v, want %q", got, err, want)
		}
	}
}

// The second answer comes from memory; nobody can tell, but that it is quicker.
func TestMemoryAnswersAsTheLongWay(t *testing.T) {
	f := start(t, Options{}, sample())
	questions := []*wire.Msg{
		new(wire.Msg).SetQuestion("wEb.weft.mesos.", wire.TypeA),
		new(wire.Msg).SetQuestion("_web._tcp.weft.mesos.", wire.TypeSRV).SetEdns0(4096, true),
		new(wire.Msg).SetQuestion("nothing.mesos.", wire.TypeAAAA),
		new(wire.Msg).SetQuestion("many.weft.mesos.", wire.TypeA),
		new(wire.Msg).SetQuestion("many.weft.mesos.", wire.TypeA).SetEdns0(1232, false),
	}
	questions[2].CheckingDisabled = true
	for _, q := range questions {
		before := f.Stats()
		first := f.ask(q, "udp", "")
		packed, err := new(wire.Msg).SetQuestion(q.Question[0].Name, q.Question[0].Qtype).SetEdns0(maxUDP, false).Pack()
		if err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); runtime.Gosched() {
			if _, _, hit := f.answers.To(nil, packed, 0); hit {
				break
			}
		}
		second := f.ask(q, "udp", "")
		for _, m := range []*wire.Msg{first, second} {
			m.Answer = nil // turned
		}
		if d := cmp.Diff(first.String(), second.String()); d != "" {
			t.Errorf("%s: first -, second +:\n%s", q.Question[0].Name, d)
		}
		if got := f.Stats().Own - before.Own; got != 2 {
			t.Errorf("%s: %d questions counted, want 2", q.Question[0].Name, got)
		}
	}
}

func dialFrom(transport, from string) *net.Dialer {
	if transport == "tcp" {
		return &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	}
	return &net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(from)}}
}
