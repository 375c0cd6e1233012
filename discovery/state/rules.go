// SPDX-License-Identifier: Apache-2.0

package state

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-memdb"

	"weft/discovery"
)

// renewEvery is how often at most own rows are renewed because someone else knows more of us than
// we do: two nodes under one name must not race each other.
const renewEvery = 10 * time.Second

// tx is one change being decided: the memory as it will be, and the same as bytes for the log.
type tx struct {
	s     *Store
	mem   *memdb.Txn
	ops   []byte
	kinds map[discovery.Kind]struct{} // that changed

	rows, tombstones, writers int64 // differences
	refused, renewals         uint64
	renewed                   time.Time
}

func (s *Store) begin() *tx {
	return &tx{s: s, mem: s.db.Txn(true), kinds: make(map[discovery.Kind]struct{}), renewed: s.renewed}
}

// put and del write own rows; each change has a Seq of its own.
func (t *tx) put(kind discovery.Kind, key string, value []byte) {
	old := readRow(t.mem, t.s.self, kind, key)
	if old != nil && !old.Deleted && bytes.Equal(old.Value, value) {
		return
	}
	t.write(old, discovery.Row{Kind: kind, Key: key, Value: value})
}

func (t *tx) del(kind discovery.Kind, key string) {
	old := readRow(t.mem, t.s.self, kind, key)
	if old == nil || old.Deleted {
		return
	}
	t.write(old, discovery.Row{Kind: kind, Key: key, Deleted: true})
}

func (t *tx) write(old *discovery.Row, r discovery.Row) {
	w := readWriter(t.mem, t.s.self)
	w.seq++
	r.Writer, r.Incarnation, r.Seq = w.name, w.incarnation, w.seq
	t.setRow(&w, old, &r)
	t.setWriter(w)
}

// applyAll takes rows of other writers and returns how many of them changed something visible.
func (t *tx) applyAll(rows []discovery.Row) (changed int) {
	// In runs of one writer, because looking at a writer costs as much as storing a row.
	if !slices.IsSortedFunc(rows, byWriter) {
		rows = slices.Clone(rows)
		slices.SortStableFunc(rows, byWriter)
	}
	for len(rows) > 0 {
		n := 1
		for n < len(rows) && rows[n].Writer == rows[0].Writer {
			n++
		}
		changed += t.applyRun(rows[:n])
		rows = rows[n:]
	}
	return changed
}

func byWriter(a, b discovery.Row) int { return strings.Compare(a.Writer, b.Writer) }

// applyRun takes rows of one writer.
func (t *tx) applyRun(rows []discovery.Row) (changed int) {
	w := readWriter(t.mem, rows[0].Writer)
	before := w
	for _, r := range rows {
		if r.Writer == t.s.self {
			t.meetSelf(Position{Incarnation: r.Incarnation, Seq: r.Seq})
			continue
		}
		if !t.current(&w, r.Incarnation) {
			continue
		}
		if t.take(&w, r) {
			changed++
		}
		w.seq = max(w.seq, r.Seq)
	}
	if w != before {
		t.setWriter(w)
	}
	return changed
}

// current tells whether rows of an incarnation count, and begins that incarnation if it is new.
func (t *tx) current(w *writer, incarnation uint64) bool {
	switch {
	case incarnation <= w.gone:
		t.refused++
		return false
	case incarnation < w.incarnation:
		return false
	case incarnation > w.incarnation:
		t.clear(w)
		w.incarnation = incarnation
	}
	return true
}

// take keeps a row of the current incarnation if it is newer than what is known of its key.
func (t *tx) take(w *writer, r discovery.Row) bool {
	old := readRow(t.mem, r.Writer, r.Kind, r.Key)
	if old != nil && old.Seq >= r.Seq {
		return false
	}
	if old == nil && r.Seq <= w.floor {
		return false // it was deleted since, and the deletion forgotten
	}
	if r.Deleted {
		r.Value = nil
	}
	t.setRow(w, old, &r)
	return old != nil && !old.Deleted || !r.Deleted
}

// applyBatch is ApplyBatch within a change.
func (t *tx) applyBatch(b *Batch) (changed int, err error) {
	if b.Writer == t.s.self {
		t.meetSelf(Position{Incarnation: b.Incarnation, Seq: b.To})
		return 0, nil
	}
	w := readWriter(t.mem, b.Writer)
	switch {
	case b.Incarnation <= w.gone:
		t.refused += uint64(len(b.Rows))
		return 0, nil
	case b.Incarnation < w.incarnation, b.Incarnation == w.incarnation && b.To <= w.seq:
		return 0, nil
	case !b.Reset && (b.Incarnation > w.incarnation || b.From > w.seq):
		return 0, fmt.Errorf("batch of %s from %d/%d to %d, known to %d/%d: %w",
			b.Writer, b.Incarnation, b.From, b.To, w.incarnation, w.seq, ErrGap)
	}
	t.current(&w, b.Incarnation)
	if b.Reset {
		changed += t.dropMissing(&w, b)
	}
	for i := range b.Rows {
		if t.take(&w, b.Rows[i]) {
			changed++
		}
	}
	if b.Reset {
		w.floor = max(w.floor, b.To)
	}
	w.seq = b.To
	t.setWriter(w)
	return changed, nil
}

