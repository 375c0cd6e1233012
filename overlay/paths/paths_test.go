// SPDX-License-Identifier: Apache-2.0

package paths

import (
	"context"
	"net/netip"
	"slices"
	"testing"

	"weft/discovery"
	"weft/overlay/compile"
)

// wires is what the two ports to a node carry, bytes.
type wires [2]int

func (w wires) Fits(_ context.Context, _ netip.Addr, second bool, size int) (bool, error) {
	carries := w[0]
	if second {
		carries = w[1]
	}
	return size <= carries, nil
}

func TestTheSecondPortIsForWhatTheFirstDoesNotReach(t *testing.T) {
	t.Parallel()
	vtep := netip.MustParseAddr("10.0.0.2")
	p := New(Options{MTU: 1500})
	p.keep([]compile.Node{{ID: "h2", VTEP: vtep}})
	for _, tt := range []struct {
		wires
		want   compile.Path
		second int
		warns  []string
	}{
		{wires{1500, 1500}, compile.Path{MTU: 1500}, 0, nil},
		{wires{0, 1500}, compile.Path{MTU: 1500, Second: true}, 1, []string{"node h2 is not reached by the tunnel's port: the second one is used"}},
		{wires{0, 1400}, compile.Path{MTU: 1400, Second: true}, 1, []string{"node h2 is not reached by the tunnel's port: the second one is used"}},
		{wires{1450, 1500}, compile.Path{MTU: 1450}, 0, []string{"the path to node h2 carries 1450 bytes, the link 1500"}},
	} {
		p.o.Prober = tt.wires
		got, err := p.find(t.Context(), vtep, 1500)
		if err != nil || got != tt.want {
			t.Errorf("%v: got %+v, %v; want %+v", tt.wires, got, err, tt.want)
		}
		if !p.set(vtep, got) || p.set(vtep, got) {
			t.Errorf("%v: it is news once", tt.wires)
		}
		if _, second := p.Counts(); second != tt.second || !slices.Equal(p.Warnings(), tt.warns) {
			t.Errorf("%v: got %d and %q, want %d and %q", tt.wires, second, p.Warnings(), tt.second, tt.warns)
		}
	}
	p.o.Prober = wires{0, 0}
	if got, err := p.find(t.Context(), vtep, 1500); err != nil || got.MTU != 0 {
		t.Errorf("a node that says nothing: got %+v, %v", got, err)
	}
	p.keep([]compile.Node{{ID: discovery.NodeID("h3"), VTEP: netip.MustParseAddr("10.0.0.3")}})
	if found := p.Found(); len(found) != 0 {
		t.Errorf("a node that went is remembered: %v", found)
	}
}
