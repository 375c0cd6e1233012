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

// tables are what a node's kernel would hold, written by steps.
type tables struct{ Rows }

func (m tables) write(t *rapid.T, s Step) {
	for k, v := range s.Have.VIPs {
		if m.VIPs[k] != v {
			t.Fatalf("a step begins at %v of %v, the table has %v", v, k, m.VIPs[k])
		}
		delete(m.VIPs, k)
	}
	for k, b := range s.Have.Backends {
		if m.Backends[k] != b {
			t.Fatalf("a step begins at %v of %v, the table has %v", b, k, m.Backends[k])
		}
		delete(m.Backends, k)
	}
	for vip, table := range s.Have.Maglevs {
		if m.Maglevs[vip] != table {
			t.Fatalf("a step begins at another table of VIP %d", vip)
		}
		delete(m.Maglevs, vip)
	}
	maps.Copy(m.VIPs, s.Want.VIPs)
	maps.Copy(m.Backends, s.Want.Backends)
	maps.Copy(m.Maglevs, s.Want.Maglevs)
}

// change draws one change of f and tells c.
func change(t *rapid.T, f *Facts, c *Compiler) {
	switch rapid.IntRange(0, 9).Draw(t, "change") {
	case 0:
		f.Down = map[discovery.NodeID]string{rapid.SampledFrom([]discovery.NodeID{"n1", "n2", "n3"}).Draw(t, "down"): "is down"}
		c.SetNodes(f.Nodes)
	case 1:
		f.Zones = map[discovery.NodeID]string{"n1": "east", rapid.SampledFrom([]discovery.NodeID{"n2", "n3"}).Draw(t, "moves"): "east"}
		c.SetNodes(f.Nodes)
	case 2:
		f.Networks = map[string]uint32{"prod": rapid.Uint32Range(7, 9).Draw(t, "vni")}
		if rapid.Bool().Draw(t, "dev") {
			f.Networks["dev"] = 10
		}
		c.SetNetworks(f.Networks)
	case 3:
		name := rapid.SampledFrom([]string{"a.weft", "b.weft", "c.weft"}).Draw(t, "pin")
		f.Pins = slices.DeleteFunc(f.Pins, func(p lb.Pin) bool { return p.Name == name })
		pin := lb.Pin{}
		if rapid.IntRange(0, 3).Draw(t, "pinned") > 0 {
			n := byte(rapid.IntRange(1, 2).Draw(t, "at"))
			pin = lb.Pin{Name: name, Addr4: netip.AddrFrom4([4]byte{11, n, 0, name[0]}), Addr6: netip.MustParseAddr(fmt.Sprintf("fd01:c::%d:%d", n, name[0]))}
			if rapid.Bool().Draw(t, "literal") {
				pin.Addr4 = netip.MustParseAddr("198.51.100.9") // as literal VIPs have it, and other names
			}
			f.Pins = append(f.Pins, pin)
		}
		c.SetPin(name, pin)
	case 4, 5:
		if len(f.Backends) == 0 {
			return
		}
		i := rapid.IntRange(0, len(f.Backends)-1).Draw(t, "goes")
		b := f.Backends[i]
		f.Backends = slices.Delete(f.Backends, i, i+1)
		c.SetBackend(Source{b.Node, b.RowKey()}, nil)
	default:
		b := drawBackend(t)
		f.Backends = slices.DeleteFunc(f.Backends, func(o lb.Backend) bool { return o.RowKey() == b.RowKey() && o.Node == b.Node })
		f.Backends = append(f.Backends, b)
		c.SetBackend(Source{b.Node, b.RowKey()}, &b)
	}
}

