// SPDX-License-Identifier: Apache-2.0

// Package engine is load balancing on a node: it implements lb.Service, keeps the kernel's tables
// equal to what the rows of all nodes come to, and says of every VIP how it stands. The decisions
// are lb/compile's, the writing lb/apply's; rows travel by discovery/state.
package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"weft/bpf/row"
	"weft/bpf/table"
	"weft/discovery"
	"weft/discovery/state"
	"weft/lb"
	"weft/lb/apply"
	"weft/lb/compile"
)

const (
	auditEvery = 30 * time.Second       // the tables are read again, in case someone else wrote them
	firstRetry = 100 * time.Millisecond // after a failed write, doubling
	lastRetry  = 10 * time.Second
)

// Members says which nodes live.
type Members interface {
	Alive(id discovery.NodeID) bool
	// Changed is closed at the next change; it is taken before Alive is asked.
	Changed() <-chan struct{}
}

// Traffic is what the kernel half knows of backends, by their ids.
type Traffic interface {
	Feedbacks() (map[uint32]row.Feedback, error)
	Tallies() (map[uint32]row.Tally, error)
	// Forget drops the backends and VIPs for which these are false.
	Forget(used func(backend uint32) bool, known func(vip uint32) bool) error
}

// Options is how New makes an Engine.
type Options struct {
	Store   *state.Store // required
	Members Members      // required
	Tables  apply.Tables // required
	Traffic Traffic      // nil: what connections come to is not known
	// Reserved are addresses that can't be literal VIPs, such as the node's name server.
	Reserved []netip.Addr
	Log      *slog.Logger // nil: none
}

func (o Options) validate() error {
	var errs []error
	if o.Store == nil {
		errs = append(errs, errors.New("no Store"))
	}
	if o.Members == nil {
		errs = append(errs, errors.New("no Members"))
	}
	if o.Tables.VIPs == nil || o.Tables.Backends == nil {
		errs = append(errs, errors.New("no Tables"))
	}
	return errors.Join(errs...)
}

// Engine implements lb.Service. Make it with New and let Run run.
type Engine struct {
	store    *state.Store
	members  Members
	tables   apply.Tables
	traffic  Traffic
	reserved []netip.Addr
	log      *slog.Logger
	self     discovery.NodeID

	publishing sync.Mutex // one registration is written at a time

	snapshot atomic.Pointer[Snapshot]
	ended    chan struct{} // closed by Run at its end
	mu       sync.Mutex
	changed  chan struct{} // guarded by mu; closed and replaced with every snapshot

	// Used by Run alone.
	facts facts
	have  *compile.Rows // what the tables hold, nil: to be read
}

// Snapshot is load balancing as the tables have it. It is never changed.
type Snapshot struct {
	VIPs  []lb.VIPStatus
	Names map[string][]discovery.ServiceName // by network, ordered by name
	Stats Stats

	rows     compile.Rows
	networks map[string]uint32
	// Err is why the tables are not equal to VIPs; it is tried again.
	Err error
}

// Stats counts the work since the start.
type Stats struct {
	VIPs, Backends, In int // declared here and elsewhere; backends that are in
	Passes             uint64
	Failures           uint64 // passes whose writes failed
	Wrote              apply.Diff
	Took               time.Duration // by the last pass
}

// New checks o and returns an Engine that does nothing until Run.
func New(o Options) (*Engine, error) {
	if err := o.validate(); err != nil {
		return nil, fmt.Errorf("make lb engine: %w", err)
	}
	return &Engine{
		store:    o.Store,
		members:  o.Members,
		tables:   o.Tables,
		traffic:  o.Traffic,
		reserved: o.Reserved,
		log:      cmp.Or(o.Log, slog.New(slog.DiscardHandler)),
		self:     discovery.NodeID(o.Store.Self()),
		ended:    make(chan struct{}),
		changed:  make(chan struct{}),
	}, nil
}

// Run keeps the tables equal until ctx ends. It may be called once.
func (e *Engine) Run(ctx context.Context) error {
	defer close(e.ended)
	retry := firstRetry
	for {
		rows := e.store.Changed(discovery.KindBackend, discovery.KindPin, discovery.KindNetwork, discovery.KindAdmission, discovery.KindNode)
		members := e.members.Changed()
		wait := auditEvery
		if err := e.pass(); err != nil {
			e.log.Error("vip tables not written", "error", err, "retry_in", retry)
			wait = retry/2 + rand.N(retry/2)
			retry = min(2*retry, lastRetry)
		} else {
			retry = firstRetry
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-rows:
		case <-members:
		case <-timer.C:
			e.forget()
			e.have = nil
		}
		timer.Stop()
	}
}

// Snapshot returns the last one, nil before the first.
func (e *Engine) Snapshot() *Snapshot { return e.snapshot.Load() }

// Changed returns a channel that is closed with the next snapshot; take it before Snapshot.
func (e *Engine) Changed() <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.changed
}

// Names returns the names of VIPs by network, for discovery to answer.
func (e *Engine) Names() map[string][]discovery.ServiceName {
	if s := e.snapshot.Load(); s != nil {
		return s.Names
	}
	return nil
}

// pass compiles once, writes what differs and publishes the snapshot.
func (e *Engine) pass() error {
	start := time.Now()
	e.facts.read(e.store, e.members, e.self, e.log)
	var err error
	if e.have == nil {
		var rows compile.Rows
		if rows, err = e.tables.Read(); err == nil {
			e.have = &rows
		}
	}
	var have compile.Rows
	if e.have != nil {
		have = *e.have
	}
	want, status := compile.Compile(e.facts.Facts, have)
	var diff apply.Diff
	if err == nil {
		diff, err = e.tables.Sync(have, want)
		e.have = &want
	}
	if err != nil {
		e.have = nil
	}
	if diff.Changed() {
		e.log.Debug("vip tables written", "vips", diff.VIPs.String(), "backends", diff.Backends.String())
	}
	e.publish(&Snapshot{VIPs: status, Names: names(status), Err: err, rows: want, networks: e.facts.Networks}, diff, time.Since(start))
	return err
}

func (e *Engine) publish(next *Snapshot, diff apply.Diff, took time.Duration) {
	if last := e.snapshot.Load(); last != nil {
		next.Stats = last.Stats
	}
	s := &next.Stats
	s.Passes++
	if next.Err != nil {
		s.Failures++
	}
	s.Wrote.VIPs = sum(s.Wrote.VIPs, diff.VIPs)
	s.Wrote.Backends = sum(s.Wrote.Backends, diff.Backends)
	s.Took = took
	s.VIPs, s.Backends, s.In = len(next.VIPs), 0, 0
	for _, v := range next.VIPs {
		s.Backends += len(v.Backends)
		for _, b := range v.Backends {
			if b.In {
				s.In++
			}
		}
	}
	e.snapshot.Store(next)
	e.mu.Lock()
	defer e.mu.Unlock()
	close(e.changed)
	e.changed = make(chan struct{})
}

func sum(a, b table.Diff) table.Diff {
	return table.Diff{Added: a.Added + b.Added, Replaced: a.Replaced + b.Replaced, Removed: a.Removed + b.Removed}
}
