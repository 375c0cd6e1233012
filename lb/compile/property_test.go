// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"weft/bpf/row"
	"weft/discovery"
	"weft/lb"
)

func drawFacts(t *rapid.T) Facts {
	f := Facts{
		Networks: map[string]uint32{"prod": 7}, Now: 100,
		Nodes: Nodes{Down: map[discovery.NodeID]string{}, Self: "n1", Zones: map[discovery.NodeID]string{"n1": "east", "n2": "east"}},
	}
	prefer := rapid.SampledFrom([]lb.Preference{lb.Anywhere, lb.SameNode, lb.SameZone}).Draw(t, "prefer")
	f.RefuseUnhealthy = rapid.Bool().Draw(t, "refuse")
	if rapid.Bool().Draw(t, "dev") {
		f.Networks["dev"] = 8
	}
	for i, name := range []string{"a.weft", "b.weft", "c.weft"} {
		if rapid.IntRange(0, 3).Draw(t, "pinned") > 0 {
			f.Pins = append(f.Pins, lb.Pin{Name: name, Addr4: netip.AddrFrom4([4]byte{11, 0, 0, byte(i)}), Addr6: netip.MustParseAddr(fmt.Sprintf("fd01:c::%d", i+1))})
		}
	}
	for _, node := range []discovery.NodeID{"n1", "n2", "n3"} {
		if rapid.IntRange(0, 2).Draw(t, "down") == 0 {
			f.Down[node] = "is down"
		}
	}
	f.Backends = rapid.SliceOfNDistinct(rapid.Custom(drawBackend), 0, 12, lb.Backend.RowKey).Draw(t, "backends")
	for i := range f.Backends {
		f.Backends[i].Prefer = prefer
	}
	return f
}

func drawBackend(t *rapid.T) lb.Backend {
	key := lb.Key{
		Network:  rapid.SampledFrom([]string{"prod", "prod", "dev", discovery.HostNetwork}).Draw(t, "network"),
		Port:     80,
		Protocol: rapid.SampledFrom([]string{lb.TCP, lb.UDP}).Draw(t, "protocol"),
	}
	if name := rapid.SampledFrom([]string{"a.weft", "b.weft", "c.weft", ""}).Draw(t, "name"); name != "" {
		key.Name = name
	} else {
		key.Addr = netip.MustParseAddr("198.51.100.9")
	}
	n := byte(rapid.IntRange(1, 6).Draw(t, "task"))
	b := lb.Backend{
		VIP: key, Task: fmt.Sprint(n), Node: discovery.NodeID(fmt.Sprintf("n%d", n%3+1)),
		Addrs: []netip.Addr{netip.AddrFrom4([4]byte{9, 0, 0, n})}, Port: 8080, Weight: uint16(rapid.SampledFrom([]int{0, 1, 1, 2, 1000}).Draw(t, "weight")),
		Health:   rapid.SampledFrom([]lb.Health{lb.Unchecked, lb.Unchecked, lb.Healthy, lb.Unhealthy, lb.Unknown}).Draw(t, "health"),
		Draining: rapid.IntRange(0, 5).Draw(t, "draining") == 0,
	}
	if key.Network == discovery.HostNetwork {
		b.Addrs[0] = netip.AddrFrom4([4]byte{10, 0, 0, n})
	}
	b.Policy = rapid.SampledFrom([]lb.Policy{"", "", lb.Maglev}).Draw(t, "policy")
	if rapid.Bool().Draw(t, "v6") {
		b.Addrs = append(b.Addrs, netip.MustParseAddr(fmt.Sprintf("fd01:b::%d", n)))
		if key.Network == discovery.HostNetwork {
			b.Addrs[1] = netip.MustParseAddr(fmt.Sprintf("fd0a::%d", n))
		}
	}
	return b
}

// ofHost tells the addresses of nodes from those of tasks.
func ofHost(a netip.Addr) bool {
	return netip.MustParsePrefix("10.0.0.0/24").Contains(a) || netip.MustParsePrefix("fd0a::/64").Contains(a)
}

