// SPDX-License-Identifier: Apache-2.0

// Package watch tells what happens to the packets of a node's tasks, and why: events of the kernel half with names and
// explanations (events.go), walks of packets over several nodes (trace.go), and answers to whether a packet would arrive
// (why.go). For the names of other nodes' tasks it asks others (elsewhere.go). The words are overlay/explain's; who is at
// this node it is told by overlay/engine.
package watch

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"

	"golang.org/x/sync/errgroup"

	"weft/bpf/row"
	"weft/bpf/table"
	"weft/discovery"
	"weft/overlay"
	"weft/overlay/compile"
)

// Rows are those of all nodes, and where this one writes its own: traces are told to other nodes by them, and theirs are
// heard of. discovery/state.Store is one.
type Rows interface {
	Put(kind discovery.Kind, key string, value []byte) error
	Delete(kind discovery.Kind, key string) error
	Rows(kind discovery.Kind) []discovery.Row
	Own(kind discovery.Kind) []discovery.Row
	Changed(kinds ...discovery.Kind) <-chan struct{}
}

// Source is where events of the kernel half come from. It has one reader.
type Source interface {
	Events(ctx context.Context, emit func(row.Event) error) error
}

// Options is how New makes a Watcher.
type Options struct {
	Node  discovery.NodeID     // this one
	Addrs []netip.Addr         // of this node
	Now   func() compile.Facts // what this node's rows are made from now
	Rows  Rows
	// Verdicts and Clauses are the tables of the packet path.
	Verdicts table.Table[row.VerdictKey, row.Verdict]
	Clauses  table.Table[row.ClausesKey, row.Clauses]
	Source   Source  // nil: there are no events
	Tracer   *Tracer // nil: packets can't be followed
	Finder   Finder  // nil: tasks of other nodes have no names here
	Log      *slog.Logger
}

// Watcher tells what happens to packets. Make it with New and let Run run.
type Watcher struct {
	o         Options
	elsewhere elsewhere // endpoints of other nodes
	traces    traces

	mu      sync.Mutex // guards what follows
	readers map[*reader]struct{}
	recent  []overlay.Event // at most eventsKept, oldest first
	lost    uint64          // events that readers were too slow for
}

// New returns a Watcher that has seen nothing yet.
func New(o Options) *Watcher {
	return &Watcher{
		o:         o,
		elsewhere: elsewhere{finder: o.Finder, self: o.Node, rows: o.Rows},
		traces: traces{
			own: make(map[string]map[row.TraceKey]row.Trace), set: make(map[row.TraceKey]bool), walk: make(map[string]*overlay.Walk),
		},
		readers: make(map[*reader]struct{}),
	}
}

// Run reads events and follows traces until ctx ends.
func (w *Watcher) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	if w.o.Source != nil {
		g.Go(func() error { return w.readEvents(ctx) })
	}
	if w.o.Tracer != nil {
		g.Go(func() error { return w.followTraces(ctx) })
	}
	return g.Wait()
}

// Lost returns how many events readers were too slow for.
func (w *Watcher) Lost() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lost
}
