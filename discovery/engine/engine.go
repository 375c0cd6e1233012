// SPDX-License-Identifier: Apache-2.0

// Package engine keeps a node's zone equal to the rows that it holds, hands it to the name server, and
// serves discovery.Service. What a row means as records is discovery/zone's, how rows travel is
// discovery/state's and discoverypb's, which nodes are alive is told by Members.
//
// A change walks through these stages, one at a time:
//
//  1. follow: the rows that changed since the last look            (follow.go)
//  2. fact: a row's value, read                                    (fact.go)
//  3. publish: the next zone to the server, then to Lookup         (publish.go)
package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"weft/discovery"
	"weft/discovery/state"
	"weft/discovery/zone"
)

// When a zone is complete, unless Options.Synced says so: the masters' rows come before those of
// nodes, so after them the node waits for a pause in the rows, but not for ever.
const (
	settleEvery = 100 * time.Millisecond // how often that is looked at
	pause       = 500 * time.Millisecond
	patience    = 5 * time.Second
)

// Members says who answers; discovery/gossip does.
type Members interface {
	Alive(id discovery.NodeID) bool
	// Dead tells of a node that was heard once that neither its daemon nor its kernel answers any more.
	Dead(id discovery.NodeID) bool
	// Living counts all that answer, this one and masters too.
	Living() int
	// Changed is closed at the next change of Alive of any member.
	Changed() <-chan struct{}
}

// Server answers questions from a zone; discovery/dns does.
type Server interface {
	// SetZone makes z the zone to answer from; diff is how it differs from the one before.
	SetZone(z *zone.Zone, diff zone.Diff)
}

// Interest says which names are held; discovery/interest does.
type Interest interface {
	// Use waits for the rows of topics that somebody asks about, and returns whether all of them are here.
	Use(ctx context.Context, topics ...discovery.Topic) bool
	// Holds is Use without waiting.
	Holds(topics ...discovery.Topic) bool
}

// Options say what the engine works with.
type Options struct {
	// Store holds the rows. Required; its Self is this node.
	Store *state.Store
	// Members says who answers; nil: this node alone does.
	Members Members
	// Server gets each new zone; nil: nobody.
	Server Server
	// Interest takes the names that are asked for; nil: all are held.
	Interest Interest
	// Zone says what the zones are.
	Zone zone.Options
	// Synced tells that this node has, since its disk was empty, heard all rows of somebody, so that
	// a name it does not know is missing; asked until it says yes. Nil: once rows of the masters are
	// here, from disk or, when they come later, followed by a pause.
	Synced func() bool
	// Log takes what the operator should know; nil: nobody.
	Log *slog.Logger
}

// Engine implements discovery.Service for a node.
type Engine struct {
	store   *state.Store
	self    discovery.NodeID
	members Members
	server  Server
	wanted  Interest
	synced  func() bool
	log     *slog.Logger
	stats   counters

	zone    atomic.Pointer[zone.Zone] // written under mu
	changed atomic.Pointer[chan struct{}]
	seen    atomic.Uint64 // the store's revision that the zone is made of, at least

	mu       sync.Mutex // guards what follows
	cursor   *state.Cursor
	writers  map[string]writer
	gone     map[string]uint64 // by node: the incarnation that the masters removed
	heard    time.Time         // since when rows of the masters are here; zero: they are not
	restored bool              // they were on disk
	last     time.Time         // of the rows that came last
	services map[string][]discovery.ServiceName
	health   health
	alive    map[discovery.NodeID]liveness
	lost     map[discovery.NodeID]bool // dead: their tasks have no names
	moved    bool                      // nodes or masters came or went since they were judged
}

var _ discovery.Service = (*Engine)(nil)

type counters struct {
	changes, rebuilds, broken atomic.Uint64
}

// Stats counts since New, and what is known now.
type Stats struct {
	Names    int    // DNS names that have records
	Records  int    // that rows give
	Complete bool   // see zone.Zone.Complete
	Changes  uint64 // facts that came, changed or went
	Rebuilds uint64 // times that all rows were read anew
	Broken   uint64 // rows that could not be read
}

