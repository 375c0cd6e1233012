// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"

	"weft/bpf/bpftest"
	"weft/bpf/row"
	"weft/lb/maglev"
	"weft/overlay"
	"weft/tests/lab"
	"weft/tests/lab/labtest"
)

// TestMaglevLeadsAClientAlikeFromEveryNode: which backend a task reaches follows from its address and the backends'
// addresses, whatever node it is on, and again each time; when a backend goes, its clients go elsewhere.
func TestMaglevLeadsAClientAlikeFromEveryNode(t *testing.T) {
	l := labtest.Up(t, lab.Options{Hosts: 2})
	peer := labtest.Build(t, "tests/e2e/peer")
	if _, err := l.Hosts[0].Weft(t.Context(), "network", "add", "prod", "--subnet", "9.1.0.0/16").Output(); err != nil {
		t.Fatal(err)
	}
	start := func(h *lab.Host, name string, flags ...string) {
		t.Helper()
		args := append([]string{"run", "--network", "prod", "--name", name}, flags...)
		cmd := h.Weft(t.Context(), append(args, "--", peer, "serve", "-name", name, "-tcp", "8080")...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Signal(syscall.SIGTERM) // the lab's end ends it anyway
			_ = cmd.Wait()
		})
		eventually(t, func() error { _, err := h.Weft(t.Context(), "name", "show", name+".weft.mesos").Output(); return err })
	}
	const label = "/web:80=8080/tcp,policy=maglev,affinity=10m"
	for i, h := range []*lab.Host{l.Hosts[0], l.Hosts[1], l.Hosts[1]} {
		start(h, fmt.Sprintf("web%d", i), "--vip", label)
	}
	for _, h := range l.Hosts {
		for i := range 4 {
			start(h, fmt.Sprintf("asks%d-%s", i, h.Name))
		}
	}
	addrs := make(map[string]netip.Addr)
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
			addrs[e.Name] = e.Addr4
		}
	}
	has := make(map[string]string) // backend of a client, at which it stays
	check := func(names ...string) {
		t.Helper()
		var backends []maglev.Backend
		for i, name := range names {
			backends = append(backends, maglev.Backend{Key: netip.AddrPortFrom(addrs[name], 8080).String(), ID: uint32(i), Weight: 1})
		}
		table, err := maglev.Build(row.MaglevSlots, backends)
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range l.Hosts {
			for i := range 4 {
				client := fmt.Sprintf("asks%d-%s", i, h.Name)
				want := has[client]
				if !slices.Contains(names, want) {
					want = names[table[bpftest.MaglevSlot(addrs[client], 0)]]
				}
				has[client] = want
				eventually(t, func() error {
					out, err := h.Command(t.Context(), l.Binary, "task", "exec", client, "--", peer, "ask", "-n", "3", "-timeout", "500ms",
						"tcp", "web.weft.l4lb.thisdcos.directory:80").Output()
					if n := strings.Count(out, want+" "+addrs[client].String()); err == nil && n != 3 {
						err = fmt.Errorf("%s is answered by\n%swant three times %s", client, out, want)
					}
					return err
				})
			}
		}
	}
	check("web0", "web1", "web2")
	if _, err := l.Hosts[1].Weft(t.Context(), "task", "kill", "web2").Output(); err != nil {
		t.Fatal(err)
	}
	check("web0", "web1")
}
