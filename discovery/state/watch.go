// SPDX-License-Identifier: Apache-2.0

package state

import (
	"slices"
	"strings"
	"sync"

	"weft/discovery"
)

// watchers hold one channel per set of kinds that someone asked for since it last changed, so that
// asking again and again costs nothing.
type watchers struct {
	mu   sync.Mutex
	sets map[string]watcher // by sorted kinds

	feeds []*Feed
}

type watcher struct {
	kinds []discovery.Kind // empty: any
	ch    chan struct{}    // closed, once, by wake
}

// Changed returns a channel that is closed at the next change of a row of one of the kinds (of any
// kind without). Take it before reading rows: what changes in between is not missed.
func (s *Store) Changed(kinds ...discovery.Kind) <-chan struct{} {
	kinds = slices.Clone(kinds)
	slices.Sort(kinds)
	names := make([]string, len(kinds))
	for i, k := range kinds {
		names[i] = string(k)
	}
	set := strings.Join(names, "\x00")

	s.watch.mu.Lock()
	defer s.watch.mu.Unlock()
	w, ok := s.watch.sets[set]
	if !ok {
		w = watcher{kinds: kinds, ch: make(chan struct{})}
		if s.watch.sets == nil {
			s.watch.sets = make(map[string]watcher)
		}
		s.watch.sets[set] = w
	}
	return w.ch
}

// wake tells of rows that changed, by kind. Who is woken finds them in its feed.
func (w *watchers) wake(kinds map[discovery.Kind][]*discovery.Row) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range w.feeds {
		f.touch(kinds[f.kind])
	}
	for set, one := range w.sets {
		hit := len(one.kinds) == 0 || slices.ContainsFunc(one.kinds, func(k discovery.Kind) bool {
			_, ok := kinds[k]
			return ok
		})
		if hit {
			close(one.ch)
			delete(w.sets, set)
		}
	}
}
