// SPDX-License-Identifier: Apache-2.0

package zone

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"weft/discovery"
	"weft/discovery/zone/record"
	"weft/discovery/zone/table"
)

// Question is a name and a type.
type Question struct {
	Name string
	Type record.Type // Any: whether the name exists at all has changed
}

// Compare orders questions by name, then type.
func (q Question) Compare(o Question) int {
	return cmp.Or(strings.Compare(q.Name, o.Name), cmp.Compare(q.Type, o.Type))
}

// Diff is what a resolver of some network sees differently.
type Diff struct {
	Questions []Question // ordered by name, then type; each once
	// All says that networks changed: any answer may be another one, and any foreign name ours.
	All bool
}

// Empty reports whether nothing changed.
func (d Diff) Empty() bool { return len(d.Questions) == 0 && !d.All }

// edit is what changes at one name.
type edit struct{ remove, add []record.Record }

// With returns the zone after changes, and what they changed. The cost is that of the names which the
// changes touch, not of the zone; but for nodes and masters that come, move or go.
func (z *Zone) With(changes []Change) (*Zone, Diff) {
	next := *z
	facts := z.facts.Txn()
	touched := map[string]struct{}{}
	var kinds touchedKinds
	for id, c := range last(changes) {
		if was := facts.At(id); was != nil {
			kinds.note(was.Fact)
		}
		kinds.note(c.Fact)
		if c.Fact == nil {
			facts.Remove(id)
		} else {
			*facts.Set(id) = c
		}
		touched[id] = struct{}{}
		if c.Kind == discovery.KindBackend { // what it says of a task changes that task's records
			touched[Source{Kind: discovery.KindName, Key: c.Key, Writer: c.Writer}.id()] = struct{}{}
		}
	}
	next.facts = facts.Commit()
	if kinds.networks {
		next.networks, next.reverse = networksOf(&next.facts, z.options)
	}
	if kinds.masters {
		s := Sourced{ensembleSource(), ensembleOf(&next.facts)}
		facts = next.facts.Txn()
		*facts.Set(s.id()) = s
		next.facts = facts.Commit()
		touched[s.id()] = struct{}{}
	}
	for node := range kinds.nodes { // a death changes its records, too
		touched[hostSource(node).id()] = struct{}{}
	}
	for _, id := range tasksOn(&next.facts, kinds.nodes) {
		touched[id] = struct{}{}
	}
	edits := map[string]*edit{}
	for id := range touched {
		collect(edits, z.recordsOf(id), next.recordsOf(id))
	}
	return &next, Diff{Questions: next.apply(z, edits), All: kinds.networks}
}

// touchedKinds are the kinds of facts that other facts' records depend on.
type touchedKinds struct {
	networks, masters bool
	nodes             map[discovery.NodeID]struct{}
}

func (k *touchedKinds) note(f Fact) {
	switch f := f.(type) {
	case Network:
		k.networks = true
	case Master, Leader, MesosMasters:
		k.masters = true
	case Host:
		k.node(f.ID)
	case Lost:
		k.node(f.Node)
	}
}

func (k *touchedKinds) node(id discovery.NodeID) {
	if k.nodes == nil {
		k.nodes = map[discovery.NodeID]struct{}{}
	}
	k.nodes[id] = struct{}{}
}

// tasksOn returns the ids of facts about tasks on nodes.
func tasksOn(facts *table.Table[Sourced], nodes map[discovery.NodeID]struct{}) []string {
	var ids []string
	if len(nodes) == 0 {
		return nil
	}
	for id, s := range facts.Each {
		if t, ok := s.Fact.(Task); ok {
			if _, moved := nodes[t.Node]; moved {
				ids = append(ids, id)
			}
		}
	}
	return ids
}

// ensembleOf collects the masters.
func ensembleOf(facts *table.Table[Sourced]) ensemble {
	var masters []discovery.Master
	var others []netip.Addr
	for _, s := range facts.Each {
		switch f := s.Fact.(type) {
		case Master:
			masters = append(masters, f.Master)
		case Leader:
			others = append(others, f.Addr)
		}
	}
	slices.SortFunc(masters, func(a, b discovery.Master) int {
		return cmp.Or(strings.Compare(a.ID, b.ID), a.Addr.Compare(b.Addr))
	})
	var e ensemble
	for _, m := range masters {
		if !slices.Contains(e.addrs, m.Addr) {
			e.addrs = append(e.addrs, m.Addr)
		}
	}
	for _, a := range others {
		if a.IsValid() && !slices.Contains(e.addrs, a) {
			e.addrs = append(e.addrs, a)
		}
	}
	return e
}

// last keeps the last change of each source.
func last(changes []Change) map[string]Change {
	m := make(map[string]Change, len(changes))
	for _, c := range changes {
		m[c.id()] = c
	}
	return m
}

