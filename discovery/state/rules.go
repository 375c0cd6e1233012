// SPDX-License-Identifier: Apache-2.0

package state

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"weft/discovery"
	"weft/discovery/state/operation"
)

// renewEvery is how often at most own rows are renewed because someone else knows more of us than
// we do: two nodes under one name must not race each other.
const renewEvery = 10 * time.Second

// tx is one change being decided: the memory as it will be, and the same as bytes for the log.
type tx struct {
	s     *Store
	mem   *memory
	ops   []byte
	kinds map[discovery.Kind][]*discovery.Row // that changed

	rows, tombstones, streams int64 // differences
	refused, renewals         uint64
	renewed                   time.Time
	old                       bool // read from a log without the present topics
	turned                    bool // the interest changed
	touched                   []discovery.Stream
}

func (s *Store) begin() *tx {
	return &tx{s: s, mem: s.now().fork(), kinds: make(map[discovery.Kind][]*discovery.Row), renewed: s.renewed}
}

// put and del write own rows; each change has a Seq of its own.
func (t *tx) put(kind discovery.Kind, key string, value []byte) {
	old := t.mem.row(t.s.self, kind, key)
	if old != nil && !old.Deleted && bytes.Equal(old.Value, value) {
		return
	}
	t.write(old, discovery.Row{Kind: kind, Key: key, Value: value})
}

func (t *tx) del(kind discovery.Kind, key string) {
	old := t.mem.row(t.s.self, kind, key)
	if old == nil || old.Deleted {
		return
	}
	t.write(old, discovery.Row{Kind: kind, Key: key, Deleted: true})
}

func (t *tx) write(old *discovery.Row, r discovery.Row) {
	st := t.mem.stream(discovery.Stream{Writer: t.s.self, Topic: r.Kind.Topic(r.Key)})
	st.Incarnation = t.mem.stream(discovery.Stream{Writer: t.s.self}).Incarnation // the topic's first row begins it
	st.Seq++
	r.Writer, r.Incarnation, r.Seq = st.Writer, st.Incarnation, st.Seq
	t.setRow(&st, old, &r)
	t.setStream(st)
}

// applyAll takes rows of other writers and returns how many of them changed something visible.
func (t *tx) applyAll(rows []discovery.Row) (changed int) {
	// In runs of one stream, because looking at a stream costs as much as storing a row.
	if !slices.IsSortedFunc(rows, byStream) {
		rows = slices.Clone(rows)
		slices.SortStableFunc(rows, byStream)
	}
	for len(rows) > 0 {
		n := 1
		for n < len(rows) && rows[n].Stream() == rows[0].Stream() {
			n++
		}
		changed += t.applyRun(rows[:n])
		rows = rows[n:]
	}
	return changed
}

func byStream(a, b discovery.Row) int { return a.Stream().Compare(b.Stream()) }

// applyRun takes rows of one stream.
func (t *tx) applyRun(rows []discovery.Row) (changed int) {
	st := t.mem.stream(rows[0].Stream())
	if !t.takes(st.Stream) {
		return 0
	}
	before := st
	for _, r := range rows {
		if r.Writer == t.s.self {
			t.meetSelf(st.Stream, discovery.Position{Incarnation: r.Incarnation, Seq: r.Seq})
			continue
		}
		if !t.current(&st, r.Incarnation) {
			continue
		}
		if t.take(&st, r) {
			changed++
		}
		st.Seq = max(st.Seq, r.Seq)
	}
	if st != before {
		t.setStream(st)
	}
	return changed
}

// current tells whether rows of an incarnation count, and begins that incarnation if it is new.
func (t *tx) current(st *stream, incarnation uint64) bool {
	switch {
	case incarnation <= st.gone:
		t.refused++
		return false
	case incarnation < t.life(st):
		return false
	case incarnation > st.Incarnation:
		t.clear(st)
		st.Incarnation = incarnation
		t.endTopics(st)
	}
	return true
}

// life is the incarnation that a stream's rows must have at least. That of the rows which everyone has
// counts for the writer's topics too: they may never say anything in a new life.
func (t *tx) life(st *stream) uint64 {
	return max(st.Incarnation, st.least)
}

