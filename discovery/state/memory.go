// SPDX-License-Identifier: Apache-2.0

package state

import (
	"cmp"
	"unique"

	"github.com/google/btree"

	"weft/discovery"
	"weft/discovery/state/operation"
)

// degree of the trees: of 16 and 32 the one with less memory.
const degree = 32

// stream is what is known of one stream as a whole; a value in the tree is never changed.
type stream struct {
	operation.Known
	gone       uint64 // of the writer, by the masters: incarnations up to this one are void
	least      uint64 // of a topic: the incarnation of what everyone has of the writer. As memory.stream returns it
	tombstones int
	rev        uint64 // the store's own count of changes: which streams changed since
}

// unknown is a stream that nothing is known of.
func unknown(of discovery.Stream) stream { return stream{Known: operation.Known{Stream: of}} }

// removed tells that the masters declared this life of the writer over.
func (st *stream) removed() bool { return st.gone > 0 && st.Incarnation <= st.gone }

// memory is the rows in four orders and the streams in three. A published one is only read; changes
// are made to a fork, which shares what stays as it is.
type memory struct {
	rows  *btree.BTreeG[*discovery.Row] // by writer, kind, key
	kinds *btree.BTreeG[*discovery.Row] // by kind, writer, key
	seqs  *btree.BTreeG[*discovery.Row] // by stream, seq
	tombs *btree.BTreeG[*discovery.Row] // the same, tombstones only

	streams *btree.BTreeG[*stream]          // by writer, topic
	topics  *btree.BTreeG[discovery.Stream] // by topic, writer: those that not everyone holds
	revs    *btree.BTreeG[*stream]          // by rev

	interest *interest // never changed
	rev      uint64    // of the last change of a stream

	sharedTopics bool // topics is another memory's as well: most changes leave it as it is
}

func newMemory() *memory {
	row := func(order func(a, b *discovery.Row) int) *btree.BTreeG[*discovery.Row] {
		return btree.NewG(degree, func(a, b *discovery.Row) bool { return order(a, b) < 0 })
	}
	return &memory{
		rows:    row(byWriter),
		kinds:   row(byKind),
		seqs:    row(bySeq),
		tombs:   row(bySeq),
		streams: btree.NewG(degree, func(a, b *stream) bool { return a.Compare(b.Stream) < 0 }),
		topics: btree.NewG(degree, func(a, b discovery.Stream) bool {
			if c := a.Topic.Compare(b.Topic); c != 0 {
				return c < 0
			}
			return a.Writer < b.Writer
		}),
		revs:     btree.NewG(degree, func(a, b *stream) bool { return a.rev < b.rev }),
		interest: &interest{},
	}
}

// The orders end with the first difference: each comparison more is a look at a row's text, which is far away in a
// large store.

func byWriter(a, b *discovery.Row) int {
	if c := cmp.Compare(a.Writer, b.Writer); c != 0 {
		return c
	}
	return byKindKey(a, b)
}

func byKindKey(a, b *discovery.Row) int {
	if c := cmp.Compare(a.Kind, b.Kind); c != 0 {
		return c
	}
	return cmp.Compare(a.Key, b.Key)
}

func byKind(a, b *discovery.Row) int {
	if c := cmp.Compare(a.Kind, b.Kind); c != 0 {
		return c
	}
	if c := cmp.Compare(a.Writer, b.Writer); c != 0 {
		return c
	}
	return cmp.Compare(a.Key, b.Key)
}

func bySeq(a, b *discovery.Row) int {
	if c := cmp.Compare(a.Writer, b.Writer); c != 0 {
		return c
	}
	// Most rows compared are of one kind without topics; to take keys apart is most of the rest's cost.
	if a.Kind != b.Kind || a.Kind == discovery.KindName {
		if c := a.Kind.Topic(a.Key).Compare(b.Kind.Topic(b.Key)); c != 0 {
			return c
		}
	}
	if c := cmp.Compare(a.Seq, b.Seq); c != 0 {
		return c
	}
	return byKindKey(a, b)
}

