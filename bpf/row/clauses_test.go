// SPDX-License-Identifier: Apache-2.0

package row_test

import (
	"testing"

	"pgregory.net/rapid"

	"weft/bpf/row"
)

// However many clauses there are, the pages answer as the list does from end to end.
func TestPagesSayWhatTheListSays(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		list := []row.Clause{row.ClauseOf(0, 0, row.VerdictNone, 0)}
		port := uint16(0)
		for i := range rapid.IntRange(0, row.MaxClauses-1).Draw(t, "clauses") {
			port += rapid.Uint16Range(1, 60).Draw(t, "gap")
			list = append(list, row.ClauseOf(6, port, uint8(i%3), uint32(i)))
		}
		id := row.ClausesID(list)
		pages := make(map[row.ClausesKey]row.Clauses)
		for i, page := range row.PagesOf(list) {
			pages[row.ClausesKey{ID: id, Page: uint32(i)}] = page
		}
		for range 50 {
			proto, asked := rapid.SampledFrom([]uint8{0, 5, 6, 7}).Draw(t, "proto"), rapid.Uint16().Draw(t, "port")
			want := list[0]
			for _, c := range list {
				if c.Holds(proto, asked) {
					want = c
				}
			}
			got, ok := row.FindClause(func(k row.ClausesKey) (row.Clauses, bool) { c, ok := pages[k]; return c, ok }, id, proto, asked)
			if !ok || got != want {
				t.Fatalf("%d/%d: got %+v %v, want %+v", proto, asked, got, ok, want)
			}
		}
	})
	if row.PagesOf(make([]row.Clause, row.MaxClauses+1)) != nil {
		t.Error("got pages for more clauses than there is room for")
	}
}
