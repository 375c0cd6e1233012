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
	"slices"
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
	Peers   lb.Peers     // nil: no other node is asked
	// Follow waits for tables that others make of this engine's Snapshot: only with them a row is acted by. Nil: there
	// are none.
	Follow func(ctx context.Context) error
	// RefuseUnhealthy makes VIPs refuse whose backends are all unhealthy, or have not succeeded yet: as in DC/OS. Else
	// those are asked all the same.
	RefuseUnhealthy bool
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
	if o.Tables.VIPs == nil || o.Tables.Backends == nil || o.Tables.Maglevs == nil {
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
	peers    lb.Peers
	follow   func(ctx context.Context) error
	reserved []netip.Addr
	log      *slog.Logger
	self     discovery.NodeID

	publishing sync.Mutex // one registration is written at a time

	snapshot atomic.Pointer[Snapshot]
	ended    chan struct{} // closed by Run at its end
	nudged   chan struct{} // someone waits for a pass; capacity 1: once is enough
	mu       sync.Mutex
	changed  chan struct{} // guarded by mu; closed and replaced with every snapshot

	// Used by Run alone.
	facts    *facts
	compiler *compile.Compiler
	begun    bool // the compiler began with what the tables held
	equal    bool // the tables hold what the compiler has; else they are to be read
	mended   uint64
}

// Snapshot is load balancing as the tables have it. It is never changed.
type Snapshot struct {
	VIPs  []*compile.VIP                     // by key
	Names map[string][]discovery.ServiceName // by network, ordered by name
	Named uint64                             // grows with each change of Names
	Stats Stats
	// Applied is up to where the rows of the masters, and of each node with backends, are in VIPs.
	Applied map[discovery.Stream]discovery.Position
	// Err is why the tables are not equal to VIPs; it is tried again.
	Err error

	peers map[discovery.NodeID]string // other nodes that live and are admitted, and where they answer
}

// find returns a VIP, nil when it has no backend.
func (s *Snapshot) find(key lb.Key) *compile.VIP {
	i, there := slices.BinarySearchFunc(s.VIPs, key, func(v *compile.VIP, key lb.Key) int { return v.Compare(key) })
	if !there {
		return nil
	}
	return s.VIPs[i]
}

// Stats counts the work since the start.
type Stats struct {
	VIPs, Backends, In int // declared here and elsewhere; backends that are in
	Passes             uint64
	Failures           uint64 // passes whose writes failed
	Wrote              apply.Diff
	Mended             uint64        // audits that found the tables changed by somebody else
	Took               time.Duration // by the last pass
}

// New checks o and returns an Engine that does nothing until Run.
func New(o Options) (*Engine, error) {
	if err := o.validate(); err != nil {
		return nil, fmt.Errorf("make lb engine: %w", err)
	}
	log := cmp.Or(o.Log, slog.New(slog.DiscardHandler))
	compiler := compile.New(compile.Rows{})
	compiler.SetRefuseUnhealthy(o.RefuseUnhealthy)
	return &Engine{
		store:    o.Store,
		members:  o.Members,
		tables:   o.Tables,
		traffic:  o.Traffic,
		peers:    o.Peers,
		follow:   o.Follow,
		reserved: o.Reserved,
		log:      log,
		self:     discovery.NodeID(o.Store.Self()),
		ended:    make(chan struct{}),
		nudged:   make(chan struct{}, 1),
		changed:  make(chan struct{}),
		facts:    newFacts(o.Store, o.Members, log),
		compiler: compiler,
	}, nil
}

// Run keeps the tables equal until ctx ends. It may be called once.
func (e *Engine) Run(ctx context.Context) error {
	defer close(e.ended)
	audit := time.NewTicker(auditEvery) // also where rows change more often than that
	defer audit.Stop()
	retry := firstRetry
	for {
		rows := e.store.Changed(discovery.KindBackend, discovery.KindPin, discovery.KindNetwork, discovery.KindAdmission, discovery.KindNode)
		members := e.members.Changed()
		var again <-chan time.Time
		if err := e.pass(); err != nil {
			e.log.Error("vip tables not written", "error", err, "retry_in", retry)
			again = time.After(retry/2 + rand.N(retry/2))
			retry = min(2*retry, lastRetry)
		} else {
			retry = firstRetry
		}
		select {
		case <-ctx.Done():
			return nil
		case <-rows:
		case <-members:
		case <-e.nudged:
		case <-again:
		case <-audit.C:
			e.forget()
			e.audit()
		}
	}
}

