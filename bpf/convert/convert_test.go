// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"encoding/binary"
	"slices"
	"testing"

	"github.com/cilium/ebpf/btf"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var (
	word    = &btf.Int{Name: "__u32", Size: 4}
	long    = &btf.Int{Name: "__u64", Size: 8}
	sixteen = &btf.Array{Index: word, Type: &btf.Int{Name: "__u8", Size: 1}, Nelems: 16}
)

// structOf lays members out one behind the other.
func structOf(name string, members ...btf.Member) *btf.Struct {
	s := &btf.Struct{Name: name}
	for _, m := range members {
		m.Offset = btf.Bits(8 * s.Size)
		size, err := btf.Sizeof(m.Type)
		if err != nil {
			panic(err) // types of this file
		}
		s.Size += uint32(size)
		s.Members = append(s.Members, m)
	}
	return s
}

func conversionFor(t *testing.T, from, to *btf.Struct) Conversion {
	t.Helper()
	a, err := fieldsOf(from)
	if err != nil {
		t.Fatal(err)
	}
	b, err := fieldsOf(to)
	if err != nil {
		t.Fatal(err)
	}
	return between(to.Name, a, b, from.Size, to.Size)
}

func TestFieldsAreKnownByTheirNames(t *testing.T) {
	t.Parallel()
	addr := structOf("addr", btf.Member{Name: "bytes", Type: sixteen})
	old := structOf("row", btf.Member{Name: "id", Type: word}, btf.Member{Name: "gone", Type: word},
		btf.Member{Name: "to", Type: addr}, btf.Member{Name: "seen", Type: word})
	now := structOf("row", btf.Member{Name: "seen", Type: long}, btf.Member{Name: "to", Type: addr},
		btf.Member{Name: "made", Type: word}, btf.Member{Name: "id", Type: word})
	in := binary.LittleEndian.AppendUint32(nil, 1)
	in = binary.LittleEndian.AppendUint32(in, 2)
	in = append(in, "sixteen bytes...."[:16]...)
	in = binary.LittleEndian.AppendUint32(in, 0xfffffff0)
	want := binary.LittleEndian.AppendUint64(nil, 0xfffffff0)
	want = append(want, "sixteen bytes...."[:16]...)
	want = binary.LittleEndian.AppendUint32(want, 0)
	want = binary.LittleEndian.AppendUint32(want, 1)
	c := conversionFor(t, old, now)
	got := make([]byte, c.Size)
	c.Row(got, in)
	if diff := cmp.Diff(want, got); diff != "" || c.Same {
		t.Errorf("row (-want +got), same %v:\n%s", c.Same, diff)
	}
	if c := conversionFor(t, old, old); !c.Same {
		t.Error("a layout is not the same as itself")
	}
}

// TestAnAddressOf32BitsIsThatOf128: the node of an edge's backend, from layout 3 to 4.
func TestAnAddressOf32BitsIsThatOf128(t *testing.T) {
	t.Parallel()
	four := &btf.Array{Index: word, Type: &btf.Int{Name: "__u8", Size: 1}, Nelems: 4}
	addr := structOf("addr", btf.Member{Name: "bytes", Type: sixteen})
	old := structOf("edge_backend", btf.Member{Name: "node", Type: four}, btf.Member{Name: "vni", Type: word})
	now := structOf("edge_backend", btf.Member{Name: "vtep", Type: addr}, btf.Member{Name: "vni", Type: word})
	c := conversionFor(t, old, now)
	for node, vtep := range map[[4]byte]string{{10, 0, 0, 2}: "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\x0a\x00\x00\x02", {}: string(make([]byte, 16))} {
		got := make([]byte, c.Size)
		c.Row(got, append(node[:], 7, 0, 0, 0))
		if want := vtep + "\x07\x00\x00\x00"; string(got) != want {
			t.Errorf("node %v: got % x, want % x", node, got, want)
		}
	}
	other := structOf("other", now.Members...)
	got := make([]byte, c.Size)
	if conversionFor(t, old, other).Row(got, []byte{10, 0, 0, 2, 7, 0, 0, 0}); string(got[:16]) != string(make([]byte, 16)) {
		t.Errorf("a field of another struct was taken for it: % x", got)
	}
}

// TestThereAndBackLosesNothing: whatever order the newer layout has and whatever it adds, a row that goes there and
// back is what it was.
func TestThereAndBackLosesNothing(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		kinds := []btf.Type{word, long, sixteen}
		var members []btf.Member
		for i := range rapid.IntRange(1, 8).Draw(r, "fields") {
			members = append(members, btf.Member{Name: string(rune('a' + i)), Type: rapid.SampledFrom(kinds).Draw(r, "kind")})
		}
		old := structOf("row", members...)
		more := append(slices.Clip(members), btf.Member{Name: "added", Type: rapid.SampledFrom(kinds).Draw(r, "added")})
		now := structOf("row", rapid.Permutation(more).Draw(r, "order")...)
		row := rapid.SliceOfN(rapid.Byte(), int(old.Size), int(old.Size)).Draw(r, "row")
		there, back := conversionFor(t, old, now), conversionFor(t, now, old)
		middle, end := make([]byte, there.Size), make([]byte, back.Size)
		there.Row(middle, row)
		back.Row(end, middle)
		if diff := cmp.Diff(row, end); diff != "" {
			r.Errorf("row there and back (-want +got):\n%s", diff)
		}
	})
}

// A verdict about one port of another layout must not become one about all.
func TestAKeyThatSaidMoreStaysBehind(t *testing.T) {
	t.Parallel()
	old := structOf("key", btf.Member{Name: "src", Type: word}, btf.Member{Name: "port", Type: word})
	now := structOf("key", btf.Member{Name: "src", Type: &btf.Int{Size: 2}})
	c := conversionFor(t, old, now)
	for _, r := range []struct {
		src, port uint32
		want      bool
	}{{16, 0, false}, {16, 80, true}, {1 << 31, 0, true}, {0, 0, false}} {
		key := binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, r.src), r.port)
		if got := c.Loses(key); got != r.want {
			t.Errorf("source %d, port %d: got %v, want %v", r.src, r.port, got, r.want)
		}
	}
}
