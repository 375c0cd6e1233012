// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/nftables"

	"weft/overlay"
	"weft/tests/lab"
	"weft/tests/lab/labtest"
)

// portsStory is a task whose port is a port of its host, and all who may ask it.
type portsStory struct {
	*lab.Lab
	peer   string
	h1, h2 *lab.Host
}

// start runs a task that answers its name, in network prod unless the flags name another, and returns when its name is
// known.
func (s portsStory) start(t *testing.T, h *lab.Host, name string, flags ...string) *lab.Cmd {
	t.Helper()
	if !slices.Contains(flags, "--network") {
		flags = append(flags, "--network", "prod")
	}
	args := append([]string{"run", "--name", name}, flags...)
	cmd := h.Weft(t.Context(), append(args, "--", s.peer, "serve", "-name", name, "-tcp", "80", "-udp", "80")...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // the lab's end ends it anyway
		_ = cmd.Wait()
	})
	eventually(t, func() error { _, err := h.Weft(t.Context(), "name", "show", name+".weft.mesos").Output(); return err })
	return cmd
}

// asks runs the question on a host, or in one of its tasks, and wants an answer of web that saw one of
// the addresses; none: no answer.
func (s portsStory) asks(t *testing.T, h *lab.Host, task, protocol, to string, saw ...netip.Addr) {
	t.Helper()
	args := []string{s.peer, "ask", "-timeout", "500ms", protocol, to}
	if task != "" {
		args = append([]string{h.Weft(t.Context()).Path, "task", "exec", task, "--"}, args...)
	}
	one := func() error {
		out, err := h.Command(t.Context(), args[0], args[1:]...).Output()
		if err != nil {
			return err
		}
		who, addr, _ := strings.Cut(strings.TrimSpace(out), " ")
		for _, a := range saw {
			if who == "web" && addr == a.String() {
				return nil
			}
		}
		return fmt.Errorf("%s %s from %s %s answered %q, want web to see %v", protocol, to, h.Name, task, out, saw)
	}
	if saw == nil {
		if err := one(); err == nil || strings.Contains(err.Error(), "answered") {
			t.Errorf("%s %s from %s %s: got an answer (%v), want none", protocol, to, h.Name, task, err)
		}
		return
	}
	eventually(t, one)
}

func (s portsStory) everywhere(t *testing.T) {
	t.Helper()
	for _, protocol := range []string{"tcp", "udp"} {
		for _, on := range []struct{ node, other netip.Addr }{{s.h1.Addr, s.h2.Addr}, {s.h1.Addr6, s.h2.Addr6}} {
			to := netip.AddrPortFrom(on.node, 8080).String()
			s.asks(t, s.h2, "", protocol, to, on.other)        // another machine
			s.asks(t, s.h2, "far", protocol, to, on.other)     // a task there leaves with its node's address
			s.asks(t, s.h1, "", protocol, to, on.node)         // the node itself
			s.asks(t, s.h1, "stranger", protocol, to, on.node) // a task of the node without a group in common
			s.asks(t, s.h1, "web", protocol, to, on.node)      // the task itself
		}
		s.asks(t, s.h1, "", protocol, "127.0.0.1:8080", s.h1.Addr)
		s.asks(t, s.h2, "far", protocol, "web.weft.autoip.dcos.thisdcos.directory:8080", s.h2.Addr, s.h2.Addr6)
	}
}