// audit reads the tables again, and mends what somebody else wrote. What can't be is the next pass's to tell.
func (e *Engine) audit() {
	if !e.equal {
		return // they are read in any case
	}
	var diff apply.Diff
	have, err := e.tables.Read()
	if err == nil {
		diff, err = e.tables.Sync(have, e.compiler.Rows())
	}
	e.equal = err == nil
	if diff.Changed() {
		e.mended++
		e.log.Warn("vip tables were changed by somebody else: they are mended", "vips", diff.VIPs.String(),
			"backends", diff.Backends.String(), "maglevs", diff.Maglevs.String())
	}
}

// nudge makes Run pass once more, soon.
func (e *Engine) nudge() {
	select {
	case e.nudged <- struct{}{}:
	default:
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

// VIP returns a VIP that has a backend, without what connections to it came to.
func (e *Engine) VIP(key lb.Key) (lb.VIPStatus, bool) {
	s := e.snapshot.Load()
	if s == nil {
		return lb.VIPStatus{}, false
	}
	v := s.find(key)
	if v == nil {
		return lb.VIPStatus{}, false
	}
	return clone(v.VIPStatus), true
}

// pass compiles what changed, writes what differs and publishes the snapshot.
func (e *Engine) pass() error {
	start := time.Now()
	applied, fresh := e.facts.tell(e.compiler)
	if fresh {
		e.nudge() // how far a node's rows are is asked of nodes that are known
	}
	var have compile.Rows
	var err error
	if !e.equal {
		have, err = e.tables.Read()
	}
	if err == nil && !e.begun {
		e.compiler.Reset(have)
		e.begun = true
	}
	step := e.compiler.Compile(monotonicSeconds())
	var diff apply.Diff
	if err == nil {
		if !e.equal {
			step.Have, step.Want = have, e.compiler.Rows()
		}
		diff, err = e.tables.Sync(step.Have, step.Want)
	}
	e.equal = err == nil
	if diff.Changed() {
		e.log.Debug("vip tables written", "vips", diff.VIPs.String(), "backends", diff.Backends.String())
	}
	e.publish(&Snapshot{Applied: applied, Err: err, peers: e.facts.peers}, step, diff, start)
	return err
}

func (e *Engine) publish(next *Snapshot, step compile.Step, diff apply.Diff, start time.Time) {
	if last := e.snapshot.Load(); last != nil {
		next.Stats, next.VIPs, next.Names, next.Named = last.Stats, last.VIPs, last.Names, last.Named
	}
	if step.Changed {
		next.VIPs = e.compiler.VIPs()
	}
	if step.Named {
		next.Names = names(next.VIPs)
		next.Named++
	}
	s, counts := &next.Stats, e.compiler.Counts()
	s.Passes++
	s.Mended = e.mended
	if next.Err != nil {
		s.Failures++
	}
	s.Wrote.VIPs = sum(s.Wrote.VIPs, diff.VIPs)
	s.Wrote.Backends = sum(s.Wrote.Backends, diff.Backends)
	s.Wrote.Maglevs = sum(s.Wrote.Maglevs, diff.Maglevs)
	s.VIPs, s.Backends, s.In = counts.VIPs, counts.Backends, counts.In
	s.Took = time.Since(start)
	e.snapshot.Store(next)
	e.mu.Lock()
	defer e.mu.Unlock()
	close(e.changed)
	e.changed = make(chan struct{})
}

func sum(a, b table.Diff) table.Diff {
	return table.Diff{Added: a.Added + b.Added, Replaced: a.Replaced + b.Replaced, Removed: a.Removed + b.Removed}
}
