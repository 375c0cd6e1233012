// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"weft/control"
	"weft/discovery"
	"weft/overlay"
)

// read asks for a fresh snapshot and, where name is not empty, that the network exists.
func (f *Fabric) read(ctx context.Context, network string) (*snapshot, []string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	s, err := f.fresh(ctx)
	if err != nil {
		return nil, nil, err
	}
	if network == "" {
		return s, s.networks.keys(), nil
	}
	if err := s.has(network); err != nil {
		return nil, nil, err
	}
	return s, []string{network}, nil
}

// Networks implements control.Service.
func (f *Fabric) Networks(ctx context.Context, name string) ([]control.Network, error) {
	s, names, err := f.read(ctx, name)
	if err != nil {
		return nil, err
	}
	list := []control.Network{}
	all := s.shares(f.endpoints())
	for _, name := range names {
		n := control.Network{
			Network: s.networks[name], Groups: s.groupsOf(name), Blocks: []overlay.Block{}, Shares: []control.Share{},
			GroupSets: len(s.identities.below(name)),
		}
		for _, share := range all {
			if share.Network == name {
				n.Shares = append(n.Shares, share)
			}
		}
		for _, key := range s.blocks.below(name) {
			n.Blocks = append(n.Blocks, s.blocks[key])
		}
		slices.SortFunc(n.Blocks, func(a, b overlay.Block) int { return overlay.ComparePrefixes(a.Prefix, b.Prefix) })
		if n.Subnet4.IsValid() {
			n.Free4 = newBlockCursor(s, name, n.Subnet4, n.Block4).free()
		}
		if n.Subnet6.IsValid() {
			n.Free6 = newBlockCursor(s, name, n.Subnet6, n.Block6).free()
		}
		list = append(list, n)
	}
	return list, nil
}

// Groups implements control.Service.
func (f *Fabric) Groups(ctx context.Context, network string) ([]control.Group, error) {
	s, names, err := f.read(ctx, network)
	if err != nil {
		return nil, err
	}
	tasks := map[overlay.Group]int{}
	for _, e := range f.endpoints() {
		for _, g := range e.Groups {
			tasks[overlay.Group{Network: e.Network, Name: g}]++
		}
	}
	list := []control.Group{}
	for _, name := range names {
		for _, key := range s.groups.below(name) {
			g := s.groups[key]
			list = append(list, control.Group{Group: g, Rules: s.rulesNaming(g), Tasks: tasks[g]})
		}
	}
	return list, nil
}

// Rules implements control.Service.
func (f *Fabric) Rules(ctx context.Context, network string) ([]overlay.Rule, error) {
	s, names, err := f.read(ctx, network)
	if err != nil {
		return nil, err
	}
	list := []overlay.Rule{}
	for _, name := range names {
		for _, key := range s.rules.below(name) {
			list = append(list, s.rules[key])
		}
	}
	slices.SortFunc(list, func(a, b overlay.Rule) int {
		return cmp.Or(cmp.Compare(a.Network, b.Network), cmp.Compare(a.ID, b.ID))
	})
	return list, nil
}

// Nodes implements control.Service.
func (f *Fabric) Nodes(ctx context.Context) ([]control.Node, error) {
	s, _, err := f.read(ctx, "")
	if err != nil {
		return nil, err
	}
	return f.nodes(s), nil
}

func (f *Fabric) nodes(s *snapshot) []control.Node {
	all := map[discovery.NodeID]*control.Node{}
	for _, n := range readClaims(f.o.Facts, f.o.Now()).nodes {
		all[n.ID] = &control.Node{Node: n.Node}
	}
	for _, a := range s.admissions {
		if !a.VTEP.IsValid() {
			continue
		}
		if all[a.Node] == nil {
			all[a.Node] = &control.Node{Node: discovery.Node{ID: a.Node}}
		}
		n := all[a.Node]
		n.Admitted, n.VTEP, n.Host4, n.Host6 = true, a.VTEP, a.Host4, a.Host6
	}
	for _, p := range s.plain {
		all[p.Node] = &control.Node{Node: discovery.Node{ID: p.Node, MTU: p.MTU}, Plain: &p, Admitted: true, VTEP: p.VTEP}
	}
	for _, b := range s.blocks {
		if n := all[b.Node]; n != nil {
			n.Blocks++
		}
	}
	for _, key := range s.refusals.keys() {
		r := s.refusals[key]
		if n := all[r.Node]; n != nil {
			n.Refusals = append(n.Refusals, r.Reason)
		}
	}
	for _, share := range s.shares(f.endpoints()) {
		if n := all[share.Node]; n != nil {
			n.Shares = append(n.Shares, share)
		}
	}
	return f.byID(all)
}

// byID lists nodes, with what is left out as what there is none of.
func (f *Fabric) byID(all map[discovery.NodeID]*control.Node) []control.Node {
	list := []control.Node{}
	for _, id := range slices.Sorted(maps.Keys(all)) {
		n := *all[id]
		n.Alive = f.alive(id)
		if n.Refusals == nil {
			n.Refusals = []string{}
		}
		if n.Shares == nil {
			n.Shares = []control.Share{}
		}
		list = append(list, n)
	}
	return list
}

func (f *Fabric) endpoints() []overlay.Endpoint {
	var list []overlay.Endpoint
	each(&claims{}, f.o.Facts, discovery.KindEndpoint, func(r discovery.Row, e overlay.Endpoint) {
		e.Node = discovery.NodeID(r.Writer)
		list = append(list, e)
	})
	return list
}

// Status implements control.Service. The ledger gets a second to show that a majority answers.
func (f *Fabric) Status(ctx context.Context) (control.Status, error) {
	s := f.mirror.now()
	st := control.Status{Answered: f.o.Self.ID, Ledger: control.Ledger{Healthy: true}, Masters: []control.Master{}}
	ask, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if newer, err := f.fresh(ask); err == nil {
		s = newer
	} else {
		st.Ledger.Healthy, st.Ledger.Problem = false, err.Error()
	}
	st.Ledger.Revision = s.revision
	for _, id := range s.masters.keys() {
		st.Masters = append(st.Masters, control.Master{Master: s.masters[id], Leads: st.Ledger.Healthy && id == s.leads()})
	}
	st.Counts = control.Counts{
		Networks: len(s.networks), Groups: len(s.groups), Rules: len(s.rules), Blocks: len(s.blocks),
		Identities: len(s.identities), Pins: len(s.pins), Endpoints: len(f.endpoints()),
	}
	st.Nodes = f.nodes(s)
	return st, nil
}
