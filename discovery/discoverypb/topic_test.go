// SPDX-License-Identifier: Apache-2.0

package discoverypb

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft/discovery"
	"weft/discovery/state"
)

// putEndpoint writes a row that only who takes its topic holds.
func putEndpoint(t *testing.T, s *state.Store, key, value string) {
	t.Helper()
	if err := s.Put(discovery.KindEndpoint, key, []byte(value)); err != nil {
		t.Fatal(err)
	}
}

func TestATopicGoesToWhoTakesIt(t *testing.T) {
	a, b := openStore(t, state.Options{Self: "a"}), openStore(t, state.Options{Self: "b"})
	master := openStore(t, state.Options{Whole: true})
	conn, _ := serve(t, syncer(t, master))
	cb := syncer(t, b)
	with(t, syncer(t, a), conn)
	with(t, cb, conn)
	putEndpoint(t, a, "web-1", "{}")
	put(t, a, "web", "1")
	until(t, func() string {
		return cmp.Diff(content(master), []string{"a endpoint/web-1 = {}", "a name/web = 1"})
	}, master)
	until(t, func() string { return cmp.Diff(content(b), []string{"a name/web = 1"}) }, b)
	if n := cb.Stats().Received; n != 1 {
		t.Errorf("b received %d rows, want the one that everyone holds", n)
	}
}

func TestAMasterGetsATopicFromItsWriterThoughOthersToldTheRest(t *testing.T) {
	a, b := openStore(t, state.Options{Self: "a"}), openStore(t, state.Options{Self: "b"})
	putEndpoint(t, a, "web-1", "{}")
	put(t, a, "web", "1")
	toA, _ := serve(t, syncer(t, a))
	stop := with(t, syncer(t, b), toA) // no master answers: peers
	until(t, func() string { return cmp.Diff(content(b), []string{"a name/web = 1"}) }, b)
	_ = stop()

	master := openStore(t, state.Options{Whole: true})
	m := syncer(t, master)
	toB, _ := serve(t, syncer(t, b))
	with(t, m, toB)
	until(t, func() string { return cmp.Diff(content(master), []string{"a name/web = 1"}) }, master)
	with(t, m, toA)
	until(t, func() string {
		return cmp.Diff(content(master), []string{"a endpoint/web-1 = {}", "a name/web = 1"})
	}, master)
}

// held waits until somebody who knows everything has answered for a version of the interest.
func held(t *testing.T, s *Syncer, version uint64) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		changed := s.Answered()
		if s.Held() >= version {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("held is %d, want %d within 10 s", s.Held(), version)
		}
	}
}

func TestATopicIsHeldOnceTakenAndForgottenOnceLeft(t *testing.T) {
	a, b := openStore(t, state.Options{Self: "a"}), openStore(t, state.Options{Self: "b"})
	master := openStore(t, state.Options{Whole: true})
	conn, _ := serve(t, syncer(t, master))
	cb := syncer(t, b)
	with(t, syncer(t, a), conn)
	with(t, cb, conn)
	put(t, a, "web/1", "1")
	put(t, a, "db/1", "2")
	until(t, func() string { return cmp.Diff(content(master), []string{"a name/db/1 = 2", "a name/web/1 = 1"}) }, master)

	web, none := discovery.NameTopic("web"), discovery.NameTopic("none")
	held(t, cb, b.Take(web))
	if diff := cmp.Diff(content(b), []string{"a name/web/1 = 1"}); diff != "" {
		t.Errorf("b, which took web (-got +want):\n%s", diff)
	}
	held(t, cb, b.Take(none)) // that there is nothing is an answer
	put(t, a, "none/1", "3")
	until(t, func() string { return cmp.Diff(content(b), []string{"a name/none/1 = 3", "a name/web/1 = 1"}) }, b)

	b.Leave(web)
	put(t, a, "web/1", "4")
	put(t, a, "none/1", "5")
	until(t, func() string { return cmp.Diff(content(b), []string{"a name/none/1 = 5"}) }, b)
	until(t, func() string { // topics come in any order
		return cmp.Diff(content(master), []string{"a name/db/1 = 2", "a name/none/1 = 5", "a name/web/1 = 4"})
	}, master)
	before := cb.Stats().Received
	held(t, cb, b.Take(web))
	if diff := cmp.Diff(content(b), []string{"a name/none/1 = 5", "a name/web/1 = 4"}); diff != "" {
		t.Errorf("b, which took web again (-got +want):\n%s", diff)
	}
	if n := cb.Stats().Received - before; n != 1 {
		t.Errorf("b received %d rows for one topic of one row", n)
	}
	held(t, cb, b.Take(discovery.Topic{Kind: discovery.KindName, Of: discovery.Every}))
	if diff := cmp.Diff(content(b), content(master)); diff != "" {
		t.Errorf("b, which took all names (-got +want master's):\n%s", diff)
	}
}

