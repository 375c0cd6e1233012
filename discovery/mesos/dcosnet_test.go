// SPDX-License-Identifier: Apache-2.0

package mesos

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"weft/discovery/zone"
	"weft/discovery/zone/record"
)

// What dcos-net's own suites feed and expect (apps/dcos_net, dcos_dns_mesos), told again: tasks of each runtime in
// each kind of network, and where their names lead.

// ranTask is a task of the table. Its addresses are the agent's where there are none.
type ranTask struct {
	name, runtime string
	agent         int
	addrs         []string
	host, port    int // mapping; host 0: none of the agent's ports leads to it
	state         string
}

// json writes a task as a master has it: Docker's mappings are in its container, others with the networks.
func (r ranTask) json() string {
	addrs := r.addrs
	if len(addrs) == 0 {
		addrs = []string{agentAddr(r.agent)}
	}
	var infos []string
	for _, a := range addrs {
		infos = append(infos, fmt.Sprintf(`{"ip_address": %q}`, a))
	}
	mappings := ""
	if r.port > 0 {
		mappings = fmt.Sprintf(`{"host_port": %d, "container_port": %d, "protocol": "tcp"}`, r.host, r.port)
	}
	container := fmt.Sprintf(`"network_infos": [{"port_mappings": [%s]}]`, mappings)
	if r.runtime == "docker" {
		container = fmt.Sprintf(`"docker": {"port_mappings": [%s]}`, mappings)
	}
	state := r.state
	if state == "" {
		state = running
	}
	return fmt.Sprintf(`{"id": "%s.1", "name": %q, "slave_id": "S-%d", "state": %q, "container": {%s}, "statuses": [{"state": %q, "timestamp": 1,
		"container_status": {"network_infos": [{"ip_addresses": [%s]}]}}]}`, r.name, r.name, r.agent, state, container, state, strings.Join(infos, ","))
}

func agentAddr(n int) string { return fmt.Sprintf("172.17.0.%d", n) }

func dcosZone(t *testing.T, before *Facts, z *zone.Zone, framework string, tasks ...ranTask) (*Facts, *zone.Zone) {
	t.Helper()
	var agents, list []string
	for n := 3; n <= 4; n++ {
		agents = append(agents, fmt.Sprintf(`{"id": "S-%d", "hostname": "node-%d", "pid": "slave(1)@%s:5051"}`, n, n, agentAddr(n)))
	}
	for _, r := range tasks {
		list = append(list, r.json())
	}
	s, err := Parse(fmt.Appendf(nil, `{"leader": "master@172.17.0.2:5050", "slaves": [%s], "frameworks": [{"id": "F", "name": %q, "hostname": "172.17.0.2", "tasks": [%s]}]}`,
		strings.Join(agents, ","), framework, strings.Join(list, ",")), false)
	if err != nil {
		t.Fatal(err)
	}
	f := s.Facts(Options{Masters: []string{"172.17.0.2:5050"}})
	if z == nil {
		z = zone.New(zone.Options{}).Completed()
	}
	z, _ = z.With(f.Changes(before))
	return f, z
}

// leadsTo are the addresses of a name.
func leadsTo(z *zone.Zone, name string) string {
	var addrs []string
	for _, r := range z.Lookup("", name).Records {
		addrs = append(addrs, r.Data())
	}
	slices.Sort(addrs)
	return strings.Join(addrs, " ")
}