// TestPorts maps a port of a host to a task, asks it from everywhere, ends and starts the daemon, and
// ends the task.
func TestPorts(t *testing.T) {
	l := labtest.Up(t, lab.Options{Hosts: 2})
	s := portsStory{Lab: l, peer: labtest.Build(t, "tests/e2e/peer"), h1: l.Hosts[0], h2: l.Hosts[1]}
	weft := func(args ...string) (string, error) { return s.h1.Weft(t.Context(), args...).Output() }
	for _, args := range [][]string{
		{"network", "add", "prod", "--subnet", "9.1.0.0/16", "--subnet6", "fd01:b:1::/64"},
		{"group", "add", "prod", "web"},
		{"group", "add", "prod", "other"},
	} {
		if _, err := weft(args...); err != nil {
			t.Fatal(err)
		}
	}
	before := tables(t, s.h1)
	web := s.start(t, s.h1, "web", "--group", "web", "--publish", "8080:80", "--publish", "8080:80/udp", "--publish", "127.0.0.1:8081:80",
		"--vip", "/web:8080=80") // a VIP's port may be the host's mapped one
	s.start(t, s.h1, "stranger", "--group", "other")
	s.start(t, s.h2, "far", "--group", "other")

	s.everywhere(t)
	own := addresses(t, s.h1, "web")
	for _, protocol := range []string{"tcp", "udp"} {
		s.asks(t, s.h1, "web", protocol, "web.weft.l4lb.thisdcos.directory:8080", own...)
	}
	s.asks(t, s.h1, "", "tcp", "127.0.0.1:8081", s.h1.Addr)
	s.asks(t, s.h2, "", "tcp", netip.AddrPortFrom(s.h1.Addr, 8081).String()) // one address only
	// The opening is for the world: groups go on to keep tasks apart.
	s.asks(t, s.h1, "stranger", "tcp", "web:80")
	s.asks(t, s.h2, "far", "tcp", "web:80")
	if out, err := weft("why", "world", "web", "tcp/80"); err != nil || !strings.Contains(out, "port 8080 of node h1 leads to web") {
		t.Errorf("why: %s %v", out, err)
	}
	for port, want := range map[string]string{"8080": "port 8080/tcp of this node leads to task web", "7701": "port 7701/tcp of this node is in use"} {
		if _, err := weft("run", "--network", "prod", "--publish", port+":80", "--", "true"); err == nil || !strings.Contains(lastLine(err), want) {
			t.Errorf("port %s: got %v, want %q", port, err, want)
		}
	}

	// A rule that denies the world is before it.
	if _, err := weft("rule", "add", "prod", "--from", "world", "--to", "web", "--port", "tcp/80", "--action", "deny"); err != nil {
		t.Fatal(err)
	}
	lets := func(want bool) {
		t.Helper()
		eventually(t, func() error {
			// With exit 1 it says no.
			if out, _ := weft("why", "world", "web", "tcp/80"); out != "" && strings.HasPrefix(out, "yes") == want {
				return nil
			}
			return errors.New("the rule, or its end, is not known yet")
		})
	}
	lets(false)
	s.asks(t, s.h2, "", "tcp", netip.AddrPortFrom(s.h1.Addr, 8080).String())
	s.asks(t, s.h2, "", "udp", netip.AddrPortFrom(s.h1.Addr, 8080).String(), s.h2.Addr)
	if _, err := weft("rule", "remove", "prod", "1"); err != nil {
		t.Fatal(err)
	}
	lets(true)

	// It outlives the daemon.
	if err := s.h1.Signal("netd", syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	s.asks(t, s.h2, "", "tcp", netip.AddrPortFrom(s.h1.Addr, 8080).String(), s.h2.Addr)
	if err := s.h1.StartNetd(); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error { _, err := weft("task", "show", "web"); return err })
	s.everywhere(t)

	// It ends with the task, and nothing of the host's firewall was touched.
	if _, err := weft("task", "kill", "web"); err != nil {
		t.Fatal(err)
	}
	if exit := new(exec.ExitError); !errors.As(web.Wait(), &exit) {
		t.Error("the killed task ended well")
	}
	eventually(t, func() error {
		if _, err := weft("task", "show", "web"); err == nil {
			return errors.New("the task is still there")
		}
		return nil
	})
	s.asks(t, s.h2, "", "tcp", netip.AddrPortFrom(s.h1.Addr, 8080).String())
	s.start(t, s.h1, "next", "--publish", "8080:80")
	if after := tables(t, s.h1); after != before {
		t.Errorf("nftables tables of the host are %s, were %s", after, before)
	}
}

// addresses are those of a task.
func addresses(t *testing.T, h *lab.Host, task string) []netip.Addr {
	t.Helper()
	out, err := h.Weft(t.Context(), "task", "show", task, "-o", "json").Output()
	if err != nil {
		t.Fatal(err)
	}
	var e overlay.Endpoint
	if err := json.Unmarshal([]byte(out), &e); err != nil {
		t.Fatal(err)
	}
	return e.Addrs()
}

// tables lists the host's nftables tables: ours is one whatever it leads where.
func tables(t *testing.T, h *lab.Host) string {
	t.Helper()
	var names []string
	err := h.In(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		list, err := conn.ListTables()
		for _, table := range list {
			names = append(names, table.Name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(names, " ")
}
