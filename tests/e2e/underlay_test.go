// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"weft/overlay"
	"weft/tests/lab"
	"weft/tests/lab/labtest"
)

// TestUnderlayOfIPv6 has hosts and masters with IPv6 addresses alone: both families inside, through a VIP
// by name, over TCP and UDP.
func TestUnderlayOfIPv6(t *testing.T) {
	l, peer := labtest.Up(t, lab.Options{Hosts: 2, IPv6: true}), labtest.Build(t, "tests/e2e/peer")
	near, far := l.Hosts[0], l.Hosts[1]
	if out, err := near.Weft(t.Context(), "network", "add", "prod", "--subnet", "9.1.0.0/16", "--subnet6", "fd01:b:1::/64").Output(); err != nil {
		t.Fatal(out, err)
	}
	run := func(h *lab.Host, name string, args ...string) {
		t.Helper()
		cmd := h.Weft(t.Context(), append([]string{"run", "--network", "prod", "--name", name}, args...)...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Wait() }) // it ends with the lab
	}
	run(far, "web", "--vip", "/web:80=8080", "--", peer, "serve", "-name", "web", "-tcp", "8080", "-udp", "8080")
	run(near, "client", "--", "sleep", "1000")
	var client, web overlay.Endpoint
	eventually(t, func() (err error) { client, err = taskOf(t, near, "client"); return err })
	eventually(t, func() (err error) { web, err = taskOf(t, far, "web"); return err })
	ask := func(want, protocol, to string) {
		t.Helper()
		eventually(t, func() error {
			out, err := near.Weft(t.Context(), "task", "exec", "client", "--", peer, "ask", "-n", "3", protocol, to).Output()
			if err == nil && !strings.Contains(out, want) {
				err = errors.New("answered " + out)
			}
			return err
		})
	}
	for _, protocol := range []string{"tcp", "udp"} {
		ask(client.Addr4.String(), protocol, fmt.Sprintf("%s:8080", web.Addr4))
		ask(client.Addr6.String(), protocol, fmt.Sprintf("[%s]:8080", web.Addr6))
		ask("web", protocol, "web.weft.l4lb.thisdcos.directory:80")
	}
}

// TestPathSmallerThanItsEnds has something between the hosts lose large packets in silence: netd finds what
// the path carries, says so, and large messages of tasks arrive in both directions.
func TestPathSmallerThanItsEnds(t *testing.T) {
	l, peer := labtest.Up(t, lab.Options{Hosts: 2}), labtest.Build(t, "tests/e2e/peer")
	near, far := l.Hosts[0], l.Hosts[1]
	if err := far.Narrow(1400); err != nil {
		t.Fatal(err)
	}
	if out, err := near.Weft(t.Context(), "network", "add", "prod", "--subnet", "9.1.0.0/16", "--subnet6", "fd01:b:1::/64").Output(); err != nil {
		t.Fatal(out, err)
	}
	for h, args := range map[*lab.Host][]string{
		far:  {"--name", "web", "--", peer, "serve", "-name", strings.Repeat("large ", 1000), "-tcp", "8080"},
		near: {"--name", "client", "--", "sleep", "1000"},
	} {
		cmd := h.Weft(t.Context(), append([]string{"run", "--network", "prod"}, args...)...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Wait() }) // it ends with the lab
	}
	var web overlay.Endpoint
	eventually(t, func() (err error) { web, err = taskOf(t, far, "web"); return err })
	eventually(t, func() error {
		if !strings.Contains(near.Tail("netd", 1000), "path is smaller") {
			return errors.New("netd does not say that the path is small")
		}
		return nil
	})
	for _, to := range []string{fmt.Sprintf("%s:8080", web.Addr4), fmt.Sprintf("[%s]:8080", web.Addr6)} {
		eventually(t, func() error {
			_, err := near.Weft(t.Context(), "task", "exec", "client", "--", peer, "ask", "-timeout", "3s", "tcp", to).Output()
			return err
		})
	}
}

