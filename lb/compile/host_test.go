// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"weft/bpf/row"
	"weft/discovery"
	"weft/lb"
)

// TestNodesSeeVIPsOfAllNetworks: of a VIP that two networks have the first by VNI is the nodes', while it takes
// connections.
func TestNodesSeeVIPsOfAllNetworks(t *testing.T) {
	t.Parallel()
	of := func(network, task, at string, weight uint16) lb.Backend {
		b := backend(lb.Key{Network: network, Addr: addr("198.51.100.9"), Port: 80, Protocol: lb.TCP}, "n1", task, at)
		b.Weight = weight
		return b
	}
	shown := func(r Rows) []string { return peers(t, r, key(row.VNINodes, "198.51.100.9", 80, 6)) }
	f := facts(of("prod", "a", "9.0.0.1", 1), of("dev", "b", "9.1.0.1", 1))
	f.Networks = map[string]uint32{"prod": 7, "dev": 8}
	first, _ := Compile(f, Rows{})
	equal(t, "both serve", shown(first), []string{"9.0.0.1:8080"})
	f.Backends = []lb.Backend{of("prod", "a", "9.0.0.1", 0), of("dev", "b", "9.1.0.1", 1)}
	second, _ := Compile(f, first)
	equal(t, "the first drains", shown(second), []string{"9.1.0.1:8080"})
	f.Backends = f.Backends[:1]
	third, _ := Compile(f, second)
	equal(t, "the first alone", shown(third), []string{"9.0.0.1:8080"})
	f.Backends = nil
	if gone, _ := Compile(f, third); len(gone.VIPs) != 0 {
		t.Errorf("%d VIPs are left", len(gone.VIPs))
	}
}

// TestVIPsOfHostAreOfEveryNetwork: a VIP of tasks in nodes' own networks is one of each network, and of the nodes; where a
// network has the same one, the tasks of both are behind it there.
func TestVIPsOfHostAreOfEveryNetwork(t *testing.T) {
	t.Parallel()
	of := func(network, task, at string) lb.Backend {
		return backend(lb.Key{Network: network, Addr: addr("198.51.100.9"), Port: 80, Protocol: lb.TCP}, "n1", task, at)
	}
	shown := func(r Rows, vni uint32) []string { return peers(t, r, key(vni, "198.51.100.9", 80, 6)) }
	const host, own, both = "10.0.0.1:8080", "9.0.0.1:8080", "10.0.0.1:8080 9.0.0.1:8080"
	f := facts(of(discovery.HostNetwork, "a", "10.0.0.1"))
	f.Networks = map[string]uint32{"prod": 7, "dev": 8}
	have := Rows{}
	for _, step := range []struct {
		what             string
		backends         []lb.Backend
		nodes, prod, dev string
	}{
		{"host alone", f.Backends, host, host, host},
		{"prod too", append(f.Backends, of("prod", "b", "9.0.0.1")), both, both, host},
		{"prod alone", []lb.Backend{of("prod", "b", "9.0.0.1")}, own, own, ""},
		{"host again", append(f.Backends, of("prod", "b", "9.0.0.1")), both, both, host},
		{"host alone again", f.Backends, host, host, host},
	} {
		f.Backends = step.backends
		var status []lb.VIPStatus
		have, status = Compile(f, have)
		for vni, want := range map[uint32]string{row.VNINodes: step.nodes, 7: step.prod, 8: step.dev} {
			if _, there := have.VIPs[key(vni, "198.51.100.9", 80, 6)]; !there && want == "" {
				continue
			}
			got := shown(have, vni)
			slices.Sort(got)
			equal(t, fmt.Sprintf("%s, network %d", step.what, vni), got, strings.Fields(want))
		}
		for _, v := range status {
			if len(v.Backends) != 1 || !v.Backends[0].In {
				t.Errorf("%s: %+v, want its own backend, in", step.what, v)
			}
		}
	}
}
