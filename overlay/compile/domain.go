// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"maps"
	"net/netip"
	"slices"

	"weft/bpf/row"
	"weft/overlay"
)

// update makes the domain that of the facts. local is the identities of the tasks here with their
// groups. The stages, each noting which sources of which target are to be looked at again:
//
//  1. sets     every source whose groups are others, for all targets
//  2. rules    for the targets that a changed rule is about, the sources that it is about
//  3. targets  those that came or have other groups, all sources
//  4. compile  what was noted
func (d *domain) update(f Facts, local map[overlay.Identity][]string, sets, rules bool) {
	d.round++
	changed := make(map[uint32]struct{})
	if sets {
		d.takeSets(f.Sets, local, changed)
	} else {
		d.takeOwn(local, changed, false)
	}
	if rules {
		d.takeRules(f.Rules, changed)
	}
	d.takeTargets(local)
	for dst, t := range d.targets {
		for _, sources := range []map[uint32]struct{}{changed, t.stale} {
			for src := range sources {
				d.compile(dst, t, src)
			}
		}
		t.stale = nil
	}
}

// takeSets reads every identity.
func (d *domain) takeSets(all []overlay.GroupSet, local map[overlay.Identity][]string, changed map[uint32]struct{}) {
	for _, s := range all {
		if s.Network == d.n.Name {
			d.takeSet(uint32(s.Identity), s.Groups, changed)
			if len(d.own) > 0 {
				delete(d.own, uint32(s.Identity))
			}
		}
	}
	d.takeOwn(local, changed, true)
	for src := range d.sets {
		if r := d.sets[src].round; r != d.round && r != 0 {
			d.drop(uint32(src), changed)
		}
	}
}

// takeOwn adds the identities of the tasks here that the masters have no row about, not yet or not
// again: it counts what the tasks were given. all: the masters' rows were read in this round.
func (d *domain) takeOwn(local map[overlay.Identity][]string, changed map[uint32]struct{}, all bool) {
	for src := range d.own {
		if _, here := local[overlay.Identity(src)]; !here {
			d.drop(src, changed)
		}
	}
	for identity, groups := range local {
		src := uint32(identity)
		s, own := d.set(src), d.own[src]
		if s.round == 0 || own || all && s.round != d.round {
			d.takeSet(src, groups, changed)
			d.own[src] = true
		}
	}
}

func (d *domain) takeSet(src uint32, groups []string, changed map[uint32]struct{}) {
	if src < row.IdentityFirst {
		return
	}
	if n := int(src) + 1 - len(d.sets); n > 0 {
		d.sets = append(d.sets, make([]set, n)...)
	}
	s := &d.sets[src]
	known := s.round != 0
	s.round = d.round
	if known && (same(s.groups, groups) || slices.Equal(s.groups, groups)) {
		return
	}
	d.join(src, s.groups, false)
	d.join(src, groups, true)
	s.groups = groups
	changed[src] = struct{}{}
}

func (d *domain) drop(src uint32, changed map[uint32]struct{}) {
	if src < uint32(len(d.sets)) {
		d.join(src, d.sets[src].groups, false)
		d.sets[src] = set{}
	}
	delete(d.own, src)
	changed[src] = struct{}{}
}

// join notes that a source is in groups, or is no more.
func (d *domain) join(src uint32, groups []string, is bool) {
	for _, g := range groups {
		if !is {
			delete(d.members[g], src)
			continue
		}
		if d.members[g] == nil {
			d.members[g] = make(map[uint32]struct{})
		}
		d.members[g][src] = struct{}{}
	}
}

// takeRules reads every rule.
func (d *domain) takeRules(all []overlay.Rule, changed map[uint32]struct{}) {
	rules := make(map[overlay.RuleID]*rule)
	for _, r := range all {
		if r.Network != d.n.Name {
			continue
		}
		if read := newRule(r); read != nil {
			rules[r.ID] = read
		}
	}
	prefixes := prefixesOf(maps.Values(rules))
	d.renumber(prefixes, changed)
	for id, old := range d.rules {
		if now := rules[id]; now != nil && sameRule(old, now) {
			rules[id] = old
			continue
		}
		d.affect(old, false)
	}
	for id, r := range rules {
		if d.rules[id] != r {
			d.affect(r, true)
		}
	}
	d.rules = rules
}

func sameRule(a, b *rule) bool {
	return a.From == b.From && a.To == b.To && a.Protocol == b.Protocol && a.Action == b.Action && a.Audit == b.Audit &&
		slices.Equal(a.Ports, b.Ports)
}

