// SPDX-License-Identifier: Apache-2.0

package mesos

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"weft/discovery/zone"
	"weft/discovery/zone/record"
)

func TestPID(t *testing.T) {
	t.Parallel()
	check := func(pid, host, port string, strict bool) {
		t.Helper()
		s, err := Parse(fmt.Appendf(nil, `{"leader": "m@1.1.1.1:1", "slaves": [{"id": "S", "hostname": "h", "pid": %s}]}`, pid), strict)
		if refused := errors.Is(err, ErrPID); refused != (host == "refused") || err != nil && !refused {
			t.Errorf("PID %s, strict %t: %v, want %s", pid, strict, err, host)
		} else if err == nil && s.agents[0] != (agent{"S", host, port}) {
			t.Errorf("PID %s, strict %t = %v, want %s, %s", pid, strict, s.agents[0], host, port)
		}
	}
	for pid, want := range map[string][2]string{
		`"slave(1)@10.0.0.1:5051"`:      {"10.0.0.1", "5051"},
		`"slave(1)@[2001:db8::1]:5051"`: {"2001:db8::1", "5051"},
		`" a@host.example:1 "`:          {"host.example", "1"},
		`"@10.0.0.1:5051"`:              {"10.0.0.1", "5051"},
	} {
		check(pid, want[0], want[1], false)
		check(pid, want[0], want[1], true)
	}
	for _, bad := range []string{
		`""`, `null`, `7`, `{}`, `"10.0.0.1:5051"`, `"a@10.0.0.1"`, `"a@b@c:1"`, `"a@2001:db8::1:1"`, `"a@[::1:1"`, `"a\u00401.1.1.1:1"`,
	} {
		check(bad, "h", "", false)
		check(bad, "refused", "", true)
	}
	// Whether these can be resolved is for who resolves them; Mesos-DNS shows what is written.
	for pid, want := range map[string][2]string{
		`"a@:1"`: {"", "1"}, `"a@h:-1"`: {"h", "-1"}, `"a@h:"`: {"h", ""}, `"a@h:http"`: {"h", "http"}, `"a@h:65536"`: {"h", "65536"},
	} {
		check(pid, "h", "", false)
		check(pid, want[0], want[1], true)
	}
}

func TestRanges(t *testing.T) {
	t.Parallel()
	check := func(text string, want ...int) {
		t.Helper()
		if got := parseRanges(text); !slices.Equal(got, want) {
			t.Errorf("ports of %q = %v, want %v", text, got, want)
		}
	}
	check("")
	check("[]")
	check("31000-31001")
	check("[31000-31000]", 31000)
	check("[31000-31002, 31005-31005]", 31000, 31001, 31002, 31005)
	check("[31000-31000,31005-31006]", 31000, 31005, 31006)
	check("[0-0, 70000-70001]", 0, 70000, 70001)
	check("[5-4, 7, x-9, 8-y, -1-2, 3-3]", 3)
	check("[1 - 2, 4-4] 6-6", 4)
	check("[9-9", 9)
	if n := len(parseRanges("[0-999999999999, 1-2]")); n != maxPorts {
		t.Errorf("%d ports of an endless range, want %d", n, maxPorts)
	}
}

func document(leader, agents, tasks string) string {
	return fmt.Sprintf(`{"leader": %q, "slaves": [%s], "frameworks": [{"id": "F", "name": "marathon", "hostname": "10.0.0.9", "tasks": [%s]}]}`,
		leader, agents, tasks)
}

const agents = `{"id": "S-S0", "hostname": "node-0", "pid": "slave(1)@10.1.0.1:5051"}, {"id": "S-S1", "hostname": "node-1"}`

func facts(t *testing.T, text string) *Facts {
	t.Helper()
	s, err := Parse([]byte(text), false)
	if err != nil {
		t.Fatal(err)
	}
	return s.Facts(Options{Masters: []string{"10.0.0.1:5050"}, Resolved: map[string][]netip.Addr{"node-1": {netip.MustParseAddr("10.1.0.2")}}})
}

