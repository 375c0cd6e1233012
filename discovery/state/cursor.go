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
// what changed. Next is for one goroutine, the rest for any.
type Cursor struct {
	s    *Store
	rev  uint64        // streams that changed up to here were looked at
	wake chan struct{} // capacity 1: that something is pending; nil unless the cursor follows
	turn chan struct{} // capacity 1: that the other side's interest changed

	mu      sync.Mutex // guards what follows
	known   Digest     // Topics is empty: topics has them
	topics  map[discovery.Topic]struct{}
	pending map[discovery.Stream]struct{} // of a cursor that follows: changed since Next looked
}

// Cursor returns a cursor for someone with digest d, which is not changed.
func (s *Store) Cursor(d Digest) *Cursor {
	c := &Cursor{s: s, known: d, topics: make(map[discovery.Topic]struct{}, len(d.Topics))}
	c.known.Known = maps.Clone(d.Known)
	if c.known.Known == nil {
		c.known.Known = make(map[discovery.Stream]discovery.Position)
	}
	c.known.Topics = nil
	for _, t := range d.Topics {
		c.topics[t] = struct{}{}
	}
	return c
}

// Follow returns a cursor that is told of changes of what the other side takes, and of no others; Close it.
func (s *Store) Follow(d Digest) *Cursor {
	c := s.Cursor(d)
	c.wake, c.turn, c.pending = make(chan struct{}, 1), make(chan struct{}, 1), make(map[discovery.Stream]struct{})
	s.hub.add(c, d.Whole, d.Topics)
	return c
}

// Pending returns the channel that has something in it when there is something for Next.
func (c *Cursor) Pending() <-chan struct{} { return c.wake }

// Turned returns the channel that has something in it when the other side's interest changed.
func (c *Cursor) Turned() <-chan struct{} { return c.turn }

// Close ends Follow.
func (c *Cursor) Close() { c.s.hub.remove(c) }

// Interest is the version of the interest that the other side has told.
func (c *Cursor) Interest() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.known.Interest
}

// Knows notes that the other side has a stream up to p, because it sent that.
func (c *Cursor) Knows(of discovery.Stream, p discovery.Position) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.After(c.known.Known[of]) {
		c.known.Known[of] = p
	}
}

// Turn follows a change of the other side's interest: what it left it forgot.
func (c *Cursor) Turn(take, leave []discovery.Topic, interest uint64) {
	if c.wake != nil {
		c.s.hub.turn(c, take, leave)
	}
	mem := c.s.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range leave {
		delete(c.topics, t)
	}
	if len(leave) > 0 {
		maps.DeleteFunc(c.known.Known, func(of discovery.Stream, _ discovery.Position) bool { return !c.takes(of.Topic) })
	}
	for _, t := range take {
		c.topics[t] = struct{}{}
		mem.eachOn(t, func(of discovery.Stream) { c.note(of) })
	}
	c.known.Interest = interest
	signal(c.wake) // also that there is nothing for it is worth saying
	signal(c.turn)
}

// Forget forgets that the other side has streams, when it does not any more.
func (c *Cursor) Forget(gone func(discovery.Stream) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.DeleteFunc(c.known.Known, func(of discovery.Stream, _ discovery.Position) bool { return gone(of) })
}

// note is told of a stream that changed; the caller holds mu.
func (c *Cursor) note(of discovery.Stream) {
	if c.pending == nil {
		return
	}
	c.pending[of] = struct{}{}
	signal(c.wake)
}

func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// takes tells whether the other side wants a topic; the caller holds mu.
func (c *Cursor) takes(t discovery.Topic) bool {
	if t.IsZero() || c.known.Whole {
		return true
	}
	if _, ok := c.topics[t]; ok {
		return true
	}
	_, ok := c.topics[discovery.Topic{Kind: t.Kind, Of: discovery.Every}]
	return ok
}

// position returns how far the other side has a stream, and whether it wants it.
func (c *Cursor) position(of discovery.Stream) (p discovery.Position, known, wanted bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p, known = c.known.Known[of]
	return p, known, known || c.takes(of.Topic)
}

// Next returns what the other side lacks as of now. A batch counts as known to it once the loop
// asks for the next one; a loop that is left early gets the rest again.
func (c *Cursor) Next() iter.Seq[Batch] {
	return func(yield func(Batch) bool) {
		mem, rev := c.s.now(), c.rev
		var changed []discovery.Stream
		if c.pending == nil || rev == 0 {
			changed, rev = changedStreams(mem, c.rev)
		} else {
			changed, mem = c.take()
		}
		for i, st := range changed {
			for b := range c.behind(mem, st) {
				if !yield(b) {
					c.again(changed[i:])
					return
				}
				c.Knows(b.Stream, discovery.Position{Incarnation: b.Incarnation, Seq: b.To})
			}
		}
		c.rev = rev
	}
}

// take returns what is pending, and rows in which all of it is.
func (c *Cursor) take() ([]discovery.Stream, *memory) {
	c.mu.Lock()
	defer c.mu.Unlock()
	changed := slices.SortedFunc(maps.Keys(c.pending), ledgerFirst)
	clear(c.pending)
	return changed, c.s.now()
}

// again makes streams pending that were not sent.
func (c *Cursor) again(rest []discovery.Stream) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, of := range rest {
		c.note(of)
	}
}

// changedStreams returns the streams changed after rev, and the greatest rev there is. The ledger comes
// first (it says whose rows count), a writer's topics after what everyone has of it.
func changedStreams(mem *memory, rev uint64) (changed []discovery.Stream, last uint64) {
	last = rev
	for _, st := range mem.changedSince(rev) {
		changed = append(changed, st.Stream)
		last = st.rev
	}
	slices.SortFunc(changed, ledgerFirst)
	return changed, last
}

func ledgerFirst(a, b discovery.Stream) int {
	rank := func(of discovery.Stream) int {
		if of.Writer == discovery.Ledger {
			return 0
		}
		return 1
	}
	return cmp.Or(cmp.Compare(rank(a), rank(b)), a.Compare(b))
}

// behind returns what the other side lacks of one stream.
func (c *Cursor) behind(mem *memory, of discovery.Stream) iter.Seq[Batch] {
	return func(yield func(Batch) bool) {
		there, known, wanted := c.position(of)
		st := mem.stream(of)
		here, ok := st.position()
		switch {
		case !ok || !wanted || st.removed() || !here.After(there):
		case !known || there.Incarnation < here.Incarnation || there.Seq < st.Floor:
			yield(Batch{Stream: of, Incarnation: here.Incarnation, To: here.Seq, Reset: true, Rows: wholeStream(mem, of)})
		default:
			tail(mem, &st, there.Seq, yield)
		}
	}
}

// tail yields the changes of a stream after from, in pieces that end between two Seqs.
func tail(mem *memory, st *stream, from uint64, yield func(Batch) bool) {
	next := Batch{Stream: st.Stream, Incarnation: st.Incarnation, From: from, To: from}
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
		next.To = st.Seq
		yield(next)
	}
}

// wholeStream returns the live rows of a stream by Seq.
func wholeStream(mem *memory, of discovery.Stream) (rows []discovery.Row) {
	keep := keepLive(&rows)
	mem.eachAfter(of, 0, func(r *discovery.Row) bool { keep(r); return true })
	return rows
}
