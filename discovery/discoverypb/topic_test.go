// SPDX-License-Identifier: Apache-2.0

package discoverypb

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

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
	conn, _ := serve(t, syncer(t, master, ""))
	cb := syncer(t, b, "")
	with(t, syncer(t, a, ""), conn)
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
	toA, _ := serve(t, syncer(t, a, ""))
	stop := with(t, syncer(t, b, ""), toA) // no master answers: peers
	until(t, func() string { return cmp.Diff(content(b), []string{"a name/web = 1"}) }, b)
	_ = stop()

	master := openStore(t, state.Options{Whole: true})
	m := syncer(t, master, "")
	toB, _ := serve(t, syncer(t, b, ""))
	with(t, m, toB)
	until(t, func() string { return cmp.Diff(content(master), []string{"a name/web = 1"}) }, master)
	with(t, m, toA)
	until(t, func() string {
		return cmp.Diff(content(master), []string{"a endpoint/web-1 = {}", "a name/web = 1"})
	}, master)
}

func TestFindReturnsWhatTheOtherHolds(t *testing.T) {
	a := openStore(t, state.Options{Self: "a"})
	putEndpoint(t, a, "web-1", `{"name":"web","addr4":"9.0.0.1"}`)
	putEndpoint(t, a, "web-2", `{"name":"webs","addr4":"9.0.0.10"}`)
	conn, _ := serve(t, syncer(t, a, ""))
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

func TestFindAsksForTheSecret(t *testing.T) {
	conn, _ := serve(t, syncer(t, openStore(t, state.Options{Self: "a"}), "s3cret"))
	_, err := NewSyncClient(conn).Find(t.Context(), &FindRequest{Kind: "endpoint", Text: "web"})
	if status.Code(err) != codes.Unauthenticated {
		t.Errorf("got %v, want Unauthenticated", err)
	}
}
