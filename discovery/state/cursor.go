// SPDX-License-Identifier: Apache-2.0

package state

import (
	"cmp"
	"iter"
	"maps"
	"slices"
	"sync"

	"weft/discovery"
)

// batchBytes is about how much one Batch carries, unless one Seq alone is more or it is a Reset.
const batchBytes = 256 << 10

// Cursor follows what one other store knows, so that looking for what it lacks costs no more than
// what changed. Next is for one goroutine, Knows for any.
type Cursor struct {
	s   *Store
	rev uint64 // streams that changed up to here were looked at

	mu    sync.Mutex // guards known
	known Digest
}

// Cursor returns a cursor for someone with digest d, which is not changed.
func (s *Store) Cursor(d Digest) *Cursor {
	d.Known = maps.Clone(d.Known)
	if d.Known == nil {
		d.Known = make(map[Stream]Position)
	}
	return &Cursor{s: s, known: d}
}

// Knows notes that the other side has a stream up to p, because it sent that.
func (c *Cursor) Knows(of Stream, p Position) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.after(c.known.Known[of]) {
		c.known.Known[of] = p
	}
}

// position returns how far the other side has a stream, and whether it wants it.
func (c *Cursor) position(of Stream) (p Position, known, wanted bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p, known = c.known.Known[of]
	return p, known, c.known.wants(of)
}

// Next returns what the other side lacks as of now. A batch counts as known to it once the loop
// asks for the next one; a loop that is left early gets the rest again.
func (c *Cursor) Next() iter.Seq[Batch] {
	return func(yield func(Batch) bool) {
		mem := c.s.now()
		changed, rev := changedStreams(mem, c.rev)
		for _, st := range changed {
			for b := range c.behind(mem, st) {
				if !yield(b) {
					return
				}
				c.Knows(b.Stream, Position{Incarnation: b.Incarnation, Seq: b.To})
			}
		}
		c.rev = rev
	}
}

// changedStreams returns the streams changed after rev, and the greatest rev there is. The ledger comes
// first (it says whose rows count), a writer's topics after what everyone has of it.
func changedStreams(mem *memory, rev uint64) (changed []Stream, last uint64) {
	last = rev
	for _, st := range mem.changedSince(rev) {
		changed = append(changed, st.Stream)
		last = st.rev
	}
	rank := func(of Stream) int {
		if of.Writer == discovery.Ledger {
			return 0
		}
		return 1
	}
	slices.SortFunc(changed, func(a, b Stream) int { return cmp.Or(cmp.Compare(rank(a), rank(b)), a.compare(b)) })
	return changed, last
}

// behind returns what the other side lacks of one stream.
func (c *Cursor) behind(mem *memory, of Stream) iter.Seq[Batch] {
	return func(yield func(Batch) bool) {
		there, known, wanted := c.position(of)
		st := mem.stream(of)
		here, ok := st.position()
		switch {
		case !ok || !wanted || st.removed() || !here.after(there):
		case !known || there.Incarnation < here.Incarnation || there.Seq < st.floor:
			yield(Batch{Stream: of, Incarnation: here.Incarnation, To: here.Seq, Reset: true, Rows: wholeStream(mem, of)})
		default:
			tail(mem, &st, there.Seq, yield)
		}
	}
}

// tail yields the changes of a stream after from, in pieces that end between two Seqs.
func tail(mem *memory, st *stream, from uint64, yield func(Batch) bool) {
	next := Batch{Stream: st.Stream, Incarnation: st.incarnation, From: from, To: from}
	size, more := 0, true
	mem.eachAfter(st.Stream, from, func(r *discovery.Row) bool {
		if size > batchBytes && r.Seq > next.To {
			if more = yield(next); !more {
				return false
			}
			next.From, next.Rows, size = next.To, nil, 0
		}
		next.Rows = append(next.Rows, *r)
		next.To = r.Seq
		size += len(r.Key) + len(r.Value)
		return true
	})
	if more {
		next.To = st.seq
		yield(next)
	}
}

// wholeStream returns the live rows of a stream by Seq.
func wholeStream(mem *memory, of Stream) (rows []discovery.Row) {
	keep := keepLive(&rows)
	mem.eachAfter(of, 0, func(r *discovery.Row) bool { keep(r); return true })
	return rows
}