// endTopics forgets what a writer said on topics before the life that st begins.
func (t *tx) endTopics(st *stream) {
	if !st.Topic.IsZero() {
		return
	}
	for _, of := range t.mem.streamsOf(st.Writer) {
		if topic := t.mem.stream(of); !of.Topic.IsZero() && topic.Incarnation < st.Incarnation {
			t.clear(&topic)
			t.setStream(topic)
		}
	}
}

// take keeps a row of the current incarnation if it is newer than what is known of its key.
func (t *tx) take(st *stream, r discovery.Row) bool {
	old := t.mem.row(r.Writer, r.Kind, r.Key)
	if old != nil && old.Seq >= r.Seq {
		return false
	}
	if old == nil && r.Seq <= st.Floor {
		return false // it was deleted since, and the deletion forgotten
	}
	if r.Deleted {
		r.Value = nil
	}
	t.setRow(st, old, &r)
	return old != nil && !old.Deleted || !r.Deleted
}

// applyBatch is ApplyBatch within a change.
func (t *tx) applyBatch(b *Batch) (changed int, err error) {
	switch {
	case b.Writer == t.s.self:
		t.meetSelf(b.Stream, discovery.Position{Incarnation: b.Incarnation, Seq: b.To})
		return 0, nil
	case !t.takes(b.Stream):
		return 0, nil
	}
	st := t.mem.stream(b.Stream)
	switch {
	case b.Incarnation <= st.gone:
		t.refused += uint64(len(b.Rows))
		return 0, nil
	case b.Incarnation < t.life(&st), b.Incarnation == st.Incarnation && b.To <= st.Seq:
		return 0, nil
	case !b.Reset && (b.Incarnation > st.Incarnation || b.From > st.Seq):
		return 0, fmt.Errorf("batch of %s from %d/%d to %d, known to %d/%d: %w",
			b.Stream, b.Incarnation, b.From, b.To, st.Incarnation, st.Seq, ErrGap)
	}
	t.current(&st, b.Incarnation)
	if b.Reset {
		changed += t.dropMissing(&st, b)
	}
	for i := range b.Rows {
		if t.take(&st, b.Rows[i]) {
			changed++
		}
	}
	if b.Reset {
		st.Floor = max(st.Floor, b.To)
	}
	st.Seq = b.To
	t.setStream(st)
	return changed, nil
}

// dropMissing forgets those rows of a stream that its whole state does not contain.
func (t *tx) dropMissing(st *stream, b *Batch) (changed int) {
	type name struct {
		kind discovery.Kind
		key  string
	}
	keep := make(map[name]struct{}, len(b.Rows))
	for i := range b.Rows {
		keep[name{b.Rows[i].Kind, b.Rows[i].Key}] = struct{}{}
	}
	var drop []*discovery.Row
	t.mem.eachAfter(st.Stream, 0, func(r *discovery.Row) bool {
		if _, ok := keep[name{r.Kind, r.Key}]; !ok && r.Seq <= b.To {
			drop = append(drop, r)
		}
		return true
	})
	for _, r := range drop {
		t.dropRow(st, r)
		if !r.Deleted {
			changed++
		}
	}
	st.Floor = 0 // what follows is whole: nothing in it can be an old row come back
	return changed
}

// clear forgets all rows of a stream: that life of it is over.
func (t *tx) clear(st *stream) {
	var drop []*discovery.Row
	t.mem.eachAfter(st.Stream, 0, func(r *discovery.Row) bool { drop = append(drop, r); return true })
	for _, r := range drop {
		t.dropRow(st, r)
	}
	st.Incarnation, st.Seq, st.Floor = 0, 0, 0
}

// meetSelf is told what others know of our own rows. When that is more than we know, our disk is
// older than what we once said, and what we say now would be taken for old: begin a new life.
func (t *tx) meetSelf(of discovery.Stream, p discovery.Position) {
	st := t.mem.stream(of)
	if !p.After(discovery.Position{Incarnation: t.life(&st), Seq: st.Seq}) {
		return
	}
	if now := time.Now(); now.Sub(t.renewed) >= renewEvery {
		t.renew(p.Incarnation)
	}
}

