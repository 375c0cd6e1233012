// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"weft/tests/lab"
	"weft/tests/lab/labtest"
)

// bird is BIRD's configuration of the world's router: it learns from two edge nodes and balances over both.
const bird = `log stderr all;
router id 203.0.113.1;
protocol device { scan time 1; }
protocol kernel { merge paths on; ipv4 { import none; export all; }; }
protocol kernel { merge paths on; ipv6 { import none; export all; }; }
template bgp edge {
	local 10.77.0.254 as 64999;
	graceful restart aware;
	ipv4 { import all; export none; };
	ipv6 { import all; export none; };
}
protocol bgp h1 from edge { neighbor 10.77.0.1 as 64512; }
protocol bgp h2 from edge { neighbor 10.77.0.2 as 64512; }
`

// TestBGP tells BIRD where a published address is: not before it has a backend, by each edge node, also while a daemon
// restarts, and no more by a node that died.
func TestBGP(t *testing.T) {
	path, err := exec.LookPath("bird")
	if err != nil {
		t.Skip("needs BIRD: make test-bgp installs it")
	}
	l := labtest.Up(t, lab.Options{Hosts: 2, Netd: []string{"--edge", "eth0", "--bgp-as", "64512", "--bgp-peer", "10.77.0.254=64999"}})
	peer := labtest.Build(t, "tests/e2e/peer")
	h1, h2 := l.Hosts[0], l.Hosts[1]
	dir := t.TempDir()
	conf, control := filepath.Join(dir, "bird.conf"), filepath.Join(dir, "bird.ctl")
	if err := os.WriteFile(conf, []byte(bird), 0o600); err != nil {
		t.Fatal(err)
	}
	router := exec.CommandContext(t.Context(), path, "-f", "-c", conf, "-s", control)
	router.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := l.InWorld(router.Start); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = router.Process.Kill() // it may be gone with the test's context
		_ = router.Wait()
	})
	vip := netip.MustParseAddrPort("198.51.100.10:80")
	vip6 := netip.MustParseAddrPort("[2001:db8:10::10]:80")
	weft := func(args ...string) {
		t.Helper()
		if _, err := h2.Weft(t.Context(), args...).Output(); err != nil {
			t.Fatal(err)
		}
	}
	weft("network", "add", "prod", "--subnet", "9.1.0.0/16", "--subnet6", "fd01:b:1::/64")
	weft("group", "add", "prod", "web")
	weft("rule", "add", "prod", "--from", "world", "--to", "web", "--port", "tcp/8080")
	for _, v := range []netip.AddrPort{vip, vip6} {
		weft("vip", "publish", "prod", "web:80", "--address", v.Addr().String())
	}
	ask := func(command ...string) string {
		out, err := exec.CommandContext(t.Context(), "birdc", append([]string{"-s", control}, command...)...).CombinedOutput()
		if err != nil {
			return err.Error()
		}
		return string(out)
	}
	routes := func(want map[string]bool) func() error {
		return func() error {
			out := ask("show", "route", "for", vip.Addr().String())
			for node, has := range want {
				if strings.Contains(out, "["+node+" ") != has {
					return fmt.Errorf("route by %s: want %t, BIRD has\n%s", node, has, out)
				}
			}
			return nil
		}
	}
	sessions := func() error {
		if out := ask("show", "protocols"); strings.Count(out, "Established") != 2 {
			return fmt.Errorf("not 2 sessions:\n%s", out)
		}
		return nil
	}
	eventually(t, sessions)
	if err := routes(map[string]bool{"h1": false, "h2": false})(); err != nil {
		t.Errorf("before there is a backend: %v", err)
	}
	task := h2.Weft(t.Context(), "run", "--network", "prod", "--group", "web", "--name", "web", "--vip", "/web:80=8080", "--", peer, "serve", "-name", "on-h2", "-tcp", "8080")
	if err := task.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = task.Process.Signal(syscall.SIGTERM) // the lab's end ends it anyway
		_ = task.Wait()
	})
	eventually(t, routes(map[string]bool{"h1": true, "h2": true}))
	client := outside{l}
	var lines []*line
	for _, v := range []netip.AddrPort{vip, vip6} {
		eventually(t, func() error {
			c, err := client.dial(t.Context(), "tcp", v)
			if err != nil {
				return err
			}
			t.Cleanup(func() { _ = c.Close() })
			lines = append(lines, c)
			return nil
		})
	}
	check := func(when string) {
		t.Helper()
		for _, c := range lines {
			if _, err := c.ask(); err != nil {
				t.Fatalf("%s: %v", when, err)
			}
		}
	}
	if err := h1.Signal("netd", syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	check("a daemon is dead")
	if err := routes(map[string]bool{"h1": true, "h2": true})(); err != nil {
		t.Errorf("a daemon is dead, its node is not: %v", err)
	}
	if err := h1.StartNetd(); err != nil {
		t.Fatal(err)
	}
	eventually(t, sessions)
	if err := routes(map[string]bool{"h1": true, "h2": true})(); err != nil {
		t.Errorf("a daemon started again: %v", err)
	}
	if err := h1.Cut(true); err != nil {
		t.Fatal(err)
	}
	eventually(t, routes(map[string]bool{"h1": false, "h2": true}))
	check("a node is dead")
}