func TestFactsOfATask(t *testing.T) {
	t.Parallel()
	f := facts(t, document("master@10.0.0.1:5050", agents, `
		{"id": "late", "name": "web", "slave_id": "S-S1", "state": "TASK_RUNNING", "resources": {"ports": "[31000-31001]"},
		 "discovery": {"name": "app", "ports": {"ports": [{"number": 80, "name": "http", "protocol": "tcp"}]}},
		 "container": {"docker": {"port_mappings": [{"host_port": 31000, "container_port": 80}]}},
		 "statuses": [
		  {"state": "TASK_RUNNING", "timestamp": 5, "container_status": {"network_infos": [
		    {"ip_addresses": [{"ip_address": "9.0.0.5"}, {"ip_address": "fd01::5"}, {"ip_address": "::ffff:9.0.0.6"}, {"ip_address": "x"},
		     {"ip_address": "fe80::1%eth0"}], "ip_address": "9.9.9.9"},
		    {"ip_address": "9.0.0.7"}]},
		   "labels": [{"key": "Docker.NetworkSettings.IPAddress", "value": "172.17.0.2"},
		    {"key": "MesosContainerizer.NetworkSettings.IPAddress", "value": "172.31.0.2"}, {"key": "x", "value": "1.1.1.1"}]},
		  {"state": "TASK_RUNNING", "timestamp": 4, "container_status": {"network_infos": [{"ip_address": "9.0.0.4"}]}},
		  {"state": "TASK_KILLING", "timestamp": 9, "container_status": {"network_infos": [{"ip_address": "9.0.0.9"}]}}]},
		{"id": "staging", "name": "web", "slave_id": "S-S0", "state": "TASK_STAGING"},
		{"id": "lost", "name": "web", "slave_id": "S-S7", "state": "TASK_RUNNING"}`))
	addrs := func(texts ...string) []netip.Addr { return parseAddrs(texts) }
	want := zone.MesosTask{
		Framework: "marathon", ID: "late", Name: "web", Agent: "S-S1", AgentHost: "node-1", AgentAddrs: addrs("10.1.0.2"),
		Netinfo: addrs("9.0.0.5", "fd01::5", "9.0.0.6", "9.0.0.7"), Mesos: addrs("172.31.0.2"), Docker: addrs("172.17.0.2"),
		HostPorts: []int{31000, 31001}, Discovery: "app", Ports: []zone.MesosPort{{Name: "http", Protocol: "tcp", Number: 80}}, Mapped: true,
	}
	var got []zone.Fact
	for _, c := range f.Changes(nil) {
		if c.Kind == KindTask {
			got = append(got, c.Fact)
		}
	}
	if d := cmp.Diff(got, []zone.Fact{want}, cmpopts.EquateComparable(netip.Addr{})); d != "" {
		t.Errorf("facts of tasks (got -, want +):\n%s", d)
	}
	if l := f.Listing(); len(l) != 1 || len(l[0].Tasks) != 1 || l[0].Tasks[0].Source.From() != "mesos-task/F/late" {
		t.Errorf("listing = %v", l)
	}
}

// What Mesos' own checks say counts; no word of a check that is there is not well yet.
func TestChecksOfTasks(t *testing.T) {
	t.Parallel()
	for status, want := range map[string]bool{
		``:                   false,
		`"healthy": true, `:  false,
		`"healthy": false, `: true,
	} {
		for check, without := range map[string]bool{``: false, `"health_check": {"grace_period_seconds": 3}, `: true} {
			f := facts(t, document("master@10.0.0.1:5050", agents, fmt.Sprintf(`{"id": "t", "name": "web", "slave_id": "S-S0", "state": "TASK_RUNNING", %s
				"statuses": [{"state": "TASK_RUNNING", "timestamp": 4, "healthy": %t}, {%s"state": "TASK_RUNNING", "timestamp": 5}]}`, check, !want, status)))
			expected := want || without && !strings.Contains(status, "true")
			for _, c := range f.Changes(nil) {
				if task, ok := c.Fact.(zone.MesosTask); ok && task.Unwell != expected {
					t.Errorf("status {%s}, check {%s}: unwell %t, want %t", status, check, task.Unwell, expected)
				}
			}
		}
	}
}

func TestHosts(t *testing.T) {
	t.Parallel()
	s, err := Parse([]byte(document("master@10.0.0.1:5050", agents+`, {"id": "x", "pid": "a@node-1:1"}, {"id": "y"}`, "")), false)
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Hosts(); !slices.Equal(got, []string{"node-1"}) {
		t.Errorf("hosts = %q, want node-1", got)
	}
}

func TestDocumentThatIsNoState(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "null", "[]", "{", `{"leader": ""}`, `{"leader": "x"}`, `{"leader": "master@"}`, "<html>"} {
		if s, err := Parse([]byte(text), false); err == nil {
			t.Errorf("%q is read as %v", text, s)
		}
	}
	if _, err := Parse([]byte(`{"leader": ""}`), false); !errors.Is(err, ErrNoLeader) {
		t.Errorf("no leader: %v", err)
	}
}

