// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"weft/bpf/row"
	"weft/lb"
	"weft/lb/compile"
)

// monotonic is the clock of the kernel half's rows (bpf_ktime_get_ns).
func monotonic() time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return 0 // the clock is one that Linux always has
	}
	return time.Duration(now.Nano())
}

func monotonicSeconds() uint32 { return uint32(monotonic() / time.Second) }

// forget drops what the kernel half knows of backends and VIPs that the tables do not hold.
func (e *Engine) forget() {
	if e.traffic == nil || !e.equal {
		return
	}
	have := e.compiler.Rows()
	backends, vips := make(map[uint32]bool, len(have.Backends)), make(map[uint32]bool, len(have.VIPs))
	for _, b := range have.Backends {
		backends[b.ID] = true
	}
	for _, v := range have.VIPs {
		vips[v.ID] = true
	}
	err := e.traffic.Forget(func(id uint32) bool { return backends[id] }, func(id uint32) bool { return vips[id] })
	if err != nil {
		e.log.Error("traffic of old backends is kept", "error", err)
	}
}

// statuses returns VIPs as they are for others, with what this node's connections came to.
func (e *Engine) statuses(vips []*compile.VIP) ([]lb.VIPStatus, error) {
	feedbacks, tallies := map[uint32]row.Feedback{}, map[uint32]row.Tally{}
	if e.traffic != nil {
		var err error
		if feedbacks, err = e.traffic.Feedbacks(); err != nil {
			return nil, err
		}
		if tallies, err = e.traffic.Tallies(); err != nil {
			return nil, err
		}
	}
	now := monotonic()
	out := make([]lb.VIPStatus, len(vips))
	for i, v := range vips {
		out[i] = clone(v.VIPStatus)
		ids := v.IDs
		for j := range out[i].Backends {
			b := &out[i].Backends[j]
			for range b.Addrs {
				addFeedback(&b.Traffic, feedbacks[ids[0]], now)
				addTally(&b.Traffic, tallies[ids[0]])
				ids = ids[1:]
			}
		}
		eject(out[i].Backends)
	}
	return out, nil
}

// eject tells which backends this node leaves out for what its own connections came to. The kernel half
// asks the best of all when it would leave out all.
func eject(backends []lb.BackendStatus) {
	barred := func(b *lb.BackendStatus) bool { return b.In && b.Traffic.Barred > 0 }
	in, out := 0, 0
	for i := range backends {
		if b := &backends[i]; b.In {
			in++
			if barred(b) {
				out++
			}
		}
	}
	for i := range backends {
		b := &backends[i]
		if !barred(b) {
			continue
		}
		why := fmt.Sprintf("this node's connections failed: ejected here for %s", b.Traffic.Barred.Round(100*time.Millisecond))
		if b.Ejected = out < in; !b.Ejected {
			why = "this node's connections failed, as with every other backend: used all the same"
		}
		b.Reason += "; " + why
	}
}

// addFeedback adds one family's; of latencies the greater is told.
func addFeedback(t *lb.Traffic, f row.Feedback, now time.Duration) {
	t.InFlight += max(0, int(f.InFlight))
	t.Barred = max(t.Barred, time.Duration(f.Barred)-now)
	t.Latency = max(t.Latency, time.Duration(f.Latency))
}

func addTally(t *lb.Traffic, n row.Tally) {
	t.Chosen += n.Chosen
	t.Refused += n.Refused
	t.Timeouts += n.Timeouts
	t.Resets += n.Resets
	t.Ejections += n.Ejections
	t.LatencySum += time.Duration(n.LatencySum)
	if n.LatencySum == 0 {
		return
	}
	if t.Buckets == nil {
		t.Buckets = make([]uint64, len(n.Latency))
	}
	for i, samples := range n.Latency {
		t.Buckets[i] += uint64(samples)
	}
}