// collect notes what a fact no longer gives and what it gives now, by name.
func collect(edits map[string]*edit, before, after []record.Record) {
	at := func(name string) *edit {
		e := edits[name]
		if e == nil {
			e = &edit{}
			edits[name] = e
		}
		return e
	}
	for _, r := range without(before, after) {
		at(r.Name).remove = append(at(r.Name).remove, r)
	}
	for _, r := range without(after, before) {
		at(r.Name).add = append(at(r.Name).add, r)
	}
}

// few is up to how many records are compared one by one.
const few = 32

// without returns the records that are not among others.
func without(records, others []record.Record) []record.Record {
	if len(others) == 0 {
		return records
	}
	among := func(r record.Record) bool { return slices.Contains(others, r) }
	if len(others) > few {
		set := make(map[record.Record]struct{}, len(others))
		for _, r := range others {
			set[r] = struct{}{}
		}
		among = func(r record.Record) bool {
			_, ok := set[r]
			return ok
		}
	}
	return slices.DeleteFunc(slices.Clone(records), among)
}

// unique keeps the first of equal records.
func unique(records []record.Record) []record.Record {
	seen := make(map[record.Record]struct{}, len(records))
	return slices.DeleteFunc(records, func(r record.Record) bool {
		_, twice := seen[r]
		seen[r] = struct{}{}
		return twice
	})
}

// apply carries out edits and returns the questions whose answers differ from the zone before.
func (z *Zone) apply(before *Zone, edits map[string]*edit) []Question {
	names := before.names.Txn()
	changed := map[Question]struct{}{}
	moves := map[string]int{} // how often a name began or ceased to exist
	homes := map[string][]string{}
	for name, e := range edits {
		old, _ := before.names.Get(name)
		now := merge(old, e)
		homes[name] = homesOf(old, now)
		for _, n := range names.Replace(name, now) {
			moves[n]++
		}
		z.records += len(now) - len(old)
		heeds := z.heedsAt(name)
		for _, t := range differences(Answer{Records: old, heeds: heeds}, Answer{Records: now, heeds: heeds}) {
			changed[Question{name, t}] = struct{}{}
		}
	}
	z.names = names.Commit()
	for name := range edits {
		z.ownChanges(before, name, homes, changed)
	}
	for n, times := range moves {
		if times%2 == 1 {
			changed[Question{n, record.Any}] = struct{}{}
			z.ownChanges(before, n, homes, changed)
		}
	}
	for q := range maps.Clone(changed) {
		if name, ok := z.options.mirror(q.Name); ok && q.Type != record.SOA && q.Type != record.NS {
			changed[Question{name, q.Type}] = struct{}{}
		}
	}
	return slices.SortedFunc(maps.Keys(changed), Question.Compare)
}

// merge returns the ordered records after an edit; old is not touched.
func merge(old []record.Record, e *edit) []record.Record {
	now := make([]record.Record, 0, len(old)+len(e.add))
	now = append(append(now, without(old, e.remove)...), e.add...)
	slices.SortFunc(now, record.Compare)
	return slices.Clip(slices.Compact(now))
}

// differences returns the types whose answers differ in some view.
func differences(old, now Answer) []record.Type {
	var types []record.Type
	for _, t := range record.Types() {
		if !slices.Equal(old.visible(t), now.visible(t)) {
			types = append(types, t)
		}
	}
	return types
}

// visible is what resolvers may see of a type: values and who sees them, not where they are from. Where views
// differ one may see what is left out in another, so that counts.
func (a Answer) visible(t record.Type) []record.Record {
	var out []record.Record
	views := slices.ContainsFunc(a.Records, func(r record.Record) bool { return r.Network != "" })
	for _, r := range a.Records {
		if r.Type != t || !views && a.LeftOut(r) {
			continue
		}
		network, unwell := r.Network, r.Unwell && views && a.heeds
		r = r.Bare()
		r.Network, r.Unwell = network, unwell
		if n := len(out); n == 0 || out[n-1] != r {
			out = append(out, r)
		}
	}
	return out
}

// networksOf collects the networks, by name, and the prefixes whose reverse zones are ours.
func networksOf(facts *table.Table[Sourced], o Options) (networks []Network, prefixes []netip.Prefix) {
	if o.MesosOnly {
		return nil, nil
	}
	prefixes = slices.Clone(o.Reverse)
	for _, s := range facts.Each {
		if n, ok := s.Fact.(Network); ok {
			networks = append(networks, n)
		}
	}
	slices.SortFunc(networks, func(a, b Network) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), cmp.Compare(a.VNI, b.VNI))
	})
	for _, n := range networks {
		prefixes = append(prefixes, n.Subnets...)
	}
	return networks, prefixes
}
