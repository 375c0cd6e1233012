// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"weft/overlay"
	"weft/tests/lab"
	"weft/tests/lab/labtest"
)

// TestPlainVXLANHost has a host without Weft in a network by the kernel's VXLAN device, as docs/networks.md sets it
// up: it and tasks of two nodes reach each other in both directions and families where rules say so, and nowhere else.
func TestPlainVXLANHost(t *testing.T) {
	t.Run("underlay of IPv4", func(t *testing.T) { plainHost(t, labtest.Up(t, lab.Options{Hosts: 2}), 1450) })
	t.Run("underlay of IPv6", func(t *testing.T) { plainHost(t, labtest.Up(t, lab.Options{Hosts: 2, IPv6: true}), 1430) })
}

// plainHost is the story; mtu is what tunnels over the underlay carry, bytes.
func plainHost(t *testing.T, l *lab.Lab, mtu int) {
	t.Helper()
	peer := labtest.Build(t, "tests/e2e/peer")
	near, far, old := l.Hosts[0], l.Hosts[1], l.Masters[0] // where no node daemon is
	for _, args := range []string{
		"network add prod --vni 77 --subnet 9.1.0.0/16 --subnet6 fd01:b:1::/64",
		"group add prod web", "group add prod legacy",
		"rule add prod --from legacy --to web --port tcp/8080",
		"rule add prod --from web --to legacy --port tcp/9090",
		"node add old-1 --vtep " + old.Addr.String() + " --network prod --block 9.1.250.0/24 --block fd01:b:1::fa:0/112 --group legacy",
	} {
		if out, err := near.Weft(t.Context(), strings.Fields(args)...).Output(); err != nil {
			t.Fatal(out, err)
		}
	}
	for _, command := range []string{
		fmt.Sprintf("ip link add vx0 address %s type vxlan id 77 dstport 4789 local %s udp6zerocsumrx", overlay.VTEPMAC(old.Addr), old.Addr),
		fmt.Sprintf("ip link set vx0 mtu %d up", mtu),
		"ip address add 9.1.250.1/16 dev vx0",
		"ip address add fd01:b:1::fa:1/64 dev vx0 nodad",
		"bridge fdb append 00:00:00:00:00:00 dev vx0 dst " + near.Addr.String(),
		"bridge fdb append 00:00:00:00:00:00 dev vx0 dst " + far.Addr.String(),
	} {
		words := strings.Fields(command)
		if out, err := old.Command(t.Context(), words[0], words[1:]...).Output(); err != nil {
			t.Fatalf("%s: %v: %s", command, err, out)
		}
	}
	serve := old.Command(t.Context(), peer, "serve", "-name", "old-1", "-tcp", "9090")
	if err := serve.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = serve.Wait() }) // it ends with the lab
	tasks := make(map[*lab.Host]overlay.Endpoint)
	for _, h := range []*lab.Host{near, far} {
		name := "web-" + h.Name
		cmd := h.Weft(t.Context(), "run", "--network", "prod", "--group", "web", "--name", name, "--", peer, "serve", "-name", name, "-tcp", "8080", "-udp", "8080")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Wait() }) // it ends with the lab
		eventually(t, func() error {
			task, err := taskOf(t, h, name)
			tasks[h] = task
			return err
		})
	}
	says := func(want string, ask func() *lab.Cmd) {
		t.Helper()
		eventually(t, func() error {
			out, err := ask().Output()
			if err == nil && !strings.Contains(out, want) {
				err = errors.New("answered " + out)
			}
			return err
		})
	}
	from := func(args ...string) func() *lab.Cmd {
		return func() *lab.Cmd { return old.Command(t.Context(), peer, append([]string{"ask"}, args...)...) }
	}
	for h, task := range tasks {
		says(task.Name+" 9.1.250.1", from("tcp", fmt.Sprintf("%s:8080", task.Addr4)))
		says(task.Name+" fd01:b:1::fa:1", from("tcp", fmt.Sprintf("[%s]:8080", task.Addr6)))
		for _, a := range []string{"9.1.250.1:9090", "[fd01:b:1::fa:1]:9090"} {
			says("old-1", func() *lab.Cmd { return h.Weft(t.Context(), "task", "exec", task.Name, "--", peer, "ask", "tcp", a) })
		}
		if out, err := from("udp", fmt.Sprintf("%s:8080", task.Addr4))().Output(); err == nil {
			t.Errorf("no rule lets the plain host ask %s by UDP, and it was answered: %s", task.Name, out)
		}
	}
	says("is in group legacy", func() *lab.Cmd { return near.Weft(t.Context(), "flows", "--drops") })
	why := func(args ...string) string {
		out, _ := near.Weft(t.Context(), append([]string{"why"}, args...)...).Output() // it exits with 1 where the answer is no
		return out
	}
	if out := why("web-h1", "old-1", "tcp/9090"); !strings.Contains(out, "lets web-h1") {
		t.Errorf("weft why web-h1 old-1: %s", out)
	}
	if out := why("old-1", "web-h2", "tcp/22"); !strings.Contains(out, "they share none") {
		t.Errorf("weft why old-1 web-h2: %s", out)
	}
	if out, err := near.Weft(t.Context(), "node", "list").Output(); err != nil || !strings.Contains(out, "plain") {
		t.Errorf("weft node list: %v: %s", err, out)
	}
	if out, err := near.Weft(t.Context(), "node", "remove", "old-1").Output(); err != nil {
		t.Fatal(out, err)
	}
	eventually(t, func() error {
		if out, err := from("-timeout", "300ms", "tcp", fmt.Sprintf("%s:8080", tasks[near].Addr4))().Output(); err == nil {
			return errors.New("a host that was removed is answered: " + out)
		}
		return nil
	})
}
