// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"

	"weft/overlay"
	"weft/overlay/ipam"
	"weft/overlay/paths"
)

// Endpoints implements overlay.Service.
func (e *Engine) Endpoints(ctx context.Context) ([]overlay.Endpoint, error) {
	if err := e.restored(ctx); err != nil {
		return nil, fmt.Errorf("list endpoints: %w", err)
	}
	return endpointsOf(e.liveEntries()), nil
}

func endpointsOf(entries []entry) []overlay.Endpoint {
	list := make([]overlay.Endpoint, 0, len(entries))
	for _, en := range entries {
		list = append(list, en.Endpoint)
	}
	return list
}

// Watch returns the endpoints of this node, by id: as they are, and again after each change. The first
// one comes when what the disk knows is restored, so that whoever keeps things by task can take away
// what is not among them. The channel has no buffer, a slow reader skips; it is closed when ctx ends.
func (e *Engine) Watch(ctx context.Context) <-chan []overlay.Endpoint {
	out := make(chan []overlay.Endpoint)
	go func() {
		defer close(out)
		if e.restored(ctx) != nil {
			return
		}
		for {
			e.mu.Lock()
			changed := e.changed
			e.mu.Unlock()
			select {
			case out <- endpointsOf(e.liveEntries()):
			case <-changed:
				continue
			case <-ctx.Done():
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

// Networks implements overlay.Service.
func (e *Engine) Networks(ctx context.Context) ([]overlay.NetworkStatus, error) {
	if err := e.restored(ctx); err != nil {
		return nil, fmt.Errorf("list networks: %w", err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	list := make([]overlay.NetworkStatus, 0)
	for _, n := range e.facts.Networks() {
		list = append(list, e.status(n.Normal()))
	}
	slices.SortFunc(list, func(a, b overlay.NetworkStatus) int { return cmp.Compare(a.Name, b.Name) })
	return list, nil
}

// status returns this node's part in a network. The caller holds e.mu.
func (e *Engine) status(n overlay.Network) overlay.NetworkStatus {
	s := overlay.NetworkStatus{Network: n}
	for _, b := range e.facts.Blocks() {
		if b.Network == n.Name && b.Node == e.o.Node {
			s.Blocks = append(s.Blocks, b)
		}
	}
	slices.SortFunc(s.Blocks, func(a, b overlay.Block) int { return overlay.ComparePrefixes(a.Prefix, b.Prefix) })
	for _, g := range e.facts.Groups() {
		if g.Network == n.Name {
			s.Groups = append(s.Groups, g.Name)
		}
	}
	slices.Sort(s.Groups)
	var used []netip.Addr
	counted := n.Subnets()[0] // IPv4, or IPv6 without it
	for _, en := range e.entries {
		for _, a := range en.Addrs() {
			if en.Network == n.Name && counted.Contains(a) {
				used = append(used, a)
			}
		}
	}
	s.Used, s.Free = len(used), ipam.Free(e.ownBlocks(n, counted), used)
	return s
}

// Explain implements overlay.Service.
func (e *Engine) Explain(ctx context.Context, q overlay.Question) (overlay.Verdict, error) {
	if err := e.restored(ctx); err != nil {
		return overlay.Verdict{}, fmt.Errorf("explain: %w", err)
	}
	return e.watch.Explain(ctx, q)
}

// Events implements overlay.Service.
func (e *Engine) Events(ctx context.Context, f overlay.Filter, emit func(overlay.Event) error) error {
	if f.Trace != nil { // its probe is sent by a task
		if err := e.restored(ctx); err != nil {
			return fmt.Errorf("trace: %w", err)
		}
	}
	return e.watch.Events(ctx, f, emit)
}

// Warnings are what operators should know of this node's paths, at most a few lines.
func (e *Engine) Warnings() []string { return e.paths.Warnings() }

// Paths returns what is known of the ways to other nodes.
func (e *Engine) Paths() *paths.Paths { return e.paths }
