// SPDX-License-Identifier: Apache-2.0

package state

import (
	"errors"
	"fmt"
	"time"

	"weft/discovery"
	"weft/discovery/state/operation"
)

// change is one caller's wish. decide may run twice, when what it wrote could not be stored.
type change struct {
	durable bool
	decide  func(*tx) error
	done    bool // guarded by commitMu, as is err
	err     error
}

// commit carries out a change, together with those of other callers who came in the meantime: one
// write, one sync. Readers see the change when commit returns, and not before a durable one is on
// disk, so that no one ever hears of a row that a crash could take back.
func (s *Store) commit(durable bool, decide func(*tx) error) error {
	c := &change{durable: durable, decide: decide}
	s.queueMu.Lock()
	s.queue = append(s.queue, c)
	s.queueMu.Unlock()

	s.commitMu.Lock()
	defer s.commitMu.Unlock()
	if c.done {
		return c.err
	}
	s.queueMu.Lock()
	group := s.queue
	s.queue = nil
	s.queueMu.Unlock()
	s.carryOut(group)
	return c.err
}

func (s *Store) carryOut(group []*change) {
	t, sync := s.decide(group)
	err := error(nil)
	switch {
	case s.closed:
		err = ErrClosed
	case len(t.ops) > 0:
		err = s.disk.Append(t.ops, sync, t.mem.snapshot)
	}
	if err == nil {
		s.publish(t)
		return
	}
	// What others say is worth knowing even when it can't be kept: it can be asked for again.
	var rest []*change
	for _, c := range group {
		if c.durable || s.closed {
			c.err = err
		} else {
			rest = append(rest, c)
		}
	}
	if len(rest) > 0 {
		s.log.Error("state file not written", "error", err)
		t, _ = s.decide(rest)
		s.publish(t)
	}
}

// decide runs the changes in order. One that errs has changed nothing.
func (s *Store) decide(group []*change) (t *tx, sync bool) {
	t = s.begin()
	for _, c := range group {
		ops := len(t.ops)
		c.err = c.decide(t)
		c.done = true
		sync = sync || c.durable && len(t.ops) > ops
	}
	return t, sync
}

func (s *Store) publish(t *tx) {
	s.published.Store(t.mem)
	s.renewed = t.renewed
	s.stats.rows.Add(t.rows)
	s.stats.tombstones.Add(t.tombstones)
	s.stats.streams.Add(t.streams)
	s.stats.refused.Add(t.refused)
	s.stats.renewals.Add(t.renewals)
	s.stats.logBytes.Store(s.disk.Size())
	if t.renewals > 0 {
		s.log.Warn("own rows begin a new life: others knew more of them, or the masters removed this node",
			"node", s.self, "incarnation", s.Incarnation())
	}
	s.hub.wake(t.touched, t.mem)
	if t.turned {
		close(*s.turned.Swap(new(make(chan struct{}))))
	}
	if len(t.kinds) > 0 {
		s.readers.Wake(t.kinds)
	}
}

// boot fills the memory from the disk, and gives Self an incarnation if it has none that can go on.
func (s *Store) boot() error {
	t := s.begin()
	fresh, err := s.replay(t)
	if err != nil {
		return err
	}
	own := t.mem.stream(discovery.Stream{Writer: s.self})
	switch {
	case s.self == "":
	case own.Incarnation == 0:
		own.Incarnation = uint64(time.Now().UnixNano())
		t.setStream(own)
	case s.stats.salvage.Load() > 0, t.old, own.removed():
		// Rows may be lost that others have: what we say from now on must be newer than all of it.
		t.renew(own.Incarnation)
	}
	t.renewed = time.Time{}
	if s.disk != nil && (fresh || s.stats.salvage.Load() > 0 || len(t.ops) > 0) {
		if err := s.disk.Rewrite(t.mem.snapshot); err != nil {
			return err
		}
	}
	s.publish(t)
	return nil
}

