// SPDX-License-Identifier: Apache-2.0

package state

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"weft/discovery"
)

// rowsOf draws rows as writers would write them: each writer's Seq grows, some rows share one, a
// greater incarnation begins again, and the ledger removes nodes for good.
func rowsOf(t *rapid.T) []discovery.Row {
	var rows []discovery.Row
	for _, writer := range []string{"a", "b", "c"} {
		for inc := range rapid.IntRange(1, 3).Draw(t, "lives of "+writer) {
			seq := uint64(1)
			for range rapid.IntRange(0, 12).Draw(t, "rows of "+writer) {
				r := discovery.Row{
					Writer: writer, Kind: discovery.Kind(rapid.SampledFrom([]string{"name", "node", "endpoint"}).Draw(t, "kind")),
					Key:         rapid.SampledFrom([]string{"x", "y", "z"}).Draw(t, "key"),
					Incarnation: uint64(inc + 1), Seq: seq,
				}
				if r.Deleted = rapid.IntRange(0, 3).Draw(t, "deleted") == 0; !r.Deleted {
					r.Value = fmt.Appendf(nil, "%d.%d", r.Incarnation, r.Seq)
				}
				// Of one Seq a writer writes each key once.
				if !slices.ContainsFunc(rows, func(o discovery.Row) bool {
					return o.Writer == r.Writer && o.Kind == r.Kind && o.Key == r.Key && o.Incarnation == r.Incarnation && o.Seq == r.Seq
				}) {
					rows = append(rows, r)
				}
				seq += uint64(rapid.IntRange(0, 2).Draw(t, "step"))
			}
		}
	}
	gone := 0
	for i := range rapid.IntRange(0, 3).Draw(t, "removals") {
		gone = rapid.IntRange(gone, 3).Draw(t, "gone")
		rows = append(rows, discovery.Row{
			Writer: discovery.Ledger, Kind: discovery.KindAdmission, Key: "b", Incarnation: 1, Seq: uint64(i + 1),
			Value: fmt.Appendf(nil, `{"node":"b","gone":%d}`, gone),
		})
	}
	return rows
}

// truth is what any store must come to: a model without order, tombstones or storage.
func truth(rows []discovery.Row) map[string]string {
	gone, life := map[string]uint64{}, map[string]uint64{}
	newest := map[string]discovery.Row{}
	// A topic's life is its own, and begins no earlier than that of what everyone has.
	for _, r := range rows {
		if r.Kind.Topic(r.Key).IsZero() {
			life[r.Writer] = max(life[r.Writer], r.Incarnation)
		}
	}
	for _, r := range rows {
		of := r.Stream().String()
		life[of] = max(life[of], life[r.Writer], r.Incarnation)
	}
	for _, r := range rows {
		id := r.Writer + " " + string(r.Kind) + "/" + r.Key
		if r.Incarnation == life[r.Stream().String()] && newest[id].Seq < r.Seq {
			newest[id] = r
		}
	}
	for _, r := range newest {
		if r.Kind == discovery.KindAdmission {
			gone[r.Key] = goneOf(&r)
		}
	}
	live := map[string]string{}
	for id, r := range newest {
		if !r.Deleted && r.Incarnation > gone[r.Writer] {
			live[id] = string(r.Value)
		}
	}
	return live
}

func believed(s *Store) map[string]string {
	live := map[string]string{}
	for _, r := range s.Rows("") {
		live[r.Writer+" "+string(r.Kind)+"/"+r.Key] = string(r.Value)
	}
	return live
}

func openRapid(t *rapid.T, o Options) *Store {
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// agree checks the counters against what is there.
func agree(t *rapid.T, s *Store) {
	rows, stones := 0, 0
	perStream := map[discovery.Stream]int{}
	s.now().each("", func(r *discovery.Row) {
		if r.Deleted {
			stones++
			perStream[r.Stream()]++
		} else {
			rows++
		}
	})
	if got := s.Stats(); got.Rows != rows || got.Tombstones != stones {
		t.Fatalf("stats %+v, there are %d rows and %d tombstones", got, rows, stones)
	}
	s.now().eachStream(func(st *stream) {
		if st.tombstones != perStream[st.Stream] {
			t.Fatalf("%s is said to have %d tombstones, there are %d", st, st.tombstones, perStream[st.Stream])
		}
		if limit := s.tombstones; st.Writer != discovery.Ledger && st.tombstones > limit {
			t.Fatalf("%s has %d tombstones, the limit is %d", st, st.tombstones, limit)
		}
	})
}

func TestAnyOrderAndDuplicationGivesTheSameState(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rows := rowsOf(t)
		again := append(slices.Clone(rows), rows...)
		again = rapid.Permutation(again).Draw(t, "order")
		s := openRapid(t, Options{Self: "self", Whole: true})
		reader := newReader(s)
		for len(again) > 0 {
			n := rapid.IntRange(1, len(again)).Draw(t, "at once")
			if _, err := s.Apply(again[:n]); err != nil {
				t.Fatal(err)
			}
			reader.check(t)
			again = again[n:]
		}
		if diff := cmp.Diff(believed(s), truth(rows)); diff != "" {
			t.Fatalf("state (-got +want):\n%s", diff)
		}
		agree(t, s)
	})
}