// A compiler that is told of changes comes to what one comes to that is told everything at once.
func TestChangeByChangeIsAsFromScratch(t *testing.T) {
	t.Parallel()
	same := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
	rapid.Check(t, func(t *rapid.T) {
		f := Facts{Networks: map[string]uint32{"prod": 7, "dev": 8}, Nodes: Nodes{Self: "n1"}, Now: 5}
		start := newRows(0)
		if rapid.Bool().Draw(t, "had") {
			start, _ = Compile(drawFacts(t), Rows{})
		}
		c, have := New(start), tables{start.Clone()}
		c.SetNetworks(f.Networks)
		c.SetNodes(f.Nodes)
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			for range rapid.IntRange(0, 4).Draw(t, "changes") {
				change(t, &f, c)
			}
			f.Now++
			have.write(t, c.Compile(f.Now))
			if d := cmp.Diff(c.Rows(), have.Rows, sameTables); d != "" {
				t.Fatalf("the steps' rows are not the compiler's (-compiler +steps):\n%s", d)
			}
			check(t, f, have.Rows)
			again, status := Compile(f, have.Rows)
			if d := cmp.Diff(again, have.Rows, sameTables); d != "" {
				t.Fatalf("from scratch it would be (-scratch +steps):\n%s", d)
			}
			vips := c.VIPs()
			got := make([]lb.VIPStatus, len(vips))
			counts := Counts{VIPs: len(vips)}
			for i, v := range vips {
				got[i] = v.VIPStatus
				counts.Backends += len(v.Backends)
				for _, b := range v.Backends {
					if b.In {
						counts.In++
					}
				}
				checkIDs(t, f, v, have.Rows)
			}
			if d := cmp.Diff(status, got, same); d != "" {
				t.Fatalf("statuses (-scratch +steps):\n%s", d)
			}
			if c.Counts() != counts {
				t.Fatalf("counts %+v, want %+v", c.Counts(), counts)
			}
			if s := c.Compile(f.Now); s.Changed || len(s.Have.VIPs)+len(s.Want.VIPs) > 0 {
				t.Fatalf("nothing changed, but: %+v", s)
			}
		}
	})
}

// checkIDs wants each backend under the id of its slot, 0 where it has none.
func checkIDs(t *rapid.T, f Facts, v *VIP, r Rows) {
	slots := make(map[netip.AddrPort]uint32)
	for _, a := range v.Addrs {
		vip := r.VIPs[vipKey(withHost(f.Networks)[v.Network], a, v.Key)]
		for s := range vip.Backends {
			b := r.Backends[row.BackendKey{VIP: vip.ID, Slot: s}]
			slots[peerOf(b)] = b.ID
		}
	}
	var want []uint32
	for _, b := range v.Backends {
		for _, a := range b.Addrs {
			want = append(want, slots[netip.AddrPortFrom(a, b.Port)])
		}
	}
	if !slices.Equal(v.IDs, want) {
		t.Fatalf("ids %v of %v, want %v", v.IDs, v.Key, want)
	}
}

// BenchmarkChange is one backend of 200,000 behind 20,000 VIPs.
func BenchmarkChange(b *testing.B) {
	c := New(Rows{})
	c.SetNetworks(map[string]uint32{"prod": 7})
	var last lb.Backend
	for i := range 20000 {
		name := fmt.Sprintf("vip%d.weft", i)
		pin, err := lb.Assign(nil, name)
		if err != nil {
			b.Fatal(err)
		}
		c.SetPin(name, pin)
		for j := range 10 {
			last = lb.Backend{
				VIP: lb.Key{Network: "prod", Name: name, Port: 80, Protocol: lb.TCP}, Task: fmt.Sprint(i, j), Node: "n1",
				Addrs: []netip.Addr{netip.AddrFrom4([4]byte{9, byte(i >> 8), byte(i), byte(j)})}, Port: 8080, Weight: 1,
			}
			is := last
			c.SetBackend(Source{is.Node, is.RowKey()}, &is)
		}
	}
	c.Compile(1)
	for b.Loop() {
		last.Port++
		is := last
		c.SetBackend(Source{is.Node, is.RowKey()}, &is)
		c.Compile(1)
	}
}
