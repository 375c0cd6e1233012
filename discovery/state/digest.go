// SPDX-License-Identifier: Apache-2.0

package state

import (
	"cmp"
	"fmt"
	"iter"
	"math"

	"weft/discovery"
)

// Stream is the rows of one writer on one topic, in the order of Seq. It is held
// whole or not at all, so that one Position says what is known of it.
type Stream struct {
	Writer string
	Topic  discovery.Topic
}

func streamOf(r *discovery.Row) Stream { return Stream{r.Writer, r.Kind.Topic(r.Key)} }

func (a Stream) compare(b Stream) int {
	if c := cmp.Compare(a.Writer, b.Writer); c != 0 {
		return c
	}
	return a.Topic.Compare(b.Topic)
}

// String is for people: the writer, and the topic behind a slash.
func (a Stream) String() string {
	if a.Topic.IsZero() {
		return a.Writer
	}
	return a.Writer + "/" + a.Topic.String()
}

// Position is how far a stream is known: all rows up to Seq of that Incarnation.
type Position struct {
	Incarnation uint64
	Seq         uint64
}

// Reaches tells whether p is as far as q, or further.
func (p Position) Reaches(q Position) bool { return !q.after(p) }

// after tells whether p is further than q.
func (p Position) after(q Position) bool {
	return p.Incarnation > q.Incarnation || p.Incarnation == q.Incarnation && p.Seq > q.Seq
}

// Digest is what a store knows and what it wants to know. Streams of writers that the masters removed
// stand at the greatest Seq of the removed incarnation: nothing of it is wanted any more.
type Digest struct {
	Known map[Stream]Position
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
	Stream
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
	d := Digest{Known: make(map[Stream]Position), Whole: s.whole, Topics: mem.interest.list(), Interest: mem.interest.version}
	mem.eachStream(func(st *stream) {
		now := mem.stream(st.Stream)
		if p, ok := now.position(); ok {
			d.Known[st.Stream] = p
		}
	})
	return d
}

// position is how far the stream is known; none if nothing is.
func (st *stream) position() (Position, bool) {
	switch {
	case st.removed():
		return Position{Incarnation: st.gone, Seq: math.MaxUint64}, true
	case st.seq == 0:
		return Position{}, false
	}
	return Position{Incarnation: st.incarnation, Seq: st.seq}, true
}

// Position returns how far a stream is known; the zero one if nothing is.
func (s *Store) Position(of Stream) Position {
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
		if streamOf(r) != b.Stream || r.Incarnation != b.Incarnation || r.Seq <= b.From || r.Seq > b.To {
			return fmt.Errorf("row %s/%s of %s at %d/%d is outside of it: %w", r.Kind, r.Key, r.Writer, r.Incarnation, r.Seq, discovery.ErrInvalid)
		}
	}
	return nil
}
