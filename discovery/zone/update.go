// SPDX-License-Identifier: Apache-2.0

package zone

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"

	iradix "github.com/hashicorp/go-immutable-radix"
)

// Question is a name and a type.
type Question struct {
	Name string
	Type Type // Any: whether the name exists at all has changed
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
type edit struct{ remove, add []Record }

// With returns the zone after changes, and what they changed. The cost is that of the names which the
// changes touch, not of the zone.
func (z *Zone) With(changes []Change) (*Zone, Diff) {
	next := *z
	facts := z.facts.Txn()
	edits := map[string]*edit{}
	var diff Diff
	for id, c := range last(changes) {
		id := []byte(id)
		var before, after []Record
		if v, ok := facts.Get(id); ok {
			old, _ := v.(Sourced)
			before = z.options.recordsOf(old)
			diff.All = diff.All || isNetwork(old.Fact)
		}
		if c.Fact == nil {
			facts.Delete(id)
		} else {
			facts.Insert(id, c)
			after = z.options.recordsOf(c)
			diff.All = diff.All || isNetwork(c.Fact)
		}
		collect(edits, before, after)
	}
	next.facts = facts.Commit()
	if diff.All {
		next.networks, next.reverse = networksOf(next.facts, z.options)
	}
	diff.Questions = next.apply(z, edits)
	return &next, diff
}

// last keeps the last change of each source.
func last(changes []Change) map[string]Change {
	m := make(map[string]Change, len(changes))
	for _, c := range changes {
		m[string(c.id())] = c
	}
	return m
}

// collect notes what a fact no longer gives and what it gives now, by name.
func collect(edits map[string]*edit, before, after []Record) {
	at := func(name string) *edit {
		e := edits[name]
		if e == nil {
			e = &edit{}
			edits[name] = e
		}
		return e
	}
	for _, r := range before {
		if !slices.Contains(after, r) {
			at(r.Name).remove = append(at(r.Name).remove, r)
		}
	}
	for _, r := range after {
		if !slices.Contains(before, r) {
			at(r.Name).add = append(at(r.Name).add, r)
		}
	}
}

// apply carries out edits and returns the questions whose answers differ from the zone before.
func (z *Zone) apply(before *Zone, edits map[string]*edit) []Question {
	names := before.names.Txn()
	changed := map[Question]struct{}{}
	var moved []string // names that came or went
	for name, e := range edits {
		k := key(name)
		v, had := names.Get(k)
		old := set(v)
		now := merge(old, e)
		if len(now) == 0 {
			names.Delete(k)
		} else {
			names.Insert(k, now)
		}
		z.records += len(now) - len(old)
		if had != (len(now) > 0) {
			moved = append(moved, name)
		}
		for _, t := range differences(old, now) {
			changed[Question{name, t}] = struct{}{}
		}
	}
	z.names = names.Commit()
	for _, name := range moved {
		for _, n := range ancestry(name) {
			if k := key(n); below(before, k) != below(z, k) {
				changed[Question{n, Any}] = struct{}{}
			}
		}
	}
	return slices.SortedFunc(maps.Keys(changed), func(a, b Question) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), cmp.Compare(a.Type, b.Type))
	})
}

// merge returns the ordered records after an edit; old is not touched.
func merge(old []Record, e *edit) []Record {
	now := make([]Record, 0, len(old)+len(e.add))
	for _, r := range old {
		if !slices.Contains(e.remove, r) {
			now = append(now, r)
		}
	}
	now = append(now, e.add...)
	slices.SortFunc(now, compare)
	return slices.Clip(slices.Compact(now))
}

// differences returns the types whose answers differ in some view.
func differences(old, now []Record) []Type {
	var types []Type
	for _, t := range [...]Type{A, NS, SOA, PTR, AAAA, SRV} {
		if !slices.Equal(visible(old, t), visible(now, t)) {
			types = append(types, t)
		}
	}
	return types
}

// visible is what resolvers may see of a type: values and who sees them, not where they are from.
func visible(records []Record, t Type) []Record {
	var out []Record
	for _, r := range records {
		if r.Type != t {
			continue
		}
		r.From, r.Writer = "", ""
		if n := len(out); n == 0 || out[n-1] != r {
			out = append(out, r)
		}
	}
	return out
}

// ancestry is the name and all names above it but the root.
func ancestry(name string) []string {
	var names []string
	for name != "" {
		names = append(names, name)
		_, name, _ = strings.Cut(name, ".")
	}
	return names
}

func isNetwork(f Fact) bool {
	_, ok := f.(Network)
	return ok
}

// networksOf collects the networks, by name, and the prefixes whose reverse zones are ours.
func networksOf(facts *iradix.Tree, o Options) (networks []Network, prefixes []netip.Prefix) {
	prefixes = slices.Clone(o.Reverse)
	facts.Root().Walk(func(_ []byte, v any) bool {
		s, _ := v.(Sourced)
		if n, ok := s.Fact.(Network); ok {
			networks = append(networks, n)
			prefixes = append(prefixes, n.Subnets...)
		}
		return false
	})
	slices.SortStableFunc(networks, func(a, b Network) int { return strings.Compare(a.Name, b.Name) })
	return networks, prefixes
}
