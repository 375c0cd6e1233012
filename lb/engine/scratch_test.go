// SPDX-License-Identifier: Apache-2.0

package engine_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"weft/bpf/row"
	"weft/bpf/table"
	"weft/discovery"
	"weft/discovery/state"
	"weft/lb"
	"weft/lb/apply"
	"weft/lb/engine"
	"weft/lb/servicetest"
)

// world is a store that rows of two nodes and of the masters come to.
type world struct {
	store   *state.Store
	members *members
	seqs    map[string]uint64
	lives   map[string]uint64
}

// row draws what a writer says of a key: something, or that it is gone.
func (w *world) row(t *rapid.T, writer string, kind discovery.Kind, key string, v any) {
	w.seqs[writer]++
	r := discovery.Row{Writer: writer, Kind: kind, Key: key, Incarnation: w.lives[writer], Seq: w.seqs[writer]}
	if r.Deleted = rapid.IntRange(0, 3).Draw(t, "gone") == 0; !r.Deleted {
		value, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		r.Value = value
	}
	if _, err := w.store.Apply([]discovery.Row{r}); err != nil {
		t.Fatal(err)
	}
}

// change lets one thing be said.
func (w *world) change(t *rapid.T) {
	node := rapid.SampledFrom([]string{"n2", "n3"}).Draw(t, "node")
	name := rapid.SampledFrom([]string{"a.weft", "b.weft"}).Draw(t, "name")
	switch rapid.IntRange(0, 9).Draw(t, "what") {
	case 0:
		w.row(t, discovery.Ledger, discovery.KindNetwork, "prod", map[string]any{"name": "prod", "vni": 7})
	case 1:
		w.row(t, discovery.Ledger, discovery.KindPin, name, lb.Pin{Name: name, Addr4: lb.HashAddr4(name), Addr6: lb.HashAddr6(name)})
	case 2:
		a := discovery.Admission{Node: discovery.NodeID(node)}
		if rapid.IntRange(0, 3).Draw(t, "removed") == 0 {
			a.Gone = w.lives[node]
		}
		w.row(t, discovery.Ledger, discovery.KindAdmission, node, a)
	case 3: // it begins anew, with an empty disk
		w.lives[node]++
		w.seqs[node] = 0
		w.row(t, node, discovery.KindNode, node, discovery.Node{ID: discovery.NodeID(node), Zone: "west"})
	case 4:
		w.members.kill(discovery.NodeID(node), rapid.Bool().Draw(t, "dies"))
	default:
		b := lb.Backend{
			VIP:  lb.Key{Network: "prod", Name: name, Port: 80, Protocol: lb.TCP},
			Task: fmt.Sprint("t", rapid.IntRange(1, 3).Draw(t, "task")), Port: uint16(rapid.IntRange(1, 3).Draw(t, "port")), Weight: 1,
			Addrs:  []netip.Addr{netip.MustParseAddr("9.0.0.1")},
			Health: rapid.SampledFrom([]lb.Health{lb.Unchecked, lb.Healthy, lb.Unhealthy}).Draw(t, "health"),
		}
		w.row(t, node, discovery.KindBackend, b.RowKey(), b)
	}
}

// begin runs an engine over the store, with tables of its own.
func (w *world) begin(ctx context.Context, t *rapid.T) (*engine.Engine, chan error) {
	e, err := engine.New(engine.Options{
		Store: w.store, Members: w.members,
		Tables: apply.Tables{VIPs: &table.Memory[row.VIPKey, row.VIP]{}, Backends: &table.Memory[row.BackendKey, row.Backend]{}, Maglevs: &table.Memory[uint32, row.Maglev]{}},
	})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	return e, ended
}

// An engine that heard of everything change by change sees what one sees that begins now.
func TestChangesComeToWhatTheRowsSay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		store, err := state.Open(state.Options{Self: "n1", Tombstones: 2}) // few, so that some are forgotten
		if err != nil {
			t.Fatal(err)
		}
		defer store.Close() //nolint:errcheck // it is in memory
		w := &world{
			store: store, members: &members{dead: make(map[discovery.NodeID]bool), changed: make(chan struct{})},
			seqs: make(map[string]uint64), lives: map[string]uint64{discovery.Ledger: 1, "n2": 1, "n3": 1},
		}
		ctx, stop := context.WithTimeout(context.Background(), 2*patience)
		old, ended := w.begin(ctx, t)
		for range rapid.IntRange(1, 4).Draw(t, "looks") {
			for range rapid.IntRange(1, 8).Draw(t, "changes") {
				w.change(t)
			}
			freshCtx, stopFresh := context.WithCancel(ctx)
			fresh, freshEnded := w.begin(freshCtx, t)
			want, err := fresh.VIPs(ctx, "")
			if err != nil {
				t.Fatal(err)
			}
			var got []lb.VIPStatus
			for deadline := time.Now().Add(patience); ; {
				changed := old.Changed()
				if got, err = old.VIPs(ctx, ""); err != nil {
					t.Fatal(err)
				}
				diff := cmp.Diff(want, got, servicetest.Compare())
				if diff == "" {
					break
				}
				select {
				case <-changed:
				case <-time.After(time.Until(deadline)):
					t.Fatalf("VIPs (-fresh +old):\n%s", diff)
				}
			}
			stopFresh()
			if err := <-freshEnded; err != nil {
				t.Fatal(err)
			}
		}
		stop()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
	})
}
