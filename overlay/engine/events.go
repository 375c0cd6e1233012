// SPDX-License-Identifier: Apache-2.0

package engine

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
)

// eventsKept is how many events a reader may be behind before it loses some, and how many recent ones
// a new reader gets: a second's worth at the rate that the kernel half is usually given.
const eventsKept = 256

// reader is one caller of Events.
type reader struct {
	events chan overlay.Event // never closed; the reader leaves by its ctx
	lost   atomic.Uint64
}

// Events implements overlay.Service: the recent events first.
func (e *Engine) Events(ctx context.Context, f overlay.Filter, emit func(overlay.Event) error) error {
	if err := f.Validate(); err != nil {
		return fmt.Errorf("events: %w", err)
	}
	switch {
	case (f.Trace != nil || f.All) && e.o.Tracer == nil:
		return fmt.Errorf("events: %w: this node can't follow packets", overlay.ErrInvalid)
	case f.Trace != nil:
		if err := e.trace(ctx, *f.Trace, emit); err != nil {
			return fmt.Errorf("trace: %w", err)
		}
		return nil
	case f.All:
		done, err := e.traceTask(f.Task)
		if err != nil {
			return fmt.Errorf("events: %w", err)
		}
		defer done()
	}
	r, leave := e.read(true)
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
func (e *Engine) read(replay bool) (r *reader, leave func()) {
	r = &reader{events: make(chan overlay.Event, eventsKept)}
	e.mu.Lock()
	defer e.mu.Unlock()
	if replay {
		for _, ev := range e.recent {
			r.events <- ev // has room for all
		}
	}
	e.readers[r] = struct{}{}
	return r, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.readers, r)
		e.stats.Lost += r.lost.Load()
	}
}

// readEvents hands the kernel half's events to all readers, as long as ctx lives. With no reader they
// are read all the same: the ring would be full of old ones when one comes.
func (e *Engine) readEvents(ctx context.Context) error {
	for failures := 0; ; failures++ {
		err := e.o.Source.Events(ctx, func(ev row.Event) error {
			failures = 0
			e.publish(ctx, ev)
			return nil
		})
		if ctx.Err() != nil {
			return ctx.Err()
		}
		pause := backoff(failures)
		e.log.Error("events are not readable", "error", fmt.Sprint(err), "retry_in", pause)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (e *Engine) publish(ctx context.Context, raw row.Event) {
	ev := e.named(ctx, raw)
	if ev.Traced && e.o.Tracer != nil {
		e.walked(ev, raw)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.recent = append(e.recent[max(0, len(e.recent)+1-eventsKept):], ev)
	for r := range e.readers {
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
func (e *Engine) named(ctx context.Context, raw row.Event) overlay.Event {
	reason := row.Reason(raw.Reason)
	ev := overlay.Event{
		Time: wallTime(raw.Time), Node: e.o.Node, Program: compile.Program(raw.Program),
		Reason: reason.String(), Text: reason.Text(), Drop: reason.Drop(),
		Network:     e.networkOf(overlay.VNI(raw.VNI)),
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
		ep, ok := e.endpointAt(ctx, ev.Network, a)
		if !ok {
			return "", nil
		}
		known = append(known, ep)
		return ep.Name, ep.Groups
	}
	ev.SourceTask, ev.SourceGroups = find(ev.Source.Addr())
	ev.DestTask, ev.DestGroups = find(ev.Destination.Addr())
	if explained {
		w := compile.World{Remote: compile.Endpoints(known, e.o.Node), NodeAddrs: e.nodeAddrs()}
		v := compile.Describe(e.compileFacts(), w, raw)
		ev.Text, ev.Owner, ev.Suggestion = v.Text, v.Owner, v.Suggestion
	}
	return ev
}

func (e *Engine) networkOf(vni overlay.VNI) string {
	for _, n := range e.facts.Networks() {
		if n.VNI == vni {
			return n.Name
		}
	}
	return ""
}

// endpointAt returns the task that has an address, of this node or of another.
func (e *Engine) endpointAt(ctx context.Context, network string, a netip.Addr) (overlay.Endpoint, bool) {
	for _, en := range e.liveEntries() {
		if en.Network == network && (en.Addr4 == a || en.Addr6 == a) {
			return en.Endpoint, true
		}
	}
	if ep, plain := compile.PlainEndpoint(e.facts.Plain(), a); plain {
		return ep, true
	}
	return e.elsewhere.At(ctx, a)
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
