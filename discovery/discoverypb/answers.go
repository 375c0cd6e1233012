// SPDX-License-Identifier: Apache-2.0

package discoverypb

import "sync"

// answers are what the other sides of open exchanges said of this side's interest.
type answers struct {
	mu      sync.Mutex
	open    map[*exchange]answer
	held    uint64
	changed chan struct{} // closed when something was said
}

type answer struct {
	heard    bool   // the other side has sent all that it had at first
	interest uint64 // all that it has for this was sent
}

func newAnswers() *answers {
	return &answers{open: make(map[*exchange]answer), changed: make(chan struct{})}
}

func (a *answers) begin(x *exchange) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.open[x] = answer{}
}

func (a *answers) end(x *exchange) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.open, x)
	a.wake()
}

func (a *answers) take(x *exchange, interest uint64, whole bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := answer{heard: true, interest: interest}
	if a.open[x] == now && (!whole || a.held >= interest) {
		return
	}
	a.open[x] = now
	if whole {
		a.held = max(a.held, interest)
	}
	a.wake()
}

// wake is called under mu.
func (a *answers) wake() {
	close(a.changed)
	a.changed = make(chan struct{})
}

// Held is the greatest version of the store's interest (state.Store.Take) of which somebody who knows all rows
// has sent all there are.
func (s *Syncer) Held() uint64 {
	s.answers.mu.Lock()
	defer s.answers.mu.Unlock()
	return s.answers.held
}

// Shared counts the open exchanges whose other side has sent all that it knows for that version of the interest.
func (s *Syncer) Shared(version uint64) (n int) {
	s.answers.mu.Lock()
	defer s.answers.mu.Unlock()
	for _, a := range s.answers.open {
		if a.heard && a.interest >= version {
			n++
		}
	}
	return n
}

// Answered returns a channel that is closed at the next change of Held and Shared. Take it before asking.
func (s *Syncer) Answered() <-chan struct{} {
	s.answers.mu.Lock()
	defer s.answers.mu.Unlock()
	return s.answers.changed
}

// knowsAll tells whether all rows that there are have come here: once it is so, it stays so.
func (s *Syncer) knowsAll() bool {
	if !s.store.Whole() || s.complete.Load() {
		return s.complete.Load()
	}
	s.answers.mu.Lock()
	defer s.answers.mu.Unlock()
	for _, a := range s.answers.open {
		if !a.heard {
			return false
		}
	}
	if s.isComplete != nil && !s.isComplete() {
		return false
	}
	s.complete.Store(true)
	return true
}
