// SPDX-License-Identifier: Apache-2.0

package state

import (
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"weft/discovery"
)

// reader holds the names of a store by what its feed tells.
type reader struct {
	store *Store
	feed  *Feed
	names map[string]discovery.Row
}

func newReader(s *Store) *reader {
	return &reader{store: s, feed: s.Feed(discovery.KindName), names: make(map[string]discovery.Row)}
}

// check takes what changed and wants to have what the store has.
func (r *reader) check(t *rapid.T) {
	for _, row := range r.feed.Take() {
		r.names[row.Writer+" "+row.Key] = row
		if row.Deleted {
			delete(r.names, row.Writer+" "+row.Key)
		}
	}
	want := make(map[string]discovery.Row)
	for _, row := range r.store.Rows(discovery.KindName) {
		want[row.Writer+" "+row.Key] = row
	}
	if diff := cmp.Diff(r.names, want); diff != "" {
		t.Fatalf("names by the feed of %s (-feed +store):\n%s", r.store.self, diff)
	}
	if more := r.feed.Take(); len(more) > 0 {
		t.Fatalf("nothing changed, but the feed of %s says %v", r.store.self, more)
	}
}