// isBehind tells whether a backend's VIP has a row's address, port and protocol.
func isBehind(f Facts, b lb.Backend, k row.VIPKey) bool {
	at := k.Addr.Netip()
	named := slices.ContainsFunc(f.Pins, func(p lb.Pin) bool { return p.Name == b.VIP.Name && (p.Addr4 == at || p.Addr6 == at) })
	proto := map[string]uint8{lb.TCP: 6, lb.UDP: 17}[b.VIP.Protocol]
	return proto == k.Proto && b.VIP.Port == row.Port(k.Port) && (named || b.VIP.Addr == at)
}

// served is the model: who serves a row, by the words of the rules alone, and who drains.
func served(f Facts, k row.VIPKey) (in, draining map[netip.AddrPort]bool) {
	all, up := make(map[netip.AddrPort]bool), make(map[netip.AddrPort]bool)
	draining = make(map[netip.AddrPort]bool)
	for _, b := range f.Backends {
		vni, known := withHost(f.Networks)[b.VIP.Network]
		if !known || vni != k.VNI && vni != vniHost || !isBehind(f, b, k) {
			continue
		}
		at := k.Addr.Netip()
		for _, a := range b.Addrs {
			if a.Is4() != at.Is4() {
				continue
			}
			p := netip.AddrPortFrom(a, b.Port)
			_, down := f.Down[b.Node]
			ends, sick := b.Weight == 0 || b.Draining, b.Health == lb.Unhealthy || b.Health == lb.Unknown
			if !ends && (!sick || !f.RefuseUnhealthy) {
				all[p] = true
			}
			if !ends && !down && !sick {
				up[p] = true
			}
			if !down && (ends || sick) {
				draining[p] = true
			}
		}
	}
	if len(up) == 0 {
		up = all
	}
	maps.DeleteFunc(draining, func(p netip.AddrPort, _ bool) bool { return up[p] })
	return up, draining
}

// inNetworks wants for the nodes' own sockets what one of the networks has, the first that takes connections, and
// returns the rows without that.
func inNetworks(t interface{ Fatalf(string, ...any) }, r Rows) Rows {
	rest := r.Clone()
	want := make(map[row.VIPKey]row.VIP)
	for _, k := range slices.SortedFunc(maps.Keys(r.VIPs), compareVIPs) {
		if k.VNI == row.VNINodes {
			delete(rest.VIPs, k)
			continue
		}
		v := r.VIPs[k]
		k.VNI = row.VNINodes
		if had, there := want[k]; !there || had.Backends == had.Draining && v.Backends > v.Draining {
			want[k] = v
		}
	}
	got := maps.Clone(r.VIPs)
	maps.DeleteFunc(got, func(k row.VIPKey, _ row.VIP) bool { return k.VNI != row.VNINodes })
	if d := cmp.Diff(want, got); d != "" {
		t.Fatalf("the nodes' VIPs (-want +got):\n%s", d)
	}
	return rest
}

// inHost wants what tasks in nodes' own networks serve in each network that does not itself, and returns the rows without
// that.
func inHost(t interface{ Fatalf(string, ...any) }, f Facts, r Rows) Rows {
	rest := r.Clone()
	for k, v := range r.VIPs {
		if k.VNI != vniHost {
			continue
		}
		for network, vni := range f.Networks {
			own := slices.ContainsFunc(f.Backends, func(b lb.Backend) bool { return b.VIP.Network == network && isBehind(f, b, k) })
			if own {
				continue
			}
			if got := r.VIPs[in(vni, k)]; got != v {
				t.Fatalf("%v of network %s is %+v, want that of host: %+v", k.Addr.Netip(), network, got, v)
			}
			delete(rest.VIPs, in(vni, k))
		}
	}
	return rest
}

