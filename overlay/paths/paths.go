// SPDX-License-Identifier: Apache-2.0

// Package paths finds what the ways to other nodes carry, by asking the other nodes' programs (docs/decisions/0012). What
// is found says to overlay/compile how large packets may be and which port tunnels take.
package paths

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"weft/discovery"
	"weft/overlay/compile"
	"weft/overlay/facts"
)

// Prober asks a node whether an IP packet of size bytes arrives at its first or second port; see UDPProber.
type Prober interface {
	Fits(ctx context.Context, vtep netip.Addr, second bool, size int) (bool, error)
}

const (
	every  = 10 * time.Second // each path is looked at; one that grew is found by then
	atOnce = 16               // nodes that are asked side by side; one that is silent takes 2.4 s
	// silentAfter is how long a node is silent before that is told: membership notices by then that it is dead.
	silentAfter = 10 * time.Second
)

// silence is that of a node that lives.
type silence struct {
	since time.Time
	told  bool
}

// Options is how New makes Paths.
type Options struct {
	Node   discovery.NodeID // this one
	VTEP   netip.Addr       // its underlay address
	MTU    int              // of its underlay link, bytes
	Facts  *facts.Facts
	Prober Prober
	Alive  func(discovery.NodeID) bool // by membership; nil: all live
	Log    *slog.Logger
}

// Paths is what the ways to other nodes were found to be, by VTEP. A node that does not answer keeps what was found
// last; one that never did is taken to carry what the links do, by the first port. Make it with New and let Run run.
type Paths struct {
	o    Options
	news chan struct{} // capacity one

	mu      sync.Mutex
	found   map[netip.Addr]compile.Path // replaced by another one when something is found
	names   map[netip.Addr]discovery.NodeID
	silent  map[netip.Addr]silence // of nodes that live, by VTEP
	changed chan struct{}          // closed and replaced with found
}

// New returns Paths of which nothing is known yet.
func New(o Options) *Paths {
	if o.Alive == nil {
		o.Alive = func(discovery.NodeID) bool { return true }
	}
	return &Paths{o: o, news: make(chan struct{}, 1), changed: make(chan struct{}), silent: make(map[netip.Addr]silence)}
}

// Found returns what is known, by VTEP; nobody changes it.
func (p *Paths) Found() map[netip.Addr]compile.Path {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.found
}

// Path returns what is known of the way to a VTEP: the largest IP packet that arrives, bytes, 0: nothing is known; and
// whether it goes by the second port.
func (p *Paths) Path(vtep netip.Addr) (mtu int, second bool) {
	path := p.Found()[vtep]
	return path.MTU, path.Second
}

// Changed returns a channel that is closed when something else is found; take it before Path.
func (p *Paths) Changed() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.changed
}

// News returns what says something when Found is another.
func (p *Paths) News() <-chan struct{} { return p.news }

// set reports whether that is news.
func (p *Paths) set(vtep netip.Addr, path compile.Path) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if before, known := p.found[vtep]; known && before == path {
		return false
	}
	found := make(map[netip.Addr]compile.Path, len(p.found)+1)
	maps.Copy(found, p.found)
	found[vtep] = path
	p.found = found
	close(p.changed)
	p.changed = make(chan struct{})
	return true
}

// keep forgets all nodes but those.
func (p *Paths) keep(nodes []compile.Node) {
	there := make(map[netip.Addr]discovery.NodeID, len(nodes))
	for _, n := range nodes {
		there[n.VTEP] = n.ID
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.names = there
	found := maps.Clone(p.found)
	maps.DeleteFunc(found, func(vtep netip.Addr, _ compile.Path) bool { return there[vtep] == "" })
	p.found = found
	maps.DeleteFunc(p.silent, func(vtep netip.Addr, _ silence) bool { return there[vtep] == "" })
}

// answered ends the silence of a node.
func (p *Paths) answered(n compile.Node) {
	p.mu.Lock()
	before := p.silent[n.VTEP]
	delete(p.silent, n.VTEP)
	p.mu.Unlock()
	if before.told {
		p.o.Log.Info("node answers by the tunnel's port again", "node", n.ID, "vtep", n.VTEP)
	}
}

// missed notes that a node answered nothing by any port. It is told once it goes on, of nodes that live: of what is dead
// membership tells.
func (p *Paths) missed(n compile.Node) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n.Unprobed || !p.o.Alive(n.ID) {
		delete(p.silent, n.VTEP)
		return
	}
	s, silent := p.silent[n.VTEP]
	if !silent {
		s.since = time.Now()
	}
	if !s.told && time.Since(s.since) >= silentAfter {
		s.told = true
		p.o.Log.Warn("node lives and answers nothing by the tunnel's port: frames to it may not arrive", "node", n.ID, "vtep", n.VTEP)
	}
	p.silent[n.VTEP] = s
}

