// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"fmt"
	"maps"
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
	f := Facts{Networks: map[string]uint32{"prod": 7}, Down: map[discovery.NodeID]string{}}
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
	return f
}

func drawBackend(t *rapid.T) lb.Backend {
	key := lb.Key{
		Network:  rapid.SampledFrom([]string{"prod", "dev"}).Draw(t, "network"),
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
		Addrs: []netip.Addr{netip.AddrFrom4([4]byte{9, 0, 0, n})}, Port: 8080, Weight: uint16(rapid.IntRange(0, 2).Draw(t, "weight")),
	}
	if rapid.Bool().Draw(t, "v6") {
		b.Addrs = append(b.Addrs, netip.MustParseAddr(fmt.Sprintf("fd01:b::%d", n)))
	}
	return b
}

// served is the model: who serves a row, by the words of the rules alone.
func served(f Facts, k row.VIPKey) map[netip.AddrPort]bool {
	all, up := make(map[netip.AddrPort]bool), make(map[netip.AddrPort]bool)
	for _, b := range f.Backends {
		vni, known := f.Networks[b.VIP.Network]
		proto := map[string]uint8{lb.TCP: 6, lb.UDP: 17}[b.VIP.Protocol]
		if !known || vni != k.VNI || proto != k.Proto || b.VIP.Port != row.Port(k.Port) || b.Weight == 0 {
			continue
		}
		at := k.Addr.Netip()
		named := slices.ContainsFunc(f.Pins, func(p lb.Pin) bool { return p.Name == b.VIP.Name && (p.Addr4 == at || p.Addr6 == at) })
		if !named && b.VIP.Addr != at {
			continue
		}
		for _, a := range b.Addrs {
			if a.Is4() != at.Is4() {
				continue
			}
			p := netip.AddrPortFrom(a, b.Port)
			all[p] = true
			if _, down := f.Down[b.Node]; !down {
				up[p] = true
			}
		}
	}
	if len(up) == 0 {
		return all
	}
	return up
}

func check(t *rapid.T, f Facts, r Rows) {
	vips, ids := make(map[uint32]bool), make(map[uint32]bool)
	slots := 0
	for k, v := range r.VIPs {
		if v.ID == 0 || vips[v.ID] {
			t.Fatalf("VIP id %d is given twice", v.ID)
		}
		vips[v.ID] = true
		got := make(map[netip.AddrPort]bool)
		for s := range v.Backends {
			b, ok := r.Backends[row.BackendKey{VIP: v.ID, Slot: s}]
			if !ok || b.ID == 0 || ids[b.ID] || b.Weight == 0 {
				t.Fatalf("slot %d of %v: %+v %t", s, k, b, ok)
			}
			ids[b.ID] = true
			got[netip.AddrPortFrom(b.Addr.Netip(), row.Port(b.Port))] = true
			slots++
		}
		if want := served(f, k); !maps.Equal(got, want) || len(got) != int(v.Backends) {
			t.Fatalf("VIP %v:%d of %d: %v in %d slots, want %v", k.Addr.Netip(), row.Port(k.Port), k.VNI, got, v.Backends, want)
		}
	}
	if slots != len(r.Backends) {
		t.Fatalf("%d backends, %d of them counted", len(r.Backends), slots)
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
				vni, known := f.Networks[b.VIP.Network]
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
			if d := cmp.Diff(want, again); d != "" {
				t.Fatalf("another order of facts, other rows:\n%s", d)
			}
			if d := cmp.Diff(want, must(Compile(f, want))); d != "" {
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
		f.Backends = slices.DeleteFunc(f.Backends, func(b lb.Backend) bool { return b.Weight == 0 })
		if len(f.Backends) == 0 {
			return
		}
		have := must(Compile(f, Rows{}))
		i := rapid.IntRange(0, len(f.Backends)-1).Draw(t, "goes")
		less := f
		less.Backends = slices.Delete(slices.Clone(f.Backends), i, i+1)
		fewer := must(Compile(less, have))
		// In each of two families at most: the VIP, the slot that is filled again, the last slot.
		if n := writes(have, fewer); n > 6 {
			t.Fatalf("a backend less: %d writes, want at most 6", n)
		}
		if n := writes(fewer, must(Compile(f, fewer))); n > 4 {
			t.Fatalf("a backend more: %d writes, want at most 4", n)
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
