// SPDX-License-Identifier: Apache-2.0

package table

import (
	"errors"
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestSyncWritesOnlyWhatDiffers(t *testing.T) {
	t.Parallel()
	m := &Memory[uint32, uint64]{rows: map[uint32]uint64{1: 1, 2: 2, 3: 3}}
	var wrote []uint32
	m.Fail = func(key uint32) error { wrote = append(wrote, key); return nil }
	got, err := Sync(m, map[uint32]uint64{1: 1, 2: 20, 4: 4})
	if err != nil {
		t.Fatal(err)
	}
	if want := (Diff{Added: 1, Replaced: 1, Removed: 1}); got != want {
		t.Errorf("diff %v, want %v", got, want)
	}
	if len(wrote) != 3 || wrote[2] != 3 {
		t.Errorf("wrote %v, want 2 and 4, then 3 removed", wrote)
	}
	again, err := Sync(m, map[uint32]uint64{1: 1, 2: 20, 4: 4})
	if err != nil || again != (Diff{}) || len(wrote) != 3 {
		t.Errorf("second sync: diff %v, error %v, %d writes; want none", again, err, len(wrote)-3)
	}
}

func TestSyncGoesOnBehindARefusedRow(t *testing.T) {
	t.Parallel()
	refused := errors.New("refused")
	m := &Memory[uint32, uint64]{rows: map[uint32]uint64{7: 7, 8: 8}}
	f := &Faulty[uint32, uint64]{Table: m, Fail: func(op Op, key uint32) error {
		if op == OpPut && key == 2 || op == OpDelete && key == 7 {
			return refused
		}
		return nil
	}}
	d, err := Sync(f, map[uint32]uint64{1: 1, 2: 2, 3: 3})
	if !errors.Is(err, refused) {
		t.Errorf("error %v, want %v", err, refused)
	}
	if want := (Diff{Added: 2, Removed: 1}); d != want {
		t.Errorf("diff %v, want %v", d, want)
	}
	if diff := cmp.Diff(map[uint32]uint64{1: 1, 3: 3, 7: 7}, m.rows); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
}

func TestSyncOfAnUnreadableTableWritesNothing(t *testing.T) {
	t.Parallel()
	unreadable := errors.New("unreadable")
	m := &Memory[uint32, uint64]{}
	f := &Faulty[uint32, uint64]{Table: m, Fail: func(op Op, _ uint32) error {
		if op == OpAll || op == OpGet {
			return unreadable
		}
		return nil
	}}
	if _, err := Sync(f, map[uint32]uint64{1: 1}); !errors.Is(err, unreadable) {
		t.Errorf("error %v, want %v", err, unreadable)
	}
	if _, _, err := f.Get(1); !errors.Is(err, unreadable) {
		t.Errorf("get: error %v, want %v", err, unreadable)
	}
	if len(m.rows) != 0 {
		t.Errorf("wrote %v, want nothing", m.rows)
	}
}

func TestSameFailureOfManyRowsIsSaidOnce(t *testing.T) {
	t.Parallel()
	full := errors.New("full")
	m := &Memory[uint32, uint64]{Fail: func(uint32) error { return full }}
	want := make(map[uint32]uint64)
	for i := range uint32(100) {
		want[i] = 1
	}
	_, err := Sync(m, want)
	if !errors.Is(err, full) || err.Error() != "full (100 rows)" {
		t.Errorf("error %v, want full (100 rows)", err)
	}
}

// unit is a step of TestSyncMakesEqual: what the table shall hold next.
var unit = rapid.MapOf(rapid.Uint32Range(0, 40), rapid.Uint64Range(0, 3))

func TestSyncMakesEqual(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := &Memory[uint32, uint64]{}
		checkSyncs(t, m)
	})
}

// checkSyncs brings table to random contents, one after the other: it holds exactly them, what stays
// is written only when it differs, and no wanted key is ever removed.
func checkSyncs(t *rapid.T, table Table[uint32, uint64]) {
	have, err := table.All()
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		want := unit.Draw(t, "want")
		d, err := Sync(table, want)
		if err != nil {
			t.Fatal(err)
		}
		var expect Diff
		for k, v := range want {
			if old, ok := have[k]; !ok {
				expect.Added++
			} else if old != v {
				expect.Replaced++
			}
		}
		expect.Removed = len(have) + expect.Added - len(want)
		if d != expect {
			t.Fatalf("diff %v, want %v", d, expect)
		}
		got, err := table.All()
		if err != nil {
			t.Fatal(err)
		}
		if !maps.Equal(got, want) {
			t.Fatalf("table (-want +got):\n%s", cmp.Diff(want, got))
		}
		have = want
	}
}

func TestDiffReadsInLogs(t *testing.T) {
	t.Parallel()
	if got := (Diff{2, 1, 0}).String(); !strings.Contains(got, "+2 ~1 -0") {
		t.Errorf("got %q", got)
	}
}
