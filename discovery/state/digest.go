// SPDX-License-Identifier: Apache-2.0

package state

import (
	"fmt"
	"iter"
	"math"

	"weft/discovery"
)

// Digest is what a store knows and what it wants to know. Streams of writers that the masters removed
// stand at the greatest Seq of the removed incarnation: nothing of it is wanted any more.
type Digest struct {
	Known map[discovery.Stream]discovery.Position
	// Whole wants the streams of every topic; else those of Topics, those that everyone holds, and those that
	// are known.
	Whole  bool
	Topics []discovery.Topic
	// Interest is the store's count of changes of Topics.
	Interest uint64
}

// Batch is a piece of one stream: all its changes after From up to To. Rows of one Seq are never in two
// batches.
type Batch struct {
	discovery.Stream
	Incarnation uint64
	From        uint64 // not included
	To          uint64 // included
	// Reset tells that Rows are all live rows of the stream: what else was known of it is void.
	Reset bool
	Rows  []discovery.Row // by Seq
}

// Digest returns what is known now.
func (s *Store) Digest() Digest {
	mem := s.now()
	d := Digest{Known: make(map[discovery.Stream]discovery.Position), Whole: s.whole, Topics: mem.interest.list(), Interest: mem.interest.version}
	mem.eachStream(func(st *stream) {
		now := mem.stream(st.Stream)
		if p, ok := now.position(); ok {
			d.Known[st.Stream] = p
		}
	})
	return d
}

// position is how far the stream is known; none if nothing is.
func (st *stream) position() (discovery.Position, bool) {
	switch {
	case st.removed():
		return discovery.Position{Incarnation: st.gone, Seq: math.MaxUint64}, true
	case st.Seq == 0:
		return discovery.Position{}, false
	}
	return discovery.Position{Incarnation: st.Incarnation, Seq: st.Seq}, true
}

// Position returns how far a stream is known; the zero one if nothing is.
func (s *Store) Position(of discovery.Stream) discovery.Position {
	st := s.now().stream(of)
	p, _ := st.position()
	return p
}

// Since returns what someone with digest d lacks, as of now: batches in the order of Seq per stream.
// Applied in that order they leave no gap. d is not changed.
func (s *Store) Since(d Digest) iter.Seq[Batch] {
	return s.Cursor(d).Next()
}

// ApplyBatch takes a piece of another writer's stream, unless it is on a topic that is not taken, and returns how many visible rows changed.
// What is known already is no error and no change; ErrGap tells that something is missing before
// the batch. The rows are all taken or none.
func (s *Store) ApplyBatch(b Batch) (changed int, err error) {
	if err := b.check(); err != nil {
		return 0, fmt.Errorf("apply batch of %s: %w", b.Stream, err)
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
	if err := discovery.CheckRowName("writer", b.Writer); err != nil {
		return err
	}
	if b.Incarnation == 0 || b.To == 0 || b.From >= b.To || b.Reset && b.From != 0 {
		return fmt.Errorf("incarnation %d, from %d, to %d: %w", b.Incarnation, b.From, b.To, discovery.ErrInvalid)
	}
	for i := range b.Rows {
		r := &b.Rows[i]
		if err := r.Validate(); err != nil {
			return err
		}
		if r.Stream() != b.Stream || r.Incarnation != b.Incarnation || r.Seq <= b.From || r.Seq > b.To {
			return fmt.Errorf("row %s/%s of %s at %d/%d is outside of it: %w", r.Kind, r.Key, r.Writer, r.Incarnation, r.Seq, discovery.ErrInvalid)
		}
	}
	return nil
}