// A number where a text should be costs one task its records, not all.
func TestOneBadTaskCostsOneTask(t *testing.T) {
	t.Parallel()
	f := facts(t, document("master@10.0.0.1:5050", agents, `
		{"id": "bad", "name": 7, "slave_id": "S-S0", "state": "TASK_RUNNING", "resources": {"ports": 31000}},
		{"id": "good", "name": "web", "slave_id": "S-S0", "state": "TASK_RUNNING"}`))
	z, _ := zone.New(zone.Options{MesosOnly: true}).With(f.Changes(nil))
	if got := z.Lookup("", "web.marathon.mesos.").Of(record.A); len(got) != 1 {
		t.Errorf("web.marathon.mesos = %v, want one address", got)
	}
}

// Mesos-DNS refuses a document with a wrong type in what it reads; what it does not read may be anything.
func TestStrictRefusesWrongTypes(t *testing.T) {
	t.Parallel()
	check := func(part string, read bool) {
		t.Helper()
		text := fmt.Sprintf(`{"leader": "m@10.0.0.1:5050", "frameworks": [{"name": "f", "tasks": [{"name": "t", %s}]}]}`, part)
		if _, err := Parse([]byte(text), false); err != nil {
			t.Errorf("%s: %v", part, err)
		}
		if _, err := Parse([]byte(text), true); (err == nil) != read {
			t.Errorf("%s: strict: %v, want it read: %t", part, err, read)
		}
	}
	for _, part := range []string{
		`"container": 7`, `"container": {"docker": "x"}`, `"health_check": []`, `"statuses": [{"healthy": "yes"}]`, `"statuses": null`,
		`"resources": {"cpus": "x"}`, `"discovery": null`, `"discovery": {"ports": null, "labels": {}}`, `"labels": 7`,
		`"statuses": [{"container_status": {"network_infos": [{"port_mappings": 7}]}}]`,
	} {
		check(part, true)
	}
	for _, part := range []string{
		`"framework_id": 7`, `"id": 7`, `"state": true`, `"statuses": {}`, `"statuses": [{"timestamp": "1"}]`, `"statuses": [{"timestamp": 1e999}]`,
		`"resources": {"ports": 7}`, `"resources": []`, `"discovery": {"visibility": 7}`, `"discovery": {"version": 1}`,
		`"discovery": {"environment": {}}`, `"discovery": {"location": []}`, `"discovery": {"labels": {"labels": [{"key": 7}]}}`,
		`"discovery": {"ports": {"ports": [{"number": 1.5}]}}`, `"discovery": {"ports": {"ports": [{"number": 1e2}]}}`,
		`"statuses": [{"container_status": {"network_infos": [{"ip_addresses": [{"ip_address": 7}]}]}}]`,
	} {
		check(part, false)
	}
}

// All agents are agents; a task is on the last one that has its id.
func TestAgentsOfOneID(t *testing.T) {
	t.Parallel()
	f := facts(t, document("master@10.0.0.1:5050", `{"id": "S", "pid": "a@10.1.0.1:1"}, {"id": "S", "pid": "a@10.1.0.2:2"}`,
		`{"id": "t", "name": "web", "slave_id": "S", "state": "TASK_RUNNING"}`))
	z, _ := zone.New(zone.Options{MesosOnly: true}).With(f.Changes(nil))
	if got := len(z.Lookup("", "slave.mesos.").Of(record.A)); got != 2 {
		t.Errorf("slave.mesos has %d addresses, want 2", got)
	}
	if got := leadsTo(z, "web.marathon.slave.mesos."); got != "10.1.0.2" {
		t.Errorf("the task is on %s, want 10.1.0.2", got)
	}
}

func TestSameIDsAreSeveralTasks(t *testing.T) {
	t.Parallel()
	one := `{"id": "t", "name": "n%d", "slave_id": "S-S0", "state": "TASK_RUNNING"}`
	f := facts(t, document("master@10.0.0.1:5050", agents, fmt.Sprintf(one+","+one+","+one, 1, 2, 3)))
	z, _ := zone.New(zone.Options{MesosOnly: true}).With(f.Changes(nil))
	for i := range 3 {
		if name := fmt.Sprintf("n%d.marathon.mesos.", i+1); !z.Lookup("", name).Exists {
			t.Errorf("%s does not exist", name)
		}
	}
}

func golden(tb testing.TB) map[string]*State {
	tb.Helper()
	paths, err := filepath.Glob("testdata/*/*/state.json")
	if err != nil || len(paths) < 44 {
		tb.Fatalf("%d states, %v", len(paths), err)
	}
	states := map[string]*State{}
	for _, p := range paths {
		text, err := os.ReadFile(p)
		if err != nil {
			tb.Fatal(err)
		}
		s, err := Parse(text, false)
		if err != nil {
			tb.Fatalf("%s: %v", p, err)
		}
		states[p] = s
	}
	return states
}

