// SPDX-License-Identifier: Apache-2.0

package decision

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"weft/control"
	"weft/discovery"
	"weft/overlay"
)

// What operators ask for, as pure functions of a snapshot. A nil decision changes nothing.

// AddGroup makes a name one that tasks may have.
func AddGroup(s *Snapshot, g overlay.Group) (*Decision, error) {
	if err := g.Validate(); err != nil {
		return nil, err
	}
	if err := s.has(g.Network); err != nil {
		return nil, err
	}
	if s.isGroup(g.Network, g.Name) {
		return nil, nil
	}
	d := &Decision{}
	d.set(discovery.KindGroup, g.Network+"/"+g.Name, g)
	return d, nil
}

// RemoveGroup refuses a group that is in use. Identities that stand for sets with the group stay:
// nobody can ask for them any more, and none is used anew while a task may still carry it.
func RemoveGroup(s *Snapshot, g overlay.Group, endpoints []overlay.Endpoint) (*Decision, error) {
	if err := s.has(g.Network); err != nil {
		return nil, err
	}
	if _, ok := s.groups[g.Network+"/"+g.Name]; !ok {
		return nil, notFound("group of network "+g.Network, g.Name, s.groupsOf(g.Network))
	}
	if rules := s.rulesNaming(g); len(rules) > 0 {
		return nil, fmt.Errorf("%w: group %q of network %s is named by rule %d; weft rule remove %s %d first",
			control.ErrInUse, g.Name, g.Network, rules[0], g.Network, rules[0])
	}
	if plain := s.plainIn(g.Network, g.Name); len(plain) > 0 {
		return nil, fmt.Errorf("%w: plain nodes %s are in group %q of network %s; weft node remove %s first",
			control.ErrInUse, shorten(plain), g.Name, g.Network, plain[0])
	}
	var tasks []string
	for _, e := range endpoints {
		if e.Network == g.Network && slices.Contains(e.Groups, g.Name) {
			tasks = append(tasks, e.Task)
		}
	}
	if len(tasks) > 0 {
		slices.Sort(tasks)
		return nil, fmt.Errorf("%w: tasks %s are in group %q of network %s; end them first",
			control.ErrInUse, shorten(slices.Compact(tasks)), g.Name, g.Network)
	}
	d := &Decision{}
	d.drop(discovery.KindGroup, g.Network+"/"+g.Name)
	return d, nil
}

func (s *Snapshot) rulesNaming(g overlay.Group) []overlay.RuleID {
	var ids []overlay.RuleID
	for _, r := range s.rules {
		if r.Network == g.Network && (r.From == g.Name || r.To == g.Name) {
			ids = append(ids, r.ID)
		}
	}
	slices.Sort(ids)
	return ids
}

// AddRule numbers the rule. The same rule again, whatever id it names, is the one that is there.
func AddRule(s *Snapshot, r overlay.Rule) (overlay.Rule, *Decision, error) {
	r.ID = 0
	if r.Action == "" {
		r.Action = overlay.Allow
	}
	r.Ports = normalPorts(r.Ports)
	if err := r.Validate(); err != nil {
		return r, nil, err
	}
	if err := s.has(r.Network); err != nil {
		return r, nil, err
	}
	names := []string{r.To}
	if prefix, isPrefix := r.Prefix(); isPrefix {
		if err := s.outside(prefix); err != nil {
			return r, nil, err
		}
	} else if r.From != overlay.World {
		names = append(names, r.From)
	}
	for _, name := range names {
		if !s.isGroup(r.Network, name) {
			return r, nil, notFound("group of network "+r.Network, name, s.groupsOf(r.Network))
		}
	}
	for _, key := range s.rules.below(r.Network) {
		old := s.rules[key]
		if sameRule(old, r) {
			return old, nil, nil
		}
	}
	if err := s.fits(r); err != nil {
		return r, nil, err
	}
	id := s.numbers[numberRule] + 1
	if id > uint64(overlay.MaxRuleID) {
		return r, nil, fmt.Errorf("%w: every rule id is used up", overlay.ErrExhausted)
	}
	r.ID = overlay.RuleID(id)
	d := &Decision{}
	d.set(kindNumber, numberRule, id)
	d.set(discovery.KindRule, r.Network+"/"+strconv.FormatUint(id, 10), r)
	return r, d, nil
}

