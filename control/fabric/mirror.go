// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"context"
	"fmt"
	"sync"

	"weft/control"
)

// mirror is the newest snapshot that this master has.
type mirror struct {
	mu      sync.Mutex
	last    *snapshot
	changed chan struct{} // closed by the next set
}

func newMirror() *mirror { return &mirror{last: &snapshot{}, changed: make(chan struct{})} }

func (m *mirror) set(s *snapshot) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last = s
	close(m.changed)
	m.changed = make(chan struct{})
}

func (m *mirror) now() *snapshot {
	s, _ := m.watch()
	return s
}

// watch returns the newest snapshot and a channel that is closed when there is a newer one.
func (m *mirror) watch() (*snapshot, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.last, m.changed
}

// wait returns a snapshot that holds the decisions up to version.
func (m *mirror) wait(ctx context.Context, version uint64) (*snapshot, error) {
	for {
		s, changed := m.watch()
		if s.version >= version && s.revision > 0 {
			return s, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: decision %d has not come here yet: %w", control.ErrUnavailable, version, ctx.Err())
		}
	}
}