// fork returns a memory of its own; the caller must not change m any more.
func (m *memory) fork() *memory {
	return &memory{
		rows: m.rows.Clone(), kinds: m.kinds.Clone(), seqs: m.seqs.Clone(), tombs: m.tombs.Clone(),
		streams: m.streams.Clone(), topics: m.topics, revs: m.revs.Clone(), interest: m.interest, rev: m.rev,
		sharedTopics: true,
	}
}

// ownTopics returns topics, to be changed.
func (m *memory) ownTopics() *btree.BTreeG[discovery.Stream] {
	if m.sharedTopics {
		m.topics, m.sharedTopics = m.topics.Clone(), false
	}
	return m.topics
}

// set puts a row in the place of the one of its name. It keeps r.
func (m *memory) set(r *discovery.Row) {
	// Thousands of rows share a writer and a kind: one copy of each is enough.
	r.Writer, r.Kind = unique.Make(r.Writer).Value(), unique.Make(r.Kind).Value()
	if old, there := m.rows.ReplaceOrInsert(r); there {
		m.unlist(old)
	}
	m.kinds.ReplaceOrInsert(r)
	m.seqs.ReplaceOrInsert(r)
	if r.Deleted {
		m.tombs.ReplaceOrInsert(r)
	}
}

func (m *memory) drop(r *discovery.Row) {
	if old, there := m.rows.Delete(r); there {
		m.kinds.Delete(old)
		m.unlist(old)
	}
}

// unlist takes a row out of the orders by Seq. To look for what is not there costs as much as to take it out.
func (m *memory) unlist(r *discovery.Row) {
	m.seqs.Delete(r)
	if r.Deleted {
		m.tombs.Delete(r)
	}
}

func (m *memory) row(writer string, kind discovery.Kind, key string) *discovery.Row {
	r, _ := m.rows.Get(&discovery.Row{Writer: writer, Kind: kind, Key: key})
	return r
}

// each calls f for the rows of a kind, tombstones too; of all kinds when that is empty. f must not
// change m.
func (m *memory) each(kind discovery.Kind, f func(*discovery.Row)) {
	if kind == "" {
		m.rows.Ascend(func(r *discovery.Row) bool { f(r); return true })
		return
	}
	m.kinds.AscendGreaterOrEqual(&discovery.Row{Kind: kind}, func(r *discovery.Row) bool {
		if r.Kind != kind {
			return false
		}
		f(r)
		return true
	})
}

// eachOf is each for the rows of one writer.
func (m *memory) eachOf(writer string, kind discovery.Kind, f func(*discovery.Row)) {
	m.rows.AscendGreaterOrEqual(&discovery.Row{Writer: writer, Kind: kind}, func(r *discovery.Row) bool {
		if r.Writer != writer || kind != "" && r.Kind != kind {
			return false
		}
		f(r)
		return true
	})
}

// eachAfter calls f for the rows of a stream that were written after seq, by Seq, until it returns false.
func (m *memory) eachAfter(of discovery.Stream, seq uint64, f func(*discovery.Row) bool) {
	m.seqs.AscendGreaterOrEqual(pivot(of, seq+1), func(r *discovery.Row) bool { return r.Stream() == of && f(r) })
}

// pivot is before every row of a stream from seq on: the first kind of its topic has no shorter name, and
// the key no shorter one of that topic.
func pivot(of discovery.Stream, seq uint64) *discovery.Row {
	r := &discovery.Row{Writer: of.Writer, Kind: of.Topic.Kind, Seq: seq}
	if of.Topic.Of != "" {
		r.Key = of.Topic.Of + "/"
	}
	return r
}

