// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"weft/bpf/row"
	"weft/lb"
)

// leads returns the backend of every slot of the table of a VIP, as host processes find it.
func leads(t interface{ Fatalf(string, ...any) }, r Rows, k row.VIPKey) []netip.AddrPort {
	vip := r.VIPs[k]
	table, ok := r.Maglevs[vip.ID]
	if !ok {
		t.Fatalf("VIP %v has no table", k.Addr.Netip())
	}
	at := make([]netip.AddrPort, len(table.Slots))
	for i, slot := range table.Slots {
		b, ok := r.Backends[row.BackendKey{VIP: vip.ID, Slot: slot}]
		if !ok || b.Weight == 0 {
			t.Fatalf("slot %d of the table leads to %d, which takes nothing", i, slot)
		}
		at[i] = peerOf(b)
	}
	return at
}

func spreading(f *Facts) {
	for i := range f.Backends {
		f.Backends[i].Policy = lb.Maglev
	}
}

// TestEveryNodeLeadsClientsToTheSameBackend: nodes that have seen other backends before, and so have theirs in other
// slots, lead each client alike, and each backend has its share of them.
func TestEveryNodeLeadsClientsToTheSameBackend(t *testing.T) {
	t.Parallel()
	k := key(7, "11.1.2.3", 80, 6)
	rapid.Check(t, func(t *rapid.T) {
		draw := func() Facts {
			var list []lb.Backend
			for _, n := range rapid.SliceOfNDistinct(rapid.IntRange(1, 20), 1, 8, rapid.ID[int]).Draw(t, "backends") {
				b := backend(web(), "n1", fmt.Sprint(n), fmt.Sprintf("9.0.0.%d", n))
				b.Weight = uint16(n%3 + 1)
				list = append(list, b)
			}
			f := facts(list...)
			spreading(&f)
			return f
		}
		now := draw()
		here := must(Compile(now, must(Compile(draw(), Rows{}))))
		there := must(Compile(now, Rows{}))
		at := leads(t, here, k)
		if !slices.Equal(at, leads(t, there, k)) {
			t.Fatalf("two nodes lead clients to different backends")
		}
		sum := 0
		for _, b := range now.Backends {
			sum += int(b.Weight)
		}
		for _, b := range now.Backends {
			got, want := 0, len(at)*int(b.Weight)/sum
			for _, p := range at {
				if p.Addr() == b.Addrs[0] {
					got++
				}
			}
			if got < want || got > want+1 {
				t.Fatalf("%s of weight %d has %d of %d slots, want %d", b.Addrs[0], b.Weight, got, len(at), want)
			}
		}
	})
}

// TestABackendThatLeavesMovesFewOthersClients, and comes back to its own.
func TestABackendThatLeavesMovesFewOthersClients(t *testing.T) {
	t.Parallel()
	k := key(7, "11.1.2.3", 80, 6)
	var list []lb.Backend
	for n := range 20 {
		list = append(list, backend(web(), "n1", fmt.Sprint(n), fmt.Sprintf("9.0.0.%d", n+1)))
	}
	all, fewer := facts(list...), facts(list[1:]...)
	spreading(&all)
	spreading(&fewer)
	before := must(Compile(all, Rows{}))
	after := must(Compile(fewer, before))
	a, b := leads(t, before, k), leads(t, after, k)
	moved := 0
	for i := range a {
		if a[i] != b[i] && a[i].Addr() != list[0].Addrs[0] {
			moved++
		}
	}
	if moved > len(a)/20 {
		t.Errorf("%d of %d slots of others moved", moved, len(a))
	}
	if !slices.Equal(a, leads(t, must(Compile(all, after)), k)) {
		t.Error("with the backend back, clients are led elsewhere than before")
	}
}

// TestATableGoesWithItsPolicy: one that no VIP asks is not kept, and near backends alone are in one.
func TestATableGoesWithItsPolicy(t *testing.T) {
	t.Parallel()
	f := facts(backend(web(), "n1", "a", "9.0.0.1"), backend(web(), "n2", "b", "9.0.1.1"))
	f.Self = "n2"
	spreading(&f)
	for i := range f.Backends {
		f.Backends[i].Prefer = lb.SameNode
	}
	have := must(Compile(f, Rows{}))
	for _, p := range leads(t, have, key(7, "11.1.2.3", 80, 6)) {
		if p.Addr() != f.Backends[1].Addrs[0] {
			t.Fatalf("a client is led to %s of another node", p)
		}
	}
	for i := range f.Backends {
		f.Backends[i].Policy = lb.Random
	}
	if r := must(Compile(f, have)); len(r.Maglevs) != 0 {
		t.Errorf("%d tables are left, want none", len(r.Maglevs))
	}
}
