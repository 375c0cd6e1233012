// SPDX-License-Identifier: Apache-2.0

package zone

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"weft/discovery"
	"weft/discovery/dnsname"
	"weft/discovery/zone/record"
)

func strict() Options {
	return Options{MesosOnly: true, Strict: true, Servers: addrs("127.0.0.1")}
}

func cluster(o Options, facts ...Fact) *Zone {
	var changes []Change
	for i, f := range facts {
		changes = append(changes, Change{Source: Source{Kind: "mesos", Key: fmt.Sprint(i), Writer: "m"}, Fact: f})
	}
	z, _ := New(o).With(changes)
	return z
}

// shown are the names and values of a type, in order.
func shown(z *Zone, t record.Type) []string {
	out := []string{}
	for r := range z.MesosRecords {
		if r.Type == t {
			out = append(out, r.Name+" "+r.Value())
		}
	}
	slices.Sort(out)
	return out
}

// The rows are those of Mesos-DNS's own test of masters.
// Mesos-DNS takes a master whose address is that of a framework called master for one that it has numbered.
func TestMasterAtTheAddressOfItsNamesakeHasNoNumber(t *testing.T) {
	t.Parallel()
	namesake := MesosFramework{Name: "Master", Addrs: addrs("6.7.8.9")}
	z := cluster(strict(), namesake, MesosMasters{
		Leader: "1.2.3.4:5", Listed: []string{"6.7.8.9:5", "6.7.8.8:5"}, Namesakes: []MesosFramework{namesake},
	})
	for name, want := range map[string][]string{
		"master": {"1.2.3.4", "6.7.8.8", "6.7.8.9"}, "master0": {"6.7.8.8"}, "master1": {"1.2.3.4"}, "master2": nil,
	} {
		var got []string
		for _, r := range z.Lookup("", name+".mesos.").Of(record.A) {
			got = append(got, r.Value())
		}
		if d := cmp.Diff(got, want); d != "" {
			t.Errorf("%s (got -, want +):\n%s", name, d)
		}
	}
}

func TestMasters(t *testing.T) {
	t.Parallel()
	check := func(leader string, listed []string, want ...string) {
		t.Helper()
		z := cluster(strict(), MesosMasters{Leader: leader, Listed: listed})
		var got []string
		for r := range z.MesosRecords {
			if r.Type != record.SRV && r.Name != "ns1.mesos." {
				got = append(got, strings.TrimSuffix(r.Name, ".mesos.")+"="+r.Value())
			}
		}
		if d := cmp.Diff(got, want); d != "" {
			t.Errorf("leader %s of %v (got -, want +):\n%s", leader, listed, d)
		}
	}
	check("", nil)
	check("nonsense", []string{"1.2.3.4:1"})
	check("host.example:5050", nil)
	check("1.2.3.4:5", nil, "leader=1.2.3.4", "master=1.2.3.4", "master0=1.2.3.4")
	check("1.2.3.4:5", []string{"1.2.3.4:5"}, "leader=1.2.3.4", "master=1.2.3.4", "master0=1.2.3.4")
	check("1.2.3.4:5", []string{"1.2.3.4:5", "1.2.3.4:5"}, "leader=1.2.3.4", "master=1.2.3.4", "master0=1.2.3.4")
	check("1.2.3.4:5", []string{"6.7.8.9:5"},
		"leader=1.2.3.4", "master=1.2.3.4", "master=6.7.8.9", "master0=6.7.8.9", "master1=1.2.3.4")
	check("1.2.3.4:5", []string{"1.2.3.4:5", "6.7.8.9:5"},
		"leader=1.2.3.4", "master=1.2.3.4", "master=6.7.8.9", "master0=1.2.3.4", "master1=6.7.8.9")
	check("1.2.3.4:5", []string{"6.7.8.9:5", "6.7.8.9:5"},
		"leader=1.2.3.4", "master=1.2.3.4", "master=6.7.8.9", "master0=6.7.8.9", "master1=1.2.3.4")
	check("1.2.3.4:5", []string{"6.7.8.9:5", "1.2.3.4:5", "6.7.8.9:6", "x:1", "bad"},
		"leader=1.2.3.4", "master=1.2.3.4", "master=6.7.8.9", "master0=6.7.8.9", "master1=1.2.3.4")
	check("1.2.3.4:5", []string{"1.2.3.4:6"}, "leader=1.2.3.4", "master=1.2.3.4", "master0=1.2.3.4")
	check("[::1]:5", []string{"[2001:db8::1]:5", "[::1]:5"},
		"leader=::1", "master=::1", "master=2001:db8::1", "master0=2001:db8::1", "master1=::1")
}

