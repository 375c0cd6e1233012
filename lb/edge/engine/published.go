// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"weft/discovery"
	"weft/discovery/state"
	"weft/lb"
)

// answersWithin is how long nodes of the edge have to say that their tables are up to date.
const answersWithin = time.Second

// Published returns what is published, by address and port; with edges also which nodes of the edge live, and whether
// they act by it, which takes a second when one of them does not.
func (e *Engine) Published(ctx context.Context, edges bool) ([]lb.PublicationStatus, error) {
	publications, err := state.All[lb.Publication](e.o.Store, discovery.KindPublication)
	if err != nil {
		return nil, err
	}
	list := make([]lb.PublicationStatus, len(publications))
	for i, p := range publications {
		list[i].Publication = p
	}
	slices.SortFunc(list, func(a, b lb.PublicationStatus) int { return a.Compare(b.Publication) })
	if !edges || len(list) == 0 {
		return list, ctx.Err()
	}
	asked := e.askEdges(ctx)
	for i := range list {
		list[i].Edges = asked
	}
	return list, ctx.Err()
}

// askEdges asks all at once, of all that the masters said so far.
func (e *Engine) askEdges(ctx context.Context) []lb.EdgeStatus {
	ctx, cancel := context.WithTimeout(ctx, answersWithin)
	defer cancel()
	ledger := discovery.Stream{Writer: discovery.Ledger}
	known := map[discovery.Stream]discovery.Position{ledger: e.o.Store.Position(ledger)}
	at := make(map[discovery.NodeID]string)
	for _, n := range all[discovery.Node](e, discovery.KindNode) {
		at[n.ID] = n.Peer
	}
	list := []lb.EdgeStatus{}
	for _, node := range e.o.Members.Edges() {
		list = append(list, lb.EdgeStatus{Node: node})
	}
	slices.SortFunc(list, func(a, b lb.EdgeStatus) int { return cmp.Compare(a.Node, b.Node) })
	var asking sync.WaitGroup
	for i := range list {
		asking.Go(func() { list[i].Applied = e.askEdge(ctx, list[i].Node, at, known) == nil })
	}
	asking.Wait()
	return list
}

func (e *Engine) askEdge(ctx context.Context, node discovery.NodeID, at map[discovery.NodeID]string, known map[discovery.Stream]discovery.Position) error {
	switch addr := at[node]; {
	case node == e.self:
		return e.Follow(ctx)
	case addr == "" || e.o.Peers == nil:
		return errors.New("nobody knows where it answers")
	default:
		return e.o.Peers.Applied(ctx, addr, known)
	}
}
