// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net/netip"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"weft/tests/lab"
	"weft/tests/lab/labtest"
)

// TestEdgeOverIPv6 has hosts with IPv6 addresses alone: a client outside reaches a VIP of that family, by an edge node,
// on another node and on the edge node itself.
func TestEdgeOverIPv6(t *testing.T) {
	l := labtest.Up(t, lab.Options{Hosts: 2, IPv6: true, Netd: []string{"--edge", "eth0"}})
	h1, h2 := l.Hosts[0], l.Hosts[1]
	vip := netip.MustParseAddrPort("[2001:db8:10::10]:80")
	publishWeb(t, l, vip)
	shows := func(edges string) {
		t.Helper()
		want := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(vip.String()) + `/tcp +web\.weft:80/tcp +prod +direct +` + regexp.QuoteMeta(edges) + `$`)
		eventually(t, func() error {
			out, err := h1.Weft(t.Context(), "vip", "show", "web").Output()
			if err == nil && !want.MatchString(out) {
				err = fmt.Errorf("got %s, want %s", out, want)
			}
			return err
		})
	}
	shows("h1,h2") // before it has a backend
	if err := h2.Signal("netd", syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	shows("h1,h2 (late)")
	if err := h2.Signal("netd", syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	shows("h1,h2")
	for _, h := range []*lab.Host{h2, h1} {
		end := runWeb(t, h)
		client := outside{l}
		eventually(t, func() error {
			c, err := client.dial(t.Context(), "tcp", vip)
			if err != nil {
				return err
			}
			defer func() { _ = c.Close() }()
			if want := "on-" + h.Name; c.server != want {
				return fmt.Errorf("%s answers, want %s", c.server, want)
			}
			return nil
		})
		shows("h1,h2")
		end()
	}
}

// TestEdgeSendsToATaskThatRuns: as soon as a task is said to run, the first connection by way of the edge is served; and
// none goes to one that was told to end. Tables of many publications take the edge some time to write.
func TestEdgeSendsToATaskThatRuns(t *testing.T) {
	l := labtest.Up(t, lab.Options{Hosts: 2, Netd: []string{"--edge", "eth0"}})
	h1, h2 := l.Hosts[0], l.Hosts[1]
	vip := netip.MustParseAddrPort("198.51.100.10:80")
	publishWeb(t, l, vip)
	for i := range 16 {
		publish := fmt.Sprintf("vip publish prod web:80 --address 198.51.100.%d", 11+i)
		if _, err := h1.Weft(t.Context(), strings.Fields(publish)...).Output(); err != nil {
			t.Fatal(err)
		}
	}
	client := outside{l}
	var ends []func()
	for i := range 4 {
		ends = append(ends, runWeb(t, []*lab.Host{h1, h2}[i%2]))
		if i > 0 {
			ends[i-1]() // returns when its task has ended
		}
		want := "on-" + []*lab.Host{h1, h2}[i%2].Name
		c, err := client.dial(t.Context(), "tcp", vip)
		if err != nil {
			t.Fatalf("task %d runs, but the first connection fails: %v", i, err)
		}
		if c.server != want {
			t.Errorf("task %d: %s answers, want %s, which alone runs", i, c.server, want)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}

// publishWeb makes a network whose group web the world reaches, and publishes its VIP at an address that leads to h1.
func publishWeb(t *testing.T, l *lab.Lab, vip netip.AddrPort) {
	t.Helper()
	for _, args := range []string{
		"network add prod --subnet 9.1.0.0/16 --subnet6 fd01:b:1::/64", "group add prod web",
		"rule add prod --from world --to web --port tcp/8080", "vip publish prod web:80 --address " + vip.Addr().String(),
	} {
		if _, err := l.Hosts[0].Weft(t.Context(), strings.Fields(args)...).Output(); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Route(vip.Addr(), l.Hosts[0]); err != nil {
		t.Fatal(err)
	}
}

// runWeb starts a task behind the VIP, and returns when it is said to run. end ends it.
func runWeb(t *testing.T, h *lab.Host) (end func()) {
	t.Helper()
	name := "on-" + h.Name
	peer := labtest.Build(t, "tests/e2e/peer")
	task := h.Weft(t.Context(), "run", "--network", "prod", "--group", "web", "--name", name, "--vip", "/web:80=8080/tcp,wait=30s",
		"--health", "tcp:8080,interval=100ms", "--", peer, "serve", "-name", name, "-tcp", "8080")
	out, err := task.StderrPipe()
	if err == nil {
		err = task.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	end = func() {
		_ = task.Process.Signal(syscall.SIGTERM) // the lab's end ends it anyway
		_ = task.Wait()
	}
	t.Cleanup(end)
	for said := bufio.NewScanner(out); said.Scan(); {
		if strings.Contains(said.Text(), "is healthy") {
			go func() { _, _ = io.Copy(io.Discard, out) }() // until its end
			return end
		}
	}
	t.Fatalf("%s ended before it was healthy", name)
	return nil
}