// outside refuses a prefix that lies within a network: tasks are told apart by their groups, and what
// comes from another network is never let in.
func (s *Snapshot) outside(prefix netip.Prefix) error {
	for _, n := range s.allNetworks() {
		for _, subnet := range n.Subnets() {
			if subnet.Bits() <= prefix.Bits() && subnet.Contains(prefix.Addr()) {
				return fmt.Errorf("%w: from %s lies in %s of network %s: addresses as a source are of the world; "+
					"name a group of the tasks instead", overlay.ErrInvalid, prefix, subnet, n.Name)
			}
		}
	}
	return nil
}

// fits refuses a rule whose ports would not fit into a verdict beside those of the other rules towards
// any set of groups that there is.
func (s *Snapshot) fits(r overlay.Rule) error {
	sets := []overlay.GroupSet{{Network: r.Network, Groups: []string{r.To}}}
	for _, key := range s.identities.below(r.Network) {
		if set := s.identities[key]; slices.Contains(set.Groups, r.To) {
			sets = append(sets, set)
		}
	}
	for _, set := range sets {
		if n := s.ranges(r.Network, set.Groups) + len(r.Ports); n > overlay.MaxPortRanges {
			return fmt.Errorf("%w: with this rule, %d ranges of ports are named towards tasks in %s: %d are the limit; "+
				"join ranges, or remove a rule to %s", overlay.ErrExhausted, n, strings.Join(set.Groups, ","), overlay.MaxPortRanges, r.To)
		}
	}
	return nil
}

// ranges counts the ranges of ports of all rules towards a set of groups.
func (s *Snapshot) ranges(network string, groups []string) int {
	n := 0
	for _, r := range s.rules {
		if r.Network == network && slices.Contains(groups, r.To) {
			n += len(r.Ports)
		}
	}
	return n
}

// normalPorts sorts the ranges, each once.
func normalPorts(ports []overlay.PortRange) []overlay.PortRange {
	ports = slices.Clone(ports)
	slices.SortFunc(ports, func(a, b overlay.PortRange) int {
		return cmp.Or(cmp.Compare(a.First, b.First), cmp.Compare(a.Last, b.Last))
	})
	return slices.Compact(ports)
}

func sameRule(a, b overlay.Rule) bool {
	return a.Network == b.Network && a.From == b.From && a.To == b.To && a.Protocol == b.Protocol &&
		slices.Equal(a.Ports, b.Ports) && a.Action == b.Action && a.Audit == b.Audit
}

// RemoveRule removes a rule; its id is never used again.
func RemoveRule(s *Snapshot, network string, id overlay.RuleID) (*Decision, error) {
	if err := s.has(network); err != nil {
		return nil, err
	}
	key := network + "/" + strconv.FormatUint(uint64(id), 10)
	if _, ok := s.rules[key]; !ok {
		return nil, notFound("rule of network "+network, strconv.FormatUint(uint64(id), 10), s.ruleIDs(network))
	}
	d := &Decision{}
	d.drop(discovery.KindRule, key)
	return d, nil
}

func (s *Snapshot) ruleIDs(network string) []string {
	var ids []overlay.RuleID
	for _, key := range s.rules.below(network) {
		ids = append(ids, s.rules[key].ID)
	}
	slices.Sort(ids)
	text := make([]string, len(ids))
	for i, id := range ids {
		text[i] = strconv.FormatUint(uint64(id), 10)
	}
	return text
}

// RemoveNode voids the node's rows up to the incarnation and frees its blocks. Many blocks take
// several changes; left tells that another is needed. The first one shuts the node out, so that it is
// given nothing meanwhile.
func RemoveNode(s *Snapshot, id discovery.NodeID, incarnation uint64) (d *Decision, left bool, err error) {
	if _, plain := s.plain[string(id)]; plain {
		return removePlainNode(s, id), false, nil
	}
	a, known := s.admissions[string(id)]
	var held []string
	for _, key := range s.blocks.keys() {
		if s.blocks[key].Node == id {
			held = append(held, key)
		}
	}
	if !known || !a.VTEP.IsValid() && len(held) == 0 {
		return nil, false, notFound("admitted node", string(id), s.admittedNodes())
	}
	d = &Decision{}
	if a.VTEP.IsValid() {
		d.set(discovery.KindAdmission, string(id), discovery.Admission{Node: id, Gone: max(a.Gone, incarnation)})
	}
	for _, key := range held {
		if d.full() {
			return d, true, nil
		}
		d.drop(discovery.KindBlock, key)
	}
	return d, false, nil
}

func (s *Snapshot) admittedNodes() []string {
	var ids []string
	for _, id := range s.admissions.keys() {
		if s.admissions[id].VTEP.IsValid() {
			ids = append(ids, id)
		}
	}
	return append(ids, s.plain.keys()...)
}
