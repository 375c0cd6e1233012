// SPDX-License-Identifier: Apache-2.0

// Package peers decides with whom a process exchanges rows: with any one master, and while none
// answers with a few random nodes, so that changes go on spreading. How rows are exchanged is
// discoverypb's; who lives is gossip's.
package peers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"weft/discovery"
)

// Defaults of Options.
const (
	DefaultFanout = 3
	DefaultGrace  = time.Second
)

// Exchange exchanges rows with addr until ctx ends or something fails. It calls met when the other
// side has answered, and never returns nil.
type Exchange func(ctx context.Context, addr string, met func()) error

// Options say who there is and how to talk to them.
type Options struct {
	// Masters returns the addresses of the masters, in any order; asked before each attempt.
	Masters func() []string
	// Peers returns the addresses of living nodes other than this one; nil: there are none.
	Peers func() []string
	// Exchange is required.
	Exchange Exchange
	// Every exchanges with all masters at once, and with no nodes: what a master does with the others,
	// which Masters then returns.
	Every bool
	// Fanout is how many nodes are talked to while no master answers; default DefaultFanout.
	Fanout int
	// Grace is how long no master may answer before nodes are talked to; default DefaultGrace.
	Grace time.Duration
	Log   *slog.Logger // nil: nobody
}

func (o *Options) validate() error {
	var errs []error
	if o.Masters == nil || o.Exchange == nil {
		errs = append(errs, errors.New("masters and exchange are needed"))
	}
	if o.Fanout < 0 || o.Grace < 0 {
		errs = append(errs, fmt.Errorf("fanout %d, grace %v: none may be negative: %w", o.Fanout, o.Grace, discovery.ErrInvalid))
	}
	return errors.Join(errs...)
}

// Stats tells with whom rows are exchanged now, and what it took.
type Stats struct {
	Master   string    // address of the master that answers; empty: none does
	Since    time.Time // of the last change of Master
	Peers    []string  // addresses of the nodes that answer; with Every: of the masters
	Attempts uint64    // exchanges begun
	Failures uint64    // exchanges that ended by themselves
}

// Peers keeps the exchanges going.
type Peers struct {
	o   Options
	log *slog.Logger

	mu      sync.Mutex
	stats   Stats
	changed chan struct{} // closed when Master or Peers changes
}

// New checks the options; Run does the rest.
func New(o Options) (*Peers, error) {
	if err := o.validate(); err != nil {
		return nil, fmt.Errorf("peers: %w", err)
	}
	if o.Fanout == 0 {
		o.Fanout = DefaultFanout
	}
	if o.Grace == 0 {
		o.Grace = DefaultGrace
	}
	if o.Peers == nil {
		o.Peers = func() []string { return nil }
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Peers{o: o, log: o.Log, stats: Stats{Since: time.Now()}, changed: make(chan struct{})}, nil
}

// Stats returns the present state.
func (p *Peers) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.stats
	s.Peers = slices.Clone(s.Peers)
	slices.Sort(s.Peers)
	return s
}

// Changed returns a channel that is closed when a master or node begins or ends to answer. Take it
// before Stats.
func (p *Peers) Changed() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.changed
}

// update changes the state and wakes who waits for it.
func (p *Peers) update(f func(s *Stats)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f(&p.stats)
	close(p.changed)
	p.changed = make(chan struct{})
}

// pause is the time before the next attempt: doubled after each failure, and never the same for two
// processes that lost the same master.
type pause struct {
	first, last, next time.Duration
}

func (p *pause) take() time.Duration {
	if p.next < p.first {
		p.next = p.first
	}
	d := p.next/2 + rand.N(p.next)
	p.next = min(2*p.next, p.last)
	return d
}

func (p *pause) reset() { p.next = p.first }

// sleep waits, or returns false when ctx ends.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