func odd() MesosTask {
	return MesosTask{
		Framework: "fw", ID: "test", Name: "x", Agent: "a-S1", AgentAddrs: addrs("10.0.0.1"), HostPorts: []int{0, 80, 70000},
		Discovery: "Big.Dog", Ports: []MesosPort{{"web", "SCTP", 70000}, {"", "", 53}, {"", "tcp", -1}},
	}
}

func TestStrictShowsWhatCannotBeAsked(t *testing.T) {
	t.Parallel()
	want := []string{
		"_Big.Dog._sctp.fw.mesos. Big.Dog-iffe9-s1.fw.mesos.:70000",
		"_Big.Dog._tcp.fw.mesos. Big.Dog-iffe9-s1.fw.mesos.:-1",
		"_Big.Dog._tcp.fw.mesos. Big.Dog-iffe9-s1.fw.mesos.:53",
		"_Big.Dog._udp.fw.mesos. Big.Dog-iffe9-s1.fw.mesos.:53",
		"_web._Big.Dog._sctp.fw.mesos. Big.Dog-iffe9-s1.fw.mesos.:70000",
	}
	var got []string
	z := cluster(strict(), odd())
	for _, s := range shown(z, record.SRV) {
		if strings.Contains(s, "_Big.Dog") && !strings.Contains(s, ".slave.") {
			got = append(got, s)
		}
	}
	if d := cmp.Diff(got, want); d != "" {
		t.Errorf("SRV records (got -, want +):\n%s", d)
	}
	if r := z.Lookup("", "_big-dog._sctp.fw.mesos.").Of(record.SRV); len(r) != 1 || r[0].Port != 4464 {
		t.Errorf("port 70000 on the wire: %v, want 4464", r)
	}
	colon := odd()
	colon.Discovery = "a:b"
	for r := range cluster(strict(), colon).MesosRecords {
		if r.Type == record.SRV && r.Answerable() != !strings.Contains(r.Value(), "a:b") {
			t.Errorf("%v: answerable %t", r, r.Answerable())
		}
	}
}

func TestDefaultLeavesOutWhatCannotBeAsked(t *testing.T) {
	t.Parallel()
	o := strict()
	o.Strict = false
	z := cluster(o, odd())
	want := []string{
		"_big-dog._tcp.fw.mesos. big-dog-iffe9-s1.fw.mesos.:53",
		"_big-dog._tcp.fw.slave.mesos. big-dog-iffe9-s1.fw.slave.mesos.:80",
		"_big-dog._udp.fw.mesos. big-dog-iffe9-s1.fw.mesos.:53",
		"_big-dog._udp.fw.slave.mesos. big-dog-iffe9-s1.fw.slave.mesos.:80",
	}
	if d := cmp.Diff(shown(z, record.SRV), want); d != "" {
		t.Errorf("SRV records (got -, want +):\n%s", d)
	}
	long := odd()
	long.Discovery = strings.Repeat("l", 70)
	z = cluster(o, long)
	label := strings.Repeat("l", 63)
	if a := z.Lookup("", label+".fw.mesos.").Of(record.A); len(a) != 1 {
		t.Errorf("long name: %v, want its address", a)
	}
	if a := z.Lookup("", label[:54]+"-iffe9-s1.fw.slave.mesos.").Of(record.A); len(a) != 1 {
		t.Errorf("shortened canonical name: %v, want its address", a)
	}
}

