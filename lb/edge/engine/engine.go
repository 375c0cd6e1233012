// SPDX-License-Identifier: Apache-2.0

// Package engine keeps the tables of the edge equal to what is published: on every node what its tasks serve to clients
// outside, on nodes of the edge also which backend a client's packet goes to. The decisions are lb/edge's, and which
// backends are in is lb/engine's.
package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"weft/bpf"
	"weft/bpf/row"
	"weft/bpf/table"
	"weft/discovery"
	"weft/discovery/state"
	"weft/lb"
	"weft/lb/edge"
)

const (
	flowsEvery   = time.Minute            // known flows are looked through while a change is in progress
	answersEvery = 10 * time.Second       // answers by edge nodes are looked through
	firstRetry   = 100 * time.Millisecond // after a failed write, doubling
	lastRetry    = 10 * time.Second
)

// VIPs says which backends of a VIP are in; lb/engine implements it.
type VIPs interface {
	VIP(key lb.Key) (lb.VIPStatus, bool)
	// Changed is closed at the next change; it is taken before VIP is asked.
	Changed() <-chan struct{}
}

// Members says which nodes live, and which are of the edge.
type Members interface {
	Alive(id discovery.NodeID) bool
	// Edges returns the nodes of the edge that live.
	Edges() []discovery.NodeID
	Changed() <-chan struct{}
}

// Leads says for which addresses this node answers neighbours; lb/announce implements it.
type Leads interface {
	Led() map[netip.Addr]bool
	// Changed is closed at the next change; it is taken before Led is asked.
	Changed() <-chan struct{}
}

// Paths says what is known of the ways to other nodes; overlay/paths implements it.
type Paths interface {
	// Path returns the largest IP packet that arrives at a node's underlay address, bytes, 0: not known, and whether it
	// goes by the second port of tunnels.
	Path(node netip.Addr) (mtu int, second bool)
	// Changed is closed at the next change; it is taken before Path is asked.
	Changed() <-chan struct{}
}

// Options is how New makes an Engine.
type Options struct {
	Store   *state.Store // required
	Members Members      // required
	VIPs    VIPs         // required
	// Served is what tasks of this node serve; required.
	Served table.Table[row.EdgeServedKey, row.EdgeServed]
	// Relays is from where a node of the edge takes answers back; required: others have none in it.
	Relays table.Table[row.EndpointKey, uint32]
	// Answers is what programs remember of clients of this node's tasks; required.
	Answers table.Table[row.FlowKey, row.Translation]
	Paths   Paths // nil: the ways to other nodes are what their links are
	// Edge holds the tables of a node of the edge; nil: it is none.
	Edge  *bpf.EdgeTables
	Leads Leads        // nil: none
	Peers lb.Peers     // nil: other nodes are not asked
	Log   *slog.Logger // nil: none
}

func (o Options) validate() error {
	var errs []error
	for what, there := range map[string]bool{
		"Store": o.Store != nil, "Members": o.Members != nil, "VIPs": o.VIPs != nil, "Served": o.Served != nil, "Relays": o.Relays != nil,
		"Answers": o.Answers != nil,
	} {
		if !there {
			errs = append(errs, errors.New("no "+what))
		}
	}
	return errors.Join(errs...)
}

// Engine keeps the tables equal. Make it with New and let Run run.
type Engine struct {
	o     Options
	log   *slog.Logger
	self  discovery.NodeID
	stats atomic.Pointer[Stats]

	mu      sync.Mutex
	serving map[netip.Addr]bool // guarded by mu; never changed, replaced
	changed chan struct{}       // guarded by mu; closed and replaced with serving
	begun   uint64              // guarded by mu: passes
	done    uint64              // guarded by mu: the number of the last pass that wrote what it should
	passed  chan struct{}       // guarded by mu; closed and replaced with done
	nudged  chan struct{}       // someone waits for a pass; capacity 1: once is enough

	// Used by Run alone.
	plan   *edge.Plan // nil: to be restored
	have   edge.Rows  // what the tables hold
	served servedRows
	relays map[row.EndpointKey]uint32 // nil: to be read
	ways   []uint32                   // by which answers could go at the last pass; nil: to be looked at
	moved  time.Time                  // when answers were looked through last
	looked time.Duration              // when known flows were looked through last
}

