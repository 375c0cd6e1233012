// SPDX-License-Identifier: Apache-2.0

package decision

import (
	"fmt"
	"testing"
	"time"

	"weft/discovery"
	"weft/lb"
	"weft/overlay"
)

// thousand is a cluster of 1,000 nodes that all want something.
func thousand(b *testing.B) (*world, *facts) {
	b.Helper()
	w, f := newWorld(), &facts{}
	w.network(b, "prod", "9.0.0.0/12", "fd01:b::/64", 0)
	for n := range 1000 {
		id := fmt.Sprint("n", n)
		f.node(id, fmt.Sprintf("10.0.%d.%d", n/250, n%250+1))
		f.say(id, discovery.KindWant, "prod", overlay.Want{Network: "prod", Blocks4: 1, Blocks6: 1, Groups: []string{"public"}})
		f.say(id, discovery.KindBackend, "b", lb.Backend{VIP: lb.Key{Network: "prod", Name: fmt.Sprintf("web-%d.weft", n), Port: 80, Protocol: "tcp"}})
	}
	return w, f
}

// BenchmarkFirstDecisions is a cluster that starts: everything is to be decided, change by change.
func BenchmarkFirstDecisions(b *testing.B) {
	for b.Loop() {
		w, f := thousand(b)
		w.settle(b, f)
	}
}

// BenchmarkNothingToDecide is what a leader does whenever a row of a node changes.
func BenchmarkNothingToDecide(b *testing.B) {
	w, f := thousand(b)
	w.settle(b, f)
	for b.Loop() {
		if d := Plan(w.s, ReadClaims(f, time.Time{})); !d.Empty() {
			b.Fatal("something is to be decided")
		}
	}
}
