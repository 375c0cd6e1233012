// SPDX-License-Identifier: Apache-2.0

package row

import (
	"crypto/sha256"
	"encoding/binary"
)

// MaxClauses is how many clauses a verdict can have: as many pages as one page can name.
const MaxClauses = ClausesMax * ClausesMax

// ClauseOf returns what a verdict says of a protocol and port on: an action and the rule behind it.
func ClauseOf(proto uint8, port uint16, action uint8, rule uint32) Clause {
	return Clause{Start: uint32(proto)<<24 | uint32(port)<<8 | uint32(action), Rule: rule}
}

// Action returns what the clause does.
func (c Clause) Action() uint8 { return uint8(c.Start) }

// Holds reports whether the clause begins at or before a protocol and port.
func (c Clause) Holds(proto uint8, port uint16) bool {
	return c.Start>>8 <= uint32(proto)<<16|uint32(port)
}

// PagesOf lays clauses, ascending by start, out in rows by page: one row where one is enough, else a
// first one that leads to the others. More than MaxClauses are refused: nil.
func PagesOf(list []Clause) []Clauses {
	if len(list) <= ClausesMax {
		return []Clauses{pageOf(list)}
	}
	if len(list) > MaxClauses {
		return nil
	}
	var lead []Clause
	pages := []Clauses{{}}
	for len(list) > 0 {
		n := min(len(list), ClausesMax)
		lead = append(lead, Clause{Start: list[0].Start&^0xff | VerdictPage, Rule: uint32(len(pages))})
		pages = append(pages, pageOf(list[:n]))
		list = list[n:]
	}
	pages[0] = pageOf(lead)
	return pages
}

func pageOf(list []Clause) Clauses {
	c := Clauses{Count: uint32(len(list))}
	copy(c.List[:], list)
	return c
}

// ClausesID names clauses by what they say, so that equal ones share their rows. It is never 0.
func ClausesID(list []Clause) uint64 {
	h := sha256.New()
	var b [8]byte
	for _, c := range list {
		binary.LittleEndian.PutUint32(b[:], c.Start)
		binary.LittleEndian.PutUint32(b[4:], c.Rule)
		h.Write(b[:])
	}
	return binary.LittleEndian.Uint64(h.Sum(nil)) | 1
}

// FindClause returns the clause that decides about a protocol and port, as the packet path finds it.
func FindClause(get func(ClausesKey) (Clauses, bool), id uint64, proto uint8, port uint16) (Clause, bool) {
	key := ClausesKey{ID: id}
	for range 2 {
		page, ok := get(key)
		if !ok || page.Count == 0 {
			break
		}
		at := 0
		for i := 1; i < int(min(page.Count, ClausesMax)) && page.List[i].Holds(proto, port); i++ {
			at = i
		}
		if page.List[at].Action() != VerdictPage {
			return page.List[at], true
		}
		key.Page = page.List[at].Rule
	}
	return Clause{}, false
}
