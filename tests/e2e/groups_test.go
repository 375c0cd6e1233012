// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"weft/overlay"
	"weft/tests/lab"
	"weft/tests/lab/labtest"
)

// members are the tasks of the matrix: where they run and which groups they are in.
var members = []struct {
	name, groups string
	host         int
}{
	{"a1", "a", 0},
	{"b1", "b", 0},
	{"ab1", "a,b", 0},
	{"no1", "", 0},
	{"a2", "a", 1},
	{"b2", "b", 1},
	{"ab2", "a,b", 1},
	{"no2", "", 1},
	{"pa", "star-1", 0},
	{"pb", "star-1", 1},
	{"pc", "star-2", 0},
	{"pd", "star-2", 1},
	{"collector", "star-1,star-2,public", 1},
}

// mayTalk is the model: groups in common, none on both sides, or a public receiver.
func mayTalk(from, to string) bool {
	if from == to || strings.Contains(to, "public") {
		return true
	}
	for g := range strings.SplitSeq(from, ",") {
		for h := range strings.SplitSeq(to, ",") {
			if g == h && g != "" {
				return true
			}
		}
	}
	return false
}

// aVIP leads to a2.
const aVIP = "198.51.100.88:80"

// grid is the matrix's lab.
type grid struct {
	*testing.T
	lab   *lab.Lab
	peer  string
	addrs map[string]netip.Addr
	hosts map[string]*lab.Host
}

// TestAddressGroupMatrix asks every task for every other one, on the same host and across, then moves
// members and rules under streams that go on.
func TestAddressGroupMatrix(t *testing.T) {
	g := &grid{
		T: t, lab: labtest.Up(t, lab.Options{Hosts: 2}), peer: labtest.Build(t, "tests/e2e/peer"),
		addrs: map[string]netip.Addr{}, hosts: map[string]*lab.Host{},
	}
	g.weft(0, "network add grid --subnet 9.3.0.0/16")
	for _, group := range []string{"a", "b", "star-1", "star-2"} {
		g.weft(0, "group add grid "+group)
	}
	for _, m := range members {
		var flags []string
		if m.name == "a2" {
			flags = []string{"--vip", aVIP + "=80"}
		}
		g.start(m.name, m.groups, g.lab.Hosts[m.host], flags...)
	}
	g.weft(0, "network add twin --subnet 9.4.0.0/16")
	g.weft(0, "group add twin a")
	g.start("twin", "a", g.lab.Hosts[0], "--network", "twin")
	g.find(len(members) + 1)
	t.Run("matrix", func(t *testing.T) { (&grid{t, g.lab, g.peer, g.addrs, g.hosts}).matrix() })
	t.Run("outside", func(t *testing.T) { (&grid{t, g.lab, g.peer, g.addrs, g.hosts}).outside() })
	t.Run("flows follow", func(t *testing.T) { (&grid{t, g.lab, g.peer, g.addrs, g.hosts}).follow() })
	t.Run("a killed task leaves nothing", func(t *testing.T) { (&grid{t, g.lab, g.peer, g.addrs, g.hosts}).killed() })
}

func (g *grid) weft(host int, args string) {
	g.Helper()
	if _, err := g.lab.Hosts[host].Weft(g.Context(), strings.Fields(args)...).Output(); err != nil {
		g.Fatal(err)
	}
}

// start runs a task in network grid, unless the flags name another one.
func (g *grid) start(name, groups string, h *lab.Host, flags ...string) *lab.Cmd {
	g.Helper()
	if !slices.Contains(flags, "--network") {
		flags = append(flags, "--network", "grid")
	}
	args := append([]string{"run", "--name", name}, flags...)
	for _, group := range strings.FieldsFunc(groups, func(r rune) bool { return r == ',' }) {
		args = append(args, "--group", group)
	}
	cmd := h.Weft(g.Context(), append(args, "--", g.peer, "serve", "-name", name, "-tcp", "80", "-udp", "80")...)
	if err := cmd.Start(); err != nil {
		g.Fatal(err)
	}
	g.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // the lab's end ends it anyway
		_ = cmd.Wait()
	})
	g.hosts[name] = h
	return cmd
}

