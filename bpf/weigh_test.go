// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"testing"

	"weft/bpf/bpftest"
	"weft/bpf/row"
)

// floor is LATENCY_FLOOR, ns: as which a backend counts that was never measured (backend.h).
const floor = 50_000

// rivals is a VIP that two backends are behind. What each flow finds is written before it, so no time counts.
type rivals struct {
	*wires
	slots []row.Backend
	flows int // so far
}

func newRivals(t *testing.T) *rivals {
	t.Helper()
	r := &rivals{wires: newWires(t, "workload")}
	var vip row.VIP
	vip, r.slots = vipRows(77, one("10.1.0.6:1", "10.1.0.6:2"))
	vip.Policy = row.VIPLeastLatency
	r.put("vips", vipKey(vip4, bpftest.TCP), vip)
	r.find(0, floor, floor)
	return r
}

// find writes what the next flow finds: when the second backend joined, in seconds of the kernel's clock (0: with the
// VIP), and latencies (0: never measured), while nothing is under way.
func (r *rivals) find(since uint32, latencies ...uint32) {
	r.t.Helper()
	r.slots[1].Since = since
	for slot, b := range r.slots {
		r.put("backends", row.BackendKey{VIP: 77, Slot: uint16(slot)}, b)
		f := row.Feedback{Latency: latencies[slot]}
		if f.Latency > 0 {
			f.Measured = monotonic(r.t)
		}
		r.put("feedbacks", b.ID, f)
	}
}

// next returns which backend a new flow goes to, 1 or 2.
func (r *rivals) next() uint16 {
	r.t.Helper()
	r.flows++
	return r.backendOf(packet(bpftest.TCP, at(client.addr4, uint16(30000+r.flows)), vip4, ""))
}

// second returns how many of n flows go to the second one, if age seconds ago it joined a VIP that served.
func (r *rivals) second(n int, age uint32, latencies ...uint32) (count int) {
	r.t.Helper()
	for range n {
		r.find(max(1, monotonicSeconds(r.t)-age), latencies...)
		if r.next() == 2 {
			count++
		}
	}
	return count
}

func TestAnUnmeasuredBackendIsWorthATry(t *testing.T) {
	r := newRivals(t)
	const flows, old = 60, 100
	if got := r.second(flows, old, 20*floor, 0); got != flows {
		t.Errorf("beside one of 1 ms it got %d of %d flows, want each that comes while none is out", got, flows)
	}
	if got := r.second(flows, old, floor, 0); got < flows/4 || got > flows*3/4 {
		t.Errorf("beside the fastest there is it got %d of %d flows, want about half", got, flows)
	}
	// One is out: all others go to the one that is known.
	r.find(0, 20*floor, 0)
	for i := range flows {
		r.put("feedbacks", r.slots[0].ID, row.Feedback{Latency: 20 * floor, Measured: monotonic(t)})
		if got := r.next(); (got == 2) != (i == 0) {
			t.Fatalf("flow %d went to backend %d, want the first one alone at the one that is not known", i, got)
		}
	}
}

// TestANewcomerStartsSlowly has a newcomer of 8 s ago take the flows that its latency is worth, and one of just now about
// every eighth of these: every fourth, should a second pass meanwhile.
func TestANewcomerStartsSlowly(t *testing.T) {
	r := newRivals(t)
	const flows = 200
	for _, c := range []struct {
		name    string
		latency uint32
		worth   int // flows, 5 standard deviations less than what is expected
	}{
		{"as fast as the other", 4 * floor, flows/2 - 35},
		{"never measured", 0, flows},
	} {
		if got := r.second(flows, 0, 4*floor, c.latency); got == 0 || got > c.worth*3/4 {
			t.Errorf("%s: just come it got %d of %d flows, want some, and not what it is worth", c.name, got, flows)
		}
		if got := r.second(flows, 8, 4*floor, c.latency); got < c.worth {
			t.Errorf("%s: after 8 s it got %d of %d flows, want %d or more", c.name, got, flows, c.worth)
		}
	}
}
