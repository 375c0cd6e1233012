// SPDX-License-Identifier: Apache-2.0

// Package watch tells readers of rows that some changed: those of kinds, by a channel that is closed, and those of one
// kind's rows, by their names. It holds no rows: who is told reads them where they are.
package watch

import (
	"slices"
	"strings"
	"sync"

	"weft/discovery"
)

// Readers are all who are told. One channel per set of kinds that someone asked for since it last changed: asking again
// and again costs nothing. The zero value works.
type Readers struct {
	mu    sync.Mutex
	sets  map[string]set // by sorted kinds
	feeds []*Feed
}

type set struct {
	kinds []discovery.Kind // empty: any
	ch    chan struct{}    // closed, once, by Wake
}

// Changed returns a channel that is closed at the next change of a row of one of the kinds (of any kind without).
func (r *Readers) Changed(kinds ...discovery.Kind) <-chan struct{} {
	kinds = slices.Clone(kinds)
	slices.Sort(kinds)
	names := make([]string, len(kinds))
	for i, k := range kinds {
		names[i] = string(k)
	}
	id := strings.Join(names, "\x00")

	r.mu.Lock()
	defer r.mu.Unlock()
	s, ok := r.sets[id]
	if !ok {
		s = set{kinds: kinds, ch: make(chan struct{})}
		if r.sets == nil {
			r.sets = make(map[string]set)
		}
		r.sets[id] = s
	}
	return s.ch
}

// Feed returns a feed of the rows of a kind. It lives as long as the readers.
func (r *Readers) Feed(kind discovery.Kind) *Feed {
	f := &Feed{kind: kind}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.feeds = append(r.feeds, f)
	return f
}

// Wake tells of rows that changed, by kind; they are to be read by then. Who is woken finds them in its feed.
func (r *Readers) Wake(kinds map[discovery.Kind][]*discovery.Row) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, f := range r.feeds {
		f.touch(kinds[f.kind])
	}
	for id, s := range r.sets {
		hit := len(s.kinds) == 0 || slices.ContainsFunc(s.kinds, func(k discovery.Kind) bool {
			_, ok := kinds[k]
			return ok
		})
		if hit {
			close(s.ch)
			delete(r.sets, id)
		}
	}
}

// Feed collects the names of rows of one kind that changed, until somebody takes them.
type Feed struct {
	kind discovery.Kind

	mu      sync.Mutex // guards what follows
	begun   bool
	touched map[Name]struct{}
}

// Name is that of a row of a kind.
type Name struct{ Writer, Key string }

// Take returns the names of the rows that changed since the last Take; at the first one it is all rows there are.
func (f *Feed) Take() (touched map[Name]struct{}, all bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	touched, all = f.touched, !f.begun
	f.begun, f.touched = true, nil
	return touched, all
}

func (f *Feed) touch(rows []*discovery.Row) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.begun {
		return // all are read at first
	}
	if f.touched == nil && len(rows) > 0 {
		f.touched = make(map[Name]struct{}, len(rows))
	}
	for _, r := range rows {
		f.touched[Name{r.Writer, r.Key}] = struct{}{}
	}
}
