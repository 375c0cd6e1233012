// SPDX-License-Identifier: Apache-2.0

package state

import (
	"fmt"
	"iter"
	"math"

	"weft/discovery"
)

// Position is how far a writer's rows are known: all up to Seq of that Incarnation.
type Position struct {
	Incarnation uint64
	Seq         uint64
}

// after tells whether p is further than q.
func (p Position) after(q Position) bool {
	return p.Incarnation > q.Incarnation || p.Incarnation == q.Incarnation && p.Seq > q.Seq
}

// Digest is what a store knows, by writer. Writers that the masters removed stand at the greatest
// Seq of the removed incarnation: nothing of it is wanted any more.
type Digest map[string]Position

// Batch is a piece of one writer's stream: all its changes after From up to To. Rows of one Seq are
// never in two batches.
type Batch struct {
	Writer      string
	Incarnation uint64
	From        uint64 // not included
	To          uint64 // included
	// Reset tells that Rows are all live rows of the writer: what else was known of it is void.
	Reset bool
	Rows  []discovery.Row // by Seq
}

// Digest returns what is known now.
func (s *Store) Digest() Digest {
	d := make(Digest)
	eachWriter(s.db.Txn(false), func(w *writer) {
		if p, ok := w.position(); ok {
			d[w.name] = p
		}
	})
	return d
}

// position is how far the writer is known; none if nothing is.
func (w *writer) position() (Position, bool) {
	switch {
	case w.removed():
		return Position{Incarnation: w.gone, Seq: math.MaxUint64}, true
	case w.seq == 0:
		return Position{}, false
	}
	return Position{Incarnation: w.incarnation, Seq: w.seq}, true
}

// Since returns what someone with digest d lacks, as of now: batches in the order of Seq per writer.
// Applied in that order they leave no gap. d is not changed.
func (s *Store) Since(d Digest) iter.Seq[Batch] {
	return s.Cursor(d).Next()
}

// ApplyBatch takes a piece of another writer's stream and returns how many visible rows changed.
// What is known already is no error and no change; ErrGap tells that something is missing before
// the batch. The rows are all taken or none.
func (s *Store) ApplyBatch(b Batch) (changed int, err error) {
	if err := b.check(); err != nil {
		return 0, fmt.Errorf("apply batch of %s: %w", b.Writer, err)
	}
	err = s.commit(false, func(t *tx) error {
		changed, err = t.applyBatch(&b)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("apply batch: %w", err)
	}
	return changed, nil
}

// check refuses a batch that does not keep what its type promises.
func (b *Batch) check() error {
	if err := checkName("writer", b.Writer); err != nil {
		return err
	}
	if b.Incarnation == 0 || b.To == 0 || b.From >= b.To || b.Reset && b.From != 0 {
		return fmt.Errorf("incarnation %d, from %d, to %d: %w", b.Incarnation, b.From, b.To, discovery.ErrInvalid)
	}
	for i := range b.Rows {
		r := &b.Rows[i]
		if err := checkRow(r); err != nil {
			return err
		}
		if r.Writer != b.Writer || r.Incarnation != b.Incarnation || r.Seq <= b.From || r.Seq > b.To {
			return fmt.Errorf("row %s/%s of %s at %d/%d is outside of it: %w", r.Kind, r.Key, r.Writer, r.Incarnation, r.Seq, discovery.ErrInvalid)
		}
	}
	return nil
}