// A node that was parted from its master hears all that it missed of what it takes now, and only the last of it.
func TestCatchUpAfterAPartition(t *testing.T) {
	a, b := openStore(t, state.Options{Self: "a"}), openStore(t, state.Options{Self: "b"})
	master := openStore(t, state.Options{Whole: true})
	conn, _ := serve(t, syncer(t, master))
	with(t, syncer(t, a), conn)
	cb := syncer(t, b)
	part := with(t, cb, conn)
	web, db, api := discovery.NameTopic("web"), discovery.NameTopic("db"), discovery.NameTopic("api")
	put(t, a, "web/1", "1")
	put(t, a, "db/1", "1")
	put(t, a, "api/1", "1")
	held(t, cb, b.Take(web, db))
	until(t, func() string { return cmp.Diff(content(b), []string{"a name/db/1 = 1", "a name/web/1 = 1"}) }, b)
	_ = part()

	for i := range 500 {
		put(t, a, "web/1", fmt.Sprint(i))
		put(t, a, fmt.Sprintf("web/%d", 2+i%300), "short-lived")
		if err := a.Delete(discovery.KindName, fmt.Sprintf("web/%d", 2+i%300)); err != nil { // more than tombstones are kept
			t.Fatal(err)
		}
	}
	b.Leave(db)
	b.Take(api)
	put(t, b, "web/9", "of b")
	until(t, func() string {
		return cmp.Diff(content(master), []string{"a name/api/1 = 1", "a name/db/1 = 1", "a name/web/1 = 499"})
	}, master)

	before := cb.Stats().Received
	with(t, cb, conn)
	want := []string{"a name/api/1 = 1", "a name/web/1 = 499", "b name/web/9 = of b"}
	until(t, func() string { return cmp.Diff(content(b), want) }, b)
	if n := cb.Stats().Received - before; n > 2 {
		t.Errorf("b received %d rows to catch up with two", n)
	}
	until(t, func() string {
		return cmp.Diff(content(master), []string{"a name/api/1 = 1", "a name/db/1 = 1", "a name/web/1 = 499", "b name/web/9 = of b"})
	}, master)
}

func TestAMasterThatDoesNotKnowAllYetVouchesForNothing(t *testing.T) {
	var complete atomic.Bool
	b, master := openStore(t, state.Options{Self: "b"}), openStore(t, state.Options{Whole: true})
	m, err := NewSyncer(SyncOptions{Store: master, Complete: complete.Load})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	conn, _ := serve(t, m)
	cb := syncer(t, b)
	with(t, cb, conn)
	version := b.Take(discovery.NameTopic("web"))
	deadline := time.After(10 * time.Second)
	for changed := cb.Answered(); cb.Shared(version) == 0; changed = cb.Answered() {
		select {
		case <-changed:
		case <-deadline:
			t.Fatal("the master has not answered within 10 s")
		}
	}
	if h := cb.Held(); h >= version {
		t.Errorf("held is %d, though the master waits for rows", h)
	}
	complete.Store(true)
	held(t, cb, version)
}

func TestFindReturnsWhatTheOtherHolds(t *testing.T) {
	a := openStore(t, state.Options{Self: "a"})
	putEndpoint(t, a, "web-1", `{"name":"web","addr4":"9.0.0.1"}`)
	putEndpoint(t, a, "web-2", `{"name":"webs","addr4":"9.0.0.10"}`)
	conn, _ := serve(t, syncer(t, a))
	for text, want := range map[string][]string{
		"web": {"web-1"}, "9.0.0.1": {"web-1"}, "9.0.0.10": {"web-2"}, "9.0.0": nil, `"`: nil,
	} {
		rows, err := Ask(t.Context(), conn, discovery.KindEndpoint, text)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, r := range rows {
			got = append(got, r.Key)
		}
		if diff := cmp.Diff(got, want); diff != "" {
			t.Errorf("rows with %q (-got +want):\n%s", text, diff)
		}
	}
}
