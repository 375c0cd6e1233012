// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"weft/overlay"
	"weft/tests/lab"
	"weft/tests/lab/labtest"
)

// TestSeveralNetworks runs a task in two networks: each by its own interface, address and groups, and
// no packet inside of them with another source than its sender's.
func TestSeveralNetworks(t *testing.T) {
	l := labtest.Up(t, lab.Options{Hosts: 2})
	peer := labtest.Build(t, "tests/e2e/peer")
	h1, h2 := l.Hosts[0], l.Hosts[1]
	weft := func(args ...string) string {
		t.Helper()
		out, err := h1.Weft(t.Context(), args...).Output()
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	for _, args := range []string{
		"network add red --subnet 9.1.0.0/16 --subnet6 fd01:b:1::/64", "network add blue --subnet 9.2.0.0/16",
		"group add red web", "group add blue tools",
	} {
		weft(strings.Fields(args)...)
	}
	run := func(h *lab.Host, flags string) {
		t.Helper()
		args := append([]string{"run"}, strings.Fields(flags)...)
		name := args[len(args)-1]
		cmd := h.Weft(t.Context(), append(args, "--", peer, "serve", "-name", name, "-tcp", "80", "-udp", "80")...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Signal(syscall.SIGTERM) // the lab's end ends it anyway
			_ = cmd.Wait()
		})
		eventually(t, func() error { _, err := h.Weft(t.Context(), "name", "show", name+".weft.mesos").Output(); return err })
	}
	run(h1, "--network red --group web --network blue --group tools --vip /both:80=80 --name both")
	run(h2, "--network red --group web --vip /shop:80=80 --name red1")
	run(h2, "--network blue --group tools --name blue1")
	run(h1, "--network blue --group tools --name blue2")

	addrs := make(map[string]netip.Addr) // of a task in a network
	for _, h := range l.Hosts {
		out, err := h.Weft(t.Context(), "task", "list", "-o", "json").Output()
		var endpoints []overlay.Endpoint
		if err == nil {
			err = json.Unmarshal([]byte(out), &endpoints)
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range endpoints {
			addrs[e.Name+" "+e.Network] = e.Addr4
		}
	}
	asks := func(h *lab.Host, task, to, want string) {
		t.Helper()
		args := []string{peer, "ask", "-timeout", "500ms", "tcp", to}
		if task != "" {
			args = append([]string{l.Binary, "task", "exec", task, "--"}, args...)
		}
		eventually(t, func() error {
			out, err := h.Command(t.Context(), args[0], args[1:]...).Output()
			if err == nil && strings.TrimSpace(out) != want {
				err = fmt.Errorf("%s asks %s: got %q, want %q", task, to, out, want)
			}
			return err
		})
	}
	at := func(task string) string { return netip.AddrPortFrom(addrs[task], 80).String() }
	asks(h1, "both", at("red1 red"), "red1 "+addrs["both red"].String())
	asks(h1, "both", at("blue1 blue"), "blue1 "+addrs["both blue"].String())
	asks(h1, "both", at("blue2 blue"), "blue2 "+addrs["both blue"].String())
	asks(h2, "red1", at("both red"), "both "+addrs["red1 red"].String())
	asks(h2, "blue1", at("both blue"), "both "+addrs["blue1 blue"].String())
	asks(h1, "", at("both blue"), "both "+h1.Addr.String())
	// The VIPs of a namespace are those of its first network.
	asks(h1, "both", "shop.weft.l4lb.thisdcos.directory:80", "red1 "+addrs["both red"].String())
	asks(h2, "blue1", "both.weft.l4lb.thisdcos.directory:80", "both "+addrs["blue1 blue"].String())

	// What a task opens to its own node arrives as the task's.
	server := h1.Command(t.Context(), peer, "serve", "-name", "node", "-tcp", "8080")
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = server.Process.Kill(), server.Wait() })
	asks(h1, "both", netip.AddrPortFrom(h1.Addr, 8080).String(), "node "+addrs["both red"].String())

	for _, want := range []string{"default via 169.254.1.1 dev eth0", "9.2.0.0/16 via 169.254.1.1 dev eth1"} {
		if routes := weft("task", "exec", "both", "--", "ip", "-4", "route"); !strings.Contains(routes, want) {
			t.Errorf("routes of the task lack %q:\n%s", want, routes)
		}
	}
	weft("task", "kill", "both")
	eventually(t, func() error {
		if list := weft("task", "list"); strings.Contains(list, "both") {
			return fmt.Errorf("the task is still there:\n%s", list)
		}
		return nil
	})
}