// exchange gives to what from knows more, as two processes do.
func exchange(t *rapid.T, from, to *Store) {
	for b := range from.Since(to.Digest()) {
		if _, err := to.ApplyBatch(b); err != nil {
			t.Fatalf("batch %s %d (%d,%d] reset %v: %v", b.Stream, b.Incarnation, b.From, b.To, b.Reset, err)
		}
	}
}

func TestDigestsMakeStoresAgree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		// Few tombstones, so that floors and Resets occur.
		n := rapid.IntRange(2, 4).Draw(t, "stores")
		var stores []*Store
		var readers []*reader
		for i := range n {
			// The first is as a master: it takes every topic.
			stores = append(stores, openRapid(t, Options{
				Self: fmt.Sprintf("s%d", i), Whole: i == 0, Tombstones: rapid.IntRange(1, 3).Draw(t, "tombstones"),
			}))
			readers = append(readers, newReader(stores[i]))
		}
		wish := map[string]string{}
		removed := uint64(0)
		ledger := uint64(0)
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			i := rapid.IntRange(0, n-1).Draw(t, "store")
			s := stores[i]
			key := rapid.SampledFrom([]string{"u", "v", "w/1", "w/2", "y/1"}).Draw(t, "key")
			kind := discovery.Kind(rapid.SampledFrom([]string{"name", "endpoint"}).Draw(t, "kind"))
			id := s.self + " " + string(kind) + "/" + key
			switch rapid.IntRange(0, 11).Draw(t, "what") {
			case 10:
				s.Take(topic(t))
			case 11:
				s.Leave(topic(t))
			case 0, 1, 2:
				wish[id] = rapid.SampledFrom([]string{"1", "2", "3"}).Draw(t, "value")
				if err := s.Put(kind, key, []byte(wish[id])); err != nil {
					t.Fatal(err)
				}
			case 3, 4:
				delete(wish, id)
				if err := s.Delete(kind, key); err != nil {
					t.Fatal(err)
				}
			case 5: // the masters remove a node that lives: it begins anew, nothing is lost
				removed = max(removed, s.Incarnation())
				ledger++
				wish["ledger admission/"+s.self] = fmt.Sprintf(`{"gone":%d}`, s.Incarnation())
				row := discovery.Row{
					Writer: discovery.Ledger, Kind: discovery.KindAdmission, Key: s.self, Incarnation: 1, Seq: ledger,
					Value: []byte(wish["ledger admission/"+s.self]),
				}
				// Only one process speaks for the ledger, the others hear it from it.
				if _, err := stores[0].Apply([]discovery.Row{row}); err != nil {
					t.Fatal(err)
				}
			default:
				exchange(t, s, stores[rapid.IntRange(0, n-1).Draw(t, "other")])
			}
			readers[rapid.IntRange(0, n-1).Draw(t, "reader")].check(t)
		}
		for range 3 { // a removal may make a store write its rows again, which then go round
			for range n {
				for i := range stores {
					exchange(t, stores[i], stores[(i+1)%n])
					exchange(t, stores[i], stores[0]) // a topic goes from its writer and by those who take it
					exchange(t, stores[0], stores[i])
				}
			}
		}
		for _, s := range stores {
			want := maps.Clone(wish)
			maps.DeleteFunc(want, func(id, _ string) bool {
				writer, row, _ := strings.Cut(id, " ")
				kind, key, _ := strings.Cut(row, "/")
				return !s.Holds(discovery.Stream{Writer: writer, Topic: discovery.Kind(kind).Topic(key)})
			})
			if diff := cmp.Diff(believed(s), want); diff != "" {
				t.Fatalf("%s believes (-got +want):\n%s", s.self, diff)
			}
			agree(t, s)
			known := s.Digest().Known
			for of, p := range stores[0].Digest().Known {
				if st := s.now().stream(of); s.Holds(of) && known[of] != p && !st.removed() && p.Seq < math.MaxUint64 {
					t.Fatalf("%s and %s agree on rows and not on %s: %v, %v", s.self, stores[0].self, of, known[of], p)
				}
			}
		}
	})
}

