// SPDX-License-Identifier: Apache-2.0

package zone

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"weft/discovery"
	"weft/discovery/dnsname"
	"weft/discovery/zone/record"
)

// drawChange is a change of one of a few sources, so that sources meet again and names collide.
func drawChange(t *rapid.T) Change {
	addr := func() netip.Addr {
		if rapid.Bool().Draw(t, "v6") {
			return netip.MustParseAddr(fmt.Sprintf("fd01:b::%x", rapid.IntRange(1, 9).Draw(t, "host")))
		}
		return netip.AddrFrom4([4]byte{9, 0, 0, byte(rapid.IntRange(1, 9).Draw(t, "host"))})
	}
	list := rapid.SliceOfN(rapid.Custom(func(*rapid.T) netip.Addr { return addr() }), 0, 3)
	n := rapid.IntRange(1, 6).Draw(t, "n")
	var c Change
	switch rapid.IntRange(0, 7).Draw(t, "kind") {
	case 0, 1, 2:
		label := rapid.SampledFrom([]string{"web", "db", "a-b", "W.x"}).Draw(t, "label")
		framework := rapid.SampledFrom([]string{"", "marathon", "a.b"}).Draw(t, "framework")
		c = task(fmt.Sprintf("t%d", n), label, framework, list.Draw(t, "addrs"), discovery.NamedPort{
			Name: rapid.SampledFrom([]string{"", "http"}).Draw(t, "port"), Port: uint16(n),
			Protocol: rapid.SampledFrom([]string{"", "tcp", "udp"}).Draw(t, "protocol"),
		})
		c.Writer = rapid.SampledFrom([]string{"host-a", "host-b"}).Draw(t, "writer")
		named, _ := c.Fact.(Task)
		named.Network = rapid.SampledFrom([]string{"prod", "dev", ""}).Draw(t, "network")
		c.Fact = named
	case 6:
		c = Change{UnwellSource(fmt.Sprintf("t%d", n), "host-a"), Unwell{}}
	case 7:
		node := discovery.NodeID(rapid.SampledFrom([]string{"host-a", "n-1", "n-2"}).Draw(t, "node"))
		c = Change{LostSource(node), Lost{node}}
	case 3:
		network := rapid.SampledFrom([]string{"prod", "dev"}).Draw(t, "network")
		name := rapid.SampledFrom([]string{"web.weft", "db.weft"}).Draw(t, "service")
		c = Change{ServiceSource(network, name), Service{network, discovery.ServiceName{Name: name, Addrs: list.Draw(t, "addrs")}}}
	case 4:
		c = ledgerFact(discovery.KindMaster, fmt.Sprint("m", n), Master{discovery.Master{Addr: addr()}})
	default:
		c = Change{
			Source{Kind: discovery.KindNode, Key: fmt.Sprint("n-", n), Writer: fmt.Sprint("n-", n)},
			Host{Node: discovery.Node{ID: discovery.NodeID(fmt.Sprint("n-", n)), Addrs: list.Draw(t, "addrs")}},
		}
	}
	if rapid.IntRange(0, 3).Draw(t, "gone") == 0 {
		c.Fact = nil
	}
	return c
}

func drawChanges(t *rapid.T, label string, most int) []Change {
	return rapid.SliceOfN(rapid.Custom(drawChange), 0, most).Draw(t, label)
}

// one by one, in pieces or at once, in whatever order the sources come: the facts decide.
func TestSameFactsSameZone(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		changes := drawChanges(t, "changes", 30)
		stepwise := New(options)
		for _, c := range changes {
			stepwise, _ = stepwise.With([]Change{c})
		}
		atOnce, _ := New(options).With(changes)
		if d := cmp.Diff(dump(stepwise), dump(atOnce)); d != "" {
			t.Fatalf("stepwise -, at once +:\n%s", d)
		}
		var final []Change
		for _, c := range last(changes) {
			final = append(final, c)
		}
		final = rapid.Permutation(final).Draw(t, "order")
		fresh, _ := New(options).With(final)
		if d := cmp.Diff(dump(stepwise), dump(fresh)); d != "" {
			t.Fatalf("stepwise -, fresh +:\n%s", d)
		}
		if stepwise.Records() != fresh.Records() || stepwise.Records() != strings.Count(dump(fresh), "\n") {
			t.Fatalf("records: stepwise %d, fresh %d", stepwise.Records(), fresh.Records())
		}
	})
}

