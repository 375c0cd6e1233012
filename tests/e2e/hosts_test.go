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
