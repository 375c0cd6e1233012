// SPDX-License-Identifier: Apache-2.0

package zone

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft/discovery"
	"weft/discovery/dnsname"
	"weft/discovery/zone/record"
)

var update = flag.Bool("update", false, "rewrite golden files")

func addrs(list ...string) []netip.Addr {
	out := make([]netip.Addr, len(list))
	for i, s := range list {
		out[i] = netip.MustParseAddr(s)
	}
	return out
}

func prefixes(list ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(list))
	for i, s := range list {
		out[i] = netip.MustParsePrefix(s)
	}
	return out
}

var options = Options{
	Servers: addrs("198.51.100.1", "fd01:d::c633:6401"),
	Reverse: prefixes("11.0.0.0/8", "fd01:c::/64"),
}

func task(id, label, framework string, a []netip.Addr, ports ...discovery.NamedPort) Change {
	return Change{
		Source: Source{Kind: discovery.KindName, Key: id, Writer: "host-a"},
		Fact: Task{discovery.Name{
			Task: id, Label: label, Framework: framework, Network: "prod", Node: "host-a", Addrs: a, Ports: ports,
		}},
	}
}

func ledgerFact(kind discovery.Kind, key string, f Fact) Change {
	return Change{Source: Source{Kind: kind, Key: key, Writer: discovery.Ledger}, Fact: f}
}

func service(network, name string, a ...string) Change {
	return Change{
		Source: ServiceSource(network, name),
		Fact:   Service{network, discovery.ServiceName{Name: name, Addrs: addrs(a...)}},
	}
}

func sample() []Change {
	return []Change{
		ledgerFact(discovery.KindNetwork, "prod", Network{"prod", 100, prefixes("9.0.0.0/16", "fd01:b::/64")}),
		ledgerFact(discovery.KindNetwork, "dev", Network{"dev", 101, prefixes("9.1.0.0/20")}),
		ledgerFact(discovery.KindMaster, "m1", Master{discovery.Master{ID: "m1", Addr: addrs("10.0.0.1")[0], Port: 5050}}),
		ledgerFact(discovery.KindMaster, "m2", Master{discovery.Master{ID: "m2", Addr: addrs("fd00::2")[0], Port: 5050}}),
		ledgerFact(discovery.KindLeader, "leader", Leader{discovery.Master{ID: "m1", Addr: addrs("10.0.0.1")[0]}}),
		{
			Source: Source{Kind: discovery.KindNode, Key: "host-a", Writer: "host-a"},
			Fact:   Host{Node: discovery.Node{ID: "host-a", Addrs: addrs("10.0.0.11")}},
		},
		task("t1", "web", "", addrs("9.0.0.2", "fd01:b::2"),
			discovery.NamedPort{Name: "http", Protocol: "tcp", Port: 80}, discovery.NamedPort{Protocol: "udp", Port: 53}),
		task("t2", "web", "weft", addrs("9.0.0.3")),
		task("t3", "My_App.x", "/dev/kafka.sub", addrs("9.0.1.3"), discovery.NamedPort{Port: 9092}),
		task("t4", strings.Repeat("l", 63), "marathon", addrs("9.0.1.4"), discovery.NamedPort{Protocol: "tcp", Port: 1}),
		task("t5", "***", "weft", addrs("9.0.1.5")),
		service("prod", "web.weft", "11.0.0.7", "fd01:c::7"),
		service("dev", "web.weft", "11.0.0.7"),
	}
}

func dump(z *Zone) string {
	var b strings.Builder
	for r := range z.All {
		view := r.Network
		if view == "" {
			view = "*"
		}
		fmt.Fprintf(&b, "%s %d %s %s\t%s %s by %s\n", r.Name, r.TTL, r.Type, r.Data(), view, r.From, r.Writer)
	}
	return b.String()
}

func TestRecordsOfASample(t *testing.T) {
	t.Parallel()
	z, _ := New(options).With(sample())
	const path = "testdata/sample.golden"
	got := dump(z)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(got, string(want)); d != "" {
		t.Errorf("records (got -, want +; -update rewrites):\n%s", d)
	}
	if n := strings.Count(got, "\n"); z.Records() != n {
		t.Errorf("Records() = %d, want %d", z.Records(), n)
	}
}

