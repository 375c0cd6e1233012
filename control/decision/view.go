// SPDX-License-Identifier: Apache-2.0

package decision

import (
	"cmp"
	"maps"
	"slices"

	"weft/control"
	"weft/discovery"
	"weft/lb"
	"weft/overlay"
)

// Names lists the networks, or the one that is asked for, which has to be there.
func (s *Snapshot) Names(network string) ([]string, error) {
	if network == "" {
		return s.networks.keys(), nil
	}
	return []string{network}, s.has(network)
}

// Networks tells of networks by their names.
func (s *Snapshot) Networks(names []string, endpoints []overlay.Endpoint) []control.Network {
	list := []control.Network{}
	all := s.shares(endpoints)
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
			n.Free4 = s.freeBlocks(name, n.Subnet4, n.Block4).Left()
		}
		if n.Subnet6.IsValid() {
			n.Free6 = s.freeBlocks(name, n.Subnet6, n.Block6).Left()
		}
		list = append(list, n)
	}
	return list
}

// Groups tells of those of networks, with the tasks that are in them.
func (s *Snapshot) Groups(names []string, endpoints []overlay.Endpoint) []control.Group {
	tasks := map[overlay.Group]int{}
	for _, e := range endpoints {
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
	return list
}

// Rules lists those of networks.
func (s *Snapshot) Rules(names []string) []overlay.Rule {
	list := []overlay.Rule{}
	for _, name := range names {
		for _, key := range s.rules.below(name) {
			list = append(list, s.rules[key])
		}
	}
	slices.SortFunc(list, func(a, b overlay.Rule) int {
		return cmp.Or(cmp.Compare(a.Network, b.Network), cmp.Compare(a.ID, b.ID))
	})
	return list
}

// Nodes tells of all that are admitted or ask to be. Whether they live is not known here.
func (s *Snapshot) Nodes(told Claims, endpoints []overlay.Endpoint) []control.Node {
	all := map[discovery.NodeID]*control.Node{}
	for _, n := range told.nodes {
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
			n.Refuse(r)
		}
	}
	for _, share := range s.shares(endpoints) {
		if n := all[share.Node]; n != nil {
			n.Shares = append(n.Shares, share)
		}
	}
	return byID(all)
}

// byID lists nodes, with what is left out as what there is none of.
func byID(all map[discovery.NodeID]*control.Node) []control.Node {
	list := []control.Node{}
	for _, id := range slices.Sorted(maps.Keys(all)) {
		n := *all[id]
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

// Pins lists the addresses of named VIPs, by name.
func (s *Snapshot) Pins() []lb.Pin {
	pins := []lb.Pin{}
	for _, name := range s.pins.keys() {
		pins = append(pins, s.pins[name])
	}
	return pins
}

// Masters lists all; the last one that led leads, if the ledger works.
func (s *Snapshot) Masters(healthy bool) []control.Master {
	list := []control.Master{}
	for _, id := range s.masters.keys() {
		list = append(list, control.Master{Master: s.masters[id], Leads: healthy && id == s.leads()})
	}
	return list
}

// Refused is how many wishes of nodes are refused at present.
func (s *Snapshot) Refused() int { return len(s.refusals) }

// Counts tells how many there are of everything.
func (s *Snapshot) Counts(endpoints []overlay.Endpoint) control.Counts {
	return control.Counts{
		Networks: len(s.networks), Groups: len(s.groups), Rules: len(s.rules), Blocks: len(s.blocks),
		Identities: len(s.identities), Pins: len(s.pins), Endpoints: len(endpoints),
	}
}