// Stats is how the edge stands.
type Stats struct {
	Publications int // that there are
	Served       int // ports of tasks of this node behind them
	Backends     int // at the edge
	Passes       uint64
	Failures     uint64 // passes whose writes failed
	Err          error  // why the tables are not as they should be; it is tried again
}

// New checks o and returns an Engine that does nothing until Run.
func New(o Options) (*Engine, error) {
	if err := o.validate(); err != nil {
		return nil, fmt.Errorf("make edge engine: %w", err)
	}
	e := &Engine{o: o, log: cmp.Or(o.Log, slog.New(slog.DiscardHandler)), self: discovery.NodeID(o.Store.Self()), changed: make(chan struct{})}
	e.passed, e.nudged = make(chan struct{}), make(chan struct{}, 1)
	e.stats.Store(&Stats{})
	return e, nil
}

// Serving returns the published addresses that the tables of this edge node lead to backends, nil before the first
// pass; not to be changed.
func (e *Engine) Serving() map[netip.Addr]bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.serving
}

// ServingChanged returns a channel that is closed when Serving is another; take it before Serving.
func (e *Engine) ServingChanged() <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.changed
}

// serves publishes what the tables serve now.
func (e *Engine) serves(rows edge.Rows) {
	serving := make(map[netip.Addr]bool)
	for key, vip := range rows.VIPs {
		if vip.Slots > 0 {
			serving[key.Addr.Netip()] = true
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.serving != nil && maps.Equal(serving, e.serving) {
		return
	}
	e.serving = serving
	close(e.changed)
	e.changed = make(chan struct{})
}

// Follow returns when the tables follow what VIPs and rows say as it is called, or when ctx ends.
func (e *Engine) Follow(ctx context.Context) error {
	e.mu.Lock()
	wanted := e.begun + 1
	e.mu.Unlock()
	select {
	case e.nudged <- struct{}{}:
	default:
	}
	for {
		e.mu.Lock()
		done, passed := e.done, e.passed
		e.mu.Unlock()
		if done >= wanted {
			return nil
		}
		select {
		case <-passed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// begin counts a pass, and end tells that it wrote what it should.
func (e *Engine) begin() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.begun++
	return e.begun
}

func (e *Engine) end(pass uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.done = pass
	close(e.passed)
	e.passed = make(chan struct{})
}

// Stats returns those of the last pass.
func (e *Engine) Stats() Stats { return *e.stats.Load() }

// Run keeps the tables equal until ctx ends. It may be called once.
func (e *Engine) Run(ctx context.Context) error {
	retry := firstRetry
	for {
		rows := e.o.Store.Changed(discovery.KindPublication, discovery.KindNetwork, discovery.KindAdmission, discovery.KindNode)
		members, vips := e.o.Members.Changed(), e.o.VIPs.Changed()
		var leads, paths <-chan struct{}
		if e.o.Paths != nil {
			paths = e.o.Paths.Changed()
		}
		if e.o.Leads != nil {
			leads = e.o.Leads.Changed()
		}
		number := e.begin()
		wait, err := e.pass(monotonic())
		if err != nil {
			e.log.Error("edge tables not written", "error", err, "retry_in", retry)
			wait = retry/2 + rand.N(retry/2)
			retry = min(2*retry, lastRetry)
		} else {
			retry = firstRetry
			e.end(number)
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-rows:
		case <-members:
		case <-vips:
		case <-leads:
		case <-paths:
		case <-e.nudged:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// pass compiles once, writes what differs, and returns for how long it holds if nothing changes.
func (e *Engine) pass(now time.Duration) (wait time.Duration, err error) {
	facts := e.facts(now)
	wait = flowsEvery
	stats := Stats{Publications: len(facts.Publications), Passes: e.stats.Load().Passes + 1, Failures: e.stats.Load().Failures}
	due, err := e.served.sync(e.o.Served, edge.Served(facts), now)
	if due != 0 {
		wait = min(wait, due-now)
	}
	stats.Served = len(e.served.have)
	if e.served.relayed() {
		wait = min(wait, answersEvery)
	}
	err = errors.Join(err, e.relay(facts), e.move(facts))
	if e.o.Edge != nil {
		due, eerr := e.steer(facts)
		if due != 0 {
			wait = min(wait, max(due-now, 0))
		}
		stats.Backends = len(e.have.Backends)
		err = errors.Join(err, eerr)
	}
	if stats.Err = err; err != nil {
		stats.Failures++
	}
	e.stats.Store(&stats)
	return max(wait, time.Millisecond), err
}

// relay makes the node take back the answers that it may; one that is of the edge no more takes none.
func (e *Engine) relay(f edge.Facts) (err error) {
	if e.relays == nil {
		if e.relays, err = e.o.Relays.All(); err != nil {
			return fmt.Errorf("read relays: %w", err)
		}
	}
	want := make(map[row.EndpointKey]uint32)
	if e.o.Edge != nil {
		want = edge.Relays(f)
	}
	if err := errors.Join(put(e.o.Relays, e.relays, want), remove(e.o.Relays, e.relays, want)); err != nil {
		e.relays = nil
		return fmt.Errorf("write relays: %w", err)
	}
	e.relays = want
	return nil
}

// move gives answers whose edge node is gone to one that lives. It looks again after a while: a packet may have come by one
// of which membership knew already that it died, or did not know yet that it lives.
func (e *Engine) move(f edge.Facts) error {
	ways := edge.Ways(f)
	lost := e.ways == nil || slices.ContainsFunc(e.ways, func(way uint32) bool { return !slices.Contains(ways, way) })
	if lost && len(ways) == 0 {
		return nil // until one comes
	}
	if (lost || time.Since(e.moved) >= answersEvery) && e.served.relayed() {
		answers, err := e.o.Answers.All()
		if err == nil {
			_, err = table.PutAll(e.o.Answers, edge.Move(answers, ways))
		}
		if err != nil {
			return fmt.Errorf("move client_answers: %w", err)
		}
		e.moved = time.Now()
	}
	e.ways = ways
	return nil
}

// steer is the pass of a node of the edge.
func (e *Engine) steer(f edge.Facts) (due time.Duration, err error) {
	if e.plan == nil {
		if e.have, err = read(e.o.Edge); err != nil {
			return 0, err
		}
		e.plan = edge.Restore(e.have, f.Now)
		// A row that the earlier process wrote last may be younger than what programs keep.
		if err := raise(e.o.Edge); err != nil {
			return 0, err
		}
	}
	if e.plan.Pending() && f.Now-e.looked >= flowsEvery {
		if err := e.lookThrough(f.Now); err != nil {
			return 0, err
		}
	}
	want, due, unserved := e.plan.Compile(f)
	if err := write(e.o.Edge, e.have, want); err != nil {
		e.plan = nil // what the tables hold is to be read
		return 0, errors.Join(err, unserved)
	}
	e.have = want
	e.serves(want)
	return due, unserved
}

// lookThrough forgets known flows that ended or whose backend is gone, and ends the changes that have none left.
func (e *Engine) lookThrough(now time.Duration) error {
	flows, err := e.o.Edge.Flows.All()
	if err != nil {
		return fmt.Errorf("read edge_flows: %w", err)
	}
	known := make(map[row.EdgeVIPKey]bool)
	over := make(map[row.EdgeFlowKey]struct{})
	for key, f := range flows {
		life := edge.LifeTCP
		if key.VIP.Proto == unix.IPPROTO_UDP {
			life = edge.LifeUDP
		}
		if _, serves := e.have.Backends[f.Backend]; !serves || now-time.Duration(f.Seen) > life {
			over[key] = struct{}{}
		} else {
			known[key.VIP] = true
		}
	}
	if _, err := table.DeleteAll(e.o.Edge.Flows, over); err != nil {
		return fmt.Errorf("forget edge_flows: %w", err)
	}
	e.plan.Purged(e.looked) // what was gone by then was in no slot when this look began
	e.plan.Merge(known)
	e.looked = now
	return nil
}

// monotonic is the clock of the kernel half's rows.
func monotonic() time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return 0 // the clock is one that Linux always has
	}
	return time.Duration(now.Nano())
}