func TestNamesOfDcosNetsTable(t *testing.T) {
	t.Parallel()
	v6 := "172.19.0.2 fd01:b::2:8000:0:2"
	tasks := []struct {
		ranTask
		auto, container string // "": the agent's
	}{
		{ranTask{name: "none-on-host", agent: 4, host: 13977, port: 13977}, "", ""},
		{ranTask{name: "none-on-dcos", agent: 4, addrs: []string{"9.0.2.5"}}, "9.0.2.5", "9.0.2.5"},
		{ranTask{name: "ucr-on-host", agent: 3, host: 10323, port: 10323}, "", ""},
		{ranTask{name: "ucr-on-bridge", agent: 3, addrs: []string{"172.31.254.3"}, host: 15263, port: 8080}, "", "172.31.254.3"},
		{ranTask{name: "ucr-on-dcos", agent: 3, addrs: []string{"9.0.1.6"}}, "9.0.1.6", "9.0.1.6"},
		{ranTask{name: "docker-on-host", runtime: "docker", agent: 4}, "", ""},
		{ranTask{name: "docker-on-bridge", runtime: "docker", agent: 4, addrs: []string{"172.18.0.2"}, host: 20560, port: 8080}, "", "172.18.0.2"},
		{ranTask{name: "docker-on-dcos", runtime: "docker", agent: 4, addrs: []string{"9.0.2.130"}, port: 8080}, "9.0.2.130", "9.0.2.130"},
		{ranTask{name: "docker-on-ipv6", runtime: "docker", agent: 4, addrs: strings.Fields(v6), port: 8080}, v6, v6},
		{ranTask{name: "pod-on-host", agent: 4, host: 28064, port: 28064}, "", ""},
		{ranTask{name: "pod-on-bridge", agent: 3, addrs: []string{"172.31.254.4"}, host: 2254, port: 8080}, "", "172.31.254.4"},
		{ranTask{name: "pod-on-dcos", agent: 3, addrs: []string{"9.0.1.3"}, port: 8080}, "9.0.1.3", "9.0.1.3"},
	}
	var all []ranTask
	for _, row := range tasks {
		all = append(all, row.ranTask)
	}
	all = append(all, ranTask{name: "not-yet", agent: 3, addrs: []string{"9.0.1.9"}, state: "TASK_STAGING"})
	_, z := dcosZone(t, nil, nil, "marathon", all...)
	for _, row := range tasks {
		agent := agentAddr(row.agent)
		for where, want := range map[string]string{"agentip": agent, "autoip": row.auto, "containerip": row.container} {
			if want == "" {
				want = agent
			}
			name := row.name + ".marathon." + where + ".dcos.thisdcos.directory."
			if got := leadsTo(z, name); got != want {
				t.Errorf("%s is %q, want %q", name, got, want)
			}
		}
	}
	if got := leadsTo(z, "not-yet.marathon.agentip.dcos.thisdcos.directory."); got != "" {
		t.Errorf("a task that does not run has %s", got)
	}
}

// hello-overlay, pod-tasks and hello-world: tasks of an SDK's framework and of a pod by their names, and none at all.
func TestNamesOfDcosNetsFrameworks(t *testing.T) {
	t.Parallel()
	f, z := dcosZone(t, nil, nil, "hello-world",
		ranTask{name: "hello-0-server", agent: 3, host: 19630, port: 19630},
		ranTask{name: "hello-overlay-0-server", agent: 4, addrs: []string{"9.0.2.2"}},
		ranTask{name: "hello-overlay-vip-0-server", agent: 4, addrs: []string{"9.0.2.3"}},
		ranTask{name: "app", agent: 3, addrs: []string{"9.0.0.2"}})
	for name, want := range map[string]string{
		"hello-0-server": "172.17.0.3", "hello-overlay-0-server": "9.0.2.2", "hello-overlay-vip-0-server": "9.0.2.3", "app": "9.0.0.2",
	} {
		if got := leadsTo(z, name+".hello-world.autoip.dcos.thisdcos.directory."); got != want {
			t.Errorf("%s is at %q, want %q", name, got, want)
		}
	}
	if _, z = dcosZone(t, f, z, "hello-world"); z.Lookup("", "app.hello-world.autoip.dcos.thisdcos.directory.").Exists {
		t.Error("the last task is gone, and its name is not")
	}
}

// Names grow and shrink with their tasks; an address that two have stays until both are gone.
func TestNamesGrowAndShrinkWithTheirTasks(t *testing.T) {
	t.Parallel()
	const name = "app.marathon.containerip.dcos.thisdcos.directory."
	at := func(addrs ...string) []ranTask {
		var tasks []ranTask
		for i, a := range addrs {
			tasks = append(tasks, ranTask{name: "app", agent: 3 + i%2, addrs: []string{a}})
		}
		return tasks
	}
	var f *Facts
	var z *zone.Zone
	for _, step := range []struct {
		tasks []ranTask
		want  string
	}{
		{at("9.0.1.1"), "9.0.1.1"},
		{at("9.0.1.1", "9.0.2.1"), "9.0.1.1 9.0.2.1"},
		{at("9.0.1.1", "9.0.1.1", "9.0.2.1"), "9.0.1.1 9.0.1.1 9.0.2.1"},
		{at("9.0.1.1", "9.0.2.1"), "9.0.1.1 9.0.2.1"},
		{at("9.0.2.1"), "9.0.2.1"},
		{nil, ""},
	} {
		f, z = dcosZone(t, f, z, "marathon", step.tasks...)
		if got := leadsTo(z, name); got != step.want {
			t.Errorf("%d tasks: %q, want %q", len(step.tasks), got, step.want)
		}
		if n := len(z.Lookup("", name).Of(record.A)); n > 2 {
			t.Errorf("an answer has %d addresses, want each once", n)
		}
	}
}
