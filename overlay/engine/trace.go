// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"weft/bpf/row"
	"weft/bpf/table"
	"weft/discovery"
	"weft/overlay"
	"weft/overlay/compile"
)

// Tracer is what following packets needs of the node.
type Tracer struct {
	Table  table.Table[row.TraceKey, row.Trace]
	Switch func(on bool) error                             // whether programs look into Table
	Send   func(from overlay.Endpoint, frame []byte) error // out of a task's interface
}

const (
	traceReady  = 2 * time.Second        // the other node has until then to say that it watches
	traceSpread = 300 * time.Millisecond // all nodes have that long to hear of a trace that none of them answers
	traceQuiet  = 400 * time.Millisecond // without a further event the walk is over
	traceWhole  = 5 * time.Second        // or then, whatever comes
	traceLife   = 30 * time.Second       // of a row in the kernel, should nobody take it away
	traceLong   = 10 * time.Minute       // the same for Filter.All
)

// traces are the rows of Tracer.Table and who wants them.
type traces struct {
	mu   sync.Mutex                            // guards what follows
	own  map[string]map[row.TraceKey]row.Trace // by id: of readers of this node
	set  map[row.TraceKey]bool                 // in the table
	walk map[string]*overlay.Walk              // of traces of other nodes
	rows map[string]overlay.Trace              // of other nodes
}

