// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"weft/bpf/row"
	"weft/discovery"
	"weft/discovery/state"
	"weft/lb"
	"weft/lb/edge"
)

// tunnelRoom4 and tunnelRoom6 are what the tunnel takes of the underlay's packets, bytes; defaultMTU stands where a node
// has not told.
const (
	tunnelRoom4 = 50
	tunnelRoom6 = 70
	defaultMTU  = 1500
)

// network is what this room needs of a network row; the whole of it is the overlay's.
type network struct {
	Name string `json:"name"`
	VNI  uint32 `json:"vni"`
}

func (e *Engine) facts(now time.Duration) edge.Facts {
	f := edge.Facts{
		VIPs: make(map[lb.Key]lb.VIPStatus), Networks: make(map[string]uint32), Nodes: make(map[discovery.NodeID]edge.Node),
		Own: make(map[netip.Addr]bool), Self: e.self, Now: now,
	}
	if e.o.Leads != nil {
		f.Led = e.o.Leads.Led()
	}
	for _, p := range all[lb.Publication](e, discovery.KindPublication) {
		if err := p.Validate(); err != nil {
			e.log.Error("publication is left out", "publication", p.Name(), "error", err)
			continue
		}
		f.Publications = append(f.Publications, p)
		if v, ok := e.o.VIPs.VIP(p.VIP); ok {
			f.VIPs[p.VIP] = v
		}
	}
	for _, n := range all[network](e, discovery.KindNetwork) {
		f.Networks[n.Name] = n.VNI
	}
	e.addNodes(&f)
	return f
}

// addNodes says how backends of each node are reached, by links and by what is known of paths.
func (e *Engine) addNodes(f *edge.Facts) {
	mtu := make(map[discovery.NodeID]int)
	for _, n := range all[discovery.Node](e, discovery.KindNode) {
		mtu[n.ID] = n.MTU
		for _, a := range n.Addrs {
			f.Own[a] = true
		}
	}
	own := cmp.Or(mtu[e.self], defaultMTU)
	edges := e.o.Members.Edges()
	admissions := all[discovery.Admission](e, discovery.KindAdmission)
	over6 := slices.ContainsFunc(admissions, func(a discovery.Admission) bool { return a.Node == e.self && a.VTEP.Unmap().Is6() })
	room := tunnelRoom4
	if over6 {
		room = tunnelRoom6
	}
	for _, a := range admissions {
		if !a.VTEP.IsValid() || a.VTEP.Unmap().Is6() != over6 {
			continue // this node's tunnels don't reach the other family
		}
		carries, second := e.path(a.VTEP.Unmap())
		way := min(own, cmp.Or(mtu[a.Node], own), cmp.Or(carries, own))
		f.Nodes[a.Node] = edge.Node{
			Addr: a.VTEP.Unmap(), MTU: uint16(min(max(way-room, 0), 1<<16-1)), Second: second,
			Host: row.Word(a.Host4.Addr()), Edge: slices.Contains(edges, a.Node),
			Alive: a.Node == e.self || e.o.Members.Alive(a.Node),
		}
	}
}

// path is Paths.Path, where there are some.
func (e *Engine) path(node netip.Addr) (mtu int, second bool) {
	if e.o.Paths == nil {
		return 0, false
	}
	return e.o.Paths.Path(node)
}

func all[T any](e *Engine, kind discovery.Kind) []T {
	values, err := state.All[T](e.o.Store, kind)
	if err != nil {
		e.log.Error("rows are left out", "kind", kind, "error", err)
	}
	return values
}
