// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"weft/discovery"
	"weft/discovery/state"
)

// Lookup implements discovery.Service. One value that several rows give is there for each of them.
func (e *Engine) Lookup(ctx context.Context, network, name string) ([]discovery.Record, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("look up %s: %w", name, err)
	}
	fqdn := strings.ToLower(strings.TrimSuffix(name, ".")) + "."
	fqdn, _ = e.zone.Load().Present(fqdn)
	held := e.Hold(ctx, fqdn)
	z := e.zone.Load()
	var records []discovery.Record
	look := z.Lookup(network, fqdn)
	for _, r := range look.Records {
		record := r.Export()
		record.LeftOut = look.LeftOut(r)
		records = append(records, record)
	}
	if len(records) > 0 {
		return records, nil
	}
	if _, own := z.Apex(fqdn); !own {
		return nil, fmt.Errorf("look up %s: %w: it is in no zone of this cluster: resolvers answer for it", name, discovery.ErrNotFound)
	}
	if !z.Complete() || !held {
		return nil, fmt.Errorf("look up %s: %w: this node has not heard all names yet", name, discovery.ErrNotFound)
	}
	return nil, fmt.Errorf("look up %s: %w", name, discovery.ErrNotFound)
}

// Rows implements discovery.Service.
func (e *Engine) Rows(ctx context.Context, kind discovery.Kind) ([]discovery.Row, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("rows: %w", err)
	}
	return e.store.Rows(kind), nil
}

// Nodes implements discovery.Service: the nodes that said what they are, and those that the masters
// admitted.
func (e *Engine) Nodes(ctx context.Context) ([]discovery.NodeStatus, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("nodes: %w", err)
	}
	// This node is there before it has written its row.
	nodes := map[discovery.NodeID]discovery.NodeStatus{e.self: {Node: discovery.Node{ID: e.self}}}
	for _, r := range e.store.Rows(discovery.KindNode) {
		n, err := state.Value[discovery.Node](r)
		if err != nil || string(n.ID) != r.Writer {
			continue // nobody speaks for another node
		}
		nodes[n.ID] = discovery.NodeStatus{Node: n}
	}
	for _, r := range e.store.Rows(discovery.KindAdmission) {
		a, err := state.Value[discovery.Admission](r)
		if err != nil || !a.VTEP.IsValid() {
			continue // removed
		}
		s := nodes[a.Node]
		s.ID, s.Admitted = a.Node, true
		nodes[a.Node] = s
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	for id, s := range nodes {
		l := e.look(id, now)
		s.Alive, s.Since = l.alive, l.since
		nodes[id] = s
	}
	return slices.SortedFunc(maps.Values(nodes), func(a, b discovery.NodeStatus) int {
		return strings.Compare(string(a.ID), string(b.ID))
	}), nil
}
