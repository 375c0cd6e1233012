// SPDX-License-Identifier: Apache-2.0

// Package engine is the overlay on a node: it implements overlay.Service, keeps the kernel's tables
// equal to what the rows of all nodes come to, and ends attachments whose task has ended. What rows say is
// read by overlay/facts, what they come to is overlay/compile's, how that gets into the kernel overlay/apply's; what happens
// to packets is told by overlay/watch, and how large they may be found by overlay/paths. Rows travel by discovery/state.
//
// An attachment goes through these stages (attach.go); each is undone by Detach in reverse order, and
// a crash after any of them is mended at the next start (restore.go):
//
//  1. check     against networks and groups that the masters declared
//  2. identity  of its groups: known, or asked of the masters
//  3. address   fixed or lowest free of the node's blocks (addresses.go); on disk, with the endpoint, before
//     anything is made
//  4. ports     of the node that lead to the task are held, so that no program takes them
//  5. link      made, host end down
//  6. programs  on the host end
//  7. tables    verdicts and endpoint before the workload; then the ports lead to it
//  8. up        from here on packets pass
package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"weft/bpf/table"
	"weft/discovery"
	"weft/overlay"
	"weft/overlay/apply"
	"weft/overlay/compile"
	"weft/overlay/facts"
	"weft/overlay/paths"
	"weft/overlay/watch"
)

// Attacher puts the kernel half's programs on the host ends of links.
type Attacher interface {
	AttachWorkload(ifindex uint32) error
	DetachWorkload(ifindex uint32) error // no error if the interface is gone
}

// Links makes and removes the links of tasks; see apply.Links.
type Links interface {
	Ensure(ctx context.Context, s apply.Spec) (apply.Link, error)
	Up(ctx context.Context, s apply.Spec) error
	Remove(ctx context.Context, name string) error
	List(ctx context.Context) ([]apply.Link, error)
	Watch(ctx context.Context) (<-chan struct{}, error)
}

// Host is told which subnets are networks, which ports of the node lead to tasks, and which addresses the node has
// towards the networks; see apply.Host.
type Host interface {
	SetNode(ctx context.Context, addrs, subnets []netip.Prefix) error
	SetFirewall(ctx context.Context, subnets []netip.Prefix, ports []compile.Port) error
	Hold(ctx context.Context, ports []compile.Port) error
	Release(ctx context.Context, ports []compile.Port) error
}

// Options is how New makes an Engine.
type Options struct {
	Node     discovery.NodeID // required
	Underlay apply.Underlay   // required: Addr and MTU
	Rows     watch.Rows       // where facts come from and go to; required
	Tables   apply.Tables     // required
	Attacher Attacher         // required
	Links    Links            // required
	Host     Host             // nil: nobody is told
	Self     compile.Host     // zero: the node's own processes have no part in networks
	Source   watch.Source     // nil: there are no events
	Tracer   *watch.Tracer    // nil: packets can't be followed
	Finder   watch.Finder     // nil: tasks of other nodes have no names here
	Prober   paths.Prober     // nil: paths are taken to carry what the links do
	// Alive tells what membership says of a node: of a dead one no path is missed. Nil: all live.
	Alive func(discovery.NodeID) bool
	// Eager wants a block of every network from the start, as DC/OS' agents have, not from the first task on.
	Eager bool
	// OwnMAC chooses what plain nodes know this node by; nil or zero: overlay.VTEPMAC.
	OwnMAC func([]overlay.Network, []overlay.Block) [6]byte
	// WaitOwner returns nil when a process has ended; nil: apply.WaitProcess.
	WaitOwner func(ctx context.Context, pid int, start uint64) error
	// OwnNetNS tells whether a network namespace is the node's own; nil: apply.OwnNetNS.
	OwnNetNS func(path string) (bool, error)
	Log      *slog.Logger // nil: none
}

func (o *Options) validate() error {
	errs := []error{o.Tables.Validate()}
	for name, missing := range map[string]bool{
		"Node": o.Node == "", "Underlay.Addr": !o.Underlay.Addr.IsValid(), "Rows": o.Rows == nil,
		"Attacher": o.Attacher == nil, "Links": o.Links == nil,
	} {
		if missing {
			errs = append(errs, fmt.Errorf("no %s", name))
		}
	}
	return errors.Join(errs...)
}

const (
	auditEvery = 30 * time.Second       // tables and links are read again, in case someone else changed them
	firstRetry = 100 * time.Millisecond // after a failure, doubling
	lastRetry  = 10 * time.Second
)

// Engine implements overlay.Service. Make it with New and let Run run.
type Engine struct {
	o     Options
	log   *slog.Logger
	facts *facts.Facts
	watch *watch.Watcher
	paths *paths.Paths // to other nodes

	ready chan struct{} // closed by Run when what the disk knows is restored
	kick  chan struct{} // capacity one: the loop has something to do

	ids  keyed  // one Attach or Detach of an id at a time
	sync syncer // of the tables

	mended atomic.Uint64 // see Stats

	mu      sync.Mutex // guards what follows
	entries map[string]*entry
	pending map[string]wish // attachments that wait for the masters, by id
	// returning are blocks that go back to the masters; empty tells since when blocks have no task.
	returning map[netip.Prefix]bool
	empty     map[netip.Prefix]time.Time
	changed   chan struct{} // closed and replaced when the live entries change
	tasks     []compile.Task
	inHost    []overlay.Endpoint // in the node's own network
	tasksOf   chan struct{}      // what changed was when these were listed
	stats     Stats

	wants sync.Mutex // one comparison of want rows at a time
}