// renumber makes the prefixes of the world those that rules name now.
func (d *domain) renumber(prefixes map[netip.Prefix]uint32, changed map[uint32]struct{}) {
	vni := uint32(d.n.VNI)
	for prefix, number := range d.prefixes {
		if prefixes[prefix] != number {
			changed[number] = struct{}{}
			d.p.change.Sources.remove(row.SourceKeyOf(vni, prefix))
		}
	}
	byNumber := make(map[uint32]netip.Prefix, len(prefixes))
	for prefix, number := range prefixes {
		byNumber[number] = prefix
		if d.prefixes[prefix] != number {
			changed[number] = struct{}{}
			d.p.change.Sources.put(row.SourceKeyOf(vni, prefix), row.Source{Src: number})
		}
	}
	d.prefixes, d.byNumber = prefixes, byNumber
}

// affect adds a rule to the targets that it is about, or takes it away.
func (d *domain) affect(r *rule, is bool) {
	for _, t := range d.targets {
		if !t.in(r.To) {
			continue
		}
		i, _ := slices.BinarySearchFunc(t.about, r, sortRules)
		if is {
			t.about = slices.Insert(t.about, i, r)
		} else {
			t.about = slices.Delete(t.about, i, i+1)
		}
		t.memo = make(map[string]row.Verdict)
		t.note(d.sourcesOf(r))
	}
}

func (t *target) note(sources map[uint32]struct{}) {
	if t.stale == nil {
		t.stale = make(map[uint32]struct{}, len(sources))
	}
	maps.Copy(t.stale, sources)
}

// sourcesOf returns who a rule may be about. A rule that names a prefix decides whether the prefixes
// of the world count at all.
func (d *domain) sourcesOf(r *rule) map[uint32]struct{} {
	if !r.prefix.IsValid() && r.From != overlay.World {
		return d.members[r.From]
	}
	return d.world()
}

func (d *domain) world() map[uint32]struct{} {
	sources := map[uint32]struct{}{row.IdentityWorld: {}, row.IdentityOtherNode: {}}
	for number := range d.byNumber {
		sources[number] = struct{}{}
	}
	return sources
}

// takeTargets makes the targets those of the tasks here.
func (d *domain) takeTargets(local map[overlay.Identity][]string) {
	for dst, t := range d.targets {
		if _, here := local[dst]; !here {
			d.forget(dst, t)
		}
	}
	for dst, groups := range local {
		if s := d.set(uint32(dst)); s.round != 0 {
			groups = s.groups
		}
		t := d.targets[dst]
		if t != nil && slices.Equal(t.Groups, groups) {
			continue
		}
		fresh := &target{
			Party: Party{Identity: uint32(dst), Groups: groups}, verdicts: make(map[uint32]row.Verdict), memo: make(map[string]row.Verdict),
		}
		if t != nil { // the same number, now of other groups: what was said is to be said again or taken back
			fresh.verdicts = t.verdicts
		}
		for _, r := range d.rules {
			if fresh.in(r.To) {
				fresh.about = append(fresh.about, r)
			}
		}
		slices.SortFunc(fresh.about, sortRules)
		d.candidates(fresh)
		d.targets[dst] = fresh
	}
}

// candidates notes every source that anything may be said about.
func (d *domain) candidates(t *target) {
	t.note(d.world())
	t.stale[row.IdentityUngrouped] = struct{}{}
	t.stale[row.IdentityNone] = struct{}{} // a VXLAN sender that is not ours: public alone accepts it
	for src := range t.verdicts {
		t.stale[src] = struct{}{}
	}
	for _, g := range t.Groups {
		t.note(d.members[g])
	}
	for _, r := range t.about {
		t.note(d.sourcesOf(r))
	}
	if t.in(overlay.GroupPublic) || t.Identity == row.IdentityUngrouped && d.n.Ungrouped == overlay.UngroupedOpen {
		for src, s := range d.sets {
			if s.round != 0 {
				t.stale[uint32(src)] = struct{}{}
			}
		}
	}
}

// forget takes a target's verdicts back.
func (d *domain) forget(dst overlay.Identity, t *target) {
	for src, v := range t.verdicts {
		d.p.use(v.Clauses, -1)
		d.p.change.Verdicts.remove(verdictKey(d.n.VNI, src, dst))
	}
	delete(d.targets, dst)
}

// clear takes everything back.
func (d *domain) clear() {
	for dst, t := range d.targets {
		d.forget(dst, t)
	}
	for prefix := range d.prefixes {
		d.p.change.Sources.remove(row.SourceKeyOf(uint32(d.n.VNI), prefix))
	}
}
