// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"net/netip"
	"sync"
	"time"
)

// Limits of one task, so that it can't starve the others of its node. What the kernel answers costs the
// task its own time and is not limited.
const (
	defaultRate = 10000 // questions a second, and as many at once
	maxOpen     = 128   // foreign questions that wait for resolvers
	maxAskers   = 4096  // tasks that are told apart; the rest share what is left
)

// limits are token buckets by the asker's address.
type limits struct {
	rate float64 // tokens a second; 0: no limit

	mu     sync.Mutex // guards what follows
	askers map[netip.Addr]*allowance
	swept  time.Time
}

type allowance struct {
	tokens float64
	at     time.Time
	open   int // foreign questions
	conns  int // TCP connections
}

func newLimits(rate int) *limits {
	switch {
	case rate == 0:
		rate = defaultRate
	case rate < 0:
		rate = 0
	}
	return &limits{rate: float64(rate), askers: map[netip.Addr]*allowance{}}
}

// ask takes a token for one question; false: the asker had too many of late.
func (l *limits) ask(asker netip.Addr, now time.Time) bool {
	if l.rate == 0 {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.of(asker, now)
	a.tokens = min(l.rate, a.tokens+now.Sub(a.at).Seconds()*l.rate)
	a.at = now
	if a.tokens < 1 {
		return false
	}
	a.tokens--
	return true
}

// open takes one of the asker's places for foreign questions; done gives it back.
func (l *limits) open(asker netip.Addr, now time.Time) (done func(), ok bool) {
	if l.rate == 0 {
		return func() {}, true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.of(asker, now)
	if a.open >= maxOpen {
		return nil, false
	}
	a.open++
	return l.giveBack(&a.open), true
}

// connect takes one of the asker's most places for connections; done gives it back.
func (l *limits) connect(asker netip.Addr, most int, now time.Time) (done func(), ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.of(asker, now)
	if a.conns >= most {
		return nil, false
	}
	a.conns++
	return l.giveBack(&a.conns), true
}

func (l *limits) giveBack(places *int) func() {
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		*places--
	}
}

// of returns an asker's allowance. Those that are full again are forgotten first, once a second.
func (l *limits) of(asker netip.Addr, now time.Time) *allowance {
	if a := l.askers[asker]; a != nil {
		return a
	}
	if len(l.askers) >= maxAskers && now.Sub(l.swept) >= time.Second {
		l.swept = now
		for addr, a := range l.askers {
			if a.open+a.conns == 0 && now.Sub(a.at) >= time.Second {
				delete(l.askers, addr)
			}
		}
	}
	if len(l.askers) >= maxAskers {
		asker = netip.Addr{}
		if a := l.askers[asker]; a != nil {
			return a
		}
	}
	a := &allowance{tokens: l.rate, at: now}
	l.askers[asker] = a
	return a
}
