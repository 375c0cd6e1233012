// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"weft/bpf/row"
	"weft/lb"
)

// weights are the backends of every row that tasks see, with their weights: vip:port backend -> weight.
func weights(r Rows) map[string]uint16 {
	list := make(map[string]uint16)
	for key, v := range r.VIPs {
		if key.VNI == row.VNINodes {
			continue
		}
		vip := netip.AddrPortFrom(key.Addr.Netip(), row.Port(key.Port))
		list[vip.String()] = 0
		for slot := range v.Backends {
			b := r.Backends[row.BackendKey{VIP: v.ID, Slot: slot}]
			list[fmt.Sprintf("%s %s", vip, netip.AddrPortFrom(b.Addr.Netip(), row.Port(b.Port)))] = b.Weight
		}
	}
	return list
}

// difference tells what was added, what went, and whose weight changed.
func difference(was, is map[string]uint16) (list []string) {
	for _, what := range slices.Sorted(maps.Keys(is)) {
		before, had := was[what]
		switch {
		case !had:
			list = append(list, fmt.Sprintf("+ %s %d", what, is[what]))
		case before != is[what]:
			list = append(list, fmt.Sprintf("~ %s %d %d", what, before, is[what]))
		}
	}
	for _, what := range slices.Sorted(maps.Keys(was)) {
		if _, has := is[what]; !has {
			list = append(list, "- "+what)
		}
	}
	return list
}

// dcos-net's test of the difference of two sets of VIPs (net-tests 4.3): what was added, what went, and weights that
// changed, and nothing else.
func TestTheDifferenceOfTwoSetsOfVIPs(t *testing.T) {
	t.Parallel()
	literal := func(a string, port uint16) lb.Key {
		return lb.Key{Network: "prod", Addr: addr(a), Port: port, Protocol: lb.TCP}
	}
	of := func(key lb.Key, task, a string, weight uint16) lb.Backend {
		b := backend(key, "n1", task, a)
		b.Weight = weight
		return b
	}
	a, b, c := literal("1.1.1.1", 80), literal("1.1.1.2", 80), literal("1.1.1.3", 80)
	for name, tt := range map[string]struct {
		was, is []lb.Backend
		want    []string
	}{
		"nothing": {},
		"the same": {
			[]lb.Backend{of(a, "t1", "9.0.0.1", 1)}, []lb.Backend{of(a, "t1", "9.0.0.1", 1)}, nil,
		},
		"a VIP": {
			nil, []lb.Backend{of(a, "t1", "9.0.0.1", 1)}, []string{"+ 1.1.1.1:80 0", "+ 1.1.1.1:80 9.0.0.1:8080 1"},
		},
		"a VIP goes": {
			[]lb.Backend{of(a, "t1", "9.0.0.1", 1)}, nil, []string{"- 1.1.1.1:80", "- 1.1.1.1:80 9.0.0.1:8080"},
		},
		"a backend comes, one goes": {
			[]lb.Backend{of(a, "t1", "9.0.0.1", 1)},
			[]lb.Backend{of(a, "t2", "9.0.0.2", 1)},
			[]string{"+ 1.1.1.1:80 9.0.0.2:8080 1", "- 1.1.1.1:80 9.0.0.1:8080"},
		},
		"weights": {
			[]lb.Backend{of(a, "t1", "9.0.0.1", 1), of(a, "t2", "9.0.0.2", 0), of(a, "t3", "9.0.0.3", 1)},
			[]lb.Backend{of(a, "t1", "9.0.0.1", 0), of(a, "t2", "9.0.0.2", 1), of(a, "t3", "9.0.0.3", 1)},
			[]string{"~ 1.1.1.1:80 9.0.0.1:8080 1 0", "~ 1.1.1.1:80 9.0.0.2:8080 0 1"},
		},
		"all of it": {
			[]lb.Backend{of(a, "t1", "9.0.0.1", 1), of(b, "t1", "9.0.0.1", 1), of(b, "t2", "9.0.0.2", 1)},
			[]lb.Backend{of(b, "t1", "9.0.0.1", 0), of(b, "t3", "9.0.0.3", 1), of(c, "t1", "9.0.0.1", 0)},
			[]string{
				"~ 1.1.1.2:80 9.0.0.1:8080 1 0", "+ 1.1.1.2:80 9.0.0.3:8080 1", "+ 1.1.1.3:80 0", "+ 1.1.1.3:80 9.0.0.1:8080 0",
				"- 1.1.1.1:80", "- 1.1.1.1:80 9.0.0.1:8080", "- 1.1.1.2:80 9.0.0.2:8080",
			},
		},
	} {
		f := facts(tt.was...)
		f.Pins = nil
		before := must(Compile(f, Rows{}))
		f.Backends = tt.is
		after := must(Compile(f, before))
		equal(t, name, difference(weights(before), weights(after)), tt.want)
	}
}