func TestLookupAnswersByView(t *testing.T) {
	t.Parallel()
	z, _ := New(options).With(sample())
	check := func(network, name string, typ record.Type, exists bool, want ...string) {
		t.Helper()
		a := z.Lookup(network, name)
		var got []string
		for _, r := range a.Of(typ) {
			got = append(got, r.Data())
		}
		if !slices.Equal(got, want) || a.Exists != exists {
			t.Errorf("%q %s %s = %q exists %t, want %q %t", network, name, typ, got, a.Exists, want, exists)
		}
	}
	check("prod", "web.weft.mesos.", record.A, true, "9.0.0.2", "9.0.0.3")
	check("dev", "web.weft.mesos.", record.AAAA, true, "fd01:b::2")
	check("", "leader.mesos.", record.A, true, "10.0.0.1")
	check("", "master.mesos.", record.A, true, "10.0.0.1") // the leader is a master too: once
	check("", "master.mesos.", record.AAAA, true, "fd00::2")
	check("", "leader.mesos.", record.AAAA, true)
	check("", "weft.mesos.", record.A, true) // nothing of its own, but names below
	check("", "eft.mesos.", record.A, false)
	check("", "x.web.weft.mesos.", record.A, false)
	check("prod", "web.weft.l4lb.thisdcos.directory.", record.AAAA, true, "fd01:c::7")
	check("dev", "web.weft.l4lb.thisdcos.directory.", record.AAAA, true)
	check("other", "web.weft.l4lb.thisdcos.directory.", record.A, true)
	check("", "web.weft.l4lb.thisdcos.directory.", record.A, true, "11.0.0.7")
	check("prod", "2.0.0.9.in-addr.arpa.", record.PTR, true, "web.weft.mesos.")
	check("prod", "11.0.0.10.in-addr.arpa.", record.PTR, true, "host-a.node.thisdcos.directory.")
	check("prod", "9.0.0.9.in-addr.arpa.", record.PTR, false)
	check("prod", "0.0.9.in-addr.arpa.", record.PTR, true)
	check("prod", "7.0.0.11.in-addr.arpa.", record.PTR, true, "web.weft.l4lb.thisdcos.directory.")
	check("", "mesos.", record.SOA, true, "ns1.mesos. root.ns1.mesos. 1 60 600 86400 1")
}

func TestApexTellsOwnFromForeign(t *testing.T) {
	t.Parallel()
	z, _ := New(options).With(sample())
	for name, want := range map[string]string{
		"mesos.":                  "mesos.",
		"a.b.mesos.":              "mesos.",
		"xmesos.":                 "",
		`x\.mesos.`:               "",
		`x\\.mesos.`:              "mesos.",
		"thisdcos.directory.":     "thisdcos.directory.",
		"directory.":              "",
		".":                       "",
		"com.":                    "",
		"1.0.0.9.in-addr.arpa.":   "0.9.in-addr.arpa.",
		"0.9.in-addr.arpa.":       "0.9.in-addr.arpa.",
		"9.in-addr.arpa.":         "",
		"1.15.1.9.in-addr.arpa.":  "1.9.in-addr.arpa.",
		"1.16.1.9.in-addr.arpa.":  "", // dev is a /20
		"1.2.3.11.in-addr.arpa.":  "11.in-addr.arpa.",
		"11.0.0.10.in-addr.arpa.": "11.0.0.10.in-addr.arpa.", // a node
		"12.0.0.10.in-addr.arpa.": "",
		"01.0.0.9.in-addr.arpa.":  "",
		"1.1.0.0.9.in-addr.arpa.": "",
		"256.0.0.9.in-addr.arpa.": "",
		dnsname.ReverseName(addrs("fd01:b::9")[0]):            "0.0.0.0.0.0.0.0.b.0.0.0.1.0.d.f.ip6.arpa.",
		dnsname.ReverseName(addrs("fd01:a::9")[0]):            "",
		"g." + dnsname.ReverseName(addrs("fd01:b::9")[0])[2:]: "",
	} {
		if got, ok := z.Apex(name); got != want || ok != (want != "") {
			t.Errorf("Apex(%s) = %q, %t, want %q", name, got, ok, want)
		}
	}
}