// followTraces sets what other nodes ask to be traced, as long as ctx lives.
func (e *Engine) followTraces(ctx context.Context) error {
	for _, r := range e.o.Rows.Own(discovery.KindTrace) { // of an earlier life
		e.warn(e.o.Rows.Delete(discovery.KindTrace, r.Key))
	}
	if _, err := table.Sync(e.o.Tracer.Table, nil); err != nil {
		return fmt.Errorf("clear traces: %w", err)
	}
	for {
		changed := e.o.Rows.Changed(discovery.KindTrace)
		asked := e.readTraces()
		e.warn(e.setTraces())
		e.answerTraces(asked)
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// warn logs what makes a trace less than whole, and nothing else.
func (e *Engine) warn(err error) {
	if err != nil {
		e.log.Warn("trace is not whole", "error", err.Error())
	}
}

// answerTraces tells those who ask that this node is ready: their flows are in the table.
func (e *Engine) answerTraces(ids []string) {
	e.traces.mu.Lock()
	defer e.traces.mu.Unlock()
	for _, id := range ids {
		e.warn(e.putWalk(id))
	}
}

// readTraces takes what other nodes ask; it returns the traces that are new and wait for an answer.
func (e *Engine) readTraces() (asked []string) {
	t := &e.traces
	t.mu.Lock()
	defer t.mu.Unlock()
	rows := make(map[string]overlay.Trace)
	for _, r := range e.o.Rows.Rows(discovery.KindTrace) {
		var trace overlay.Trace
		if r.Writer == string(e.o.Node) || json.Unmarshal(r.Value, &trace) != nil || trace.ID != r.Key ||
			trace.Node != "" && trace.Node != e.o.Node {
			continue
		}
		rows[r.Key] = trace
		if _, known := t.walk[r.Key]; !known {
			t.walk[r.Key] = &overlay.Walk{}
			if trace.Node != "" {
				asked = append(asked, r.Key)
			}
		}
	}
	for id := range t.walk {
		if _, wanted := rows[id]; !wanted {
			delete(t.walk, id)
			e.warn(e.o.Rows.Delete(discovery.KindWalk, id))
		}
	}
	t.rows = rows
	return asked
}

// putWalk writes what is known of a walk. The caller holds traces.mu.
func (e *Engine) putWalk(id string) error {
	value, err := json.Marshal(e.traces.walk[id])
	if err != nil {
		return fmt.Errorf("write walk %s: %w", id, err)
	}
	return e.o.Rows.Put(discovery.KindWalk, id, value)
}

// setTraces makes the table what is wanted. What is there already counts down undisturbed.
func (e *Engine) setTraces() error {
	t := &e.traces
	t.mu.Lock()
	defer t.mu.Unlock()
	want := make(map[row.TraceKey]row.Trace)
	for _, trace := range t.rows {
		want[compile.TraceKey(trace.VNI, trace.From, trace.Protocol)] = traceFor(traceLife, overlay.MaxWalk)
	}
	for _, keys := range t.own {
		maps.Copy(want, keys)
	}
	var errs []error
	for key, value := range want {
		if !t.set[key] {
			errs = append(errs, e.o.Tracer.Table.Put(key, value))
			t.set[key] = true
		}
	}
	for key := range t.set {
		if _, wanted := want[key]; !wanted {
			errs = append(errs, e.o.Tracer.Table.Delete(key))
			delete(t.set, key)
		}
	}
	return errors.Join(append(errs, e.o.Tracer.Switch(len(want) > 0))...)
}

// traceFor returns a row that ends by itself.
func traceFor(life time.Duration, packets uint32) row.Trace {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return row.Trace{}
	}
	return row.Trace{Until: uint64(now.Nano()) + uint64(life), Left: packets}
}

// traceOwn sets keys for a reader of this node. What it returns takes them away.
func (e *Engine) traceOwn(keys map[row.TraceKey]row.Trace) (done func(), err error) {
	id := traceID()
	change := func(keys map[row.TraceKey]row.Trace) error {
		e.traces.mu.Lock()
		if keys == nil {
			delete(e.traces.own, id)
		} else {
			e.traces.own[id] = keys
		}
		e.traces.mu.Unlock()
		return e.setTraces()
	}
	return func() { e.warn(change(nil)) }, change(keys)
}

func traceID() string { return strconv.FormatUint(rand.Uint64(), 36) }

// traceTask has every packet of a task of this node reported.
func (e *Engine) traceTask(task string) (done func(), err error) {
	keys := make(map[row.TraceKey]row.Trace)
	for _, en := range e.liveEntries() {
		for _, a := range en.Addrs() {
			if task == en.Name || task == en.ID || task == a.String() {
				keys[row.TraceKey{VNI: uint32(en.VNI), Addr: row.AddrOf(a)}] = traceFor(traceLong, overlay.MaxTraced)
			}
		}
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("task %q on this node is %w: all packets are reported of a task of this node only", task, overlay.ErrNotFound)
	}
	return e.traceOwn(keys)
}

// walked adds an event to the traces of other nodes that it belongs to.
func (e *Engine) walked(ev overlay.Event, raw row.Event) {
	t := &e.traces
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, trace := range t.rows {
		walk := t.walk[id]
		if uint32(trace.VNI) == raw.VNI && (trace.From == ev.Source || trace.From == ev.Destination) && len(walk.Events) < overlay.MaxWalk {
			walk.Events = append(walk.Events, ev)
			e.warn(e.putWalk(id))
		}
	}
}

// trace sends a probe and hands its walk to emit.
func (e *Engine) trace(ctx context.Context, q overlay.Question, emit func(overlay.Event) error) error {
	if err := e.restored(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, traceReady+traceWhole)
	defer cancel()
	remote, err := e.elsewhere.Sides(ctx, q, e.liveEntries())
	if err != nil {
		return err
	}
	port := compile.FirstProbePort + rand.N[uint16](4000)
	probe, err := compile.PlanProbe(e.compileFacts(), compile.World{Remote: remote, NodeAddrs: e.nodeAddrs()}, q, port)
	if err != nil {
		return err
	}
	id := traceID()
	t := overlay.Trace{ID: id, Node: probe.Node, VNI: probe.Task.VNI, From: probe.From, Protocol: probe.Protocol}
	value, err := json.Marshal(t)
	if err != nil {
		return err
	}
	if err := e.o.Rows.Put(discovery.KindTrace, id, value); err != nil {
		return err
	}
	defer func() { e.warn(e.o.Rows.Delete(discovery.KindTrace, id)) }()
	done, err := e.traceKey(t)
	if err != nil {
		return err
	}
	defer done()
	e.awaitWatcher(ctx, probe, id)
	r, leave := e.read(false)
	defer leave()
	if err := e.o.Tracer.Send(probe.Task, probe.Frame()); err != nil {
		return err
	}
	for _, ev := range compile.Chain(e.collect(ctx, t, r), e.o.Node) {
		if err := emit(ev); err != nil {
			return err
		}
	}
	return nil
}

func (e *Engine) traceKey(t overlay.Trace) (done func(), err error) {
	return e.traceOwn(map[row.TraceKey]row.Trace{
		compile.TraceKey(t.VNI, t.From, t.Protocol): traceFor(traceLife, overlay.MaxWalk),
	})
}

// awaitWatcher waits until the other node watches. One that does not answer is left out: its part of the
// walk is missing then. Behind a VIP it may be any node, and none of them is asked to answer.
func (e *Engine) awaitWatcher(ctx context.Context, p compile.Probe, id string) {
	if p.Node == "" && !p.VIP {
		return
	}
	patience := traceReady
	if p.VIP {
		patience = traceSpread
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for ctx.Err() == nil {
		changed := e.o.Rows.Changed(discovery.KindWalk)
		if _, ready := e.walks(id)[p.Node]; ready {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

// walks returns what other nodes have reported for a trace.
func (e *Engine) walks(id string) map[discovery.NodeID][]overlay.Event {
	found := make(map[discovery.NodeID][]overlay.Event)
	for _, r := range e.o.Rows.Rows(discovery.KindWalk) {
		var w overlay.Walk
		if r.Key == id && r.Writer != string(e.o.Node) && json.Unmarshal(r.Value, &w) == nil {
			found[discovery.NodeID(r.Writer)] = w.Events
		}
	}
	return found
}

// collect reads until nothing comes any more. Events are those of r, and of other nodes' rows.
func (e *Engine) collect(ctx context.Context, t overlay.Trace, r *reader) map[discovery.NodeID][]overlay.Event {
	ctx, cancel := context.WithTimeout(ctx, traceWhole)
	defer cancel()
	var own []overlay.Event
	quiet := time.NewTimer(traceQuiet)
	defer quiet.Stop()
	for {
		changed := e.o.Rows.Changed(discovery.KindWalk)
		select {
		case ev := <-r.events:
			if ev.Traced && (ev.Source == t.From || ev.Destination == t.From) {
				own = append(own, ev)
				quiet.Reset(traceQuiet)
			}
			continue
		case <-changed:
			quiet.Reset(traceQuiet)
			continue
		case <-quiet.C:
		case <-ctx.Done():
		}
		found := e.walks(t.ID)
		found[e.o.Node] = own
		return found
	}
}