func check(t *rapid.T, f Facts, r Rows) {
	r = inNetworks(t, inHost(t, f, r))
	vips, ids := make(map[uint32]bool), make(map[uint32]bool)
	slots := 0
	for _, k := range slices.SortedFunc(maps.Keys(r.VIPs), hostFirst) {
		v := r.VIPs[k]
		if v.ID == 0 || vips[v.ID] {
			t.Fatalf("VIP id %d is given twice", v.ID)
		}
		vips[v.ID] = true
		got, idle := make(map[netip.AddrPort]bool), make(map[netip.AddrPort]bool)
		for s := range v.Backends {
			b, ok := r.Backends[row.BackendKey{VIP: v.ID, Slot: s}]
			if k.VNI != vniHost && ofHost(b.Addr.Netip()) {
				if known := hostIDs(r, k)[peerOf(b)]; known != b.ID {
					t.Fatalf("%v is backend %d in its own network and %d in %d", peerOf(b), known, b.ID, k.VNI)
				}
				delete(ids, b.ID)
			}
			if !ok || b.ID == 0 || ids[b.ID] || (b.Weight > 0) != (s < v.Backends-v.Draining) {
				t.Fatalf("slot %d of %v: %+v %t", s, k, b, ok)
			}
			ids[b.ID] = true
			peer := netip.AddrPortFrom(b.Addr.Netip(), row.Port(b.Port))
			if b.Weight > 0 {
				got[peer] = true
			} else {
				idle[peer] = true
			}
			slots++
		}
		want, draining := served(f, k)
		if !maps.Equal(got, want) || !maps.Equal(idle, draining) || len(got)+len(idle) != int(v.Backends) {
			t.Fatalf("VIP %v:%d of %d: %v and %v in %d slots, want %v and %v",
				k.Addr.Netip(), row.Port(k.Port), k.VNI, got, idle, v.Backends, want, draining)
		}
		checkShares(t, v, r)
		spreads := checkTable(t, v, r)
		if _, has := r.Maglevs[v.ID]; has != spreads {
			t.Fatalf("VIP %d of policy %d has a table: %t", v.ID, v.Policy, has)
		}
	}
	for vip := range r.Maglevs {
		if !vips[vip] {
			t.Fatalf("there is a table of VIP %d, which is not there", vip)
		}
	}
	if slots != len(r.Backends) {
		t.Fatalf("%d backends, %d of them counted", len(r.Backends), slots)
	}
}

// hostIDs are the ids of the backends that are behind a VIP in nodes' own networks.
func hostIDs(r Rows, k row.VIPKey) map[netip.AddrPort]uint32 {
	ids := make(map[netip.AddrPort]uint32)
	v := r.VIPs[in(vniHost, k)]
	for s := range v.Backends {
		b := r.Backends[row.BackendKey{VIP: v.ID, Slot: s}]
		ids[peerOf(b)] = b.ID
	}
	return ids
}

// sameTables saves looking at every slot by reflection.
var sameTables = cmp.Comparer(func(a, b row.Maglev) bool { return a == b })

// checkTable wants the table of a VIP to lead to those that are asked first, and reports whether there has to be one.
func checkTable(t *rapid.T, v row.VIP, r Rows) bool {
	first := v.Backends - v.Draining
	if v.Near > 0 {
		first = v.Near
	}
	for _, slot := range r.Maglevs[v.ID].Slots {
		if slot >= first && first > 0 {
			t.Fatalf("a client of VIP %d is led to slot %d, beyond %d", v.ID, slot, first)
		}
	}
	return v.Policy == row.VIPMaglev && first > 0
}

// checkShares draws every slot of a VIP, all shares of it, and wants each backend by its weight: among
// the near ones and among the others.
func checkShares(t *rapid.T, v row.VIP, r Rows) {
	open := v.Backends - v.Draining
	if v.Near > open {
		t.Fatalf("%d of %d are near", v.Near, open)
	}
	if v.Flags&row.VIPWeighted == 0 {
		return
	}
	for _, bounds := range [][2]uint16{{0, v.Near}, {v.Near, open}} {
		drawn, weight := make(map[uint16]float64), 0.0
		for s := bounds[0]; s < bounds[1]; s++ {
			b := r.Backends[row.BackendKey{VIP: v.ID, Slot: s}]
			if b.Other < bounds[0] || b.Other >= bounds[1] {
				t.Fatalf("slot %d of %v shares with %d", s, bounds, b.Other)
			}
			drawn[s] += float64(b.Share) / wholeShare
			drawn[b.Other] += 1 - float64(b.Share)/wholeShare
			weight += float64(b.Weight)
		}
		for s, got := range drawn {
			b := r.Backends[row.BackendKey{VIP: v.ID, Slot: s}]
			if want := float64(b.Weight) / weight * float64(bounds[1]-bounds[0]); math.Abs(got-want) > 0.001 {
				t.Fatalf("slot %d of weight %d is drawn %f times as often as one of %d, want %f", s, b.Weight, got, len(drawn), want)
			}
		}
	}
}