func TestDiffNamesWhatAResolverSees(t *testing.T) {
	t.Parallel()
	z, _ := New(options).With(sample())
	// dcos-net's names for tasks, the mirror of mesos and the short names have tests of their own.
	elsewhere := func(name string) bool {
		return dnsname.Within(name, mirrorApex) || dnsname.Within(name, OwnZone) || dnsname.Within(name, "dcos."+directory) || dnsname.Within(name, "slave.mesos")
	}
	check := func(c Change, want ...string) {
		t.Helper()
		_, d := z.With([]Change{c})
		var got []string
		for _, q := range d.Questions {
			if elsewhere(q.Name) {
				continue
			}
			got = append(got, q.Name+" "+q.Type.String())
		}
		if diff := cmp.Diff(got, want); diff != "" {
			t.Errorf("diff (got -, want +):\n%s", diff)
		}
	}
	check(task("t2", "web", "weft", addrs("9.0.0.3"))) // as it was
	check(task("t2", "web", "weft", addrs("9.0.0.4")),
		"3.0.0.9.in-addr.arpa. PTR", "3.0.0.9.in-addr.arpa. ANY", "4.0.0.9.in-addr.arpa. PTR", "4.0.0.9.in-addr.arpa. ANY",
		"web-fjp7y-a.weft.mesos. A", "web.weft.mesos. A")
	// The same answer from another writer changes no answer.
	again := task("t2", "web", "weft", addrs("9.0.0.3"))
	again.Writer = "host-b"
	check(again)
	// The last task of a framework takes the framework's name with it.
	check(Change{Source: task("t3", "", "", nil).Source},
		"3.1.0.9.in-addr.arpa. PTR", "3.1.0.9.in-addr.arpa. ANY",
		"_my-app-x._tcp.devkafka.sub.mesos. SRV", "_my-app-x._tcp.devkafka.sub.mesos. ANY",
		"_my-app-x._udp.devkafka.sub.mesos. SRV", "_my-app-x._udp.devkafka.sub.mesos. ANY",
		"_tcp.devkafka.sub.mesos. ANY", "_udp.devkafka.sub.mesos. ANY", "devkafka.sub.mesos. ANY",
		"my-app-x-epcg1-a.devkafka.sub.mesos. A", "my-app-x-epcg1-a.devkafka.sub.mesos. ANY",
		"my-app-x.devkafka.sub.mesos. A", "my-app-x.devkafka.sub.mesos. ANY", "sub.mesos. ANY")
	if _, d := z.With(sample()[:1]); !d.All {
		t.Error("a network came, Diff.All = false, want true")
	}
}

func TestCompletedIsAnotherZone(t *testing.T) {
	t.Parallel()
	z := New(Options{TTL: time.Minute})
	c := z.Completed()
	if z.Complete() || !c.Complete() || c.Completed() != c {
		t.Errorf("complete: %t, %t, want false, true", z.Complete(), c.Complete())
	}
	if n, ok := z.NetworkOf(addrs("9.0.0.1")[0]); ok {
		t.Errorf("NetworkOf = %v, want none", n)
	}
}

func TestNetworkByAddressAndNumber(t *testing.T) {
	t.Parallel()
	z, _ := New(options).With(sample())
	if n, ok := z.NetworkOf(addrs("::ffff:9.1.3.4")[0]); !ok || n.Name != "dev" {
		t.Errorf("NetworkOf = %v, want dev", n)
	}
	if n, ok := z.Network(100); !ok || n.Name != "prod" {
		t.Errorf("Network(100) = %v, want prod", n)
	}
	gone, _ := z.With([]Change{{Source: sample()[0].Source}})
	if n, ok := gone.Network(100); ok {
		t.Errorf("Network(100) = %v, want none", n)
	}
}