// replay repeats what the log says was done.
func (s *Store) replay(t *tx) (fresh bool, err error) {
	if s.disk == nil {
		return true, nil
	}
	found, err := s.disk.Read(t.redo)
	if err != nil {
		return false, err
	}
	t.resume()
	if found.Whole {
		t.recount()
		s.log.Error("state file is broken; the copy beside it is whole and is used",
			"error", errors.Join(found.Bad...), "kept", found.Aside, "rows", t.rows)
		return true, nil
	}
	if len(found.Bad) > 0 || t.old {
		t.repair()
	}
	t.recount()
	if len(found.Bad) == 0 {
		return found.Fresh || t.old, nil
	}
	s.stats.salvage.Store(uint64(len(found.Bad)))
	s.log.Error("state file is broken in places; it is kept aside and what is whole is used",
		"error", errors.Join(found.Bad...), "kept", found.Aside, "rows", t.rows)
	return true, nil
}

// repair makes a state of what is left of a broken log, or of one without topics. Of other writers rows
// may be lost: it claims to know nothing, and they come again. What a lost record took back may be here
// once more.
func (t *tx) repair() {
	streams := make(map[discovery.Stream]stream)
	t.mem.eachStream(func(st *stream) { streams[st.Stream] = *st })
	var drop []*discovery.Row
	t.mem.each("", func(r *discovery.Row) {
		of := r.Stream()
		if !t.takes(of) {
			drop = append(drop, r)
			return
		}
		st := streams[of]
		st.Stream, st.Incarnation = of, max(st.Incarnation, r.Incarnation)
		streams[of] = st
	})
	t.mem.each("", func(r *discovery.Row) {
		if r.Incarnation < streams[r.Stream()].Incarnation {
			drop = append(drop, r)
		}
	})
	for _, r := range drop {
		t.mem.drop(r)
	}
	for _, st := range streams {
		st.Seq, st.Floor = 0, 0
		t.setStream(st)
	}
}

// recount derives what the log does not hold: counts, and who is gone.
func (t *tx) recount() {
	t.rows, t.tombstones, t.streams = 0, 0, 0
	stones := make(map[discovery.Stream]int)
	gone := make(map[string]uint64)
	t.mem.each("", func(r *discovery.Row) {
		if r.Deleted {
			t.tombstones++
			stones[r.Stream()]++
			return
		}
		t.rows++
		if r.Writer == discovery.Ledger && r.Kind == discovery.KindAdmission && r.Key != discovery.Ledger {
			if n := goneOf(r); n > 0 {
				gone[r.Key] = n
			}
		}
	})
	known := make(map[discovery.Stream]stream)
	t.mem.eachStream(func(st *stream) { known[st.Stream] = *st })
	t.streams = int64(len(known))
	for name := range gone {
		if of := (discovery.Stream{Writer: name}); known[of].Writer == "" {
			known[of] = unknown(of)
		}
	}
	for of, st := range known {
		st.tombstones, st.gone = stones[of], gone[of.Writer]
		t.setStream(st)
	}
	t.ops = nil
}

// redo repeats the operations of one record of the log.
func (t *tx) redo(ops []byte) error {
	for len(ops) > 0 {
		op, rest, err := operation.Read(ops)
		if err != nil {
			return err
		}
		ops = rest
		switch op.Code {
		case operation.SetRow:
			row := op.Row // not op, which is twice as large
			t.mem.set(&row)
		case operation.DropRow:
			t.mem.drop(&op.Row)
		case operation.SetStream:
			t.old = t.old || op.Old
			t.s.rev++
			t.mem.setStream(stream{Known: op.Stream, rev: t.s.rev})
		case operation.Forget:
			t.mem.dropStream(op.Stream.Stream)
		default:
			return fmt.Errorf("operation %d: %w", op.Code, ErrBroken)
		}
	}
	return nil
}