// New reads the rows that are there and hands the server its first zone.
func New(o Options) (*Engine, error) {
	if o.Store == nil {
		return nil, errors.New("discovery engine: store: a row store is needed")
	}
	e := &Engine{
		store: o.Store, self: discovery.NodeID(o.Store.Self()), members: o.Members, server: o.Server, wanted: o.Interest, synced: o.Synced,
		log: o.Log, services: map[string][]discovery.ServiceName{}, alive: map[discovery.NodeID]liveness{}, lost: map[discovery.NodeID]bool{},
		health: health{map[string]map[string]string{}},
	}
	if e.log == nil {
		e.log = slog.New(slog.DiscardHandler)
	}
	if e.synced == nil {
		e.synced = func() bool { return e.quiet(time.Now()) }
	}
	if o.Zone.Self == "" {
		o.Zone.Self = e.self
	}
	e.zone.Store(zone.New(o.Zone))
	e.changed.Store(new(make(chan struct{})))
	e.restart()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.refresh()
	if e.restored = !e.heard.IsZero(); e.restored {
		e.publish(nil)
	}
	if e.server != nil && e.stats.changes.Load() == 0 {
		e.server.SetZone(e.zone.Load(), zone.Diff{})
	}
	return e, nil
}

// Run follows rows and members until ctx ends.
func (e *Engine) Run(ctx context.Context) error {
	tick := time.NewTicker(settleEvery)
	defer tick.Stop()
	var members <-chan struct{}
	judge, undecided := true, false
	for {
		rows := e.store.Changed(followed...)
		e.mu.Lock()
		e.refresh()
		if judge = judge || e.moved; judge {
			members = e.membersChanged()
			e.moved, undecided = false, e.judgeNodes(time.Now())
		}
		e.mu.Unlock()
		var settle <-chan time.Time
		if undecided || !e.zone.Load().Complete() {
			settle = tick.C
		}
		judge = undecided
		select {
		case <-ctx.Done():
			return nil
		case <-rows:
		case <-members:
			judge = true
		case <-settle:
		}
	}
}

// Announce implements discovery.Service. When it returns the name is on disk and answered here.
func (e *Engine) Announce(ctx context.Context, name discovery.Name) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("announce %s: %w", name.Task, err)
	}
	if err := name.Validate(); err != nil {
		return fmt.Errorf("announce %s: %w", name.Task, err)
	}
	if name.Node != "" && name.Node != e.self {
		return fmt.Errorf("announce %s: node %q: %w: this is %s", name.Task, name.Node, discovery.ErrInvalid, e.self)
	}
	name.Node = e.self
	if name.Framework == "" {
		name.Framework = discovery.DefaultFramework
	}
	if err := state.Put(e.store, discovery.KindName, name.RowKey(), name); err != nil {
		return fmt.Errorf("announce %s: %w", name.Task, err)
	}
	if err := e.withdraw(name.Task, name.RowKey()); err != nil {
		return fmt.Errorf("announce %s: %w", name.Task, err)
	}
	return nil
}

// Retract implements discovery.Service. When it returns the name is answered here no more.
func (e *Engine) Retract(ctx context.Context, task string) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("retract %s: %w", task, err)
	}
	if err := e.withdraw(task, ""); err != nil {
		return fmt.Errorf("retract %s: %w", task, err)
	}
	return nil
}

// withdraw deletes the rows of a task's names, but for one, and makes the zone follow.
func (e *Engine) withdraw(task, but string) error {
	for _, r := range e.store.Own(discovery.KindName) {
		if n, err := state.Value[discovery.Name](r); err == nil && n.Task == task && r.Key != but {
			if err := e.store.Delete(discovery.KindName, r.Key); err != nil {
				return err
			}
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.refresh()
	return nil
}

// SetServices sets the names of VIPs by network (empty: every one sees them), as load balancing has them now.
func (e *Engine) SetServices(services map[string][]discovery.ServiceName) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.publish(serviceChanges(e.services, services))
	e.services = services
}

// Zone returns the zone as it is now. Changed tells when it is another one.
func (e *Engine) Zone() *zone.Zone { return e.zone.Load() }

// Changed returns a channel that is closed at the next change of the zone. Take it before reading.
func (e *Engine) Changed() <-chan struct{} { return *e.changed.Load() }

// Stats returns the present counts.
func (e *Engine) Stats() Stats {
	z := e.zone.Load()
	return Stats{
		Names: z.Names(), Records: z.Records(), Complete: z.Complete(),
		Changes: e.stats.changes.Load(), Rebuilds: e.stats.rebuilds.Load(), Broken: e.stats.broken.Load(),
	}
}