// find waits until there are that many tasks and takes down their addresses.
func (g *grid) find(tasks int) {
	g.Helper()
	eventually(g.T, func() error {
		clear(g.addrs)
		for _, h := range g.lab.Hosts {
			out, err := h.Weft(g.Context(), "task", "list", "-o", "json").Output()
			var endpoints []overlay.Endpoint
			if err == nil {
				err = json.Unmarshal([]byte(out), &endpoints)
			}
			if err != nil {
				return err
			}
			for _, e := range endpoints {
				g.addrs[e.Name] = e.Addr4
			}
		}
		if len(g.addrs) != tasks {
			return fmt.Errorf("%d of %d tasks are there", len(g.addrs), tasks)
		}
		return nil
	})
}

// ask lets a task ask another by tcp or udp, or ping it, once.
func (g *grid) ask(from, to, protocol string) error {
	if protocol == "ping" {
		_, err := g.hosts[from].Weft(g.Context(), "task", "exec", from, "--", "busybox", "ping", "-c", "1", "-W", "1", g.addrs[to].String()).Output()
		return err
	}
	return g.askAt(from, to, protocol, netip.AddrPortFrom(g.addrs[to], 80).String())
}

// askAt is ask by an address that may be a VIP's.
func (g *grid) askAt(from, to, protocol, at string) error {
	out, err := g.hosts[from].Weft(g.Context(), "task", "exec", from, "--", g.peer, "ask", "-timeout", "400ms", protocol, at).Output()
	if err == nil && !strings.HasPrefix(out, to+" "+g.addrs[from].String()) {
		return fmt.Errorf("answered %q", out)
	}
	return err
}

// heard asks once where no answer may come, else until one does: many ask at once, and an answer may take longer than a
// question waits.
func heard(may bool, ask func() error) error {
	if may {
		return becomes(ask)
	}
	return ask()
}

func (g *grid) matrix() {
	// What is to pass first, and until it does: the last task's identity may still be on its way.
	var wait sync.WaitGroup
	for _, from := range members {
		for _, to := range members {
			if from.name != to.name && mayTalk(from.groups, to.groups) && from.host != to.host {
				eventually(g.T, func() error { return g.ask(from.name, to.name, "tcp") })
			}
		}
	}
	for _, from := range members {
		wait.Go(func() {
			for i, to := range members {
				if from.name == to.name {
					continue
				}
				protocol := []string{"tcp", "udp", "ping"}[i%3]
				may := mayTalk(from.groups, to.groups)
				if err := heard(may, func() error { return g.ask(from.name, to.name, protocol) }); (err == nil) != may {
					g.Errorf("%s (%s) asks %s (%s) by %s: got %v", from.name, from.groups, to.name, to.groups, protocol, err)
				}
			}
		})
	}
	wait.Wait()
	for _, from := range members {
		ask := func() error { return g.askAt(from.name, "a2", "tcp", aVIP) }
		if from.name == "a2" {
			continue
		}
		if mayTalk(from.groups, "a") {
			eventually(g.T, ask)
		} else if err := ask(); err == nil {
			g.Errorf("%s (%s) asks the VIP of a2 (a), and is answered", from.name, from.groups)
		}
	}
	if err := g.ask("a1", "twin", "tcp"); err == nil {
		g.Error("a group of the same name in another network is reached")
	}
}

