// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"context"
	"fmt"
	"sync"

	"weft/control"
	"weft/control/decision"
)

// mirror is the newest snapshot that this master has.
type mirror struct {
	mu      sync.Mutex
	last    *decision.Snapshot
	changed chan struct{} // closed by the next set
}

func newMirror() *mirror { return &mirror{last: &decision.Snapshot{}, changed: make(chan struct{})} }

func (m *mirror) set(s *decision.Snapshot) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last = s
	close(m.changed)
	m.changed = make(chan struct{})
}

func (m *mirror) now() *decision.Snapshot {
	s, _ := m.watch()
	return s
}

// watch returns the newest snapshot and a channel that is closed when there is a newer one.
func (m *mirror) watch() (*decision.Snapshot, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.last, m.changed
}

// wait returns a snapshot that holds the decisions up to version.
func (m *mirror) wait(ctx context.Context, version uint64) (*decision.Snapshot, error) {
	for {
		s, changed := m.watch()
		if s.Holds(version) {
			return s, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: decision %d has not come here yet: %w", control.ErrUnavailable, version, ctx.Err())
		}
	}
}