// oldestTombstone returns none where there is none.
func (m *memory) oldestTombstone(of discovery.Stream) (oldest *discovery.Row) {
	m.tombs.AscendGreaterOrEqual(pivot(of, 0), func(r *discovery.Row) bool {
		if r.Stream() == of {
			oldest = r
		}
		return false
	})
	return oldest
}

// stream returns what is known of one, with what the masters said of its writer.
func (m *memory) stream(of discovery.Stream) stream {
	st, there := m.streams.Get(new(unknown(of)))
	if !there {
		st = new(unknown(of))
	}
	now := *st
	if !of.Topic.IsZero() {
		base := m.stream(discovery.Stream{Writer: of.Writer})
		now.gone, now.least = base.gone, base.Incarnation
	}
	return now
}

func (m *memory) setStream(st stream) (added bool) {
	old, there := m.streams.ReplaceOrInsert(&st)
	if there {
		m.revs.Delete(old)
	}
	m.revs.ReplaceOrInsert(&st)
	m.rev = max(m.rev, st.rev)
	if !there && !st.Topic.IsZero() {
		m.ownTopics().ReplaceOrInsert(st.Stream)
	}
	return !there
}

func (m *memory) dropStream(of discovery.Stream) (dropped bool) {
	old, there := m.streams.Delete(new(unknown(of)))
	if there {
		m.revs.Delete(old)
		m.ownTopics().Delete(of)
	}
	return there
}

// eachOn calls f for the streams of a topic, of all topics of its kind where that is Every.
func (m *memory) eachOn(topic discovery.Topic, f func(discovery.Stream)) {
	from := topic
	if topic.Of == discovery.Every {
		from.Of = ""
	}
	m.topics.AscendGreaterOrEqual(discovery.Stream{Topic: from}, func(of discovery.Stream) bool {
		if of.Topic.Kind != topic.Kind || topic.Of != discovery.Every && of.Topic.Of != topic.Of {
			return false
		}
		f(of)
		return true
	})
}

// eachStream calls f for every stream, as it is in the tree. f must not change m.
func (m *memory) eachStream(f func(*stream)) {
	m.streams.Ascend(func(st *stream) bool { f(st); return true })
}

// streamsOf returns the streams of a writer.
func (m *memory) streamsOf(writer string) (all []discovery.Stream) {
	m.streams.AscendGreaterOrEqual(new(unknown(discovery.Stream{Writer: writer})), func(st *stream) bool {
		if st.Writer != writer {
			return false
		}
		all = append(all, st.Stream)
		return true
	})
	return all
}

// changedSince returns the streams that changed after rev, by rev.
func (m *memory) changedSince(rev uint64) (changed []*stream) {
	m.revs.AscendGreaterOrEqual(&stream{rev: rev + 1}, func(st *stream) bool {
		changed = append(changed, st)
		return true
	})
	return changed
}

// live returns the rows of a kind by writer and key, of all kinds by writer, kind and key.
func (m *memory) live(kind discovery.Kind) (rows []discovery.Row) {
	m.each(kind, keepLive(&rows))
	return rows
}

// liveOf is live for one writer.
func (m *memory) liveOf(writer string, kind discovery.Kind) (rows []discovery.Row) {
	m.eachOf(writer, kind, keepLive(&rows))
	return rows
}

func keepLive(rows *[]discovery.Row) func(*discovery.Row) {
	return func(r *discovery.Row) {
		if !r.Deleted {
			*rows = append(*rows, *r)
		}
	}
}

// snapshot is a journal.Snapshot.
func (m *memory) snapshot(size int, f func(ops []byte) error) error {
	var ops []byte
	var err error
	flush := func(limit int) {
		if err == nil && len(ops) > limit {
			err = f(ops)
			ops = ops[:0]
		}
	}
	m.each("", func(r *discovery.Row) {
		ops = operation.AppendRow(ops, r)
		flush(size)
	})
	m.eachStream(func(st *stream) {
		ops = operation.AppendStream(ops, &st.Known)
		flush(size)
	})
	flush(0)
	return err
}
