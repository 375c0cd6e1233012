// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"weft/control/compat"
	"weft/tests/lab"
	"weft/tests/lab/labtest"
)

// fetch asks a page from a host's own namespace.
func fetch(h *lab.Host, method, url, body string, into any) error {
	dial := func(ctx context.Context, network, to string) (c net.Conn, err error) {
		err = h.In(func() error { c, err = new(net.Dialer).DialContext(ctx, network, to); return err })
		return c, err
	}
	r, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		return err
	}
	answer, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: dial}}).Do(r)
	if err != nil {
		return err
	}
	text, err := io.ReadAll(answer.Body)
	if err := errors.Join(err, answer.Body.Close()); err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: %s: %s", method, url, answer.Status, text)
	}
	return json.Unmarshal(text, into)
}

// joinAgentOfDCOS makes the master's host what an agent of DC/OS is, with a container at 9.0.250.5: what dcos-net
// reads in the agents' documents it writes as permanent rows (net.md A5), and nothing else tells it of them.
func joinAgentOfDCOS(t *testing.T, m *lab.Host, peer string, state compat.State, task netip.Addr) {
	t.Helper()
	const mac = "70:b3:d5:80:00:fb" // of 44.128.0.251
	commands := []string{
		"weft node add agent-250 --vtep " + m.Addr.String() + " --network dcos --block 9.0.250.0/24 --mac " + mac,
		"ip link add vtep1024 address " + mac + " type vxlan id 1024 dstport 64000 local " + m.Addr.String(),
		"ip link set vtep1024 mtu 1450 up",
		"ip address add 44.128.0.251/20 dev vtep1024",
		"ip link add m-dcos type bridge",
		"ip link set m-dcos up",
		"ip address add 9.0.250.5/25 dev m-dcos",
	}
	for _, a := range state.Agents {
		x := a.Overlays[0].Backend.VXLAN
		vtep, _, _ := strings.Cut(x.VTEPIP, "/")
		commands = append(commands, fmt.Sprintf("ip neigh add %s lladdr %s dev vtep1024 nud permanent", vtep, x.VTEPMAC),
			fmt.Sprintf("bridge fdb add %s dev vtep1024 dst %s", x.VTEPMAC, a.IP),
			fmt.Sprintf("ip route add %s via %s dev vtep1024 src 9.0.250.5", a.Overlays[0].Subnet, vtep))
	}
	for _, command := range commands {
		words := strings.Fields(command)
		if out, err := m.Command(t.Context(), words[0], words[1:]...).Output(); err != nil {
			t.Fatalf("%s: %v: %s", command, err, out)
		}
	}
	serve := m.Command(t.Context(), peer, "serve", "-name", "agent", "-tcp", "9090")
	if err := serve.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = serve.Wait() }) // it ends with the lab
	eventually(t, func() error {
		out, err := m.Command(t.Context(), peer, "ask", "tcp", task.String()+":80").Output()
		if err == nil && !strings.Contains(out, "server 9.0.250.5") {
			err = errors.New("answered " + out)
		}
		return err
	})
	// Its device learns who sends: nodes by the MACs that their documents say.
	if rows, err := m.Command(t.Context(), "bridge", "fdb", "show", "dev", "vtep1024").Output(); err != nil || strings.Contains(rows, "0a:") {
		t.Errorf("a node sends with another MAC than its documents': %v\n%s", err, rows)
	}
}

