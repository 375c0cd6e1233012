// SPDX-License-Identifier: Apache-2.0

package state

import (
	"cmp"
	"iter"
	"maps"
	"slices"
	"sync"

	"github.com/hashicorp/go-memdb"

	"weft/discovery"
)

// batchBytes is about how much one Batch carries, unless one Seq alone is more or it is a Reset.
const batchBytes = 256 << 10

// Cursor follows what one other store knows, so that looking for what it lacks costs no more than
// what changed. Next is for one goroutine, Knows for any.
type Cursor struct {
	s   *Store
	rev uint64 // writers that changed up to here were looked at

	mu    sync.Mutex
	known Digest
}

// Cursor returns a cursor for someone with digest d, which is not changed.
func (s *Store) Cursor(d Digest) *Cursor {
	known := maps.Clone(d)
	if known == nil {
		known = make(Digest)
	}
	return &Cursor{s: s, known: known}
}

// Knows notes that the other side has a writer's rows up to p, because it sent them.
func (c *Cursor) Knows(writer string, p Position) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.after(c.known[writer]) {
		c.known[writer] = p
	}
}

func (c *Cursor) position(writer string) (Position, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p, ok := c.known[writer]
	return p, ok
}

// Next returns what the other side lacks as of now. A batch counts as known to it once the loop
// asks for the next one; a loop that is left early gets the rest again.
func (c *Cursor) Next() iter.Seq[Batch] {
	return func(yield func(Batch) bool) {
		mem := c.s.db.Txn(false)
		changed, rev := changedWriters(mem, c.rev)
		for _, w := range changed {
			for b := range c.behind(mem, w) {
				if !yield(b) {
					return
				}
				c.Knows(b.Writer, Position{Incarnation: b.Incarnation, Seq: b.To})
			}
		}
		c.rev = rev
	}
}

// changedWriters returns the writers changed after rev, the ledger first (it says whose rows
// count), and the greatest rev there is.
func changedWriters(mem *memdb.Txn, rev uint64) (changed []*writer, last uint64) {
	last = rev
	writers := must(mem.LowerBound(writerTable, byRev, revKey(&writer{rev: rev + 1})))
	for obj := writers.Next(); obj != nil; obj = writers.Next() {
		if w, ok := obj.(*writer); ok {
			changed = append(changed, w)
			last = max(last, w.rev)
		}
	}
	rank := func(w *writer) int {
		if w.name == discovery.Ledger {
			return 0
		}
		return 1
	}
	slices.SortFunc(changed, func(a, b *writer) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.name, b.name))
	})
	return changed, last
}

// behind returns what the other side lacks of one writer.
func (c *Cursor) behind(mem *memdb.Txn, w *writer) iter.Seq[Batch] {
	return func(yield func(Batch) bool) {
		there, known := c.position(w.name)
		here, ok := w.position()
		switch {
		case !ok || w.removed() || !here.after(there):
		case !known || there.Incarnation < here.Incarnation || there.Seq < w.floor:
			yield(Batch{
				Writer: w.name, Incarnation: here.Incarnation, To: here.Seq,
				Reset: true, Rows: wholeWriter(mem, w.name),
			})
		default:
			tail(mem, w, there.Seq, yield)
		}
	}
}

// tail yields the changes of a writer after from, in pieces that end between two Seqs.
func tail(mem *memdb.Txn, w *writer, from uint64, yield func(Batch) bool) {
	next := Batch{Writer: w.name, Incarnation: w.incarnation, From: from, To: from}
	size := 0
	rows := must(mem.LowerBound(rowTable, bySeq, seqKey(w.name, from+1)))
	for obj := rows.Next(); obj != nil; obj = rows.Next() {
		r, ok := obj.(*discovery.Row)
		if !ok || r.Writer != w.name {
			break
		}
		if size > batchBytes && r.Seq > next.To {
			if !yield(next) {
				return
			}
			next.From, next.Rows, size = next.To, nil, 0
		}
		next.Rows = append(next.Rows, *r)
		next.To = r.Seq
		size += len(r.Key) + len(r.Value)
	}
	next.To = w.seq
	yield(next)
}

// wholeWriter returns the live rows of a writer by Seq.
func wholeWriter(mem *memdb.Txn, name string) []discovery.Row {
	return liveRows(mem, bySeq, name)
}