// Run asks what the paths to all nodes carry, when nodes come and every ten seconds, until ctx ends.
func (p *Paths) Run(ctx context.Context) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		changed := p.o.Facts.Changed(discovery.KindAdmission, discovery.KindNode)
		if err := p.look(ctx); err != nil {
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

func (p *Paths) look(ctx context.Context) error {
	nodes := p.o.Facts.Admitted()
	p.keep(nodes)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for _, n := range nodes {
		if n.ID == p.o.Node || n.VTEP.Is6() != p.o.VTEP.Is6() {
			continue
		}
		most := p.o.MTU
		if n.MTU != 0 {
			most = min(most, n.MTU)
		}
		g.Go(func() error {
			path, err := p.find(ctx, n.VTEP, most)
			switch {
			case ctx.Err() != nil:
				return ctx.Err()
			case err != nil:
				p.o.Log.Error("path can't be probed", "node", n.ID, "vtep", n.VTEP, "error", err.Error())
				return nil
			case path.MTU == 0:
				p.missed(n)
				return nil
			}
			p.answered(n)
			if p.set(n.VTEP, path) {
				p.tell(n, path, most)
			}
			return nil
		})
	}
	return g.Wait()
}

// find asks by the first port and, where that says nothing, by the second one.
func (p *Paths) find(ctx context.Context, vtep netip.Addr, most int) (path compile.Path, err error) {
	for _, second := range []bool{false, true} {
		path.Second = second
		path.MTU, err = compile.FindPath(most, func(size int) (bool, error) { return p.o.Prober.Fits(ctx, vtep, second, size) })
		if path.MTU != 0 || err != nil {
			return path, err
		}
	}
	return path, nil
}

// tell says what a path is when that is news, and loudly when it is less than its ends would have.
func (p *Paths) tell(n compile.Node, path compile.Path, most int) {
	to := []any{"node", n.ID, "vtep", n.VTEP, "path_mtu", path.MTU}
	switch {
	case path.Second:
		p.o.Log.Warn("nothing arrives by the tunnel's port: the second one is used", to...)
	case path.MTU < most:
		p.o.Log.Warn("path is smaller than the links at its ends: tasks are told so packet by packet", append(to, "link_mtu", most)...)
	default:
		p.o.Log.Info("path carries what its links do", to...)
	}
	select {
	case p.news <- struct{}{}:
	default: // there are some already
	}
}

// Counts returns how many nodes have a path that is smaller than this node's link, how many are reached by the second
// port, and how many live and answer by none.
func (p *Paths) Counts() (small, second, silent int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, path := range p.found {
		if path.MTU < p.o.MTU {
			small++
		}
		if path.Second {
			second++
		}
	}
	for _, s := range p.silent {
		if s.told {
			silent++
		}
	}
	return small, second, silent
}

// Warnings are what operators should know of this node's paths, at most a few lines.
func (p *Paths) Warnings() []string {
	const most = 4
	p.mu.Lock()
	defer p.mu.Unlock()
	var list []string
	for _, vtep := range slices.SortedFunc(maps.Keys(p.names), netip.Addr.Compare) {
		path, node := p.found[vtep], p.names[vtep]
		switch {
		case p.silent[vtep].told:
			list = append(list, fmt.Sprintf("node %s lives, but answers nothing by the tunnel's UDP port: is that let through, in both directions?", node))
		case path.Second:
			list = append(list, fmt.Sprintf("node %s is not reached by the tunnel's port: the second one is used", node))
		case path.MTU != 0 && path.MTU < p.o.MTU:
			list = append(list, fmt.Sprintf("the path to node %s carries %d bytes, the link %d", node, path.MTU, p.o.MTU))
		}
	}
	if len(list) > most {
		list = append(list[:most], fmt.Sprintf("and %d more", len(list)-most))
	}
	return list
}
