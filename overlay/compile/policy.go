// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"

	"weft/bpf/row"
	"weft/overlay"
)

// Policy compiles verdicts and keeps what it compiled, so that a change of one group, rule or task
// costs what it changes and not what there is. The same facts come to the same rows, whatever came
// before. It is not safe for use by several goroutines.
type Policy struct {
	domains map[string]*domain // by network
	clauses map[uint64]*shared // by id

	placed placed

	sets  []overlay.GroupSet // that the domains were made from
	rules []overlay.Rule

	change Change          // of the update that is going on
	used   map[uint64]bool // clauses touched by it -> whether they were there before
}

// shared is the pages of clauses and how many verdicts name them.
type shared struct {
	pages []row.Clauses
	users int
}

// Delta is what is to be written into a table, and what is to be removed from it.
type Delta[K comparable, V any] struct {
	Put  map[K]V
	Gone map[K]struct{}
}

func newDelta[K comparable, V any]() Delta[K, V] {
	return Delta[K, V]{Put: make(map[K]V), Gone: make(map[K]struct{})}
}

func (d Delta[K, V]) put(key K, value V) {
	d.Put[key] = value
	delete(d.Gone, key)
}

func (d Delta[K, V]) remove(key K) {
	delete(d.Put, key)
	d.Gone[key] = struct{}{}
}

// Change is what an update changed of the rows that a Policy makes.
type Change struct {
	Verdicts Delta[row.VerdictKey, row.Verdict]
	Clauses  Delta[row.ClausesKey, row.Clauses]
	Sources  Delta[row.SourceKey, row.Source]
}

// NewPolicy returns a Policy of no facts.
func NewPolicy() *Policy {
	return &Policy{domains: make(map[string]*domain), clauses: make(map[uint64]*shared)}
}

// Update makes the rows those of f, and returns what is different from before.
func (p *Policy) Update(f Facts) Change {
	p.change = Change{
		newDelta[row.VerdictKey, row.Verdict](), newDelta[row.ClausesKey, row.Clauses](), newDelta[row.SourceKey, row.Source](),
	}
	p.used = make(map[uint64]bool)
	networks := byName(f.Networks)
	here := make(map[string]map[overlay.Identity][]string)
	for _, t := range f.Tasks {
		if _, known := networks[t.Network]; !known {
			continue
		}
		if here[t.Network] == nil {
			here[t.Network] = make(map[overlay.Identity][]string)
		}
		here[t.Network][t.Identity] = t.Groups
	}
	for _, n := range f.Plain { // towards which tasks' nodes judge, for they can't themselves
		if local := here[n.Network]; local != nil {
			local[n.Identity] = n.Groups
		}
	}
	for name, d := range p.domains {
		if n := networks[name]; here[name] == nil || n.VNI != d.n.VNI || n.Ungrouped != d.n.Ungrouped {
			d.clear()
			delete(p.domains, name)
		}
	}
	sets, rules := !same(p.sets, f.Sets), !same(p.rules, f.Rules)
	for name, local := range here {
		d := p.domains[name]
		isNew := d == nil
		if isNew {
			d = newDomain(p, networks[name])
			p.domains[name] = d
		}
		d.update(f, local, sets || isNew, rules || isNew)
	}
	p.sets, p.rules = f.Sets, f.Rules
	p.settle()
	return p.change
}

// same reports whether two lists are one: facts that did not change come as the same list.
func same[T any](a, b []T) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

// settle notes which clauses came and which are named by no verdict any more.
func (p *Policy) settle() {
	for id, before := range p.used {
		s := p.clauses[id]
		if s.users == 0 {
			delete(p.clauses, id)
		}
		for i, page := range s.pages {
			key := row.ClausesKey{ID: id, Page: uint32(i)}
			switch {
			case s.users > 0 && !before:
				p.change.Clauses.put(key, page)
			case s.users == 0 && before:
				p.change.Clauses.remove(key)
			}
		}
	}
}

// All adds the rows that p made to r.
func (p *Policy) All(r Rows) Rows {
	r.Verdicts = make(map[row.VerdictKey]row.Verdict)
	r.Clauses = make(map[row.ClausesKey]row.Clauses)
	r.Sources = make(map[row.SourceKey]row.Source)
	for _, d := range p.domains {
		for dst, t := range d.targets {
			for src, v := range t.verdicts {
				r.Verdicts[verdictKey(d.n.VNI, src, dst)] = v
			}
		}
		for prefix, number := range d.prefixes {
			r.Sources[row.SourceKeyOf(uint32(d.n.VNI), prefix)] = row.Source{Src: number}
		}
	}
	for id, s := range p.clauses {
		for i, page := range s.pages {
			r.Clauses[row.ClausesKey{ID: id, Page: uint32(i)}] = page
		}
	}
	return r
}

// prefixed returns the identities here towards which prefixes of the world count.
func (p *Policy) prefixed() map[identityOf]bool {
	found := make(map[identityOf]bool)
	for _, d := range p.domains {
		for dst, t := range d.targets {
			if t.prefixed() {
				found[identityOf{d.n.VNI, dst}] = true
			}
		}
	}
	return found
}

