// SPDX-License-Identifier: Apache-2.0

package maglev_test

import (
	"errors"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"weft/lb/maglev"
)

// flow is one as a client sees it: all of its packets have to reach the backend that has it.
type flow struct {
	slot int
	at   uint32 // backend
}

// world is edge nodes and backends over many changes, by the rules above maglev.Slot.
type world struct {
	all    []maglev.Backend // of all times; Weight 0: draining or gone
	gone   map[uint32]bool
	g      maglev.Generations
	known  map[int]uint32 // flow table: by flow
	flows  []flow
	closed map[int]bool
}

const worldSize = 251

func (w *world) serves(id uint32) bool { return !w.gone[id] }

// steer is what the edge program does with a packet of flow f.
func (w *world) steer(f, slot int, opens, room bool) uint32 {
	s := w.g[slot]
	if !s.Kept {
		return s.Current
	}
	if opens {
		if s.Current == s.Previous { // it is known to nobody, so it needs no entry
			delete(w.known, f)
			return s.Current
		}
		if room {
			w.known[f] = s.Current
			return s.Current
		}
		return s.Previous
	}
	if at, ok := w.known[f]; ok {
		return at
	}
	if s.Current != s.Previous && room {
		w.known[f] = s.Previous
	}
	return s.Previous
}

func (w *world) table(t rapid.TB) maglev.Table {
	return build(t, worldSize, w.all)
}

// change lets a backend come, drain, or be gone.
func (w *world) change(t *rapid.T) {
	i := rapid.IntRange(0, len(w.all)-1).Draw(t, "backend")
	b := &w.all[i]
	switch {
	case w.gone[b.ID]:
		delete(w.gone, b.ID)
		b.Weight = rapid.Uint16Range(1, 3).Draw(t, "weight")
	case b.Weight == 0 && rapid.Bool().Draw(t, "dies"):
		w.gone[b.ID] = true
		for f := range w.flows {
			w.closed[f] = w.closed[f] || w.flows[f].at == b.ID
		}
	case b.Weight == 0:
		b.Weight = 1
	default:
		b.Weight = 0
	}
	if table := w.table(t); table != nil {
		next, err := w.g.Next(table, w.serves)
		if err != nil {
			t.Fatal(err)
		}
		w.g = next
	}
}

// settle ends a change when every flow that lives has been known by a packet of its own.
func (w *world) settle(t *rapid.T) {
	for f, flow := range w.flows {
		if !w.closed[f] {
			w.want(t, f, w.steer(f, flow.slot, false, true))
		}
	}
	w.g = w.g.Settle()
	if w.g.Changing() {
		t.Fatal("a change goes on after Settle")
	}
}

// merge forgets all, when no flow is elsewhere than new ones would go.
func (w *world) merge(t *rapid.T) {
	w.settle(t)
	for f, flow := range w.flows {
		w.closed[f] = w.closed[f] || flow.at != w.g[flow.slot].Current
	}
	w.g = w.g.Merge()
	clear(w.known)
	for i, s := range w.g {
		if s.Kept || s.Current != s.Previous {
			t.Fatalf("slot %d is %+v after Merge", i, s)
		}
	}
}

func (w *world) want(t *rapid.T, f int, got uint32) {
	t.Helper()
	if got != w.flows[f].at {
		t.Fatalf("flow %d went to %d, it is at %d; slot %+v", f, got, w.flows[f].at, w.g[w.flows[f].slot])
	}
}

// TestNoFlowIsCut changes backends at random, over and under a flood that leaves no room to learn, and
// wants every packet at the backend that has had the first of its flow.
func TestNoFlowIsCut(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := &world{gone: make(map[uint32]bool), known: make(map[int]uint32), closed: make(map[int]bool)}
		w.all = equal(6)
		w.g = maglev.Start(w.table(t))
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "step") {
			case 0, 1:
				w.change(t)
			case 2:
				w.settle(t)
			case 3:
				w.merge(t)
			default:
				f, slot := len(w.flows), rapid.IntRange(0, worldSize-1).Draw(t, "slot")
				at := w.steer(f, slot, true, rapid.Bool().Draw(t, "room"))
				w.flows = append(w.flows, flow{slot, at})
				w.closed[f] = w.gone[at]
			}
			for f, flow := range w.flows {
				if !w.closed[f] {
					w.want(t, f, w.steer(f, flow.slot, false, rapid.Bool().Draw(t, "room")))
				}
			}
		}
	})
}

func TestNewFlowsGoByTheNewTable(t *testing.T) {
	t.Parallel()
	backends := equal(10)
	before := build(t, worldSize, backends)
	after := build(t, worldSize, slices.Delete(slices.Clone(backends), 3, 4))
	g, err := maglev.Start(before).Next(after, func(uint32) bool { return true })
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range g {
		if s != (maglev.Slot{Current: after[i], Previous: before[i], Kept: before[i] != after[i]}) {
			t.Errorf("slot %d is %+v, want from %d to %d", i, s, before[i], after[i])
		}
	}
	for i, s := range g.Settle().Merge() {
		if s != (maglev.Slot{Current: after[i], Previous: after[i]}) {
			t.Errorf("slot %d is %+v when merged, want %d", i, s, after[i])
		}
	}
	if _, err := g.Next(after[1:], func(uint32) bool { return true }); !errors.Is(err, maglev.ErrInvalid) {
		t.Errorf("a table of another size: got %v, want %v", err, maglev.ErrInvalid)
	}
}

// TestTheDeadHaveNoFlows: slots of a backend that is gone have nothing to look up.
func TestTheDeadHaveNoFlows(t *testing.T) {
	t.Parallel()
	backends := equal(10)
	before := build(t, worldSize, backends)
	after := build(t, worldSize, slices.Delete(slices.Clone(backends), 3, 4))
	g, err := maglev.Start(before).Next(after, func(id uint32) bool { return id != backends[3].ID })
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range g {
		if before[i] == backends[3].ID && s != (maglev.Slot{Current: after[i], Previous: after[i]}) {
			t.Errorf("slot %d of the dead is %+v", i, s)
		}
	}
}
