// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"context"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"weft/bpf/row"
	"weft/overlay"
	"weft/overlay/compile"
	"weft/overlay/explain"
)

// eventsKept is how many events a reader may be behind before it loses some, and how many recent ones
// a new reader gets: a second's worth at the rate that the kernel half is usually given.
const eventsKept = 256

// readAgain is the pause after events could not be read.
const readAgain = time.Second

// reader is one caller of Events.
type reader struct {
	events chan overlay.Event // never closed; the reader leaves by its ctx
	lost   atomic.Uint64
}

// Events is that of overlay.Service: the recent events first.
func (w *Watcher) Events(ctx context.Context, f overlay.Filter, emit func(overlay.Event) error) error {
	if err := f.Validate(); err != nil {
		return fmt.Errorf("events: %w", err)
	}
	switch {
	case (f.Trace != nil || f.All) && w.o.Tracer == nil:
		return fmt.Errorf("events: %w: this node can't follow packets", overlay.ErrInvalid)
	case f.Trace != nil:
		if err := w.trace(ctx, *f.Trace, emit); err != nil {
			return fmt.Errorf("trace: %w", err)
		}
		return nil
	case f.All:
		done, err := w.traceTask(f.Task)
		if err != nil {
			return fmt.Errorf("events: %w", err)
		}
		defer done()
	}
	r, leave := w.read(true)
	defer leave()
	for {
		select {
		case ev := <-r.events:
			if !f.Wants(ev) {
				continue
			}
			if err := emit(ev); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// read begins a reader; with replay it is given the recent events first, and misses none between.
func (w *Watcher) read(replay bool) (r *reader, leave func()) {
	r = &reader{events: make(chan overlay.Event, eventsKept)}
	w.mu.Lock()
	defer w.mu.Unlock()
	if replay {
		for _, ev := range w.recent {
			r.events <- ev // has room for all
		}
	}
	w.readers[r] = struct{}{}
	return r, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.readers, r)
		w.lost += r.lost.Load()
	}
}

// readEvents hands the kernel half's events to all readers, as long as ctx lives. With no reader they
// are read all the same: the ring would be full of old ones when one comes.
func (w *Watcher) readEvents(ctx context.Context) error {
	for {
		err := w.o.Source.Events(ctx, func(ev row.Event) error {
			w.publish(ctx, ev)
			return nil
		})
		if ctx.Err() != nil {
			return ctx.Err()
		}
		w.o.Log.Error("events are not readable", "error", fmt.Sprint(err), "retry_in", readAgain)
		select {
		case <-time.After(readAgain):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (w *Watcher) publish(ctx context.Context, raw row.Event) {
	ev := w.named(ctx, raw)
	if ev.Traced && w.o.Tracer != nil {
		w.walked(ev, raw)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.recent = append(w.recent[max(0, len(w.recent)+1-eventsKept):], ev)
	for r := range w.readers {
		select {
		case r.events <- ev:
		default:
			r.lost.Add(1)
		}
	}
}

// sampled is of how many packets that pass one is reported (count.h).
const sampled = 1024

// named gives an event of the kernel half its names, and to what was dropped its explanation.
func (w *Watcher) named(ctx context.Context, raw row.Event) overlay.Event {
	reason, now := row.Reason(raw.Reason), w.o.Now()
	ev := overlay.Event{
		Time: wallTime(raw.Time), Node: w.o.Node, Program: explain.Program(raw.Program),
		Reason: reason.String(), Text: reason.Text(), Drop: reason.Drop(),
		Network:     networkOf(now, overlay.VNI(raw.VNI)),
		Source:      netip.AddrPortFrom(raw.Src.Netip(), row.Port(raw.Sport)),
		Destination: netip.AddrPortFrom(raw.Dst.Netip(), row.Port(raw.Dport)),
		Protocol:    protocolName(raw.Proto), Length: int(raw.Len), Rule: overlay.RuleID(raw.Rule),
		Packets: 1, Traced: raw.Traced != 0,
	}
	explained := ev.Drop || reason == row.ReasonAudited
	if !explained && !ev.Traced {
		ev.Packets = sampled
	}
	var known []overlay.Endpoint
	find := func(a netip.Addr) (string, []string) {
		ep, ok := w.endpointAt(ctx, now, ev.Network, a)
		if !ok {
			return "", nil
		}
		known = append(known, ep)
		return ep.Name, ep.Groups
	}
	ev.SourceTask, ev.SourceGroups = find(ev.Source.Addr())
	ev.DestTask, ev.DestGroups = find(ev.Destination.Addr())
	if explained {
		v := explain.Describe(now, explain.World{Remote: explain.Endpoints(known, w.o.Node), NodeAddrs: w.o.Addrs}, raw)
		ev.Text, ev.Owner, ev.Suggestion = v.Text, v.Owner, v.Suggestion
	}
	return ev
}

func networkOf(now compile.Facts, vni overlay.VNI) string {
	for _, n := range now.Networks {
		if n.VNI == vni {
			return n.Name
		}
	}
	return ""
}

// endpointAt returns the task that has an address, of this node or of another.
func (w *Watcher) endpointAt(ctx context.Context, now compile.Facts, network string, a netip.Addr) (overlay.Endpoint, bool) {
	for _, t := range now.Tasks {
		if t.Network == network && (t.Addr4 == a || t.Addr6 == a) {
			return t.Endpoint, true
		}
	}
	if ep, plain := explain.PlainEndpoint(now.Plain, a); plain {
		return ep, true
	}
	return w.elsewhere.At(ctx, now, a)
}

func protocolName(proto uint8) string {
	switch proto {
	case compile.TCP:
		return "tcp"
	case compile.UDP:
		return "udp"
	case compile.ICMP:
		return "icmp"
	case unix.IPPROTO_ICMPV6:
		return "icmpv6"
	}
	return fmt.Sprint(proto)
}

// wallTime converts the kernel half's clock (monotonic nanoseconds) to the calendar.
func wallTime(monotonic uint64) time.Time {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return time.Now()
	}
	return time.Now().Add(-time.Duration(now.Nano() - int64(monotonic)))
}