// outside asks from what is in no network: each task is heard by its own node, the public one by all, and hosts hear
// each other as without Weft.
func (g *grid) outside() {
	server := g.lab.Hosts[1].Command(g.Context(), g.peer, "serve", "-name", "host", "-tcp", "9000")
	if err := server.Start(); err != nil {
		g.Fatal(err)
	}
	g.Cleanup(func() { _, _ = server.Process.Kill(), server.Wait() })
	h1, h2 := g.lab.Hosts[0], g.lab.Hosts[1]
	ask := func(from *lab.Host, to netip.AddrPort) error {
		_, err := from.Command(g.Context(), g.peer, "ask", "-timeout", "400ms", "tcp", to.String()).Output()
		return err
	}
	eventually(g.T, func() error { return ask(h1, netip.AddrPortFrom(h2.Addr, 9000)) })
	eventually(g.T, func() error { return ask(h1, netip.AddrPortFrom(g.addrs["collector"], 80)) })
	for to, from := range map[string]*lab.Host{"a1": h1, "pb": h2, "no1": h2} { // tasks in no group hear all nodes
		if err := becomes(func() error { return ask(from, netip.AddrPortFrom(g.addrs[to], 80)) }); err != nil {
			g.Errorf("%s asks %s: %v", from.Name, to, err)
		}
	}
	for to, from := range map[string]*lab.Host{"a1": h2, "pb": h1} {
		if err := ask(from, netip.AddrPortFrom(g.addrs[to], 80)); err == nil {
			g.Errorf("%s asks %s, which is not public, and is answered", from.Name, to)
		}
	}
	for to, public := range map[string]bool{"collector": true, "pb": false} {
		at := netip.AddrPortFrom(g.addrs[to], 80)
		if err := g.lab.Route(at.Addr(), h2); err != nil {
			g.Fatal(err)
		}
		err := heard(public, func() error {
			return g.lab.InWorld(func() error {
				c, err := net.DialTimeout("tcp", at.String(), 400*time.Millisecond)
				if err == nil {
					err = c.Close()
				}
				return err
			})
		})
		if (err == nil) != public {
			g.Errorf("the world asks %s: got %v", to, err)
		}
	}
}

// killed ends a task as nobody should: its address is the next one's.
func (g *grid) killed() {
	all := len(members) + 1
	run := g.start("victim", "b", g.lab.Hosts[0])
	g.find(all + 1)
	had := g.addrs["victim"]
	if err := run.Process.Kill(); err != nil {
		g.Fatal(err)
	}
	g.find(all)
	g.start("heir", "a", g.lab.Hosts[0])
	g.find(all + 1)
	if g.addrs["heir"] != had {
		g.Errorf("the next task has %s, want %s", g.addrs["heir"], had)
	}
	eventually(g.T, func() error { return g.ask("a2", "heir", "tcp") })
	if err := g.ask("b2", "heir", "tcp"); err == nil {
		g.Error("the address is still judged by the groups of who had it before")
	}
}

// tally is what peer stream prints.
type tally struct{ Sent, Received, Lost int }

// stream sends from one task to a sink while change is made, and tells what came through.
func (g *grid) stream(from, sink string, change func() error) tally {
	g.Helper()
	at := netip.AddrPortFrom(g.addrs[sink], 9000).String()
	out, err := g.hosts[from].Weft(g.Context(), "task", "exec", from, "--", g.peer, "stream", "-rate", "500", "-for", "5s", at).During(change)
	if err != nil {
		g.Fatal(err)
	}
	var got tally
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		g.Fatalf("stream: %v: %s", err, out)
	}
	return got
}

// follow changes what an open flow may.
func (g *grid) follow() {
	open := g.hosts["a2"].Weft(g.Context(), "task", "exec", "a2", "--", g.peer, "sink", "-udp", "9000")
	if err := open.Start(); err != nil {
		g.Fatal(err)
	}
	g.Cleanup(func() { _, _ = open.Process.Kill(), open.Wait() })
	for name, change := range map[string]struct{ cut, mend string }{
		"membership": {"task groups a2 --group b", "task groups a2 --group a"},
		"a rule":     {"rule add grid --from a --to a --port udp --action deny", "rule remove grid 1"},
	} {
		got := g.stream("a1", "a2", func() error {
			g.weft(1, change.cut)
			eventually(g.T, func() error { // an answer takes 400 ms to fail: 200 packets of the stream
				if g.ask("a1", "a2", "udp") == nil {
					return fmt.Errorf("%s: a new flow is let in", name)
				}
				return nil
			})
			g.weft(1, change.mend)
			return nil
		})
		if got.Lost < 100 || got.Received < 100 {
			g.Errorf("%s: got %+v of a flow that was cut for a time and then went on", name, got)
		}
	}
}
