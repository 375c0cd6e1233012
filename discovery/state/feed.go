// SPDX-License-Identifier: Apache-2.0

package state

import (
	"sync"

	"weft/discovery"
)

// Feed tells which rows of a kind changed since it was asked last: for readers of many rows, who pay
// for what changed. It lives as long as its store.
type Feed struct {
	store *Store
	kind  discovery.Kind

	mu      sync.Mutex // guards what follows
	begun   bool
	touched map[rowName]struct{}
}

type rowName struct{ writer, key string }

// Feed returns a feed that begins with every live row of a kind.
func (s *Store) Feed(kind discovery.Kind) *Feed {
	f := &Feed{store: s, kind: kind}
	s.watch.mu.Lock()
	defer s.watch.mu.Unlock()
	s.watch.feeds = append(s.watch.feeds, f)
	return f
}

// Take returns the rows that changed, as they are now and in no order; those that are gone are Deleted and
// have neither value nor number. Values are shared: they must not be changed.
func (f *Feed) Take() []discovery.Row {
	f.mu.Lock()
	begun, touched := f.begun, f.touched
	f.begun, f.touched = true, nil
	f.mu.Unlock()
	// Read after the names were taken: what changes from here on is named again.
	mem := f.store.now()
	if !begun {
		return mem.live(f.kind)
	}
	rows := make([]discovery.Row, 0, len(touched))
	for name := range touched {
		r := mem.row(name.writer, f.kind, name.key)
		if r == nil || r.Deleted {
			r = &discovery.Row{Writer: name.writer, Kind: f.kind, Key: name.key, Deleted: true}
		}
		rows = append(rows, *r)
	}
	return rows
}

// touch notes rows that changed, after they are published.
func (f *Feed) touch(rows []*discovery.Row) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.begun {
		return // all are read at first
	}
	if f.touched == nil && len(rows) > 0 {
		f.touched = make(map[rowName]struct{}, len(rows))
	}
	for _, r := range rows {
		f.touched[rowName{r.Writer, r.Key}] = struct{}{}
	}
}
