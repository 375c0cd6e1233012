// SPDX-License-Identifier: Apache-2.0

package apply

import (
	"errors"
	"maps"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"weft/bpf/row"
	"weft/bpf/table"
	"weft/lb/compile"
)

func vipKey(n int) row.VIPKey {
	return row.VIPKey{VNI: 7, Addr: row.AddrOf(netip.AddrFrom4([4]byte{11, 0, 0, byte(n)})), Port: row.Port(80), Proto: 6}
}

// rows makes tables with one VIP per count, with so many backends; backend ids tell them apart. Every other VIP has a
// table of clients.
func rows(counts map[int]int, salt uint32) compile.Rows {
	r := compile.Rows{
		VIPs: make(map[row.VIPKey]row.VIP), Backends: make(map[row.BackendKey]row.Backend), Maglevs: make(map[uint32]row.Maglev),
	}
	for n, count := range counts {
		id := uint32(n + 1)
		vip := row.VIP{ID: id, Backends: uint16(count)}
		if (uint32(n)+salt)%2 == 0 {
			vip.Policy = row.VIPMaglev
			r.Maglevs[id] = row.Maglev{Slots: [row.MaglevSlots]uint16{uint16(salt)}}
		}
		r.VIPs[vipKey(n)] = vip
		for slot := range count {
			r.Backends[row.BackendKey{VIP: id, Slot: uint16(slot)}] = row.Backend{ID: id<<16 | uint32(slot) + salt<<8, Weight: 1}
		}
	}
	return r
}

func drawCounts(t *rapid.T, label string) map[int]int {
	return rapid.MapOfN(rapid.IntRange(0, 4), rapid.IntRange(0, 4), 0, 5).Draw(t, label)
}

// watched returns tables that hold r, refuse the writes that deny names, and fail t when a VIP
// counts a backend that is not there, between any two writes.
func watched(t *rapid.T, r compile.Rows, deny func() error) Tables {
	vips, backends, maglevs := &table.Memory[row.VIPKey, row.VIP]{}, &table.Memory[row.BackendKey, row.Backend]{}, &table.Memory[uint32, row.Maglev]{}
	for k, v := range r.VIPs {
		if err := vips.Put(k, v); err != nil {
			t.Fatal(err)
		}
	}
	for k, v := range r.Backends {
		if err := backends.Put(k, v); err != nil {
			t.Fatal(err)
		}
	}
	for k, v := range r.Maglevs {
		if err := maglevs.Put(k, v); err != nil {
			t.Fatal(err)
		}
	}
	whole := func() {
		now, err := Tables{VIPs: vips, Backends: backends, Maglevs: maglevs}.Read()
		if err != nil {
			t.Fatal(err)
		}
		for k, v := range now.VIPs {
			if _, ok := now.Maglevs[v.ID]; !ok && v.Policy == row.VIPMaglev {
				t.Fatalf("VIP %v has no table of clients", k.Addr.Netip())
			}
			for slot := range v.Backends {
				if _, ok := now.Backends[row.BackendKey{VIP: v.ID, Slot: slot}]; !ok {
					t.Fatalf("VIP %v counts %d backends, slot %d is empty", k.Addr.Netip(), v.Backends, slot)
				}
			}
		}
	}
	fail := func(op table.Op) error {
		whole()
		if op == table.OpAll {
			return nil
		}
		return deny()
	}
	return Tables{
		VIPs:     &table.Faulty[row.VIPKey, row.VIP]{Table: vips, Fail: func(op table.Op, _ row.VIPKey) error { return fail(op) }},
		Backends: &table.Faulty[row.BackendKey, row.Backend]{Table: backends, Fail: func(op table.Op, _ row.BackendKey) error { return fail(op) }},
		Maglevs:  &table.Faulty[uint32, row.Maglev]{Table: maglevs, Fail: func(op table.Op, _ uint32) error { return fail(op) }},
	}
}

func TestNoVIPEverCountsAnEmptySlot(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		have, want := rows(drawCounts(t, "have"), 0), rows(drawCounts(t, "want"), uint32(rapid.IntRange(0, 1).Draw(t, "salt")))
		tables := watched(t, have, func() error { return nil })
		d, err := tables.Sync(have, want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := tables.Read()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, compile.Rows{VIPs: orEmpty(got.VIPs), Backends: orEmpty(got.Backends), Maglevs: orEmpty(got.Maglevs)}, cmp.Comparer(sameTable)); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
		if d.Changed() == (maps.Equal(have.VIPs, want.VIPs) && maps.Equal(have.Backends, want.Backends) && maps.Equal(have.Maglevs, want.Maglevs)) {
			t.Fatalf("the diff is %+v", d)
		}
	})
}

func TestAFailedWriteHoldsItsVIPOnlyAndIsMendedByTheNextSync(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		have, want := rows(drawCounts(t, "have"), 0), rows(drawCounts(t, "want"), 1)
		refused := 0
		broken := true
		tables := watched(t, have, func() error {
			if broken && rapid.IntRange(0, 3).Draw(t, "refuse") == 0 {
				refused++
				return errors.New("no room")
			}
			return nil
		})
		_, err := tables.Sync(have, want)
		if (err != nil) != (refused > 0) {
			t.Fatalf("%d writes were refused, the error is %v", refused, err)
		}
		broken = false
		now, err := tables.Read()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tables.Sync(now, want); err != nil {
			t.Fatal(err)
		}
		got, err := tables.Read()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, compile.Rows{VIPs: orEmpty(got.VIPs), Backends: orEmpty(got.Backends), Maglevs: orEmpty(got.Maglevs)}, cmp.Comparer(sameTable)); diff != "" {
			t.Fatalf("after the second sync (-want +got):\n%s", diff)
		}
	})
}

func TestManyFailuresAreCounted(t *testing.T) {
	t.Parallel()
	tables := Tables{
		VIPs: &table.Memory[row.VIPKey, row.VIP]{},
		Backends: &table.Memory[row.BackendKey, row.Backend]{Fail: func(row.BackendKey) error {
			return errors.New("table is full")
		}},
		Maglevs: &table.Memory[uint32, row.Maglev]{},
	}
	_, err := tables.Sync(compile.Rows{}, rows(map[int]int{0: 2, 1: 2, 2: 2, 3: 2, 4: 2, 5: 0}, 0))
	if err == nil || strings.Count(err.Error(), "table is full") != maxErrors || !strings.HasSuffix(err.Error(), "and 2 more") {
		t.Errorf("%v, want %d failures in full and 2 counted", err, maxErrors)
	}
	for n := range 6 {
		_, ok, err := tables.VIPs.Get(vipKey(n))
		if want := n == 5; ok != want || err != nil {
			t.Errorf("VIP %d: there %t %v, want %t", n, ok, err, want)
		}
	}
}

func orEmpty[K, V comparable](m map[K]V) map[K]V {
	if m == nil {
		return map[K]V{}
	}
	return m
}

// sameTable saves looking at every slot by reflection.
func sameTable(a, b row.Maglev) bool { return a == b }