// phase is how far an entry is.
//
//	reserved --link made--> live --task ended, Detach, network gone--> leaving --> (none)
//	    '----------------- Attach failed ------------------------------^
type phase int

const (
	reserved phase = iota // has addresses; no rows in the tables
	live                  // has rows in the tables
	leaving               // has none again; link and addresses are being given back
)

// entry is an attachment on this node. Its fields change under Engine.mu.
type entry struct {
	overlay.Endpoint
	ifindex uint32
	phase   phase
	ended   bool // its owner has ended
	watched bool // its owner is being waited for
}

// Stats counts what an Engine did since New.
type Stats struct {
	Endpoints  int        // live now
	Attached   uint64     // attachments that came true
	Refused    uint64     // those that did not
	Ended      uint64     // taken down because link, owner or network ended
	Syncs      uint64     // of the tables
	SyncErrors uint64     // of them, not complete
	Mended     uint64     // audits that found the tables changed by somebody else
	Written    table.Diff // rows, in all
	Lost       uint64     // events that a reader was too slow for
	SmallPaths int        // nodes whose path carries less than this node's link
	SecondPort int        // nodes that are reached by the second port of tunnels
	SilentPath int        // nodes that live and answer no probe of the path to them
}

// New returns an Engine that has done nothing yet.
func New(o Options) (*Engine, error) {
	if err := o.validate(); err != nil {
		return nil, fmt.Errorf("overlay engine: %w", err)
	}
	if o.WaitOwner == nil {
		o.WaitOwner = apply.WaitProcess
	}
	if o.OwnNetNS == nil {
		o.OwnNetNS = apply.OwnNetNS
	}
	log := cmp.Or(o.Log, slog.New(slog.DiscardHandler))
	e := &Engine{
		o: o, log: log, facts: facts.New(o.Rows, log),
		ready: make(chan struct{}), kick: make(chan struct{}, 1), sync: syncer{policy: compile.NewPolicy()},
		entries: make(map[string]*entry), pending: make(map[string]wish),
		returning: make(map[netip.Prefix]bool), empty: make(map[netip.Prefix]time.Time),
		changed: make(chan struct{}),
	}
	e.paths = paths.New(paths.Options{Node: o.Node, VTEP: o.Underlay.Addr, MTU: o.Underlay.MTU, Facts: e.facts, Prober: o.Prober, Alive: o.Alive, Log: log})
	e.watch = watch.New(watch.Options{
		Node: o.Node, Now: e.now, Rows: o.Rows, Verdicts: o.Tables.Verdicts, Clauses: o.Tables.Clauses,
		Addrs: []netip.Addr{
			o.Underlay.Addr4, o.Underlay.Addr6, netip.MustParseAddr(apply.NameServer4), netip.MustParseAddr(apply.NameServer6),
		},
		Source: o.Source, Tracer: o.Tracer, Finder: o.Finder, Log: log,
	})
	return e, nil
}

// Run restores what the disk knows, then keeps tables, links and rows equal to what they should be
// until ctx ends. Everything stays as it is then: packets go on.
func (e *Engine) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return e.loop(ctx, g) })
	g.Go(func() error { return e.watch.Run(ctx) })
	if e.o.Prober != nil {
		g.Go(func() error { return e.paths.Run(ctx) })
	}
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("overlay engine: %w", err)
	}
	return nil
}

// Stats returns the present counts.
func (e *Engine) Stats() Stats {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.stats
	s.SmallPaths, s.SecondPort, s.SilentPath = e.paths.Counts()
	s.Lost, s.Mended = e.watch.Lost(), e.mended.Load()
	for _, en := range e.entries {
		if en.phase == live {
			s.Endpoints++
		}
	}
	return s
}

// wake lets the loop look at everything again.
func (e *Engine) wake() {
	select {
	case e.kick <- struct{}{}:
	default: // it will already
	}
}

// restored waits until Run has restored what the disk knows.
func (e *Engine) restored(ctx context.Context) error {
	select {
	case <-e.ready:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the node daemon is still starting: %w", ctx.Err())
	}
}

// keyed is a lock per key.
type keyed struct {
	mu   sync.Mutex
	held map[string]chan struct{} // closed when given back
}

// lock waits for a key. What it returns gives it back.
func (k *keyed) lock(ctx context.Context, key string) (unlock func(), err error) {
	for {
		unlock, other := k.try(key)
		if unlock != nil {
			return unlock, nil
		}
		select {
		case <-other:
		case <-ctx.Done():
			return nil, fmt.Errorf("%s is busy: %w", key, ctx.Err())
		}
	}
}

// try takes a key, or returns what is closed when its holder gives it back.
func (k *keyed) try(key string) (unlock func(), other <-chan struct{}) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if held, taken := k.held[key]; taken {
		return nil, held
	}
	mine := make(chan struct{})
	if k.held == nil {
		k.held = make(map[string]chan struct{})
	}
	k.held[key] = mine
	return func() {
		k.mu.Lock()
		delete(k.held, key)
		k.mu.Unlock()
		close(mine)
	}, nil
}