// renew rewrites own rows, of all topics, under an incarnation greater than after.
func (t *tx) renew(after uint64) {
	own := t.mem.liveOf(t.s.self, "")
	base := t.mem.stream(discovery.Stream{Writer: t.s.self})
	life := max(uint64(time.Now().UnixNano()), after+1, base.Incarnation+1, base.gone+1)
	fresh := map[discovery.Stream]*stream{base.Stream: &base}
	for _, of := range t.mem.streamsOf(t.s.self) {
		st := t.mem.stream(of)
		fresh[of] = &st
	}
	for _, st := range fresh {
		t.clear(st)
		st.Incarnation = life
	}
	for i := range own {
		st := fresh[own[i].Stream()]
		st.Seq++
		own[i].Incarnation, own[i].Seq = life, st.Seq
		t.setRow(st, nil, &own[i])
	}
	for _, st := range fresh {
		t.setStream(*st)
	}
	t.renewed = time.Now()
	t.renewals++
}

// admit follows a change of an admission row: what it says of its node's gone incarnations.
func (t *tx) admit(r *discovery.Row) {
	if r.Writer != discovery.Ledger || r.Kind != discovery.KindAdmission || r.Key == discovery.Ledger {
		return
	}
	st := t.mem.stream(discovery.Stream{Writer: r.Key})
	gone := goneOf(r)
	if gone == st.gone {
		return
	}
	st.gone = gone
	t.setStream(st)
	if st.Writer == t.s.self && st.removed() && st.Incarnation > 0 {
		t.renew(gone)
		return
	}
	for _, of := range t.mem.streamsOf(r.Key) {
		if st := t.mem.stream(of); st.removed() && st.Incarnation > 0 {
			t.clear(&st)
			t.setStream(st)
		}
	}
}

// goneOf reads an admission row. One that can't be read removes nobody.
func goneOf(r *discovery.Row) uint64 {
	var a discovery.Admission
	if r.Deleted || json.Unmarshal(r.Value, &a) != nil {
		return 0
	}
	return a.Gone
}

// setRow stores a row in the place of old and forgets the oldest tombstones of its writer beyond the limit.
func (t *tx) setRow(st *stream, old, r *discovery.Row) {
	t.uncount(st, old)
	if r.Deleted {
		t.tombstones++
		st.tombstones++
	} else {
		t.rows++
	}
	t.mem.set(r)
	t.ops = operation.AppendRow(t.ops, r)
	t.kinds[r.Kind] = append(t.kinds[r.Kind], r)
	t.admit(r)
	for st.tombstones > t.limit(st) {
		oldest := t.mem.oldestTombstone(st.Stream)
		st.Floor = max(st.Floor, oldest.Seq)
		t.dropRow(st, oldest)
	}
}

// dropRow forgets a row without leaving a tombstone.
func (t *tx) dropRow(st *stream, r *discovery.Row) {
	t.uncount(st, r)
	t.mem.drop(r)
	t.ops = operation.AppendDrop(t.ops, r)
	if !r.Deleted {
		t.kinds[r.Kind] = append(t.kinds[r.Kind], r)
	}
	t.admit(&discovery.Row{Writer: r.Writer, Kind: r.Kind, Key: r.Key, Deleted: true})
}

func (t *tx) uncount(st *stream, old *discovery.Row) {
	switch {
	case old == nil:
	case old.Deleted:
		t.tombstones--
		st.tombstones--
	default:
		t.rows--
	}
}

func (t *tx) setStream(st stream) {
	t.s.rev++
	st.rev = t.s.rev
	if t.mem.setStream(st) {
		t.streams++
	}
	t.touched = append(t.touched, st.Stream)
	t.ops = operation.AppendStream(t.ops, &st.Known)
}

func (t *tx) limit(st *stream) int {
	if st.Writer == discovery.Ledger {
		return t.s.tombstones * ledgerTombstones
	}
	return t.s.tombstones
}
