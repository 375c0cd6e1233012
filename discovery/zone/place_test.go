// SPDX-License-Identifier: Apache-2.0

package zone

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"weft/discovery"
	"weft/discovery/zone/record"
)

// Where a task of Weft's own is reached (net-tests 8: test_service_discovery): at its own address, or at its node's where a
// port of that leads to it.
func TestWhereATaskIsReached(t *testing.T) {
	t.Parallel()
	node := Change{
		Source: Source{Kind: discovery.KindNode, Key: "host-a", Writer: "host-a"},
		Fact:   Host{Node: discovery.Node{ID: "host-a", Addrs: addrs("10.0.0.11", "fd00::11")}},
	}
	for name, c := range map[string]struct {
		network string
		addrs   []netip.Addr
		mapped  bool
		want    [3]string // agentip, autoip, containerip
	}{
		"overlay":      {"prod", addrs("9.0.0.2"), false, [3]string{"10.0.0.11 fd00::11", "9.0.0.2", "9.0.0.2"}},
		"dual":         {"prod", addrs("9.0.0.2", "fd01:b::2"), false, [3]string{"10.0.0.11 fd00::11", "9.0.0.2 fd01:b::2", "9.0.0.2 fd01:b::2"}},
		"port mapping": {"prod", addrs("9.0.0.2"), true, [3]string{"10.0.0.11 fd00::11", "10.0.0.11", "9.0.0.2"}},
		"IPv6 mapping": {"prod", addrs("fd01:b::2"), true, [3]string{"10.0.0.11 fd00::11", "fd00::11", "fd01:b::2"}},
		"dual mapping": {"prod", addrs("9.0.0.2", "fd01:b::2"), true, [3]string{"10.0.0.11 fd00::11", "10.0.0.11 fd00::11", "9.0.0.2 fd01:b::2"}},
		"host":         {discovery.HostNetwork, addrs("10.0.0.11"), false, [3]string{"10.0.0.11 fd00::11", "10.0.0.11", "10.0.0.11"}},
		"no address":   {"prod", nil, false, [3]string{"10.0.0.11 fd00::11", "10.0.0.11 fd00::11", "10.0.0.11 fd00::11"}},
	} {
		z, _ := New(options).With([]Change{node, {
			Source: Source{Kind: discovery.KindName, Key: "t1", Writer: "host-a"},
			Fact: Task{discovery.Name{
				Task: "t1", Label: "web", Framework: "marathon", Network: c.network, Node: "host-a", Addrs: c.addrs, Mapped: c.mapped,
			}},
		}})
		for i, where := range []string{"agentip", "autoip", "containerip"} {
			var got []string
			for _, r := range z.Lookup("", "web.marathon."+where+".dcos.thisdcos.directory.").Of(record.Any) {
				got = append(got, r.Data())
			}
			slices.Sort(got)
			if g := strings.Join(got, " "); g != c.want[i] {
				t.Errorf("%s: %s is %q, want %q", name, where, g, c.want[i])
			}
		}
	}
}
