// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"weft/bpf/row"
	"weft/lb"
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
	if e.traffic == nil || e.have == nil {
		return
	}
	backends, vips := make(map[uint32]bool, len(e.have.Backends)), make(map[uint32]bool, len(e.have.VIPs))
	for _, b := range e.have.Backends {
		backends[b.ID] = true
	}
	for _, v := range e.have.VIPs {
		vips[v.ID] = true
	}
	err := e.traffic.Forget(func(id uint32) bool { return backends[id] }, func(id uint32) bool { return vips[id] })
	if err != nil {
		e.log.Error("traffic of old backends is kept", "error", err)
	}
}

// tellTraffic adds to each backend what this node's connections to it came to.
func (e *Engine) tellTraffic(s *Snapshot, vips []lb.VIPStatus) error {
	if e.traffic == nil {
		return nil
	}
	feedbacks, err := e.traffic.Feedbacks()
	if err != nil {
		return err
	}
	tallies, err := e.traffic.Tallies()
	if err != nil {
		return err
	}
	now := monotonic()
	for _, v := range vips {
		ids := s.rows.IDs(v, s.networks[v.Network])
		for i := range v.Backends {
			b := &v.Backends[i]
			for _, a := range b.Addrs {
				id := ids[netip.AddrPortFrom(a, b.Port)]
				addFeedback(&b.Traffic, feedbacks[id], now)
				addTally(&b.Traffic, tallies[id])
			}
		}
	}
	return nil
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
