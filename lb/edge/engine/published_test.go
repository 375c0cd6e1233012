// SPDX-License-Identifier: Apache-2.0

package engine_test

import (
	"context"
	"net/netip"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"weft/bpf/row"
	"weft/bpf/table"
	"weft/discovery"
	"weft/lb"
	"weft/lb/edge/engine"
)

// edges answer by address: true at once, false never; of all that the masters said.
type edges map[string]bool

func (e edges) Applied(ctx context.Context, addr string, known map[discovery.Stream]discovery.Position) error {
	if e[addr] && known[discovery.Stream{Writer: discovery.Ledger}].Seq == 5 {
		return nil
	}
	<-ctx.Done()
	return ctx.Err()
}

// TestPublishedTellsWhichEdgesActByIt: of the nodes of the edge that live, this one too, who has it and who is late.
func TestPublishedTellsWhichEdgesActByIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, ledger := newStore(t)
		c := &cluster{changed: make(chan struct{})}
		e, err := engine.New(engine.Options{
			Store: store, Members: c, VIPs: c, Served: &table.Memory[row.EdgeServedKey, row.EdgeServed]{},
			Relays: &table.Memory[row.EndpointKey, uint32]{}, Answers: noAnswers(), Peers: edges{"10.0.0.2:7701": true, "10.0.0.3:7701": false},
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- e.Run(ctx) }()
		other := lb.Publication{Addr: netip.MustParseAddr("203.0.113.11"), Port: 80, VIP: vip, Return: lb.ReturnEdge}
		one := lb.Publication{Addr: netip.MustParseAddr("203.0.113.10"), Port: 80, VIP: vip}
		for _, node := range []discovery.Node{{ID: "n2", Peer: "10.0.0.2:7701"}, {ID: "n3", Peer: "10.0.0.3:7701"}, {ID: "n4"}} {
			ledger(discovery.KindNode, string(node.ID), node)
		}
		ledger(discovery.KindPublication, other.Name(), other)
		ledger(discovery.KindPublication, one.Name(), one)
		c.live("n3", "n1", "n2", "n4")
		asked := []lb.EdgeStatus{{Node: "n1", Applied: true}, {Node: "n2", Applied: true}, {Node: "n3"}, {Node: "n4"}}
		for with, want := range map[bool][]lb.PublicationStatus{
			true:  {{Publication: one, Edges: asked}, {Publication: other, Edges: asked}},
			false: {{Publication: one}, {Publication: other}},
		} {
			got, err := e.Published(t.Context(), with)
			if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" || err != nil {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
		}
		c.live()
		got, err := e.Published(t.Context(), true)
		if err != nil || len(got) != 2 || got[0].Edges == nil || len(got[0].Edges) > 0 {
			t.Errorf("got %+v, %v, want that no node of the edge lives", got, err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
