// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"weft/discovery"
	"weft/discovery/state"
	"weft/overlay"
	"weft/overlay/compile"
	"weft/overlay/explain"
)

// Finder asks others for rows that this node does not hold: the endpoints of other nodes. The packet
// path needs none of them, the receiver decides; people want to read names.
type Finder interface {
	// Find returns rows of a kind whose value holds text as a JSON string, as a node has them; as a
	// master has them when node is empty.
	Find(ctx context.Context, node discovery.NodeID, kind discovery.Kind, text string) ([]discovery.Row, error)
}

const (
	// answerWithin bounds one question: a person waits, or events do.
	answerWithin = time.Second
	// sightFor is how long the name of an address in an event may be old.
	sightFor = 5 * time.Second
	// sightings is how many addresses are remembered: about 300 bytes each.
	sightings = 1024
	// askedNodes bounds how many nodes are asked for one name while no master answers.
	askedNodes = 8
)

// elsewhere finds endpoints of other nodes.
type elsewhere struct {
	finder Finder // nil: there is nobody to ask
	self   discovery.NodeID
	rows   Rows

	mu   sync.Mutex // guards seen
	seen map[netip.Addr]sighting
}

// sighting is what was last heard of an address.
type sighting struct {
	endpoint overlay.Endpoint
	there    bool
	until    time.Time
}

// At returns the endpoint of another node that has an address, at most sightFor old.
func (o *elsewhere) At(ctx context.Context, now compile.Facts, a netip.Addr) (overlay.Endpoint, bool) {
	at := time.Now()
	o.mu.Lock()
	s, known := o.seen[a]
	o.mu.Unlock()
	if known && at.Before(s.until) {
		return s.endpoint, s.there
	}
	found, _ := o.byAddr(ctx, now, a) // who does not answer is asked again later
	s = sighting{there: len(found) > 0, until: at.Add(sightFor)}
	if s.there {
		s.endpoint = found[0]
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.seen == nil || len(o.seen) >= sightings {
		o.seen = make(map[netip.Addr]sighting)
	}
	o.seen[a] = s
	return s.endpoint, s.there
}

// Sides returns the endpoints of other nodes that a question may be about. Where those could not be asked
// for, tasks of this node that are called so will do.
func (o *elsewhere) Sides(ctx context.Context, now compile.Facts, q overlay.Question) (found []overlay.Endpoint, err error) {
	for _, what := range []string{q.Source, q.Destination} {
		var some []overlay.Endpoint
		var err error
		if a, bad := netip.ParseAddr(what); bad == nil {
			some, err = o.byAddr(ctx, now, a.Unmap())
		} else if what != overlay.World && !isPlain(now, what) {
			some, err = o.byName(ctx, what)
		}
		if err != nil && !isHere(now, what) {
			return nil, err
		}
		found = append(found, some...)
	}
	return found, nil
}

func isPlain(now compile.Facts, name string) bool {
	return slices.ContainsFunc(now.Plain, func(n overlay.PlainNode) bool { return string(n.Node) == name })
}

// isHere tells whether a task of this node is called so.
func isHere(now compile.Facts, name string) bool {
	return slices.ContainsFunc(now.Tasks, func(t compile.Task) bool { return isCalled(t.Endpoint, name) }) ||
		slices.ContainsFunc(now.InHost, func(e overlay.Endpoint) bool { return isCalled(e, name) })
}

func isCalled(e overlay.Endpoint, name string) bool {
	return e.ID == name || e.Task == name || e.Name == name
}

// byAddr asks the node whose block an address lies in: it knows, whoever else lives.
func (o *elsewhere) byAddr(ctx context.Context, now compile.Facts, a netip.Addr) ([]overlay.Endpoint, error) {
	if _, plain := explain.PlainEndpoint(now.Plain, a); plain {
		return nil, nil // there is nobody to ask
	}
	for _, b := range now.Blocks {
		if !b.Prefix.Contains(a) || b.Node == o.self {
			continue
		}
		found, err := o.ask(ctx, b.Node, a.String())
		if err != nil {
			return nil, fmt.Errorf("%s is an address of node %s: %w", a, b.Node, err)
		}
		return slices.DeleteFunc(found, func(e overlay.Endpoint) bool { return !slices.Contains(e.Addrs(), a) }), nil
	}
	return nil, nil
}

// byName asks a master or, when none answers, the nodes that have announced the name.
func (o *elsewhere) byName(ctx context.Context, name string) ([]overlay.Endpoint, error) {
	found, err := o.ask(ctx, "", name)
	if err != nil {
		for _, node := range o.announcers(name) {
			if some, failed := o.ask(ctx, node, name); failed == nil {
				found = append(found, some...)
			}
		}
	}
	found = slices.DeleteFunc(found, func(e overlay.Endpoint) bool { return !isCalled(e, name) })
	if len(found) == 0 && err != nil {
		return nil, fmt.Errorf("tasks of other nodes named %s are not known: %w", name, err)
	}
	return found, nil
}

// announcers returns other nodes with tasks of that name or id.
func (o *elsewhere) announcers(name string) (nodes []discovery.NodeID) {
	for _, r := range o.rows.Rows(discovery.KindName) {
		n, err := state.Value[discovery.Name](r)
		if err == nil && (n.Label == name || n.Task == name) && n.Node != o.self && len(nodes) < askedNodes {
			nodes = append(nodes, n.Node)
		}
	}
	slices.Sort(nodes)
	return slices.Compact(nodes)
}

// ask returns the endpoints of other nodes that someone finds.
func (o *elsewhere) ask(ctx context.Context, node discovery.NodeID, text string) ([]overlay.Endpoint, error) {
	if o.finder == nil {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	rows, err := o.finder.Find(ctx, node, discovery.KindEndpoint, text)
	if err != nil {
		return nil, err
	}
	var found []overlay.Endpoint
	for _, r := range rows {
		ep, err := state.Value[overlay.Endpoint](r)
		if err == nil && string(ep.Node) == r.Writer && ep.Node != o.self {
			found = append(found, ep)
		}
	}
	return found, nil
}