// topic is one of those that rows are on.
func topic(t *rapid.T) discovery.Topic {
	return rapid.SampledFrom([]discovery.Topic{
		{Kind: "endpoint"}, {Kind: "name", Of: "w"}, {Kind: "name", Of: "y"}, {Kind: "name", Of: discovery.Every},
	}).Draw(t, "topic")
}

// A node takes and leaves topics of a master that follows it, as the two ends of a stream do.
func TestAFollowedNodeHoldsWhatItTakesAndNoMore(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		master, node := openRapid(t, Options{Whole: true}), openRapid(t, Options{Self: "n", Tombstones: 1})
		c := master.Follow(node.Digest())
		defer c.Close()
		bring := func() {
			for b := range c.Next() {
				if _, err := node.ApplyBatch(b); err != nil {
					t.Fatal(err)
				}
			}
		}
		bring()
		seq := map[discovery.Stream]uint64{}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 5).Draw(t, "what") {
			case 0:
				one := topic(t)
				node.Take(one)
				_, interest := node.Interest()
				c.Turn([]discovery.Topic{one}, nil, interest)
			case 1:
				one := topic(t)
				node.Leave(one)
				_, interest := node.Interest()
				c.Turn(nil, []discovery.Topic{one}, interest)
			case 2:
				bring()
			default:
				r := discovery.Row{
					Writer: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "writer"), Kind: "name", Incarnation: 1,
					Key:     rapid.SampledFrom([]string{"u", "w/1", "w/2", "y/1"}).Draw(t, "key"),
					Deleted: rapid.Bool().Draw(t, "deleted"),
				}
				seq[r.Stream()]++
				if r.Seq = seq[r.Stream()]; !r.Deleted {
					r.Value = fmt.Append(nil, r.Seq)
				}
				if _, err := master.Apply([]discovery.Row{r}); err != nil {
					t.Fatal(err)
				}
			}
		}
		select {
		case <-c.Pending(): // else there was nothing to tell
			bring()
		default:
		}
		want := believed(master)
		maps.DeleteFunc(want, func(id, _ string) bool {
			writer, row, _ := strings.Cut(id, " ")
			kind, key, _ := strings.Cut(row, "/")
			return !node.Holds(discovery.Stream{Writer: writer, Topic: discovery.Kind(kind).Topic(key)})
		})
		if diff := cmp.Diff(believed(node), want); diff != "" {
			t.Fatalf("the node believes (-got +want):\n%s", diff)
		}
		agree(t, node)
	})
}

func TestCursorSendsEachChangeOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := openRapid(t, Options{Self: "a", Tombstones: 2}), openRapid(t, Options{Self: "b"})
		c := a.Cursor(b.Digest())
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			key := rapid.SampledFrom([]string{"u", "v", "w", "x"}).Draw(t, "key")
			switch rapid.IntRange(0, 4).Draw(t, "what") {
			case 0, 1:
				if err := a.Put("name", key, fmt.Append(nil, rand.Int())); err != nil {
					t.Fatal(err)
				}
			case 2:
				if err := a.Delete("name", key); err != nil {
					t.Fatal(err)
				}
			case 3: // left early: what was not taken comes again
				for range c.Next() {
					break
				}
			default:
				for batch := range c.Next() {
					if _, err := b.ApplyBatch(batch); err != nil {
						t.Fatal(err)
					}
				}
				for batch := range c.Next() {
					t.Fatalf("sent twice: %+v", batch)
				}
				if diff := cmp.Diff(believed(b), believed(a)); diff != "" {
					t.Fatalf("state (-got +want):\n%s", diff)
				}
			}
		}
	})
}

