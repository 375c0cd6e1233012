// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"weft/tests/lab"
	"weft/tests/lab/labtest"
)

// TestVIPsFromEverywhere asks a VIP, named and literal, from a host, from a task and from the backend itself, at the
// backend's node and at another, by both protocols and families.
func TestVIPsFromEverywhere(t *testing.T) {
	l := labtest.Up(t, lab.Options{Hosts: 2})
	s := portsStory{Lab: l, peer: labtest.Build(t, "tests/e2e/peer"), h1: l.Hosts[0], h2: l.Hosts[1]}
	for _, args := range [][]string{
		{"network", "add", "prod", "--subnet", "9.1.0.0/16", "--subnet6", "fd01:b:1::/64"},
		{"network", "add", "other", "--subnet", "9.2.0.0/16"},
	} {
		if _, err := s.h1.Weft(t.Context(), args...).Output(); err != nil {
			t.Fatal(err)
		}
	}
	s.start(t, s.h1, "web", "--vip", "/shop:80=80", "--vip", "198.51.100.77:80=80", "--vip", "[fd01:c::77]:80=80")
	s.start(t, s.h1, "near")
	s.start(t, s.h2, "far")
	named := map[bool]string{}
	eventually(t, func() error {
		out, err := s.h1.Weft(t.Context(), "vip", "address", "shop.weft").Output()
		for word := range strings.FieldsSeq(out) {
			if a, err := netip.ParseAddr(word); err == nil {
				named[a.Is4()] = word
			}
		}
		if len(named) != 2 && err == nil {
			err = fmt.Errorf("the name has %v", named)
		}
		return err
	})
	for _, protocol := range []string{"tcp", "udp"} {
		for _, four := range []bool{true, false} {
			literal, self := "198.51.100.77", s.h1.Addr
			if !four {
				literal, self = "fd01:c::77", s.h1.Addr6
			}
			of := func(h *lab.Host, task string) netip.Addr {
				for _, a := range addresses(t, h, task) {
					if a.Is4() == four {
						return a
					}
				}
				return netip.Addr{}
			}
			for _, vip := range []string{literal, named[four]} {
				to := netip.AddrPortFrom(netip.MustParseAddr(vip), 80).String()
				s.asks(t, s.h1, "", protocol, to, self)                     // a process of the backend's node
				s.asks(t, s.h2, "", protocol, to, hostAddrs(t, s.h2)[four]) // of another
				s.asks(t, s.h1, "near", protocol, to, of(s.h1, "near"))
				s.asks(t, s.h2, "far", protocol, to, of(s.h2, "far"))
				s.asks(t, s.h1, "web", protocol, to, of(s.h1, "web")) // the backend itself
			}
		}
	}
	t.Run("another network", func(t *testing.T) { s.anotherNetwork(t, named[true]) })
	t.Run("a process of another node", func(t *testing.T) { s.nodesServe(t) })
}

// says runs the question on a host, or in one of its tasks, until the answer begins with a name and the address that
// was seen there.
func (s portsStory) says(t *testing.T, h *lab.Host, task, protocol, to, want string) {
	t.Helper()
	args := []string{s.peer, "ask", "-timeout", "500ms", protocol, to}
	if task != "" {
		args = append([]string{h.Weft(t.Context()).Path, "task", "exec", task, "--"}, args...)
	}
	eventually(t, func() error {
		out, err := h.Command(t.Context(), args[0], args[1:]...).Output()
		if err == nil && !strings.HasPrefix(out, want) {
			err = fmt.Errorf("%s %s from %s %s: got %q, want %q", protocol, to, h.Name, task, out, want)
		}
		return err
	})
}

// anotherNetwork has tasks of a network with a VIP at the same address: each network sees its own, nodes that of the
// lower number as long as it takes connections.
func (s portsStory) anotherNetwork(t *testing.T, named string) {
	t.Helper()
	const vip = "198.51.100.77:80"
	s.start(t, s.h1, "stranger", "--network", "other")
	s.asks(t, s.h1, "stranger", "tcp", named+":80")
	s.asks(t, s.h1, "stranger", "tcp", vip)
	s.start(t, s.h2, "twin", "--network", "other", "--vip", vip+"=80")
	for _, protocol := range []string{"tcp", "udp"} {
		s.says(t, s.h1, "stranger", protocol, vip, "twin "+addresses(t, s.h1, "stranger")[0].String())
		s.says(t, s.h1, "near", protocol, vip, "web ")
		s.says(t, s.h2, "", protocol, vip, "web ")
	}
	if _, err := s.h1.Weft(t.Context(), "task", "kill", "web").Output(); err != nil {
		t.Fatal(err)
	}
	s.says(t, s.h1, "", "tcp", vip, "twin "+hostAddrs(t, s.h1)[true].String())
	s.asks(t, s.h1, "near", "tcp", vip) // its own has no backend, and another's is none of its business
}

// nodesServe has tasks ask processes of nodes, their own and another, at the nodes' addresses towards the networks.
func (s portsStory) nodesServe(t *testing.T) {
	t.Helper()
	for _, h := range []*lab.Host{s.h1, s.h2} {
		server := h.Command(t.Context(), s.peer, "serve", "-name", h.Name, "-tcp", "9000", "-udp", "9000")
		if err := server.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _, _ = server.Process.Kill(), server.Wait() })
		for _, own := range addresses(t, s.h1, "near") {
			to := netip.AddrPortFrom(hostAddrs(t, h)[own.Is4()], 9000).String()
			s.says(t, s.h1, "near", "tcp", to, h.Name+" "+own.String())
			if h != s.h1 { // a datagram of its own node comes from the underlay's address, as the route says
				s.says(t, s.h1, "near", "udp", to, h.Name+" "+own.String())
			}
		}
	}
}

// hostAddrs returns what a host's own processes have as addresses towards the networks; true: IPv4.
func hostAddrs(t *testing.T, h *lab.Host) map[bool]netip.Addr {
	t.Helper()
	out, err := h.Command(t.Context(), "ip", "-o", "address", "show", "weft0").Output()
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[bool]netip.Addr)
	for word := range strings.FieldsSeq(out) {
		if p, err := netip.ParsePrefix(word); err == nil {
			found[p.Addr().Is4()] = p.Addr()
		}
	}
	return found
}