func TestNoChangeWithoutAChange(t *testing.T) {
	t.Parallel()
	for path, s := range golden(t) {
		f := s.Facts(Options{})
		if c := s.Facts(Options{}).Changes(f); len(c) > 0 {
			t.Errorf("%s: %d changes to itself", path, len(c))
		}
	}
}

// From any state to any other by changes is the same as the other from nothing.
func TestChangesLeadFromStateToState(t *testing.T) {
	t.Parallel()
	states := golden(t)
	var paths []string
	for p := range states {
		paths = append(paths, p)
	}
	slices.Sort(paths)
	rapid.Check(t, func(t *rapid.T) {
		walked := zone.New(zone.Options{MesosOnly: true, Strict: true})
		var before *Facts
		var path string
		for range rapid.IntRange(1, 5).Draw(t, "steps") {
			path = rapid.SampledFrom(paths).Draw(t, "state")
			f := states[path].Facts(Options{})
			walked, _ = walked.With(f.Changes(before))
			before = f
		}
		fresh, _ := zone.New(zone.Options{MesosOnly: true, Strict: true}).With(states[path].Facts(Options{}).Changes(nil))
		if w, f := slices.Collect(walked.MesosRecords), slices.Collect(fresh.MesosRecords); !reflect.DeepEqual(w, f) {
			t.Fatalf("%s: %d records on the way, %d from nothing", path, len(w), len(f))
		}
	})
}

// FuzzState feeds documents: whatever one says, it is refused or makes a zone whose names can be asked
// for.
func FuzzState(f *testing.F) {
	for _, name := range []string{"000-upstream-fake", "003-one-task", "010-framework-pid-forms", "011-ports-forms", "014-ip-sources"} {
		text, err := os.ReadFile(filepath.Join("testdata/golden", name, "state.json"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte(document("master@10.0.0.1:5050", agents, `{"id": "t", "name": "..", "slave_id": "S-S0", "state": "TASK_RUNNING"}`)))
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := Parse(text, false)
		if err != nil {
			return
		}
		ports := 0
		for _, framework := range s.Frameworks {
			for _, task := range framework.Tasks {
				ports += len(parseRanges(task.wire.Resources.Ports))
			}
		}
		if ports > 1000 {
			return // TestRanges bounds them; here they only take time
		}
		resolved := map[string][]netip.Addr{}
		for _, h := range s.Hosts() {
			resolved[h] = []netip.Addr{netip.MustParseAddr("192.0.2.1")}
		}
		facts := s.Facts(Options{Masters: []string{s.Leader}, Resolved: resolved})
		z, _ := zone.New(zone.Options{}).With(facts.Changes(nil))
		for r := range z.All {
			if apex, own := z.Apex(r.Name); !own || strings.Contains(r.Name, "..") || len(r.Name) > 254 {
				t.Fatalf("record %v in zone %q", r, apex)
			}
		}
		if again := s.Facts(Options{Masters: []string{s.Leader}, Resolved: resolved}); len(again.Changes(facts)) > 0 {
			t.Fatal("the same document gives other facts")
		}
		strict, _ := zone.New(zone.Options{MesosOnly: true, Strict: true}).With(facts.Changes(nil))
		for r := range strict.MesosRecords {
			if !strict.IsMesos(r) || r.Value() == "" {
				t.Fatalf("record %v", r)
			}
		}
	})
}

// What has not changed is there once: the zone holds what it was told, and so do the facts after it.
func TestEqualFactsAreThoseBefore(t *testing.T) {
	t.Parallel()
	read := func(second string) *Facts {
		s, err := Parse([]byte(`{"leader": "master@10.0.0.9:5050", "slaves": [{"id": "a"}], "frameworks": [{"id": "f", "name": "f", "tasks": [
			{"id": "1", "name": "web", "slave_id": "a", "state": "TASK_RUNNING", "resources": {"ports": "[1-2]"}},
			{"id": "2", "name": "web", "slave_id": "a", "state": "TASK_RUNNING", "resources": {"ports": "`+second+`"}}]}]}`), true)
		if err != nil {
			t.Fatal(err)
		}
		return s.Facts(Options{})
	}
	before, after := read("[1-2]"), read("[1-3]")
	if n := len(after.Changes(before)); n != 1 {
		t.Errorf("%d changes, want 1", n)
	}
	for key, same := range map[string]bool{"f/1": true, "f/2": false} {
		at := func(f *Facts) *int {
			task, _ := f.all[zone.Source{Kind: KindTask, Key: key, Writer: "10.0.0.9:5050"}].(zone.MesosTask)
			return &task.HostPorts[0]
		}
		if (at(before) == at(after)) != same {
			t.Errorf("task %s is the one before: %t", key, !same)
		}
	}
}
