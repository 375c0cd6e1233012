// SPDX-License-Identifier: Apache-2.0

package zone

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft/discovery"
	"weft/discovery/zone/record"
)

// homed is a task of a network, at node host-a.
func homed(id, label, framework, network, addr string) Change {
	c := task(id, label, framework, addrs(addr), discovery.NamedPort{Name: "http", Protocol: "tcp", Port: 80})
	t, _ := c.Fact.(Task)
	t.Network = network
	c.Fact = t
	return c
}

func inNetwork(name string, vni uint32) Change {
	return ledgerFact(discovery.KindNetwork, name, Network{Name: name, VNI: vni, Subnets: []netip.Prefix{netip.MustParsePrefix("9.0.0.0/8")}})
}

// answers are what a view gets for a name and type.
func answers(z *Zone, view, name string, t record.Type) []string {
	return data(z.Lookup(view, name).Of(t))
}

func TestShortNamesAreOfTheAskersNetwork(t *testing.T) {
	t.Parallel()
	z, _ := New(Options{}).Completed().With([]Change{
		inNetwork("prod", 1), inNetwork("dev", 2),
		homed("t1", "web", "", "prod", "9.1.0.1"), homed("t2", "web", "", "dev", "9.2.0.1"),
		homed("t3", "web", "marathon", "prod", "9.1.0.3"),
	})
	for _, tt := range []struct {
		view, name string
		typ        record.Type
		want       []string
		exists     bool
	}{
		{"prod", "web.prod.weft.", record.A, []string{"5 9.1.0.1"}, true},
		{"", "web.prod.weft.", record.A, []string{"5 9.1.0.1"}, true},
		{"dev", "web.prod.weft.", record.A, nil, false},
		{"dev", "web.dev.weft.", record.A, []string{"5 9.2.0.1"}, true},
		{"prod", "web.weft.mesos.", record.A, []string{"5 9.1.0.1", "5 9.2.0.1"}, true},
		{"prod", "web.marathon.prod.weft.", record.A, []string{"5 9.1.0.3"}, true},
		{"prod", "web.weft.prod.weft.", record.A, nil, false},
		{"prod", "web.weft.slave.prod.weft.", record.A, nil, false},
		{"prod", "leader.prod.weft.", record.A, nil, false},
		{"prod", "_web._tcp.prod.weft.", record.SRV, []string{"5 0 1 80 web-hw4uo-a.prod.weft."}, true},
		{"prod", "_http._web._tcp.prod.weft.", record.SRV, []string{"5 0 1 80 web-hw4uo-a.prod.weft."}, true},
		{"prod", "web-hw4uo-a.prod.weft.", record.A, []string{"5 9.1.0.1"}, true},
		{"prod", "_tcp.prod.weft.", record.A, nil, true},
		{"prod", "prod.weft.", record.A, nil, true},
		{"prod", "dev.weft.", record.A, nil, false},
		{"prod", "weft.", record.SOA, []string{"1 ns1.mesos. root.ns1.mesos. 1 60 600 86400 1"}, true},
	} {
		look := z.Lookup(tt.view, tt.name)
		if diff := cmp.Diff(slices.Clip(data(look.Of(tt.typ))), append([]string{}, tt.want...)); diff != "" || look.Exists != tt.exists {
			t.Errorf("%s of %s in %q: exists %t, want %t (got -, want +):\n%s", tt.typ, tt.name, tt.view, look.Exists, tt.exists, diff)
		}
	}
}

// What checks say of a task counts for its names, whether it is behind a VIP or not, and of Mesos' tasks as well.
func TestChecksOfTasksWithoutAVIPAreHeeded(t *testing.T) {
	t.Parallel()
	ill := homed("t1", "web", "", "prod", "9.1.0.1")
	fact, _ := ill.Fact.(Task)
	fact.Unwell = true
	ill.Fact = fact
	z, _ := New(Options{}).With([]Change{inNetwork("prod", 1), ill, homed("t2", "web", "", "prod", "9.1.0.2")})
	if got := answers(z, "", "web.prod.weft.", record.A); !slices.Equal(got, []string{"5 9.1.0.2"}) {
		t.Errorf("web.prod.weft = %q, want the one that is well", got)
	}
	mesosTask := func(id, addr string, unwell bool) Change {
		return Change{Source{Kind: "mesos-task", Key: id, Writer: "leader"}, MesosTask{
			Framework: "marathon", ID: id, Name: "web", Agent: "S-S0", AgentAddrs: []netip.Addr{netip.MustParseAddr("10.0.0.1")},
			Netinfo: []netip.Addr{netip.MustParseAddr(addr)}, Unwell: unwell,
		}}
	}
	both := []Change{mesosTask("a", "9.0.0.1", true), mesosTask("b", "9.0.0.2", false)}
	for want, o := range map[string]Options{"[5 9.0.0.1 5 9.0.0.2]": {MesosOnly: true}, "[5 9.0.0.2]": {MesosOnly: true, Heeding: []string{"mesos"}}} {
		z, _ := New(o).With(both)
		if got := fmt.Sprint(answers(z, "", "web.marathon.mesos.", record.A)); got != want {
			t.Errorf("web.marathon.mesos, heeding %q: %s, want %s", o.Heeding, got, want)
		}
	}
}

