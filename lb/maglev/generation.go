// SPDX-License-Identifier: Apache-2.0

package maglev

import "fmt"

// Slot is one place of a table over a change. What is known of a flow decides first; of a flow that is
// not known its slot decides:
//
//	            Current == Previous          Current != Previous
//	Kept no     Current; no flow is known    -
//	Kept yes    known flow, else Current     known flow; a new one: Current, and it is known from
//	                                         then on; else Previous
//
//	  Start         Next                 Settle                   Merge
//	-------> equal ------> changing -----------------> settled -------------> equal
//	                         ^  | Next (Previous stays)   | Next
//	                         +--+<------------------------+
//
// So a flow that could not be made known goes where Previous says, in its first packet as in its last.
// That is why a second change leaves Previous as it is.
type Slot struct {
	Current  uint32
	Previous uint32
	// Kept says that flows of this slot may be known to lead elsewhere than to Current.
	Kept bool
}

// Generations is a table over a change: one Slot for each slot.
type Generations []Slot

// Start returns generations without a change.
func Start(t Table) Generations {
	g := make(Generations, len(t))
	for i, id := range t {
		g[i] = Slot{Current: id, Previous: id}
	}
	return g
}

// Next returns the generations in which t is current. serves tells whether a backend can still have
// flows: one that is gone is nobody's previous. Before Merge its ID must not become another's.
func (g Generations) Next(t Table, serves func(id uint32) bool) (Generations, error) {
	if len(t) != len(g) {
		return nil, fmt.Errorf("table of %d slots after one of %d: %w: sizes must be equal", len(t), len(g), ErrInvalid)
	}
	next := make(Generations, len(g))
	for i, s := range g {
		previous := s.Previous
		if !serves(previous) {
			previous = s.Current
		}
		if !serves(previous) {
			previous = t[i]
		}
		next[i] = Slot{
			Current: t[i], Previous: previous,
			Kept: s.Kept || t[i] != previous || s.Current != t[i] && serves(s.Current),
		}
	}
	return next, nil
}

// Changing reports whether some slot leads to two backends.
func (g Generations) Changing() bool {
	for _, s := range g {
		if s.Current != s.Previous {
			return true
		}
	}
	return false
}

// Settle ends the change for flows that are not known: they go to Current. Those that are known stay.
func (g Generations) Settle() Generations {
	settled := make(Generations, len(g))
	for i, s := range g {
		settled[i] = Slot{Current: s.Current, Previous: s.Current, Kept: s.Kept}
	}
	return settled
}

// Merge ends the change for all flows.
func (g Generations) Merge() Generations {
	merged := make(Generations, len(g))
	for i, s := range g {
		merged[i] = Slot{Current: s.Current, Previous: s.Current}
	}
	return merged
}
