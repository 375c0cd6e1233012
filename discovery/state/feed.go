// SPDX-License-Identifier: Apache-2.0

package state

import (
	"weft/discovery"
	"weft/discovery/state/watch"
)

// Changed returns a channel that is closed at the next change of a row of one of the kinds (of any
// kind without). Take it before reading rows: what changes in between is not missed.
func (s *Store) Changed(kinds ...discovery.Kind) <-chan struct{} { return s.readers.Changed(kinds...) }

// Feed tells which rows of a kind changed since it was asked last: for readers of many rows, who pay
// for what changed. It lives as long as its store.
type Feed struct {
	store *Store
	kind  discovery.Kind
	names *watch.Feed
}

// Feed returns a feed that begins with every live row of a kind.
func (s *Store) Feed(kind discovery.Kind) *Feed { return &Feed{s, kind, s.readers.Feed(kind)} }

// Take returns the rows that changed, as they are now and in no order; those that are gone are Deleted and
// have neither value nor number. Values are shared: they must not be changed.
func (f *Feed) Take() []discovery.Row {
	touched, all := f.names.Take()
	// Read after the names were taken: what changes from here on is named again.
	mem := f.store.now()
	if all {
		return mem.live(f.kind)
	}
	rows := make([]discovery.Row, 0, len(touched))
	for name := range touched {
		r := mem.row(name.Writer, f.kind, name.Key)
		if r == nil || r.Deleted {
			r = &discovery.Row{Writer: name.Writer, Kind: f.kind, Key: name.Key, Deleted: true}
		}
		rows = append(rows, *r)
	}
	return rows
}