// A question is in the diff exactly when some view's answer to it, or the name's existence, changed.
func TestDiffIsExact(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		before, _ := New(options).With(drawChanges(t, "before", 20))
		was := dump(before)
		after, diff := before.With(drawChanges(t, "after", 4))
		if d := cmp.Diff(was, dump(before)); d != "" {
			t.Fatalf("With changed the zone it was called on:\n%s", d)
		}
		names := map[string]bool{}
		for _, z := range []*Zone{before, after} {
			for r := range z.All {
				for _, n := range dnsname.Ancestry(r.Name) {
					names[n] = true
					if m, ok := z.options.mirror(n); ok {
						names[m] = true
						for _, home := range []string{"prod", "dev"} {
							names[z.options.ownName(n, home)] = true
						}
					}
				}
			}
		}
		want := map[Question]bool{}
		for name := range names {
			for _, view := range []string{"", "prod", "dev", "other"} {
				b, a := before.Lookup(view, name), after.Lookup(view, name)
				if b.Exists != a.Exists {
					want[Question{name, record.Any}] = true
				}
				for _, typ := range []record.Type{record.A, record.NS, record.CNAME, record.SOA, record.PTR, record.AAAA, record.SRV} {
					if !cmp.Equal(data(b.Of(typ)), data(a.Of(typ))) {
						want[Question{name, typ}] = true
					}
				}
			}
		}
		got := map[Question]bool{}
		for _, q := range diff.Questions {
			got[q] = true
		}
		// What no resolver can ask for in this form is allowed to be told too: names above the zones.
		for q := range got {
			if _, own := after.Apex(q.Name); !own && !want[q] {
				delete(got, q)
			}
		}
		for q := range want {
			_, was := before.Apex(q.Name)
			_, is := after.Apex(q.Name)
			if strings.HasSuffix(q.Name, ".arpa.") && q.Type == record.Any && !was && !is {
				delete(want, q)
				delete(got, q)
			}
		}
		if d := cmp.Diff(got, want); d != "" {
			t.Fatalf("diff (got -, want +):\n%s", d)
		}
	})
}

func data(records []record.Record) []string {
	out := []string{}
	for _, r := range records {
		out = append(out, fmt.Sprint(r.TTL, " ", r.Data()))
	}
	return out
}

// A name of 2,000 changes no more than its own records.
func TestSmallChangeSmallDiff(t *testing.T) {
	t.Parallel()
	z := large(t, 2000)
	next, d := z.With([]Change{largeTask(777, "9.9.9.9")})
	if len(d.Questions) > 14 {
		t.Errorf("%d questions changed, want 14 or fewer: %v", len(d.Questions), d.Questions)
	}
	if next.Records() != z.Records() {
		t.Errorf("%d records, want %d", next.Records(), z.Records())
	}
}

func largeTask(i int, addr string) Change {
	return task(fmt.Sprintf("task-%d", i), fmt.Sprintf("app-%d", i), "weft", addrs(addr),
		discovery.NamedPort{Name: "http", Protocol: "tcp", Port: 80})
}

func large(tb testing.TB, n int) *Zone {
	tb.Helper()
	changes := make([]Change, n)
	for i := range changes {
		changes[i] = largeTask(i, fmt.Sprintf("9.%d.%d.%d", i>>16, i>>8&255, i&255))
	}
	z, _ := New(options).With(changes)
	return z
}

func FuzzNames(f *testing.F) {
	z, _ := New(options).With(sample())
	for _, s := range []string{"", ".", "web.weft.mesos.", "a..b.", `\.mesos.`, "2.0.0.9.in-addr.arpa.", "x.ip6.arpa."} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		l := dnsname.Label(s)
		if len(l) > dnsname.MaxLabel || dnsname.Label(l) != l || strings.Trim(l, "-") != l {
			t.Errorf("dnsname.Label(%q) = %q", s, l)
		}
		if d := dnsname.Domain(s); d != "" && dnsname.Join(d[:min(len(d), 60)]) == "" && !strings.HasSuffix(d[:min(len(d), 60)], ".") {
			t.Errorf("dnsname.Domain(%q) = %q", s, d)
		}
		a := z.Lookup("prod", s)
		if _, own := z.Apex(s); !own && len(a.Records) > 0 && strings.HasSuffix(s, ".") {
			t.Errorf("Lookup(%q) = %v in a foreign zone", s, a)
		}
		c, _ := z.With([]Change{task(s, s, s, addrs("9.0.0.77"), discovery.NamedPort{Name: s, Protocol: s, Port: 1})})
		for r := range c.All {
			if len(r.Name) > dnsname.MaxName || strings.Contains(r.Name, "..") || len(r.Target) > dnsname.MaxName {
				t.Errorf("record %v", r)
			}
		}
	})
}

func BenchmarkChangeOneOf20000(b *testing.B) {
	z := large(b, 20000)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		i++
		z, _ = z.With([]Change{largeTask(i%20000, fmt.Sprintf("8.0.%d.%d", i>>8&255, i&255))})
	}
}

func BenchmarkLookup(b *testing.B) {
	z := large(b, 20000)
	b.ReportAllocs()
	for b.Loop() {
		if !z.Lookup("prod", "app-777.weft.mesos.").Exists {
			b.Fatal("no such name")
		}
	}
}