// use counts a verdict that names clauses, or stops to.
func (p *Policy) use(id uint64, by int) {
	if id == 0 {
		return
	}
	s := p.clauses[id]
	if _, touched := p.used[id]; !touched {
		p.used[id] = s.users > 0
	}
	s.users += by
}

// verdict makes a pair's clauses a row, which names them where they are several; false: there is none.
func (p *Policy) verdict(list []row.Clause) (row.Verdict, bool) {
	if len(list) == 1 {
		return row.Verdict{Action: list[0].Action(), Rule: list[0].Rule}, list[0].Action() != row.VerdictNone
	}
	id := row.ClausesID(list)
	if p.clauses[id] == nil {
		pages := row.PagesOf(list)
		if pages == nil {
			return row.Verdict{}, false // nothing passes; the masters refuse rules that come to so many
		}
		p.clauses[id] = &shared{pages: pages}
		p.used[id] = false
	}
	return row.Verdict{Clauses: id}, true
}

// target is an identity of this node's tasks or of a plain node, towards which verdicts are compiled.
type target struct {
	Party
	about    []*rule                // by id
	verdicts map[uint32]row.Verdict // by source
	memo     map[string]row.Verdict // by what is said; the rules in it are of about
	stale    map[uint32]struct{}    // sources to be looked at again
}

// prefixed reports whether rules towards the target name prefixes of the world.
func (t *target) prefixed() bool {
	return slices.ContainsFunc(t.about, func(r *rule) bool { return r.prefix.IsValid() })
}

// compile looks at one source again.
func (d *domain) compile(dst overlay.Identity, t *target, src uint32) {
	v, wanted := row.Verdict{}, false
	if from, known := d.party(src); known && (!from.prefix.IsValid() || t.prefixed()) {
		v, wanted = d.pair(from, t)
	}
	old, there := t.verdicts[src]
	key := verdictKey(d.n.VNI, src, dst)
	switch {
	case wanted && there && old == v, !wanted && !there:
		return
	case wanted:
		d.p.use(v.Clauses, 1)
		t.verdicts[src] = v
		d.p.change.Verdicts.put(key, v)
	default:
		delete(t.verdicts, src)
		d.p.change.Verdicts.remove(key)
	}
	if there {
		d.p.use(old.Clauses, -1)
	}
}

// pair returns the verdict of one source about a target.
func (d *domain) pair(src Party, t *target) (row.Verdict, bool) {
	ground, _ := commonGround(d.n, src, t.Party)
	common := ground != GroundNone
	var rules []*rule
	var ids [64]byte
	key := ids[:0]
	for _, r := range t.about {
		if r.from(src) {
			rules = append(rules, r)
			key = binary.LittleEndian.AppendUint32(key, uint32(r.ID))
		}
	}
	if rules == nil {
		return row.Verdict{Action: row.VerdictAllow}, common
	}
	if common {
		key = append(key, 1)
	}
	v, known := t.memo[string(key)]
	if !known || v.Clauses != 0 && d.p.clauses[v.Clauses] == nil {
		var some bool
		if v, some = d.p.verdict(clausesOf(common, rules)); !some {
			v.Action = row.VerdictNone
		}
		t.memo[string(key)] = v
	}
	return v, v.Clauses != 0 || v.Action != row.VerdictNone
}

func sortRules(a, b *rule) int { return cmp.Compare(a.ID, b.ID) }

// domain is one network.
type domain struct {
	p        *Policy
	n        overlay.Network
	sets     []set                          // by identity; of those that are none, round is 0
	own      map[uint32]bool                // those that tasks here were given and no row is about
	members  map[string]map[uint32]struct{} // of each group
	rules    map[overlay.RuleID]*rule
	prefixes map[netip.Prefix]uint32
	byNumber map[uint32]netip.Prefix // the other way round
	targets  map[overlay.Identity]*target
	round    uint64
}

type set struct {
	groups []string
	round  uint64 // in which it was seen last
}

func newDomain(p *Policy, n overlay.Network) *domain {
	return &domain{
		p: p, n: n, own: make(map[uint32]bool), members: make(map[string]map[uint32]struct{}),
		rules: make(map[overlay.RuleID]*rule), targets: make(map[overlay.Identity]*target),
	}
}

// party returns what a source is; false: nobody.
func (d *domain) party(src uint32) (Party, bool) {
	switch src {
	case row.IdentityNone, row.IdentityWorld, row.IdentityUngrouped, row.IdentityOtherNode:
		return Party{Identity: src}, true
	}
	if prefix, ok := d.byNumber[src]; ok {
		return Party{Identity: src, prefix: prefix}, true
	}
	s := d.set(src)
	return Party{Identity: src, Groups: s.groups}, s.round != 0
}

func (d *domain) set(src uint32) set {
	if src >= uint32(len(d.sets)) {
		return set{}
	}
	return d.sets[src]
}