// TestSecondPortWhenTheFirstIsEaten has something between the hosts lose the tunnel's port: traffic goes on by the
// second one, netd says so, and it goes back when the first one is let through again.
func TestSecondPortWhenTheFirstIsEaten(t *testing.T) {
	l, peer := labtest.Up(t, lab.Options{Hosts: 2, Netd: []string{"--tunnel-port-2", "4790"}}), labtest.Build(t, "tests/e2e/peer")
	near, far := l.Hosts[0], l.Hosts[1]
	if out, err := near.Weft(t.Context(), "network", "add", "prod", "--subnet", "9.1.0.0/16", "--subnet6", "fd01:b:1::/64").Output(); err != nil {
		t.Fatal(out, err)
	}
	for h, args := range map[*lab.Host][]string{
		far:  {"--name", "web", "--", peer, "serve", "-name", strings.Repeat("large ", 500), "-tcp", "8080", "-udp", "8081"},
		near: {"--name", "client", "--", "sleep", "1000"},
	} {
		cmd := h.Weft(t.Context(), append([]string{"run", "--network", "prod"}, args...)...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Wait() }) // it ends with the lab
	}
	var web overlay.Endpoint
	eventually(t, func() (err error) { web, err = taskOf(t, far, "web"); return err })
	// The answer by UDP is fragmented, so goes by the kernel's devices.
	answered := func() {
		t.Helper()
		for _, to := range []string{
			fmt.Sprintf("tcp %s:8080", web.Addr4), fmt.Sprintf("tcp [%s]:8080", web.Addr6), fmt.Sprintf("udp %s:8081", web.Addr4),
		} {
			protocol, addr, _ := strings.Cut(to, " ")
			eventually(t, func() error {
				_, err := near.Weft(t.Context(), "task", "exec", "client", "--", peer, "ask", protocol, addr).Output()
				return err
			})
		}
	}
	answered()
	// Nodes look at paths every ten seconds, and when a node says something new of itself: another address, here.
	look := func(h *lab.Host, last string, want bool) {
		t.Helper()
		if err := h.AddAddress(netip.MustParseAddr("10.77.0." + last)); err != nil {
			t.Fatal(err)
		}
		eventually(t, func() error {
			out, err := near.Weft(t.Context(), "node", "list").Output()
			if said := strings.Count(out, "the second one is used") == 2; err == nil && said != want {
				err = errors.New(out)
			}
			return err
		})
	}
	if err := l.Eat(4789, true); err != nil {
		t.Fatal(err)
	}
	look(near, "101", true)
	answered()
	if err := l.Eat(4789, false); err != nil {
		t.Fatal(err)
	}
	look(near, "102", false)
	if err := l.Eat(4790, true); err != nil {
		t.Fatal(err)
	}
	answered()
}

// taskOf returns the endpoint of a task by its name.
func taskOf(t *testing.T, h *lab.Host, name string) (overlay.Endpoint, error) {
	t.Helper()
	out, err := h.Weft(t.Context(), "task", "list", "-o", "json").Output()
	if err != nil {
		return overlay.Endpoint{}, err
	}
	var tasks []overlay.Endpoint
	if err := json.Unmarshal([]byte(out), &tasks); err != nil {
		return overlay.Endpoint{}, err
	}
	for _, task := range tasks {
		if task.Name == name {
			return task, nil
		}
	}
	return overlay.Endpoint{}, fmt.Errorf("task %s is not there", name)
}

// TestATunnelPortThatIsEatenIsToldOf has the nodes' other ports let through, and so both nodes alive: what the cluster
// looks like to its operator is all there is to notice it by, before the first task does.
func TestATunnelPortThatIsEatenIsToldOf(t *testing.T) {
	l := labtest.Up(t, lab.Options{Hosts: 2})
	told := func(want int) {
		t.Helper()
		eventually(t, func() error {
			out, err := l.Masters[0].Weft(t.Context(), "status").Output()
			if n := strings.Count(out, "lives, but answers nothing by the tunnel's UDP port"); err == nil && n != want {
				err = fmt.Errorf("%d nodes say that, want %d:\n%s", n, want, out)
			}
			return err
		})
	}
	if err := l.Eat(4789, true); err != nil {
		t.Fatal(err)
	}
	told(2)
	if err := l.Eat(4789, false); err != nil {
		t.Fatal(err)
	}
	told(0)
}
