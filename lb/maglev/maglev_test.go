// SPDX-License-Identifier: Apache-2.0

package maglev_test

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"weft/lb/maglev"
)

func build(t rapid.TB, size int, backends []maglev.Backend) maglev.Table {
	t.Helper()
	table, err := maglev.Build(size, backends)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// equal returns n backends of weight 1.
func equal(n int) []maglev.Backend {
	backends := make([]maglev.Backend, n)
	for i := range backends {
		backends[i] = maglev.Backend{Key: fmt.Sprintf("9.1.%d.%d:80", i/250, i%250), ID: uint32(i + 1), Weight: 1}
	}
	return backends
}

// random draws backends whose ids are not their order.
func random(t *rapid.T, most int, weight uint16) []maglev.Backend {
	keys := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-f0-9:.]{1,20}`), 1, most, rapid.ID).Draw(t, "keys")
	backends := make([]maglev.Backend, len(keys))
	for i, key := range keys {
		backends[i] = maglev.Backend{Key: key, ID: uint32(i*7 + 3), Weight: rapid.Uint16Range(1, weight).Draw(t, "weight")}
	}
	return backends
}

func shares(table maglev.Table) map[uint32]int {
	count := make(map[uint32]int)
	for _, id := range table {
		count[id]++
	}
	return count
}

func TestSharesFollowWeights(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		backends := random(t, 30, 5)
		total := 0
		for _, b := range backends {
			total += int(b.Weight)
		}
		table := build(t, 16381, backends)
		count := shares(table)
		for _, b := range backends {
			want := float64(len(table)) * float64(b.Weight) / float64(total)
			off := math.Abs(float64(count[b.ID]) - want)
			if off >= 1 || off/want > 0.01 {
				t.Errorf("%s of weight %d of %d has %d slots, want %.1f", b.Key, b.Weight, total, count[b.ID], want)
			}
		}
		if len(count) != len(backends) {
			t.Errorf("%d backends have slots, want %d", len(count), len(backends))
		}
	})
}

// TestEveryWeightGetsASlot has weights that are worth less than one, and others that pay for them.
func TestEveryWeightGetsASlot(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		backends := random(t, 200, math.MaxUint16)
		backends[0].Weight = 1
		table := build(t, 251, backends)
		if count := shares(table); len(table) != 251 || len(count) != len(backends) {
			t.Errorf("%d of %d backends have slots", len(count), len(backends))
		}
	})
}

func TestOrderOfBackendsIsIrrelevant(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		backends := random(t, 50, 20)
		size := rapid.SampledFrom([]int{251, 1021, 4093}).Draw(t, "size")
		want := build(t, size, backends)
		shuffled := rapid.Permutation(backends).Draw(t, "shuffled")
		// Neither what can't be chosen.
		shuffled = append(shuffled, maglev.Backend{Key: "none", ID: 1 << 30})
		if diff := cmp.Diff(want, build(t, size, shuffled)); diff != "" {
			t.Errorf("the table of shuffled backends (-want +got):\n%s", diff)
		}
	})
}

// TestIDsAreNotAsked: nodes number backends each for themselves, and agree on slots all the same.
func TestIDsAreNotAsked(t *testing.T) {
	t.Parallel()
	backends := equal(100)
	other := slices.Clone(backends)
	for i := range other {
		other[i].ID = uint32(1000 - i)
	}
	table, others := build(t, 4093, backends), build(t, 4093, other)
	for i := range table {
		if backends[table[i]-1].Key != other[1000-others[i]].Key {
			t.Fatalf("slot %d leads to %s and %s", i, backends[table[i]-1].Key, other[1000-others[i]].Key)
		}
	}
}

// beyond is the part of slots that moved, but not from or to the backend id.
func beyond(t *testing.T, before, after maglev.Table, id uint32) float64 {
	t.Helper()
	moved := 0
	for i := range before {
		if before[i] != after[i] && before[i] != id && after[i] != id {
			moved++
		}
	}
	return float64(moved) / float64(len(before))
}

func TestOneOfAHundredLeaves(t *testing.T) {
	t.Parallel()
	backends := equal(100)
	before := build(t, maglev.DefaultSize, backends)
	var worst, mean float64
	for i := 0; i < len(backends); i += 5 {
		leaver := backends[i]
		after := build(t, maglev.DefaultSize, slices.Delete(slices.Clone(backends), i, i+1))
		part := beyond(t, before, after, leaver.ID)
		worst, mean = max(worst, part), mean+part/20
	}
	t.Logf("moved beyond the necessary: mean %.3f %%, worst %.3f %% of slots", mean*100, worst*100)
	if worst >= 0.01 {
		t.Errorf("moved beyond the necessary: %.3f %% of slots, want < 1 %%", worst*100)
	}
}

func TestInvalid(t *testing.T) {
	t.Parallel()
	twice := append(equal(3), equal(1)...)
	for _, c := range []struct {
		name     string
		size     int
		backends []maglev.Backend
	}{
		{"no prime", 65536, equal(3)},
		{"a square", 66049, equal(3)},
		{"a strong pseudoprime to 2, 3 and 5", 25326001, equal(3)},
		{"zero", 0, equal(3)},
		{"negative", -3, nil},
		{"more backends than slots", 2, equal(3)},
		{"the same twice", 251, twice},
	} {
		if _, err := maglev.Build(c.size, c.backends); !errors.Is(err, maglev.ErrInvalid) {
			t.Errorf("%s: got %v, want %v", c.name, err, maglev.ErrInvalid)
		}
	}
	if table := build(t, 251, []maglev.Backend{{Key: "drained", ID: 1}}); table != nil {
		t.Errorf("all weights zero: got a table of %d slots, want none", len(table))
	}
}

func TestSizeIsEnough(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 2, 10, 40, 100, 160, 640, 2570} {
		size := maglev.Size(n)
		for id, slots := range shares(build(t, size, equal(n))) {
			if want := float64(size) / float64(n); math.Abs(float64(slots)-want)/want > 0.01 {
				t.Errorf("%d backends, %d slots: backend %d has %d", n, size, id, slots)
			}
		}
	}
}

// TestTable holds one table: nodes of different builds have to agree. Changing it cuts flows.
func TestTable(t *testing.T) {
	t.Parallel()
	got := build(t, 17, []maglev.Backend{{Key: "a", ID: 1, Weight: 1}, {Key: "b", ID: 2, Weight: 2}, {Key: "c", ID: 3, Weight: 1}})
	want := maglev.Table{3, 3, 2, 2, 2, 2, 1, 2, 3, 2, 2, 2, 1, 3, 2, 1, 1}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
}

func BenchmarkBuild(b *testing.B) {
	for _, c := range []struct{ size, backends int }{
		{maglev.Size(10), 10}, {maglev.DefaultSize, 10}, {maglev.DefaultSize, 100}, {maglev.DefaultSize, 640},
	} {
		backends := equal(c.backends)
		b.Run(fmt.Sprintf("%d slots, %d backends", c.size, c.backends), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := maglev.Build(c.size, backends); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	backends := equal(10)
	b.Run("20000 VIPs of 10", func(b *testing.B) {
		for b.Loop() {
			for range 20000 {
				if _, err := maglev.Build(maglev.Size(10), backends); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
}
