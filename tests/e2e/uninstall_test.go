// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"

	"weft/tests/lab"
	"weft/tests/lab/labtest"
)

// remains is what a node daemon changes on a host.
func remains(t *testing.T, h *lab.Host) map[string]string {
	t.Helper()
	found := map[string]string{"pins": fmt.Sprint(h.CountPins())}
	for _, command := range []string{
		"ip -o link", "ip -o address", "ip route show table all", "ip -6 route show table all", "ip rule", "ip -6 rule",
		"cat /proc/sys/net/ipv4/ip_forward", "cat /proc/sys/net/ipv6/conf/all/forwarding", "cat /proc/sys/net/ipv6/conf/eth0/accept_ra",
	} {
		words := strings.Fields(command)
		out, err := h.Command(t.Context(), words[0], words[1:]...).Output()
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(out, "\n") // routes have no order
		slices.Sort(lines)
		found[command] = strings.Join(lines, "\n")
	}
	err := h.In(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		tables, err := conn.ListTables()
		for _, table := range tables {
			found["nftables"] += table.Name + " "
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestUninstallLeavesTheHostAsItWas, refuses while something is at work, and lets the node come back.
func TestUninstallLeavesTheHostAsItWas(t *testing.T) {
	l := labtest.Up(t, lab.Options{Hosts: 1, Bare: true})
	h := l.Hosts[0]
	var before map[string]string
	eventually(t, func() error { // until the underlay has its link-local address, and has probed it for a second
		before = remains(t, h)
		if list := before["ip -o address"]; strings.Contains(list, "tentative") || !strings.Contains(list, "fe80::") {
			return errors.New(list)
		}
		return nil
	})
	if err := errors.Join(l.Masters[0].StartMaster(), h.StartNetd(), h.WaitReady(t.Context())); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		_, err := h.Weft(t.Context(), "network", "add", "prod", "--subnet", "9.1.0.0/16", "--subnet6", "fd01:b:1::/64").Output()
		return err
	})
	run := func(name string, flags ...string) {
		t.Helper()
		args := append([]string{"run", "--network", "prod", "--name", name}, flags...)
		task := h.Weft(t.Context(), append(args, "--", "sleep", "1000")...)
		if err := task.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = task.Wait() }) // it ends with the lab
		eventually(t, func() error { _, err := taskOf(t, h, name); return err })
	}
	run("first", "--publish", "8080:80")
	uninstall := func(args ...string) (string, error) {
		args = append([]string{"netd", "uninstall", "--state", h.Dir + "/netd", "--socket", h.Socket(), "--pin", h.Pins(), "--cgroup", h.Cgroup()}, args...)
		return h.Weft(t.Context(), args...).Output()
	}
	if out, err := uninstall("--force"); err == nil || !strings.Contains(err.Error(), "a node daemon runs") {
		t.Errorf("beside a daemon: %v: %s", err, out)
	}
	if err := h.Signal("netd", syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if out, err := uninstall(); err == nil || !strings.Contains(err.Error(), "tasks are attached by weft") {
		t.Errorf("with a task: %v: %s", err, out)
	}
	out, err := uninstall("--force")
	if err != nil {
		t.Fatal(err)
	}
	wantPrinted(t, out, "of a task", "programs and maps pinned at "+h.Pins(), "device weft0", "device weft-vx0", "nftables table inet weft",
		"address 198.51.100.1 of lo", "sysctl net/ipv4/ip_forward, which is 0 again")
	if diff := cmp.Diff(before, remains(t, h)); diff != "" {
		t.Errorf("-before +after\n%s", diff)
	}
	if out, err := uninstall(); err != nil || out != "" {
		t.Errorf("again: %v: %s", err, out)
	}
	// The node comes back as it was before, without the task.
	if err := errors.Join(h.StartNetd(), h.WaitReady(t.Context())); err != nil {
		t.Fatal(err)
	}
	run("second")
	if log := h.Tail("netd", 1000); strings.Contains(log, "kernel half was removed") {
		t.Errorf("the daemon takes it for an accident:\n%s", log)
	}
}
