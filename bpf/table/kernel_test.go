// SPDX-License-Identifier: Apache-2.0

package table

import (
	"encoding/binary"
	"errors"
	"maps"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"weft/bpf/row"
)

// kernelTable makes a map that nothing is attached to.
func kernelTable[K comparable, V comparable](t *testing.T, spec *ebpf.MapSpec) *Kernel[K, V] {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("making a map needs root")
	}
	m, err := ebpf.NewMap(spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	table, err := NewKernel[K, V](m, "tested")
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func hash(entries uint32) *ebpf.MapSpec {
	return &ebpf.MapSpec{Type: ebpf.Hash, KeySize: 4, ValueSize: 8, MaxEntries: entries}
}

func TestKernelRowsOfAnotherSizeAreRefused(t *testing.T) {
	t.Parallel()
	table := kernelTable[uint32, uint64](t, hash(8))
	if _, err := NewKernel[uint32, uint32](table.m, "narrow"); err == nil || !strings.Contains(err.Error(), "narrow") {
		t.Errorf("error %v, want one that names the map", err)
	}
}

func TestKernelGetPutDelete(t *testing.T) {
	t.Parallel()
	table := kernelTable[uint32, uint64](t, hash(8))
	if _, ok, err := table.Get(1); ok || err != nil {
		t.Errorf("get of nothing: %v, %v", ok, err)
	}
	if err := table.Delete(1); err != nil {
		t.Errorf("delete of nothing: %v", err)
	}
	for _, value := range []uint64{5, 6} {
		if err := table.Put(1, value); err != nil {
			t.Fatal(err)
		}
		if got, ok, err := table.Get(1); got != value || !ok || err != nil {
			t.Errorf("get: %d, %v, %v; want %d", got, ok, err, value)
		}
	}
	if err := table.Delete(1); err != nil {
		t.Fatal(err)
	}
	if all, err := table.All(); err != nil || len(all) != 0 {
		t.Errorf("all: %v, %v; want none", all, err)
	}
}

func TestKernelSyncMakesEqual(t *testing.T) {
	t.Parallel()
	table := kernelTable[uint32, uint64](t, hash(64))
	rapid.Check(t, func(t *rapid.T) { checkSyncs(t, table) })
}

// TestKernelHoldsManyBatches uses each map type that Go writes, with rows of the real layouts.
func TestKernelHoldsManyBatches(t *testing.T) {
	t.Parallel()
	const n = 5*chunk + 17
	keySize, valueSize := uint32(binary.Size(row.PrefixKey{})), uint32(binary.Size(row.Prefix{}))
	for _, spec := range []*ebpf.MapSpec{
		{Type: ebpf.Hash, KeySize: keySize, ValueSize: valueSize, MaxEntries: 2 * n},
		{Type: ebpf.Hash, KeySize: keySize, ValueSize: valueSize, MaxEntries: 2 * n, Flags: 1}, // BPF_F_NO_PREALLOC
		{Type: ebpf.LPMTrie, KeySize: keySize, ValueSize: valueSize, MaxEntries: 2 * n, Flags: 1},
		{Type: ebpf.LRUHash, KeySize: keySize, ValueSize: valueSize, MaxEntries: 4 * n},
	} {
		t.Run(spec.Type.String(), func(t *testing.T) {
			t.Parallel()
			table := kernelTable[row.PrefixKey, row.Prefix](t, spec)
			want := make(map[row.PrefixKey]row.Prefix)
			a := netip.MustParseAddr("10.0.0.0")
			for range n {
				want[row.PrefixKeyOf(netip.PrefixFrom(a, 32))] = row.Prefix{VNI: 7}
				a = a.Next()
			}
			for _, step := range []Diff{{Added: n}, {Replaced: 2, Removed: 1}} {
				d, err := Sync(table, want)
				if err != nil || d != step {
					t.Errorf("sync: %v, %v; want %v", d, err, step)
				}
				got, err := table.All()
				if err != nil || !maps.Equal(got, want) {
					t.Fatalf("%d rows, %v; want %d", len(got), err, len(want))
				}
				want[row.PrefixKeyOf(netip.MustParsePrefix("10.0.0.1/32"))] = row.Prefix{VNI: 8}
				want[row.PrefixKeyOf(netip.MustParsePrefix("10.0.4.1/32"))] = row.Prefix{VNI: 8}
				delete(want, row.PrefixKeyOf(netip.MustParsePrefix("10.0.0.9/32")))
			}
			if d, err := Sync(table, nil); err != nil || d.Removed != n-1 {
				t.Errorf("sync with nothing: %v, %v; want %d removed", d, err, n-1)
			}
		})
	}
}

func TestKernelFullMapTakesWhatFits(t *testing.T) {
	t.Parallel()
	table := kernelTable[uint32, uint64](t, hash(16))
	want := make(map[uint32]uint64)
	for i := range uint32(20) {
		want[i] = uint64(i)
	}
	d, err := Sync(table, want)
	if !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), "tested") {
		t.Errorf("error %v, want %v that names the map", err, ErrFull)
	}
	if diff := cmp.Diff(Diff{Added: 16}, d); diff != "" {
		t.Errorf("diff (-want +got):\n%s", diff)
	}
}

// TestDeleteManyPassesOverWhatIsNotThere: the kernel stops a batch at a missing key.
func TestDeleteManyPassesOverWhatIsNotThere(t *testing.T) {
	t.Parallel()
	table := kernelTable[uint32, uint64](t, hash(16))
	for _, key := range []uint32{1, 3, 5} {
		if err := table.Put(key, 1); err != nil {
			t.Fatal(err)
		}
	}
	if failed := table.DeleteMany([]uint32{0, 1, 2, 3, 4, 5, 6}); len(failed) != 0 {
		t.Errorf("failed: %v", failed)
	}
	if all, err := table.All(); err != nil || len(all) != 0 {
		t.Errorf("left: %v, %v; want none", all, err)
	}
}
