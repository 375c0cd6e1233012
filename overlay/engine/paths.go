// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"weft/discovery"
	"weft/overlay/compile"
)

// Prober asks a node whether an IP packet of size bytes arrives at its first or second port; see apply.Prober.
type Prober interface {
	Fits(ctx context.Context, vtep netip.Addr, second bool, size int) (bool, error)
}

const (
	pathEvery  = 10 * time.Second // each path is looked at; one that grew is found by then
	pathAtOnce = 16               // nodes that are asked side by side; one that is silent takes 2.4 s
)

// paths is what the ways to other nodes were found to be, by VTEP. A node that does not answer keeps what was found
// last; one that never did is taken to carry what the links do, by the first port.
type paths struct {
	mu    sync.Mutex
	found map[netip.Addr]compile.Path
	names map[netip.Addr]discovery.NodeID
}

func (p *paths) snapshot() map[netip.Addr]compile.Path {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.found)
}

// set reports whether that is news.
func (p *paths) set(vtep netip.Addr, path compile.Path) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.found == nil {
		p.found = make(map[netip.Addr]compile.Path)
	}
	before, known := p.found[vtep]
	p.found[vtep] = path
	return !known || before != path
}

// keep forgets all nodes but those.
func (p *paths) keep(nodes []compile.Node) {
	there := make(map[netip.Addr]discovery.NodeID, len(nodes))
	for _, n := range nodes {
		there[n.VTEP] = n.ID
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.names = there
	maps.DeleteFunc(p.found, func(vtep netip.Addr, _ compile.Path) bool { return there[vtep] == "" })
}

// watchPaths asks what the paths to all nodes carry, when nodes come and every pathEvery.
func (e *Engine) watchPaths(ctx context.Context) error {
	tick := time.NewTicker(pathEvery)
	defer tick.Stop()
	for {
		changed := e.o.Rows.Changed(discovery.KindAdmission, discovery.KindNode)
		if err := e.findPaths(ctx); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		case <-tick.C:
		}
	}
}

func (e *Engine) findPaths(ctx context.Context) error {
	nodes := e.facts.Admitted()
	e.paths.keep(nodes)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(pathAtOnce)
	for _, n := range nodes {
		own := e.o.Underlay
		if n.ID == e.o.Node || n.VTEP.Is6() != own.Addr.Is6() {
			continue
		}
		most := own.MTU
		if n.MTU != 0 {
			most = min(most, n.MTU)
		}
		g.Go(func() error {
			path, err := e.findPath(ctx, n.VTEP, most)
			switch {
			case ctx.Err() != nil:
				return ctx.Err()
			case err != nil:
				e.log.Error("path can't be probed", "node", n.ID, "vtep", n.VTEP, "error", err.Error())
			case path.MTU != 0 && e.paths.set(n.VTEP, path):
				e.tellPath(n, path, most)
			}
			return nil
		})
	}
	return g.Wait()
}

// findPath asks by the first port and, where that says nothing, by the second one.
func (e *Engine) findPath(ctx context.Context, vtep netip.Addr, most int) (path compile.Path, err error) {
	for _, second := range []bool{false, true} {
		path.Second = second
		path.MTU, err = compile.FindPath(most, func(size int) (bool, error) { return e.o.Prober.Fits(ctx, vtep, second, size) })
		if path.MTU != 0 || err != nil {
			return path, err
		}
	}
	return path, nil
}

// tellPath says what a path is when that is news, and loudly when it is less than its ends would have.
func (e *Engine) tellPath(n compile.Node, path compile.Path, most int) {
	to := []any{"node", n.ID, "vtep", n.VTEP, "path_mtu", path.MTU}
	switch {
	case path.Second:
		e.log.Warn("nothing arrives by the tunnel's port: the second one is used", to...)
	case path.MTU < most:
		e.log.Warn("path is smaller than the links at its ends: tasks are told so packet by packet", append(to, "link_mtu", most)...)
	default:
		e.log.Info("path carries what its links do", to...)
	}
	e.wake()
}

// pathCounts counts the nodes whose path is smaller than this node's link, and those that are reached by the second
// port.
func (e *Engine) pathCounts() (small, second int) {
	for _, path := range e.paths.snapshot() {
		if path.MTU < e.o.Underlay.MTU {
			small++
		}
		if path.Second {
			second++
		}
	}
	return small, second
}

// Warnings are what operators should know of this node's paths, at most a few lines.
func (e *Engine) Warnings() []string {
	const most = 4
	found := e.paths.snapshot()
	e.paths.mu.Lock()
	names := e.paths.names
	e.paths.mu.Unlock()
	var list []string
	for _, vtep := range slices.SortedFunc(maps.Keys(found), netip.Addr.Compare) {
		path, node := found[vtep], cmp.Or(string(names[vtep]), vtep.String())
		switch {
		case path.Second:
			list = append(list, fmt.Sprintf("node %s is not reached by the tunnel's port: the second one is used", node))
		case path.MTU < e.o.Underlay.MTU:
			list = append(list, fmt.Sprintf("the path to node %s carries %d bytes, the link %d", node, path.MTU, e.o.Underlay.MTU))
		}
	}
	if len(list) > most {
		list = append(list[:most], fmt.Sprintf("and %d more", len(list)-most))
	}
	return list
}