func TestBatchesKeepASeqTogether(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := openRapid(t, Options{})
		seq := uint64(1)
		seqs := map[uint64]int{}
		var rows []discovery.Row
		for i := range rapid.IntRange(2, 60).Draw(t, "rows") {
			rows = append(rows, discovery.Row{
				Writer: "w", Kind: "name", Key: fmt.Sprint(i), Incarnation: 1, Seq: seq, Value: make([]byte, 30_000),
			})
			seqs[seq]++
			seq += uint64(rapid.IntRange(0, 1).Draw(t, "step"))
		}
		if _, err := a.Apply(rows); err != nil {
			t.Fatal(err)
		}
		got := map[uint64]int{}
		from := uint64(1)
		delete(seqs, 1)
		batches := 0
		for b := range a.Since(Digest{Known: map[discovery.Stream]discovery.Position{{Writer: "w"}: {Incarnation: 1, Seq: 1}}}) {
			if b.From != from || b.Reset {
				t.Fatalf("batch from %d, want %d, no reset", b.From, from)
			}
			from = b.To
			here := map[uint64]int{}
			for _, r := range b.Rows {
				here[r.Seq]++
			}
			for s, n := range here {
				if got[s] > 0 {
					t.Fatalf("seq %d is in two batches", s)
				}
				got[s] = n
			}
			batches++
		}
		if !maps.Equal(got, seqs) {
			t.Fatalf("rows by seq %v, want %v", got, seqs)
		}
		if size := len(rows) * 30_000; batches > 1+size/batchBytes {
			t.Fatalf("%d batches for %d bytes", batches, size)
		}
	})
}

func TestResetVoidsWhatItDoesNotContain(t *testing.T) {
	s := open(t, Options{Self: "a"})
	row := func(seq uint64, key string) discovery.Row {
		return discovery.Row{Writer: "b", Kind: "name", Key: key, Incarnation: 1, Seq: seq, Value: []byte(key)}
	}
	if _, err := s.Apply([]discovery.Row{row(1, "x"), row(2, "y"), row(3, "z")}); err != nil {
		t.Fatal(err)
	}
	changed := s.Changed("name")
	n, err := s.ApplyBatch(Batch{Stream: discovery.Stream{Writer: "b"}, Incarnation: 1, To: 9, Reset: true, Rows: []discovery.Row{row(2, "y"), row(7, "w")}})
	if err != nil || n != 3 {
		t.Errorf("apply: %d rows changed, %v; want 3 (x and z gone, w new)", n, err)
	}
	if diff := cmp.Diff(content(s), []string{"b name/w = w", "b name/y = y"}); diff != "" {
		t.Errorf("rows (-got +want):\n%s", diff)
	}
	select {
	case <-changed:
	default:
		t.Error("nobody was woken up")
	}
	// An older stream can't bring them back, nor can a gap.
	if n, err := s.ApplyBatch(Batch{Stream: discovery.Stream{Writer: "b"}, Incarnation: 1, From: 0, To: 3, Rows: []discovery.Row{row(1, "x")}}); n != 0 || err != nil {
		t.Errorf("old batch: %d, %v", n, err)
	}
	if n, err := s.Apply([]discovery.Row{row(1, "x")}); n != 0 || err != nil {
		t.Errorf("old row: %d, %v", n, err)
	}
	if _, err := s.ApplyBatch(Batch{Stream: discovery.Stream{Writer: "b"}, Incarnation: 1, From: 11, To: 12, Rows: []discovery.Row{row(12, "x")}}); !errors.Is(err, ErrGap) {
		t.Errorf("batch after a gap: %v, want ErrGap", err)
	}
	if _, err := s.ApplyBatch(Batch{Stream: discovery.Stream{Writer: "b"}, Incarnation: 2, From: 1, To: 2}); !errors.Is(err, ErrGap) {
		t.Errorf("batch of a new life from its middle: %v, want ErrGap", err)
	}
}

func TestWhoIsKnownBetterByOthersBeginsAnew(t *testing.T) {
	s := open(t, Options{Self: "a"})
	put(t, s, "name", "x", "1")
	life := s.Incarnation()
	known := Batch{Stream: discovery.Stream{Writer: "a"}, Incarnation: life, From: 1, To: 7, Rows: []discovery.Row{
		{Writer: "a", Kind: "name", Key: "y", Incarnation: life, Seq: 7, Value: []byte("lost")},
	}}
	if n, err := s.ApplyBatch(known); n != 0 || err != nil {
		t.Fatalf("apply: %d, %v", n, err)
	}
	if s.Incarnation() <= life || s.Stats().Renewals != 1 {
		t.Errorf("incarnation %d after %d, %+v: what is said now would be taken for old", s.Incarnation(), life, s.Stats())
	}
	if diff := cmp.Diff(content(s), []string{"a name/x = 1"}); diff != "" {
		t.Errorf("rows (-got +want):\n%s", diff)
	}
	// Two nodes under one name do not race each other up.
	known.Incarnation = s.Incarnation() + 1
	known.Rows = nil
	if _, err := s.ApplyBatch(known); err != nil {
		t.Fatal(err)
	}
	if got := s.Stats().Renewals; got != 1 {
		t.Errorf("%d renewals within %v, want 1", got, renewEvery)
	}
}
