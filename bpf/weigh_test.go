// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"testing"
	"time"

	"weft/bpf/bpftest"
	"weft/bpf/row"
)

// A backend that was never measured counts as the fastest there is (backend.h), and gets one flow until that is answered.

// floor is LATENCY_FLOOR, ns.
const floor = 50_000

// rivals is a VIP that two backends are behind, of which the first was measured; the other may have come just now.
func rivals(t *testing.T, newcomer bool) (w *wires, slots []row.Backend) {
	t.Helper()
	w = newWires(t, "workload")
	vip, slots := vipRows(77, one("10.1.0.6:1", "10.1.0.6:2"))
	vip.Policy = row.VIPLeastLatency
	if newcomer {
		slots[1].Since = monotonicSeconds(t)
	}
	for slot, b := range slots {
		w.put("backends", row.BackendKey{VIP: vip.ID, Slot: uint16(slot)}, b)
	}
	w.put("vips", vipKey(vip4, bpftest.TCP), vip)
	return w, slots
}

// unmeasured returns how many of n flows go to the one that was not measured, when each is the first to ask it; the
// flows have ports from first on.
func (w *wires) unmeasured(slots []row.Backend, latency uint32, first, n int) (count int) {
	w.t.Helper()
	for i := range n {
		w.put("feedbacks", slots[0].ID, row.Feedback{Latency: latency, Measured: monotonic(w.t)})
		w.put("feedbacks", slots[1].ID, row.Feedback{})
		if w.backendOf(packet(bpftest.TCP, at(client.addr4, uint16(first+i)), vip4, "")) == 2 {
			count++
		}
	}
	return count
}

func TestAnUnmeasuredBackendIsWorthATry(t *testing.T) {
	w, slots := rivals(t, false)
	const flows = 60
	if got := w.unmeasured(slots, 20*floor, 30000, flows); got != flows {
		t.Errorf("beside one of 1 ms it got %d of %d flows, want each that comes while none is out", got, flows)
	}
	if got := w.unmeasured(slots, floor, 40000, flows); got < flows/4 || got > flows*3/4 {
		t.Errorf("beside the fastest there is it got %d of %d flows, want about half", got, flows)
	}
	// One is out: all others go to the one that is known.
	w.put("feedbacks", slots[1].ID, row.Feedback{})
	for i := range flows {
		w.put("feedbacks", slots[0].ID, row.Feedback{Latency: 20 * floor, Measured: monotonic(t)})
		if got := w.backendOf(packet(bpftest.TCP, at(client.addr4, uint16(50000+i)), vip4, "")); (got == 2) != (i == 0) {
			t.Fatalf("flow %d went to backend %d, want the first one alone at the one that is not known", i, got)
		}
	}
}

func TestAnUnmeasuredNewcomerIsTriedSeldom(t *testing.T) {
	w, slots := rivals(t, true)
	const flows = 200
	began := time.Now()
	got := w.unmeasured(slots, 4*floor, 30000, flows)
	if took := time.Since(began); got == 0 || got > flows/2 && took < 2*time.Second {
		t.Errorf("in its first %s it got %d of %d flows, want one of eight", took, got, flows)
	}
}
