// SPDX-License-Identifier: Apache-2.0

package watch

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
	"weft/overlay/explain"
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
	traceLate   = 2 * time.Second        // that longer, where somebody must have met the packet and has not said so
	traceWhole  = 5 * time.Second        // or then, whatever comes
	traceLife   = 30 * time.Second       // of a row in the kernel, should nobody take it away
	traceLong   = 10 * time.Minute       // the same for Filter.All
)

// traces are the rows of Tracer.Table and who wants them.
type traces struct {
	mu   sync.Mutex                            // guards what follows
	ours bool                                  // the table has no rows of an earlier life
	own  map[string]map[row.TraceKey]row.Trace // by id: of readers of this node
	set  map[row.TraceKey]bool                 // in the table
	walk map[string]*overlay.Walk              // of traces of other nodes
	rows map[string]overlay.Trace              // of other nodes
}

// followTraces sets what other nodes ask to be traced, as long as ctx lives.
func (w *Watcher) followTraces(ctx context.Context) error {
	for _, r := range w.o.Rows.Own(discovery.KindTrace) { // of an earlier life
		w.warn(w.o.Rows.Delete(discovery.KindTrace, r.Key))
	}
	for {
		changed := w.o.Rows.Changed(discovery.KindTrace)
		asked := w.readTraces()
		w.warn(w.setTraces())
		w.answerTraces(asked)
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// warn logs what makes a trace less than whole, and nothing else.
func (w *Watcher) warn(err error) {
	if err != nil {
		w.o.Log.Warn("trace is not whole", "error", err.Error())
	}
}

// answerTraces tells those who ask that this node is ready: their flows are in the table.
func (w *Watcher) answerTraces(ids []string) {
	w.traces.mu.Lock()
	defer w.traces.mu.Unlock()
	for _, id := range ids {
		w.warn(w.putWalk(id))
	}
}

// readTraces takes what other nodes ask; it returns the traces that are new and wait for an answer.
func (w *Watcher) readTraces() (asked []string) {
	t := &w.traces
	t.mu.Lock()
	defer t.mu.Unlock()
	rows := make(map[string]overlay.Trace)
	for _, r := range w.o.Rows.Rows(discovery.KindTrace) {
		var trace overlay.Trace
		if r.Writer == string(w.o.Node) || json.Unmarshal(r.Value, &trace) != nil || trace.ID != r.Key ||
			trace.Node != "" && trace.Node != w.o.Node {
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
			w.warn(w.o.Rows.Delete(discovery.KindWalk, id))
		}
	}
	t.rows = rows
	return asked
}

// putWalk writes what is known of a walk. The caller holds traces.mu.
func (w *Watcher) putWalk(id string) error {
	value, err := json.Marshal(w.traces.walk[id])
	if err != nil {
		return fmt.Errorf("write walk %s: %w", id, err)
	}
	return w.o.Rows.Put(discovery.KindWalk, id, value)
}

// setTraces makes the table what is wanted. What is there already counts down undisturbed.
func (w *Watcher) setTraces() error {
	t := &w.traces
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.ours {
		if _, err := table.Sync(w.o.Tracer.Table, nil); err != nil {
			return fmt.Errorf("clear traces: %w", err)
		}
		t.ours = true
	}
	want := make(map[row.TraceKey]row.Trace)
	for _, trace := range t.rows {
		want[explain.TraceKey(trace.VNI, trace.From, trace.Protocol)] = traceFor(traceLife, overlay.MaxWalk)
	}
	for _, keys := range t.own {
		maps.Copy(want, keys)
	}
	var errs []error
	for key, value := range want {
		if !t.set[key] {
			errs = append(errs, w.o.Tracer.Table.Put(key, value))
			t.set[key] = true
		}
	}
	for key := range t.set {
		if _, wanted := want[key]; !wanted {
			errs = append(errs, w.o.Tracer.Table.Delete(key))
			delete(t.set, key)
		}
	}
	return errors.Join(append(errs, w.o.Tracer.Switch(len(want) > 0))...)
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
func (w *Watcher) traceOwn(keys map[row.TraceKey]row.Trace) (done func(), err error) {
	id := traceID()
	change := func(keys map[row.TraceKey]row.Trace) error {
		w.traces.mu.Lock()
		if keys == nil {
			delete(w.traces.own, id)
		} else {
			w.traces.own[id] = keys
		}
		w.traces.mu.Unlock()
		return w.setTraces()
	}
	return func() { w.warn(change(nil)) }, change(keys)
}

func traceID() string { return strconv.FormatUint(rand.Uint64(), 36) }

// traceTask has every packet of a task of this node reported.
func (w *Watcher) traceTask(task string) (done func(), err error) {
	keys := make(map[row.TraceKey]row.Trace)
	for _, t := range w.o.Now().Tasks {
		for _, a := range t.Addrs() {
			if task == t.Name || task == t.ID || task == a.String() {
				keys[row.TraceKey{VNI: uint32(t.VNI), Addr: row.AddrOf(a)}] = traceFor(traceLong, overlay.MaxTraced)
			}
		}
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("task %q on this node is %w: all packets are reported of a task of this node only", task, overlay.ErrNotFound)
	}
	return w.traceOwn(keys)
}

// walked adds an event to the traces of other nodes that it belongs to.
func (w *Watcher) walked(ev overlay.Event, raw row.Event) {
	t := &w.traces
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, trace := range t.rows {
		walk := t.walk[id]
		if uint32(trace.VNI) == raw.VNI && (trace.From == ev.Source || trace.From == ev.Destination) && len(walk.Events) < overlay.MaxWalk {
			walk.Events = append(walk.Events, ev)
			w.warn(w.putWalk(id))
		}
	}
}

// trace sends a probe and hands its walk to emit.
func (w *Watcher) trace(ctx context.Context, q overlay.Question, emit func(overlay.Event) error) error {
	ctx, cancel := context.WithTimeout(ctx, traceReady+traceWhole)
	defer cancel()
	now := w.o.Now()
	remote, err := w.elsewhere.Sides(ctx, now, q)
	if err != nil {
		return err
	}
	port := explain.FirstProbePort + rand.N[uint16](4000)
	probe, err := explain.PlanProbe(now, explain.World{Remote: remote, NodeAddrs: w.o.Addrs}, q, port)
	if err != nil {
		return err
	}
	id := traceID()
	t := overlay.Trace{ID: id, Node: probe.Node, VNI: probe.Task.VNI, From: probe.From, Protocol: probe.Protocol}
	value, err := json.Marshal(t)
	if err != nil {
		return err
	}
	if err := w.o.Rows.Put(discovery.KindTrace, id, value); err != nil {
		return err
	}
	defer func() { w.warn(w.o.Rows.Delete(discovery.KindTrace, id)) }()
	done, err := w.traceKey(t)
	if err != nil {
		return err
	}
	defer done()
	w.awaitWatcher(ctx, probe, id)
	r, leave := w.read(false)
	defer leave()
	if err := w.o.Tracer.Send(probe.Task, probe.Frame()); err != nil {
		return err
	}
	for _, ev := range explain.Chain(w.collect(ctx, t, r), w.o.Node) {
		if err := emit(ev); err != nil {
			return err
		}
	}
	return nil
}

func (w *Watcher) traceKey(t overlay.Trace) (done func(), err error) {
	return w.traceOwn(map[row.TraceKey]row.Trace{
		explain.TraceKey(t.VNI, t.From, t.Protocol): traceFor(traceLife, overlay.MaxWalk),
	})
}

// awaitWatcher waits until the other node watches. One that does not answer is left out: its part of the
// walk is missing then. Behind a VIP it may be any node, and none of them is asked to answer.
func (w *Watcher) awaitWatcher(ctx context.Context, p explain.Probe, id string) {
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
		changed := w.o.Rows.Changed(discovery.KindWalk)
		if _, ready := w.walks(id)[p.Node]; ready {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

// walks returns what other nodes have reported for a trace.
func (w *Watcher) walks(id string) map[discovery.NodeID][]overlay.Event {
	found := make(map[discovery.NodeID][]overlay.Event)
	for _, r := range w.o.Rows.Rows(discovery.KindWalk) {
		var walk overlay.Walk
		if r.Key == id && r.Writer != string(w.o.Node) && json.Unmarshal(r.Value, &walk) == nil {
			found[discovery.NodeID(r.Writer)] = walk.Events
		}
	}
	return found
}

// collect reads until nothing comes any more. Events are those of r, and of other nodes' rows.
func (w *Watcher) collect(ctx context.Context, t overlay.Trace, r *reader) map[discovery.NodeID][]overlay.Event {
	ctx, cancel := context.WithTimeout(ctx, traceWhole)
	defer cancel()
	var own []overlay.Event
	quiet := time.NewTimer(traceQuiet)
	defer quiet.Stop()
	late := false
	for {
		changed := w.o.Rows.Changed(discovery.KindWalk)
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
			late = true
		}
		found := w.walks(t.ID)
		found[w.o.Node] = own
		if late || !isOpen(found, w.o.Node) {
			return found
		}
		late = true
		quiet.Reset(traceLate)
	}
}

// isOpen tells whether a walk that began at a node lacks a step for sure: its first one, or the next one of what was sent
// off to nodes that watch.
func isOpen(found map[discovery.NodeID][]overlay.Event, first discovery.NodeID) bool {
	walk := explain.Chain(maps.Clone(found), first)
	return len(found[first]) == 0 || len(found) > 1 && walk[len(walk)-1].Reason == row.ReasonEncapsulated.String()
}
