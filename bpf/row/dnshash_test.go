// SPDX-License-Identifier: Apache-2.0

package row_test

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"weft/bpf/row"
)

// wireName draws a name in wire form, the root included.
func wireName(t *rapid.T) []byte {
	var name []byte
	for _, label := range rapid.SliceOfN(rapid.SliceOfN(rapid.Byte(), 1, 63), 0, 3).Draw(t, "labels") {
		name = append(append(name, byte(len(label))), label...)
	}
	return append(name, 0)
}

func TestHashKnowsNoCase(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		name := wireName(t)
		lower := bytes.Clone(name)
		for i, c := range name {
			if 'A' <= c && c <= 'Z' {
				lower[i] = c + 'a' - 'A'
			}
		}
		if diff := cmp.Diff(row.DNSHash(lower), row.DNSHash(name)); diff != "" {
			t.Errorf("hash of %q (-lower +as it is):\n%s", name, diff)
		}
	})
}

func TestBothHashesSeeEveryBit(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		name := wireName(t)
		i := rapid.IntRange(0, len(name)-1).Draw(t, "byte")
		bit := byte(1) << rapid.SampledFrom([]int{0, 1, 2, 3, 4, 6, 7}).Draw(t, "bit") // 5 is case
		other := bytes.Clone(name)
		other[i] ^= bit
		a, b := row.DNSHash(name), row.DNSHash(other)
		if a[0] == b[0] || a[1] == b[1] {
			t.Errorf("%q and %q: hashes %x and %x share a half", name, other, a, b)
		}
	})
}

// A zero at the end must not be lost in the filling of the last word.
func TestLengthIsPartOfTheHash(t *testing.T) {
	t.Parallel()
	if a, b := row.DNSHash([]byte{1, 'a', 0}), row.DNSHash([]byte{1, 'a', 0, 0}); a == b {
		t.Errorf("names of 3 and 4 bytes share %x", a)
	}
}

func BenchmarkDNSHash(b *testing.B) {
	name := []byte("\x03web\x04weft\x05l4lb\x0cthisdcos\x09directory\x00")
	for b.Loop() {
		row.DNSHash(name)
	}
}