// dropMissing forgets those rows of a writer that its whole state does not contain.
func (t *tx) dropMissing(w *writer, b *Batch) (changed int) {
	type name struct {
		kind discovery.Kind
		key  string
	}
	keep := make(map[name]struct{}, len(b.Rows))
	for i := range b.Rows {
		keep[name{b.Rows[i].Kind, b.Rows[i].Key}] = struct{}{}
	}
	var drop []*discovery.Row
	eachRow(t.mem, byID, []string{w.name}, func(r *discovery.Row) {
		if _, ok := keep[name{r.Kind, r.Key}]; !ok && r.Seq <= b.To {
			drop = append(drop, r)
		}
	})
	for _, r := range drop {
		t.dropRow(w, r)
		if !r.Deleted {
			changed++
		}
	}
	w.floor = 0 // what follows is whole: nothing in it can be an old row come back
	return changed
}

// clear forgets all rows of a writer: its life is over.
func (t *tx) clear(w *writer) {
	var drop []*discovery.Row
	eachRow(t.mem, byID, []string{w.name}, func(r *discovery.Row) { drop = append(drop, r) })
	for _, r := range drop {
		t.dropRow(w, r)
	}
	w.incarnation, w.seq, w.floor = 0, 0, 0
}

// meetSelf is told what others know of our own rows. When that is more than we know, our disk is
// older than what we once said, and what we say now would be taken for old: begin a new life.
func (t *tx) meetSelf(p Position) {
	w := readWriter(t.mem, t.s.self)
	if !p.after(Position{Incarnation: w.incarnation, Seq: w.seq}) {
		return
	}
	if now := time.Now(); now.Sub(t.renewed) >= renewEvery {
		t.renew(w, p.Incarnation)
	}
}

// renew rewrites own rows under an incarnation greater than after.
func (t *tx) renew(w writer, after uint64) {
	own := liveRows(t.mem, byID, w.name)
	gone := w.gone
	life := max(uint64(time.Now().UnixNano()), after+1, w.incarnation+1, gone+1)
	t.clear(&w)
	w.incarnation = life
	for i := range own {
		w.seq++
		own[i].Incarnation, own[i].Seq = life, w.seq
		t.setRow(&w, nil, &own[i])
	}
	t.setWriter(w)
	t.renewed = time.Now()
	t.renewals++
}

// admit follows a change of an admission row: what it says of its node's gone incarnations.
func (t *tx) admit(r *discovery.Row) {
	if r.Writer != discovery.Ledger || r.Kind != discovery.KindAdmission || r.Key == discovery.Ledger {
		return
	}
	w := readWriter(t.mem, r.Key)
	gone := goneOf(r)
	if gone == w.gone {
		return
	}
	w.gone = gone
	if w.removed() && w.incarnation > 0 {
		if w.name == t.s.self {
			t.renew(w, gone)
			return
		}
		t.clear(&w)
	}
	t.setWriter(w)
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
func (t *tx) setRow(w *writer, old, r *discovery.Row) {
	t.uncount(w, old)
	if r.Deleted {
		t.tombstones++
		w.tombstones++
	} else {
		t.rows++
	}
	t.must(t.mem.Insert(rowTable, r))
	t.ops = appendRow(t.ops, r)
	t.kinds[r.Kind] = struct{}{}
	t.admit(r)
	for w.tombstones > t.limit(w) {
		oldest := t.oldestTombstone(w)
		w.floor = max(w.floor, oldest.Seq)
		t.dropRow(w, oldest)
	}
}

// dropRow forgets a row without leaving a tombstone.
func (t *tx) dropRow(w *writer, r *discovery.Row) {
	t.uncount(w, r)
	t.must(t.mem.Delete(rowTable, r))
	t.ops = appendDrop(t.ops, r)
	if !r.Deleted {
		t.kinds[r.Kind] = struct{}{}
	}
	t.admit(&discovery.Row{Writer: r.Writer, Kind: r.Kind, Key: r.Key, Deleted: true})
}

func (t *tx) uncount(w *writer, old *discovery.Row) {
	switch {
	case old == nil:
	case old.Deleted:
		t.tombstones--
		w.tombstones--
	default:
		t.rows--
	}
}

func (t *tx) setWriter(w writer) {
	old, _ := must(t.mem.First(writerTable, byID, words(w.name))).(*writer)
	if old == nil {
		t.writers++
	}
	t.s.rev++
	w.rev = t.s.rev
	t.must(t.mem.Insert(writerTable, &w))
	t.ops = appendWriter(t.ops, &w)
}

func (t *tx) limit(w *writer) int {
	if w.name == discovery.Ledger {
		return t.s.tombstones * ledgerTombstones
	}
	return t.s.tombstones
}

func (t *tx) oldestTombstone(w *writer) *discovery.Row {
	row, ok := must(t.mem.First(rowTable, byTomb+prefix, words(w.name))).(*discovery.Row)
	if !ok {
		panic(fmt.Sprintf("row store: %d tombstones of %s are counted, none is there", w.tombstones, w.name))
	}
	return row
}

// must is for memdb's errors, which tell of wrong schemas only.
func (t *tx) must(err error) {
	if err != nil {
		panic(fmt.Sprintf("row store: %v", err))
	}
}
