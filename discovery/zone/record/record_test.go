// SPDX-License-Identifier: Apache-2.0

package record

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestTypesHaveTheirMnemonics(t *testing.T) {
	t.Parallel()
	for _, typ := range Types() {
		if !typ.Held() || strings.HasPrefix(typ.String(), "TYPE") {
			t.Errorf("%s: held %t", typ, typ.Held())
		}
	}
	if got := Type(999).String(); got != "TYPE999" || Type(999).Held() || Any.Held() {
		t.Errorf("%s: held %t, ANY: held %t", got, Type(999).Held(), Any.Held())
	}
}

// draw is a record of a name, of few values so that records meet again.
func draw(t *rapid.T, name string) Record {
	r := Record{
		Name: name, TTL: uint32(rapid.IntRange(1, 2).Draw(t, "ttl")), From: rapid.SampledFrom([]string{"name/t1", "name/t2"}).Draw(t, "from"),
		Home: rapid.SampledFrom([]string{"", "prod"}).Draw(t, "home"), Unwell: rapid.Bool().Draw(t, "unwell"),
	}
	switch r.Type = rapid.SampledFrom([]Type{A, AAAA, SRV, PTR}).Draw(t, "type"); r.Type {
	case A:
		r.Addr = netip.AddrFrom4([4]byte{10, 0, 0, byte(rapid.IntRange(1, 3).Draw(t, "host"))})
		if rapid.Bool().Draw(t, "text") {
			r.Addr, r.Text = netip.Addr{}, "host.example"
		}
	case AAAA:
		r.Addr = netip.MustParseAddr("fd00::1")
	case SRV:
		r.Target, r.Port = "web.mesos.", uint16(rapid.IntRange(1, 3).Draw(t, "port"))
	default:
		r.Target = "web.mesos."
	}
	return r
}

// existing are the names of a model that have records, and the names above them.
func existing(model map[string][]Record) map[string]bool {
	names := map[string]bool{}
	for name := range model {
		for rest := name; rest != ""; _, rest, _ = strings.Cut(rest, ".") {
			names[rest] = true
		}
	}
	return names
}

// The index is a map of names to records, in which the names above others exist; what it was made from stays as it is.
func TestIndexIsAMapWithTheNamesAbove(t *testing.T) {
	t.Parallel()
	names := []string{"mesos.", "weft.mesos.", "web.weft.mesos.", "db.weft.mesos.", "_tcp.web.weft.mesos.", "x."}
	rapid.Check(t, func(t *rapid.T) {
		var x Index
		model := map[string][]Record{}
		for range rapid.IntRange(1, 8).Draw(t, "txns") {
			before, was, next := x, maps.Clone(model), x.Txn()
			for range rapid.IntRange(0, 4).Draw(t, "edits") {
				name := rapid.SampledFrom(names).Draw(t, "name")
				records := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Record { return draw(t, name) }), 0, 3).Draw(t, "records")
				there := existing(model)
				if model[name] = records; len(records) == 0 {
					delete(model, name)
				}
				moved, want := next.Replace(name, records), []string(nil)
				for _, n := range names {
					if there[n] != existing(model)[n] {
						want = append(want, n)
					}
				}
				slices.Sort(moved)
				if slices.Sort(want); !slices.Equal(moved, want) {
					t.Fatalf("%s: %v begin or cease to exist, want %v", name, moved, want)
				}
			}
			x = next.Commit()
			agree(t, &before, was, names)
			agree(t, &x, model, names)
		}
	})
}

func agree(t *rapid.T, x *Index, model map[string][]Record, names []string) {
	for _, name := range names {
		got, exists := x.Get(name)
		if want := model[name]; !slices.Equal(got, want) || exists != existing(model)[name] {
			t.Fatalf("%s: exists %t, has %v, want %v", name, exists, got, want)
		}
	}
	if x.Names() != len(model) {
		t.Fatalf("%d names, want %d", x.Names(), len(model))
	}
	below := 0
	x.Within("weft.mesos", func(records []Record) bool {
		below++
		if len(records) == 0 || !strings.HasSuffix(records[0].Name, "weft.mesos.") {
			t.Fatalf("%v is not within weft.mesos", records)
		}
		return true
	})
	want := 0
	for name := range model {
		if strings.HasSuffix(name, "weft.mesos.") {
			want++
		}
	}
	if below != want {
		t.Fatalf("%d names within weft.mesos, want %d", below, want)
	}
}