// Who is not well is left out where answers heed it, while another one has the name.
func TestUnwellTasksAreLeftOutWhereThatIsHeeded(t *testing.T) {
	t.Parallel()
	unwell := func(id string) Change { return Change{UnwellSource(id, "host-a"), Unwell{}} }
	two := []Change{inNetwork("prod", 1), homed("t1", "web", "", "prod", "9.1.0.1"), homed("t2", "web", "", "prod", "9.1.0.2"), unwell("t1")}
	byDefault, _ := New(Options{}).With(two)
	everywhere, _ := New(Options{Heeding: []string{"mesos", "thisdcos.directory", OwnZone}}).With(two)
	nowhere, _ := New(Options{Heeding: []string{}}).With(two)
	both, well := []string{"5 9.1.0.1", "5 9.1.0.2"}, []string{"5 9.1.0.2"}
	for _, name := range []string{"web.weft.mesos.", "web.weft.mesos.thisdcos.directory.", "web.weft.containerip.dcos.thisdcos.directory.", "web.prod.weft."} {
		want := both
		if name == "web.prod.weft." {
			want = well
		}
		for what, diff := range map[string]string{
			"by default": cmp.Diff(want, answers(byDefault, "", name, record.A)),
			"everywhere": cmp.Diff(well, answers(everywhere, "", name, record.A)),
			"nowhere":    cmp.Diff(both, answers(nowhere, "", name, record.A)),
		} {
			if diff != "" {
				t.Errorf("%s, heeded %s (-want +got):\n%s", name, what, diff)
			}
		}
	}
	if got := answers(byDefault, "", "_web._tcp.prod.weft.", record.SRV); len(got) != 1 {
		t.Errorf("services are %v, want the one that is well", got)
	}
	if got := answers(byDefault, "", "web-hw4uo-a.prod.weft.", record.A); !slices.Equal(got, []string{"5 9.1.0.1"}) {
		t.Errorf("a task's name for itself alone is %v, want its address whatever its health", got)
	}
	none, diff := byDefault.With([]Change{unwell("t2")})
	if got := answers(none, "", "web.prod.weft.", record.A); !slices.Equal(got, both) {
		t.Errorf("nobody is well, and the answer is %v; want both, as for a VIP", got)
	}
	if !slices.Contains(diff.Questions, Question{"web.prod.weft.", record.A}) || slices.Contains(diff.Questions, Question{"web.weft.mesos.", record.A}) {
		t.Errorf("%v: where health is heeded the answer changed, elsewhere not", diff.Questions)
	}
	again, _ := none.With([]Change{{Source: UnwellSource("t1", "host-a")}, {Source: UnwellSource("t2", "host-a")}})
	if got := answers(again, "", "web.prod.weft.", record.A); !slices.Equal(got, both) {
		t.Errorf("all are well, and the answer is %v", got)
	}
	if r := byDefault.Lookup("", "web.prod.weft."); !r.LeftOut(r.Records[0]) || r.LeftOut(r.Records[1]) {
		t.Errorf("%v: the first is left out, the second not", r.Records)
	}
}

func TestEachZoneHasItsTTL(t *testing.T) {
	t.Parallel()
	z, _ := New(Options{TTL: 30 * time.Second, TTLs: map[string]time.Duration{
		"thisdcos.directory": 7 * time.Second, OwnZone: 2 * time.Second, "zk": time.Minute,
	}}).With(append(sample(), inNetwork("prod", 1), homed("t9", "nine", "", "prod", "9.1.0.9")))
	for name, want := range map[string]uint32{
		"nine.weft.mesos.": 30, "nine.prod.weft.": 2, "nine.weft.mesos.thisdcos.directory.": 7, "zk-1.zk.": 60,
		"nine.weft.containerip.dcos.thisdcos.directory.": 7, "ready.spartan.": 5, "9.0.1.9.in-addr.arpa.": 30,
	} {
		records := z.Lookup("", name).Records
		if len(records) == 0 || records[0].TTL != want {
			t.Errorf("%s: %v, want a TTL of %d", name, records, want)
		}
	}
	for _, r := range z.Lookup("", "weft.").Records {
		if r.Type == record.SOA && r.TTL != record.Minimum {
			t.Errorf("%v: how long a missing name is remembered is no zone's TTL", r)
		}
	}
}