// Whatever a document has: without Strict every name can be asked for and every record be answered,
// and it is a part of what there is with Strict, but for the shortened canonical names.
func TestDefaultIsPartOfStrict(t *testing.T) {
	t.Parallel()
	text := rapid.OneOf(rapid.String(), rapid.StringOfN(rapid.RuneFrom([]rune("ab-._Z:é")), 0, 70, -1))
	addr := rapid.SliceOfN(rapid.SampledFrom(addrs("10.0.0.1", "10.0.0.2", "fd01::1")), 0, 2)
	number := rapid.SampledFrom([]int{-1, 0, 1, 80, 65535, 65536, 1 << 40})
	rapid.Check(t, func(t *rapid.T) {
		task := MesosTask{
			Framework: text.Draw(t, "framework"), ID: text.Draw(t, "id"), Name: text.Draw(t, "name"),
			Agent: text.Draw(t, "agent"), AgentHost: text.Draw(t, "host"), AgentAddrs: addr.Draw(t, "addrs"),
			Netinfo: addr.Draw(t, "netinfo"), Mesos: addr.Draw(t, "mesos"), Docker: addr.Draw(t, "docker"),
			Discovery: text.Draw(t, "discovery"), HostPorts: rapid.SliceOfN(number, 0, 3).Draw(t, "ports"),
			Ports: []MesosPort{{text.Draw(t, "port"), text.Draw(t, "protocol"), number.Draw(t, "number")}},
		}
		o := strict()
		o.RFC952 = rapid.Bool().Draw(t, "rfc952")
		facts := []Fact{
			task,
			MesosFramework{task.Framework, task.Mesos, text.Draw(t, "text port")},
			MesosAgent{task.AgentAddrs, text.Draw(t, "agent port")},
			MesosMasters{Leader: text.Draw(t, "leader"), Listed: []string{text.Draw(t, "master")}},
		}
		all := map[string]bool{}
		for r := range cluster(o, facts...).MesosRecords {
			all[r.Type.String()+r.Name+r.Value()] = true
		}
		o.Strict = false
		tail := strings.ToLower(task.Agent[strings.LastIndexByte(task.Agent, '-')+1:])
		shortened := len(tail) > 10 || dnsname.Mangle(tail) != tail || len(task.Name)+len(task.Discovery) > 20
		for r := range cluster(o, facts...).MesosRecords {
			if !dnsname.Askable(r.Name) || !r.Answerable() || r.Type == record.SRV && (r.Port == 0 || !dnsname.Askable(r.Target)) || r.Text != "" {
				t.Fatalf("record %v", r)
			}
			if !all[r.Type.String()+r.Name+r.Value()] && !shortened {
				t.Fatalf("record %v is not Mesos-DNS's", r)
			}
		}
	})
}

func TestAddressesByTheFirstSourceThatHasAny(t *testing.T) {
	t.Parallel()
	task := MesosTask{
		Framework: "fw", ID: "test", Name: "x", Agent: "a-S1", AgentAddrs: addrs("10.0.0.1"),
		Mesos: addrs("10.0.0.2", "fd01::2"), Docker: addrs("10.0.0.3"),
	}
	check := func(want []string, sources ...IPSource) {
		t.Helper()
		o := strict()
		o.IPSources = sources
		var got []string
		for _, r := range cluster(o, task).Lookup("", "x.fw.mesos.").Records {
			got = append(got, r.Data())
		}
		if d := cmp.Diff(got, want); d != "" {
			t.Errorf("sources %v (got -, want +):\n%s", sources, d)
		}
	}
	check([]string{"10.0.0.1"}, FromHost, FromMesos)
	check([]string{"10.0.0.2", "fd01::2"}, FromNetinfo, FromMesos, FromHost)
	check([]string{"10.0.0.2", "fd01::2"})
	check([]string{"10.0.0.3"}, FromDocker)
	check(nil, FromNetinfo)
	check(nil, "rkt")
}

// The columns of dcos-net's own tests: what is reached where.
func TestDcosNamesTellWhereATaskIs(t *testing.T) {
	t.Parallel()
	task := func(name string, mapped bool, netinfo ...string) MesosTask {
		return MesosTask{
			Framework: "marathon", ID: name, Name: name, Agent: "S3", AgentAddrs: addrs("172.17.0.4"), Netinfo: addrs(netinfo...), Mapped: mapped,
		}
	}
	pod := task("other", false, "9.0.1.3")
	pod.Discovery = "app.sub.group"
	z := cluster(options,
		task("none-on-host", false), task("none-on-dcos", false, "9.0.2.5"), task("ucr-on-bridge", true, "172.31.254.3"),
		task("docker-on-ipv6", false, "172.19.0.2", "fd01:b::2:8000:0:2"), pod,
		MesosMasters{Leader: "10.0.0.2:5050", Listed: []string{"10.0.0.1:5050", "10.0.0.2:5050"}},
	)
	check := func(name, agent, auto, container string) {
		t.Helper()
		for where, want := range map[string]string{"agentip": agent, "autoip": auto, "containerip": container} {
			var got []string
			for _, r := range z.Lookup("", name+"."+where+".dcos.thisdcos.directory.").Records {
				got = append(got, r.Data())
			}
			if g := strings.Join(got, " "); g != want {
				t.Errorf("%s of %s = %q, want %q", where, name, g, want)
			}
		}
	}
	check("none-on-host.marathon", "172.17.0.4", "172.17.0.4", "172.17.0.4")
	check("none-on-dcos.marathon", "172.17.0.4", "9.0.2.5", "9.0.2.5")
	check("ucr-on-bridge.marathon", "172.17.0.4", "172.17.0.4", "172.31.254.3")
	check("docker-on-ipv6.marathon", "172.17.0.4", "172.19.0.2 fd01:b::2:8000:0:2", "172.19.0.2 fd01:b::2:8000:0:2")
	check("app-sub-group.marathon", "172.17.0.4", "9.0.1.3", "9.0.1.3")
	for name, want := range map[string]string{
		"leader.dcos.thisdcos.directory.": "10.0.0.2", "master.dcos.thisdcos.directory.": "10.0.0.1 10.0.0.2",
		"zk-1.zk.": "10.0.0.1", "zk-2.zk.": "10.0.0.2", "zk-3.zk.": "10.0.0.1", "zk-5.zk.": "10.0.0.1", "zk-6.zk.": "",
		"ready.spartan.": "127.0.0.1", "ns.spartan.": "198.51.100.1 fd01:d::c633:6401", "localhost.": "127.0.0.1 ::1",
		"leader.mesos.thisdcos.directory.": "10.0.0.2", "_leader._tcp.mesos.thisdcos.directory.": "0 1 5050 leader.mesos.thisdcos.directory.",
	} {
		var got []string
		for _, r := range z.Lookup("prod", name).Records {
			if r.Type != record.SOA && r.Type != record.NS {
				got = append(got, r.Data())
			}
		}
		if g := strings.Join(got, " "); g != want {
			t.Errorf("%s = %q, want %q", name, g, want)
		}
	}
}