// TestDCOSPreset makes the networks of docs/dcos.md and reads what DC/OS' own checks read: the masters' and the
// agents' documents agree, are all STATUS_OK before any task is, and stay over restarts. Networks and families are
// added to agents that have some, and agents deleted.
func TestDCOSPreset(t *testing.T) {
	preset := []string{"--preset", "dcos"}
	netd := append([]string{"--dns", "127.0.0.1:61053"}, preset...) // where Admin Router of a master asks
	l := labtest.Up(t, lab.Options{Hosts: 3, MTU: 9000, Netd: netd, Master: preset})
	m, peer := l.Masters[0], labtest.Build(t, "tests/e2e/peer")
	text, err := os.ReadFile("../../docs/dcos.md")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if command, ok := strings.CutPrefix(strings.TrimSpace(line), "weft network "); ok {
			if _, err := m.Weft(t.Context(), append([]string{"network"}, strings.Fields(command)...)...).Output(); err != nil {
				t.Fatal(err)
			}
		}
	}
	var state compat.State
	overlays := 2 // of each agent
	read := func() error {
		state = compat.State{}
		if err := fetch(m, "GET", "http://127.0.0.1:5050/overlay-master/state", "", &state); err != nil {
			return err
		}
		if len(state.Agents) != 3 {
			return fmt.Errorf("%d agents, want 3", len(state.Agents))
		}
		for _, a := range state.Agents {
			for _, o := range a.Overlays {
				if o.State.Status != compat.StatusOK || len(a.Overlays) != overlays {
					return fmt.Errorf("agent %s: overlays %+v", a.IP, a.Overlays)
				}
			}
		}
		return nil
	}
	eventually(t, read)
	blocks := make(map[string]bool)
	for i, h := range l.Hosts {
		var mine compat.Agent
		eventually(t, func() error { // what the master decided is on its way to the agent, and what the agent said to the master
			mine = compat.Agent{}
			err := errors.Join(read(), fetch(h, "GET", "http://127.0.0.1:5051/overlay-agent/overlay", "", &mine))
			if mine.Attempts = nil; err == nil && !reflect.DeepEqual(mine, state.Agents[i]) {
				err = fmt.Errorf("%s says %+v, the master %+v", h.Name, mine, state.Agents[i])
			}
			return err
		})
		blocks[mine.Overlays[0].Subnet] = true
		if x := mine.Overlays[0].Backend.VXLAN; x.VNI != 1024 || !strings.HasPrefix(x.VTEPMAC, "70:b3:d5:80:00:0") || x.VTEPMTU != 8950 {
			t.Errorf("%s: %+v", h.Name, x)
		}
	}
	// A master answers for the agent of its host, which has none here.
	if err := fetch(m, "GET", "http://127.0.0.1:5050/overlay-agent/overlay", "", &compat.Agent{}); err == nil ||
		!strings.Contains(err.Error(), "404") || !strings.Contains(err.Error(), "no node is at "+m.Addr.String()) {
		t.Errorf("the agent of a master's host: %v", err)
	}
	if !blocks["9.0.0.0/24"] || !blocks["9.0.1.0/24"] || !blocks["9.0.2.0/24"] {
		t.Errorf("got blocks %v, want the three lowest", blocks)
	}

	// Tasks without groups talk, through tunnels at DC/OS' port.
	server := l.Hosts[0].Weft(t.Context(), "run", "--network", "dcos", "--name", "server", "--", peer, "serve", "-name", "server", "-tcp", "80")
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Signal(syscall.SIGTERM) // the lab's end ends it anyway
		_ = server.Wait()
	})
	eventually(t, func() error {
		_, err := l.Hosts[1].Weft(t.Context(), "run", "--network", "dcos", "--name", "client", "--", peer, "ask", "tcp", "server:80").Output()
		return err
	})
	// Names are answered at each of DC/OS' three addresses, to processes of the host and to tasks, and where it was asked for.
	for at, port := range map[string]string{"198.51.100.1": "53", "198.51.100.2": "53", "198.51.100.3": "53", "127.0.0.1": "61053"} {
		dig := []string{"dig", "+short", "+time=2", "+tries=1", "-p", port, "@" + at, "server.weft.autoip.dcos.thisdcos.directory"}
		eventually(t, func() error {
			out, err := l.Hosts[0].Command(t.Context(), dig[0], dig[1:]...).Output()
			if err == nil && !strings.HasPrefix(out, "9.0.") {
				err = fmt.Errorf("%s answers %q", at, out)
			}
			return err
		})
		if port != "53" {
			continue // a task has a loopback of its own
		}
		out, err := l.Hosts[0].Weft(t.Context(), append([]string{"task", "exec", "server", "--"}, dig...)...).Output()
		if err != nil || !strings.HasPrefix(out, "9.0.") {
			t.Errorf("a task asks %s: %q, %v", at, out, err)
		}
	}
	if ports, err := l.Hosts[0].Command(t.Context(), "cat", "/proc/net/udp").Output(); err != nil || !strings.Contains(ports, ":FA00 ") {
		t.Errorf("nobody is at UDP port 64000: %s %v", ports, err)
	}

	task, err := taskOf(t, l.Hosts[0], "server")
	if err != nil || task.MTU != 8950 {
		t.Fatalf("the task has MTU %d, %v, want that of the documents", task.MTU, err)
	}
	joinAgentOfDCOS(t, m, peer, state, task.Addr4)
	text6, err := l.Hosts[0].Weft(t.Context(), "task", "exec", "server", "--", peer, "ask", "tcp", "9.0.250.5:9090").Output()
	if err != nil || !strings.Contains(text6, "agent") {
		t.Errorf("a task asks a container of an agent of DC/OS: %v: %s", err, text6)
	}

	// Networks that are added later, and a family that is, have a block of every agent; what was there stays.
	was := state
	for _, args := range []string{
		"network add later --vni 1026 --subnet 12.0.0.0/24 --block 26 --ungrouped open",
		"network add later6 --vni 1027 --subnet6 fd04::/64 --block6 80 --ungrouped open",
		"network set dcos --subnet6 fd05::/64 --block6 80",
	} {
		if _, err := m.Weft(t.Context(), strings.Fields(args)...).Output(); err != nil {
			t.Fatal(err)
		}
	}
	overlays = 4
	eventually(t, read)
	first := make(map[string]bool)
	for i, a := range state.Agents {
		dcos, had := a.Overlays[0], was.Agents[i].Overlays[0]
		if dcos.Subnet != had.Subnet || dcos.Backend != had.Backend || had.Subnet6 != "" || !reflect.DeepEqual(a.Overlays[1], was.Agents[i].Overlays[1]) {
			t.Errorf("agent %s: what it had is %+v and %+v, was %+v", a.IP, dcos, a.Overlays[1], was.Agents[i].Overlays)
		}
		first[dcos.Subnet6], first[a.Overlays[2].Subnet], first[a.Overlays[3].Subnet6] = true, true, true
	}
	for _, block := range []string{"fd05::/80", "12.0.0.0/26", "fd04::/80"} {
		if !first[block] {
			t.Errorf("no agent has %s, the first block: %v", block, first)
		}
	}

	// Restarts of master and agent change nothing; an agent that is gone is deleted, one that lives is not.
	before := state
	if err := m.Signal("master", syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(l.Hosts[1].Signal("netd", syscall.SIGKILL), l.Hosts[1].StartNetd(), m.StartMaster()); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if err := read(); err != nil {
			return err
		}
		for i, a := range state.Agents { // what the ledger has is there at once; the agents' MTUs when they have spoken
			for k, o := range a.Overlays {
				if was := before.Agents[i].Overlays[k]; o.Subnet != was.Subnet || o.Subnet6 != was.Subnet6 {
					t.Errorf("after restarts agent %s has %s and %s, had %s and %s", a.IP, o.Subnet, o.Subnet6, was.Subnet, was.Subnet6)
				}
			}
		}
		if !reflect.DeepEqual(before, state) {
			return fmt.Errorf("after restarts: %+v, was %+v", state, before)
		}
		return nil
	})
	remove := func(h *lab.Host) error {
		return fetch(m, "POST", "http://127.0.0.1:5050/overlay-master/agents/delete", fmt.Sprintf(`{"agents": [%q]}`, h.Addr), &state)
	}
	eventually(t, func() error {
		if err := remove(l.Hosts[0]); err == nil || !strings.Contains(err.Error(), "409") {
			return fmt.Errorf("an agent that lives: %w", err)
		}
		return nil
	})
	if err := errors.Join(l.Hosts[2].Signal("netd", syscall.SIGKILL), l.Hosts[2].Cut(true)); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if err := remove(l.Hosts[2]); err != nil {
			return err
		}
		if len(state.Agents) != 2 {
			return fmt.Errorf("%d agents, want 2", len(state.Agents))
		}
		return nil
	})
	// It comes back as a new agent, and has the lowest free block.
	if err := errors.Join(l.Hosts[2].Cut(false), l.Hosts[2].StartNetd()); err != nil {
		t.Fatal(err)
	}
	eventually(t, read)
	if got := state.Agents[2].Overlays[0].Subnet; got != before.Agents[2].Overlays[0].Subnet {
		t.Errorf("the next agent has %s, want the block that is free", got)
	}
	noRoomForAll(t, l)
}

