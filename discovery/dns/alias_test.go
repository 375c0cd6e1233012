// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	wire "github.com/miekg/dns"

	"weft/discovery/dns/answer"
	"weft/discovery/dns/dnstest"
	"weft/discovery/zone"
	"weft/discovery/zone/record"
)

// aliases are of a zone of the operator's, and one of Weft's.
func aliases() []record.Record {
	alias := func(name, target string) record.Record {
		return record.Record{Name: name, Type: record.CNAME, TTL: 5, Target: target, From: "static/test"}
	}
	records := []record.Record{
		alias("www.corp.", "web.weft.mesos."), alias("far.corp.", "cdn.example.com."), alias("chain.corp.", "eight.corp."),
		alias("eight.corp.", "registry.corp."), alias("a.corp.", "b.corp."), alias("b.corp.", "a.corp."), alias("none.corp.", "none.weft.mesos."),
		alias("registry.component.thisdcos.directory.", "chain.corp."),
	}
	for i := range 8 {
		records = append(records, record.Record{Name: "registry.corp.", Type: record.A, TTL: 5, Addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}), From: "static/test"})
	}
	return records
}

func startAliases(t *testing.T, o Options) *fixture {
	t.Helper()
	f := start(t, o, nil)
	f.z = zone.New(zone.Options{Servers: addrs("198.51.100.1"), Zones: []string{"corp"}, Static: aliases()}).Completed()
	f.change(sample()...)
	return f
}

func TestAliasesAreFollowed(t *testing.T) {
	r := newResolver(t, answering("cdn.example.com. 300 IN A 192.0.2.1"))
	f := startAliases(t, Options{Resolvers: []netip.AddrPort{r.Addr}})
	for range 2 { // the second time from memory, where it may be
		for _, tt := range []struct {
			name   string
			qtype  uint16
			rcode  int
			answer []string // sorted
		}{
			{"www.corp.", wire.TypeA, wire.RcodeSuccess, []string{"127.1.0.2", "127.1.0.3", "web.weft.mesos."}},
			{"www.corp.", wire.TypeCNAME, wire.RcodeSuccess, []string{"web.weft.mesos."}},
			{"www.corp.", wire.TypeSRV, wire.RcodeSuccess, []string{"web.weft.mesos."}},
			{"far.corp.", wire.TypeA, wire.RcodeSuccess, []string{"192.0.2.1", "cdn.example.com."}},
			{"none.corp.", wire.TypeA, wire.RcodeNameError, []string{"none.weft.mesos."}},
			{"a.corp.", wire.TypeA, wire.RcodeSuccess, nil},
		} {
			m := f.query(tt.name, tt.qtype)
			if got := values(m.Answer); m.Rcode != tt.rcode || tt.answer != nil && !slices.Equal(got, tt.answer) {
				t.Errorf("%s %s: %s %v, want %s %v", tt.name, wire.Type(tt.qtype), wire.RcodeToString[m.Rcode], got, wire.RcodeToString[tt.rcode], tt.answer)
			}
		}
	}
	if n := r.Asked.Load(); n != 1 {
		t.Errorf("the resolver was asked %d times, want once: what is foreign is remembered", n)
	}
	if m := f.query("a.corp.", wire.TypeA); len(m.Answer) != answer.MaxChain {
		t.Errorf("a loop has %d records, want %d", len(m.Answer), answer.MaxChain)
	}
}

// CNAMEs come first, in the order in which they lead on; all records of their end follow, turned.
func TestAliasesComeBeforeAddresses(t *testing.T) {
	f := startAliases(t, Options{})
	first := map[string]bool{}
	for range 200 {
		m := f.query("registry.component.thisdcos.directory.", wire.TypeA)
		if len(m.Answer) != 3+8 {
			t.Fatalf("%d records, want three aliases and eight addresses: %v", len(m.Answer), m.Answer)
		}
		var chain []string
		for _, rr := range m.Answer[:3] {
			c, ok := rr.(*wire.CNAME)
			if !ok {
				t.Fatalf("%v is before an alias", rr)
			}
			chain = append(chain, c.Target)
		}
		if diff := cmp.Diff([]string{"chain.corp.", "eight.corp.", "registry.corp."}, chain); diff != "" {
			t.Fatalf("chain (-want +got):\n%s", diff)
		}
		first[fmt.Sprint(m.Answer[3])] = true
	}
	if len(first) != 8 {
		t.Errorf("%d of 8 addresses came first in 200 answers", len(first))
	}
}

// What an alias leads to changes under it, in the kernel too.
func TestAliasesFollowChanges(t *testing.T) {
	k := dnstest.NewKernel()
	f := startAliases(t, Options{Cache: k})
	f.change(gone(task("t2", "web")))
	for range 2 {
		if got := values(f.query("www.corp.", wire.TypeA).Answer); !slices.Equal(got, []string{"127.1.0.2", "web.weft.mesos."}) {
			t.Fatalf("got %v", got)
		}
	}
	f.resident(1)
	if _, there := k.Get(0, "www.corp.", wire.TypeA); !there {
		t.Error("an alias with one address is not resident")
	}
	f.change(task("t1", "web", "127.1.0.9"))
	if err := k.Same(f.z, views); err != nil {
		t.Error(err)
	}
	if got := values(f.query("www.corp.", wire.TypeA).Answer); !slices.Equal(got, []string{"127.1.0.9", "web.weft.mesos."}) {
		t.Errorf("got %v after the task has moved", got)
	}
	f.change(task("t2", "web", "127.1.0.3")) // two: turned by the server
	if _, there := k.Get(0, "www.corp.", wire.TypeA); there {
		t.Error("an alias with two addresses is resident, and is not turned")
	}
}