func TestThisNodeAndItsTasksMoveWithIt(t *testing.T) {
	t.Parallel()
	o := options
	o.Self = "host-a"
	z, _ := New(o).With(sample())
	check := func(z *Zone, name, want string) {
		t.Helper()
		var got []string
		for _, r := range z.Lookup("", name).Of(record.A) {
			got = append(got, r.Data())
		}
		if g := strings.Join(got, " "); g != want {
			t.Errorf("%s = %q, want %q", name, g, want)
		}
	}
	names := []string{
		"thisnode.thisdcos.directory.", "web.weft.agentip.dcos.thisdcos.directory.", "web.weft.slave.mesos.",
		"slave.mesos.", "web.weft.slave.mesos.thisdcos.directory.",
	}
	for _, n := range names {
		check(z, n, "10.0.0.11")
	}
	moved, diff := z.With([]Change{{
		Source: Source{Kind: discovery.KindNode, Key: "host-a", Writer: "host-a"},
		Fact:   Host{Node: discovery.Node{ID: "host-a", Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.99")}}},
	}})
	for _, n := range names {
		check(moved, n, "10.0.0.99")
		if !slices.Contains(diff.Questions, Question{n, record.A}) {
			t.Errorf("%s A is not in the diff", n)
		}
	}
	gone, _ := moved.With([]Change{{Source: Source{Kind: discovery.KindNode, Key: "host-a", Writer: "host-a"}}})
	for _, n := range names {
		check(gone, n, "")
	}
	check(gone, "web.weft.mesos.", "9.0.0.2 9.0.0.3")
}

// A zone of Mesos-DNS alone has no name of ours.
func TestMesosOnly(t *testing.T) {
	t.Parallel()
	o := strict()
	o.Reverse = options.Reverse
	z, _ := New(o).With(sample())
	if n := z.Records(); n != 1 {
		t.Errorf("%d records, want ns1.mesos. alone:\n%s", n, dump(z))
	}
	for _, name := range []string{"thisdcos.directory.", "zk.", "2.0.0.9.in-addr.arpa.", "localhost."} {
		if apex, own := z.Apex(name); own {
			t.Errorf("%s is in zone %s", name, apex)
		}
	}
	if got := z.Dated(7).Options().Start; got != (record.Start{
		Server: "ns1.mesos.", Mailbox: "root.ns1.mesos.", Serial: 7, Refresh: 60, Retry: 600, Expire: 86400, Minimum: 5,
	}) {
		t.Errorf("Start = %v", got)
	}
}

func TestListing(t *testing.T) {
	t.Parallel()
	z, _ := New(options).With(sample())
	var got []string
	for _, f := range z.Listing() {
		for _, l := range f.Tasks {
			got = append(got, fmt.Sprintf("%s %s %s %d", f.Name, l.ID, l.Name, len(z.From(l.Source))))
		}
	}
	want := []string{
		"/dev/kafka.sub t3 My_App.x 10", "marathon t4 " + strings.Repeat("l", 63) + " 9", "weft t5 *** 0", "weft t1 web 16", "weft t2 web 8",
	}
	if d := cmp.Diff(got, want); d != "" {
		t.Errorf("listing (got -, want +):\n%s", d)
	}
}
