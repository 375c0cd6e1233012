// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"testing"

	"weft/bpf/row"
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
