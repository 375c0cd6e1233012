// SPDX-License-Identifier: Apache-2.0

package state

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft/discovery"
)

func open(t *testing.T, o Options) *Store {
	t.Helper()
	s, err := Open(o)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func put(t *testing.T, s *Store, kind discovery.Kind, key, value string) {
	t.Helper()
	if err := s.Put(kind, key, []byte(value)); err != nil {
		t.Fatalf("put %s/%s: %v", kind, key, err)
	}
}

// content is what a store believes, without the numbers of lives.
func content(s *Store) []string {
	var all []string
	for _, r := range s.Rows("") {
		all = append(all, fmt.Sprintf("%s %s/%s = %s", r.Writer, r.Kind, r.Key, r.Value))
	}
	return all
}

func TestPutTwiceIsOneChange(t *testing.T) {
	s := open(t, Options{Self: "a"})
	put(t, s, "name", "web", "1")
	before := s.Digest()
	changed := s.Changed()
	put(t, s, "name", "web", "1")
	if diff := cmp.Diff(s.Digest(), before); diff != "" {
		t.Errorf("digest after the same value again (-got +want):\n%s", diff)
	}
	select {
	case <-changed:
		t.Error("the same value again woke up a watcher")
	default:
	}
}

func TestRowsAreOrderedAndLive(t *testing.T) {
	s := open(t, Options{Self: "b"})
	put(t, s, "name", "y", "by")
	put(t, s, "name", "x", "bx")
	put(t, s, "node", "b", "n")
	put(t, s, "name", "z", "bz")
	if err := s.Delete("name", "z"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Apply([]discovery.Row{
		{Writer: "c", Kind: "name", Key: "a", Incarnation: 1, Seq: 1, Value: []byte("ca")},
		{Writer: "a", Kind: "name", Key: "z", Incarnation: 1, Seq: 7, Value: []byte("az")},
	}); err != nil {
		t.Fatal(err)
	}
	keys := func(rows []discovery.Row) (all []string) {
		for _, r := range rows {
			all = append(all, r.Writer+" "+string(r.Kind)+" "+r.Key)
		}
		return all
	}
	if diff := cmp.Diff(keys(s.Rows("name")), []string{"a name z", "b name x", "b name y", "c name a"}); diff != "" {
		t.Errorf("rows of a kind (-got +want):\n%s", diff)
	}
	if diff := cmp.Diff(keys(s.Rows("")), []string{"a name z", "b name x", "b name y", "b node b", "c name a"}); diff != "" {
		t.Errorf("all rows (-got +want):\n%s", diff)
	}
	if diff := cmp.Diff(keys(s.Own("name")), []string{"b name x", "b name y"}); diff != "" {
		t.Errorf("own rows (-got +want):\n%s", diff)
	}
	want := Stats{Rows: 5, Tombstones: 1, Streams: 3}
	if diff := cmp.Diff(s.Stats(), want); diff != "" {
		t.Errorf("stats (-got +want):\n%s", diff)
	}
}

func TestGreaterIncarnationVoidsOlderRows(t *testing.T) {
	s := open(t, Options{Self: "a"})
	row := func(inc, seq uint64, key string) discovery.Row {
		return discovery.Row{Writer: "b", Kind: "name", Key: key, Incarnation: inc, Seq: seq, Value: []byte(key)}
	}
	for _, r := range []discovery.Row{row(5, 9, "old"), row(6, 1, "new"), row(5, 99, "late")} {
		if _, err := s.Apply([]discovery.Row{r}); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(content(s), []string{"b name/new = new"}); diff != "" {
		t.Errorf("rows (-got +want):\n%s", diff)
	}
}

func TestAdmissionGoneVoidsAndRefuses(t *testing.T) {
	s := open(t, Options{Self: "a"})
	b := discovery.Row{Writer: "b", Kind: "name", Key: "x", Incarnation: 5, Seq: 1, Value: []byte("1")}
	gone := discovery.Row{
		Writer: discovery.Ledger, Kind: discovery.KindAdmission, Key: "b", Incarnation: 1, Seq: 1,
		Value: []byte(`{"node":"b","gone":5}`),
	}
	for _, r := range []discovery.Row{b, gone, b} {
		if _, err := s.Apply([]discovery.Row{r}); err != nil {
			t.Fatal(err)
		}
	}
	if got := s.Rows("name"); len(got) > 0 {
		t.Errorf("rows of a node that is gone: %v", got)
	}
	if got := s.Stats().Refused; got != 1 {
		t.Errorf("refused %d, want 1", got)
	}
	if got, want := s.Digest().Known[discovery.Stream{Writer: "b"}], (discovery.Position{Incarnation: 5, Seq: 1<<64 - 1}); got != want {
		t.Errorf("position %v, want %v: others would send its rows again", got, want)
	}
	b.Incarnation = 6
	if changed, err := s.Apply([]discovery.Row{b}); err != nil || changed != 1 {
		t.Errorf("its next life: %d rows taken, %v; want 1", changed, err)
	}
}

func TestRemovedNodeThatLivesBeginsAnew(t *testing.T) {
	s := open(t, Options{Self: "a"})
	put(t, s, "name", "x", "1")
	life := s.Incarnation()
	if _, err := s.Apply([]discovery.Row{{
		Writer: discovery.Ledger, Kind: discovery.KindAdmission, Key: "a", Incarnation: 1, Seq: 1,
		Value: fmt.Appendf(nil, `{"node":"a","gone":%d}`, life+10),
	}}); err != nil {
		t.Fatal(err)
	}
	if s.Incarnation() <= life+10 {
		t.Errorf("incarnation %d, want more than %d", s.Incarnation(), life+10)
	}
	want := []discovery.Row{{Writer: "a", Kind: "name", Key: "x", Incarnation: s.Incarnation(), Seq: 1, Value: []byte("1")}}
	if diff := cmp.Diff(s.Own(""), want); diff != "" {
		t.Errorf("own rows (-got +want):\n%s", diff)
	}
}

func TestRowsThatCannotBeKeptAreRefused(t *testing.T) {
	s := open(t, Options{Self: "a"})
	long := strings.Repeat("k", discovery.MaxRowName+1)
	bad := func(what string, err error, words ...string) {
		t.Helper()
		if !errors.Is(err, discovery.ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", what, err)
			return
		}
		for _, word := range words {
			if !strings.Contains(err.Error(), word) {
				t.Errorf("%s: %q does not name %q", what, err, word)
			}
		}
	}
	bad("empty key", s.Put("name", "", nil), "key", `""`, "1 to 1024")
	bad("NUL in key", s.Put("name", "a\x00b", nil), "key")
	bad("long kind", s.Put(discovery.Kind(long), "a", nil), "kind")
	bad("long value", s.Put("name", "a", make([]byte, discovery.MaxRowValue+1)), "1048577", "1048576")
	_, err := s.Apply([]discovery.Row{{Writer: "b", Kind: "name", Key: "x"}})
	bad("no incarnation", err, "incarnation 0")
	bad("no self", open(t, Options{}).Put("name", "a", nil), "no writer")
	_, err = Open(Options{Self: discovery.Ledger})
	bad("ledger as self", err, "ledger")
}