func TestRowsAreWhatTheRulesSay(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var have Rows
		for range rapid.IntRange(1, 5).Draw(t, "steps") {
			f := drawFacts(t)
			want, _ := Compile(f, have)
			check(t, f, want)
			// Nothing is lost: every VIP with a backend in a known network has its row.
			for _, b := range f.Backends {
				vni, known := withHost(f.Networks)[b.VIP.Network]
				for _, p := range f.Pins {
					if k := vipKey(vni, p.Addr4, b.VIP); known && p.Name == b.VIP.Name {
						if _, ok := want.VIPs[k]; !ok {
							t.Fatalf("no row for %v", b.VIP)
						}
					}
				}
			}
			// The same input gives the same output, in whatever order the facts come.
			slices.Reverse(f.Backends)
			slices.Reverse(f.Pins)
			again, _ := Compile(f, have)
			if d := cmp.Diff(want, again, sameTables); d != "" {
				t.Fatalf("another order of facts, other rows:\n%s", d)
			}
			if d := cmp.Diff(want, must(Compile(f, want)), sameTables); d != "" {
				t.Fatalf("nothing changed, but the rows did:\n%s", d)
			}
			have = want
		}
	})
}

func TestSmallChangeIsASmallDiff(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		f := drawFacts(t)
		f.Down = nil
		f.Backends = slices.DeleteFunc(f.Backends, func(b lb.Backend) bool {
			return b.Weight == 0 || b.VIP.Network == discovery.HostNetwork // which are behind others' as well
		})
		if len(f.Backends) == 0 {
			return
		}
		for i := range f.Backends {
			b := &f.Backends[i] // else every share may change
			b.Weight, b.Prefer, b.Health, b.Draining = 1, lb.Anywhere, lb.Unchecked, false
		}
		have := must(Compile(f, Rows{}))
		i := rapid.IntRange(0, len(f.Backends)-1).Draw(t, "goes")
		less := f
		less.Backends = slices.Delete(slices.Clone(f.Backends), i, i+1)
		fewer := must(Compile(less, have))
		// In each of two families at most: the VIP, for tasks and for nodes, the slot that is filled again, the last slot.
		if n := writes(have, fewer); n > 8 {
			t.Fatalf("a backend less: %d writes, want at most 8", n)
		}
		if n := writes(fewer, must(Compile(f, fewer))); n > 6 {
			t.Fatalf("a backend more: %d writes, want at most 6", n)
		}
	})
}

func TestBrokenTablesAreMended(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		f := drawFacts(t)
		have := must(Compile(f, Rows{})).Clone()
		for k := range have.VIPs {
			if rapid.Bool().Draw(t, "break") {
				have.VIPs[k] = row.VIP{ID: uint32(rapid.IntRange(0, 3).Draw(t, "id")), Backends: uint16(rapid.IntRange(0, 5).Draw(t, "count")), Flags: 9}
			}
		}
		for k := range have.Backends {
			if rapid.Bool().Draw(t, "lose") {
				delete(have.Backends, k)
			}
		}
		check(t, f, must(Compile(f, have)))
	})
}

func must(r Rows, _ []lb.VIPStatus) Rows { return r }

func writes(a, b Rows) int { return differing(a.VIPs, b.VIPs) + differing(a.Backends, b.Backends) }

func differing[K, V comparable](a, b map[K]V) int {
	n := 0
	for k, v := range a {
		if w, ok := b[k]; !ok || v != w {
			n++
		}
	}
	for k := range b {
		if _, ok := a[k]; !ok {
			n++
		}
	}
	return n
}

func BenchmarkCompile(b *testing.B) {
	f := Facts{Networks: map[string]uint32{"prod": 7}}
	for i := range 1000 {
		name := fmt.Sprintf("vip%d.weft", i)
		pin, err := lb.Assign(nil, name)
		if err != nil {
			b.Fatal(err)
		}
		f.Pins = append(f.Pins, pin)
		for j := range 10 {
			f.Backends = append(f.Backends, lb.Backend{
				VIP: lb.Key{Network: "prod", Name: name, Port: 80, Protocol: lb.TCP}, Task: fmt.Sprint(i, j), Node: "n1",
				Addrs: []netip.Addr{netip.AddrFrom4([4]byte{9, byte(i >> 8), byte(i), byte(j)})}, Port: 8080, Weight: 1,
			})
		}
	}
	have := must(Compile(f, Rows{}))
	for b.Loop() {
		have = must(Compile(f, have))
	}
}