// noRoomForAll adds an overlay that has one block: the agents without one are failed, with the masters' reason, in their
// own documents as in the master's. The other overlays are what they were.
func noRoomForAll(t *testing.T, l *lab.Lab) {
	t.Helper()
	if _, err := l.Masters[0].Weft(t.Context(), "network", "add", "small", "--vni", "1030", "--subnet", "12.0.1.0/26", "--block", "26").Output(); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		var state compat.State
		if err := fetch(l.Masters[0], "GET", "http://127.0.0.1:5050/overlay-master/state", "", &state); err != nil {
			return err
		}
		got := make(map[string]int)
		for i, a := range state.Agents {
			var mine compat.Agent
			if err := fetch(l.Hosts[i], "GET", "http://127.0.0.1:5051/overlay-agent/overlay", "", &mine); err != nil {
				return err
			}
			if mine.Attempts = nil; !reflect.DeepEqual(mine, a) {
				return fmt.Errorf("%s says %+v, the master %+v", l.Hosts[i].Name, mine, a)
			}
			for _, o := range a.Overlays {
				got[o.Info.Name+" "+o.State.Status]++
				if o.State.Status == compat.StatusFailed && !strings.Contains(o.State.Error, "network small has no free block left") {
					return fmt.Errorf("agent %s: %+v", a.IP, o)
				}
			}
		}
		want := map[string]int{"dcos STATUS_OK": 3, "dcos6 STATUS_OK": 3, "later STATUS_OK": 3, "later6 STATUS_OK": 3, "small STATUS_OK": 1, "small STATUS_FAILED": 2}
		if !reflect.DeepEqual(got, want) {
			return fmt.Errorf("overlays are %v, want %v", got, want)
		}
		return nil
	})
}
