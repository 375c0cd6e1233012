// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"maps"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"weft/discovery"
	"weft/overlay/compile"
)

// Prober asks a node whether an IP packet of size bytes arrives; see apply.Prober.
type Prober interface {
	Fits(ctx context.Context, vtep netip.Addr, size int) (bool, error)
}

const (
	pathEvery  = 10 * time.Second // each path is looked at; one that grew is found by then
	pathAtOnce = 16               // nodes that are asked side by side; one that is silent takes 1.2 s
)

// paths is what the ways to other nodes were found to carry, bytes of IP packets by VTEP. A node that does not
// answer keeps what was found last; one that never did is taken to carry what the links do.
type paths struct {
	mu    sync.Mutex
	found map[netip.Addr]int
}

func (p *paths) snapshot() map[netip.Addr]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.found)
}

// set reports whether that is news.
func (p *paths) set(vtep netip.Addr, size int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.found == nil {
		p.found = make(map[netip.Addr]int)
	}
	before, known := p.found[vtep]
	p.found[vtep] = size
	return !known || before != size
}

// keep forgets all nodes but those.
func (p *paths) keep(nodes []compile.Node) {
	there := make(map[netip.Addr]bool, len(nodes))
	for _, n := range nodes {
		there[n.VTEP] = true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	maps.DeleteFunc(p.found, func(vtep netip.Addr, _ int) bool { return !there[vtep] })
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
	nodes := compile.Nodes(e.facts.Admissions(), e.facts.Nodes())
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
			size, err := compile.FindPath(most, func(size int) (bool, error) { return e.o.Prober.Fits(ctx, n.VTEP, size) })
			switch {
			case ctx.Err() != nil:
				return ctx.Err()
			case err != nil:
				e.log.Error("path can't be probed", "node", n.ID, "vtep", n.VTEP, "error", err.Error())
			case size != 0 && e.paths.set(n.VTEP, size):
				e.tellPath(n, size, most)
			}
			return nil
		})
	}
	return g.Wait()
}

// tellPath says what a path carries when that is news, and loudly when it is less than its ends would send.
func (e *Engine) tellPath(n compile.Node, size, most int) {
	if size < most {
		e.log.Warn("path is smaller than the links at its ends: tasks are told so packet by packet",
			"node", n.ID, "vtep", n.VTEP, "path_mtu", size, "link_mtu", most)
	} else {
		e.log.Info("path carries what its links do", "node", n.ID, "vtep", n.VTEP, "path_mtu", size)
	}
	e.wake()
}

// smallPaths counts the nodes whose path is smaller than this node's link.
func (e *Engine) smallPaths() int {
	small := 0
	for _, size := range e.paths.snapshot() {
		if size < e.o.Underlay.MTU {
			small++
		}
	}
	return small
}
