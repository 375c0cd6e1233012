// SPDX-License-Identifier: Apache-2.0

// Package facts reads the rows of all nodes and masters as nouns of networks, each kind once per change. What is not
// readable, not usable or not its writer's to say is left out and logged. What the nouns come to is overlay/compile's.
package facts

import (
	"bytes"
	"cmp"
	"encoding/json"
	"log/slog"
	"net/netip"
	"slices"
	"sync"

	"weft/discovery"
	"weft/overlay"
	"weft/overlay/compile"
)

// Rows is where facts come from; discovery/state.Store is one.
type Rows interface {
	Rows(kind discovery.Kind) []discovery.Row
	Changed(kinds ...discovery.Kind) <-chan struct{}
}

// Facts reads rows as nouns. The lists that it returns are shared, and the same ones until something changes: nobody
// changes them. Make it with New.
type Facts struct {
	rows Rows
	log  *slog.Logger

	networks   kind[overlay.Network]
	groups     kind[overlay.Group]
	sets       kind[overlay.GroupSet]
	rules      kind[overlay.Rule]
	blocks     kind[overlay.Block]
	admissions kind[discovery.Admission]
	plain      kind[overlay.PlainNode]
	nodes      kind[discovery.Node]

	admitted derived[[]compile.Node]
	holders  derived[map[netip.Prefix]overlay.Block]
}

// New returns Facts of rows.
func New(rows Rows, log *slog.Logger) *Facts { return &Facts{rows: rows, log: log} }

// Changed returns what is closed when a row of these kinds changes.
func (f *Facts) Changed(kinds ...discovery.Kind) <-chan struct{} { return f.rows.Changed(kinds...) }

// derived is what was made from kinds of rows, made anew when they change.
type derived[T any] struct {
	mu       sync.Mutex
	versions [2]uint64 // of the kinds
	value    T
}

func (d *derived[T]) of(a, b uint64, fresh func() T) T {
	d.mu.Lock()
	defer d.mu.Unlock()
	if now := [2]uint64{a, b}; d.versions != now {
		d.versions, d.value = now, fresh()
	}
	return d.value
}

// kind is the rows of a kind, read.
type kind[T any] struct {
	mu      sync.Mutex
	changed <-chan struct{} // closed: values are of yesterday
	rows    []discovery.Row // by writer and key, as read last
	parsed  []parsed[T]     // of rows
	values  []T             // those of parsed that are usable
	version uint64          // grows with each reading
}

type parsed[T any] struct {
	value  T
	usable bool
}

func (k *kind[T]) read(f *Facts, what discovery.Kind) ([]T, uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.changed != nil {
		select {
		case <-k.changed:
		default:
			return k.values, k.version
		}
	}
	k.changed = f.rows.Changed(what)
	k.version++
	rows := f.rows.Rows(what)
	now, values := make([]parsed[T], len(rows)), make([]T, 0, len(rows))
	at := 0 // in the rows of last time, which have the same order
	for i, r := range rows {
		for at < len(k.rows) && before(k.rows[at], r) {
			at++
		}
		if at < len(k.rows) && sameRow(k.rows[at], r) {
			now[i] = k.parsed[at]
		} else {
			now[i] = parse[T](f, r, what)
		}
		if now[i].usable {
			values = append(values, now[i].value)
		}
	}
	k.rows, k.parsed, k.values = rows, now, values
	return k.values, k.version
}

func before(a, b discovery.Row) bool {
	return cmp.Or(cmp.Compare(a.Writer, b.Writer), cmp.Compare(a.Key, b.Key)) < 0
}

// sameRow reports whether a row was read before: a writer numbers what it says.
func sameRow(a, b discovery.Row) bool {
	return a.Seq == b.Seq && a.Incarnation == b.Incarnation && a.Key == b.Key && a.Writer == b.Writer && bytes.Equal(a.Value, b.Value)
}

// parse reads a row. The masters' kinds are the masters' to write, a node's are that node's.
func parse[T any](f *Facts, r discovery.Row, what discovery.Kind) (p parsed[T]) {
	if (r.Writer == discovery.Ledger) == (what == discovery.KindNode) {
		return p
	}
	if err := json.Unmarshal(r.Value, &p.value); err != nil {
		f.log.Warn("row is not readable", "writer", r.Writer, "kind", string(r.Kind), "key", r.Key, "error", err.Error())
		return p
	}
	if writer, ok := writerOf(p.value); ok && writer != r.Writer {
		return p // said about someone else
	}
	if err := check(p.value); err != nil {
		f.log.Warn("row is not usable", "writer", r.Writer, "kind", string(r.Kind), "key", r.Key, "error", err.Error())
		return p
	}
	p.usable = true
	return p
}

// writerOf returns who alone may say v, if it matters.
func writerOf(v any) (string, bool) {
	switch v := v.(type) {
	case discovery.Node:
		return string(v.ID), true
	}
	return "", false
}

// check refuses nouns that later code relies on being whole; a later build's masters may say more than
// this one understands.
func check(v any) error {
	switch v := v.(type) {
	case overlay.Network:
		return v.Validate()
	case overlay.Rule:
		return v.Validate()
	case overlay.PlainNode:
		return v.Validate()
	}
	return nil
}

func values[T any](k *kind[T], f *Facts, what discovery.Kind) []T {
	v, _ := k.read(f, what)
	return v
}

// Networks returns the networks, as the masters wrote them.
func (f *Facts) Networks() []overlay.Network { return values(&f.networks, f, discovery.KindNetwork) }

// Groups returns the groups that are declared.
func (f *Facts) Groups() []overlay.Group { return values(&f.groups, f, discovery.KindGroup) }

// Sets returns the sets of groups that have an identity.
func (f *Facts) Sets() []overlay.GroupSet { return values(&f.sets, f, discovery.KindIdentity) }

// Rules returns the rules of all networks.
func (f *Facts) Rules() []overlay.Rule { return values(&f.rules, f, discovery.KindRule) }

// Blocks returns the blocks of all networks and nodes.
func (f *Facts) Blocks() []overlay.Block { return values(&f.blocks, f, discovery.KindBlock) }

// Plain returns the plain nodes.
func (f *Facts) Plain() []overlay.PlainNode { return values(&f.plain, f, discovery.KindPlain) }

// Admitted returns the nodes whose frames are accepted.
func (f *Facts) Admitted() []compile.Node {
	admissions, a := f.admissions.read(f, discovery.KindAdmission)
	nodes, b := f.nodes.read(f, discovery.KindNode)
	return f.admitted.of(a, b, func() []compile.Node { return compile.Nodes(admissions, nodes) })
}

// Block returns the block of a prefix, which is given once in all networks.
func (f *Facts) Block(p netip.Prefix) (overlay.Block, bool) {
	blocks, version := f.blocks.read(f, discovery.KindBlock)
	holders := f.holders.of(version, 0, func() map[netip.Prefix]overlay.Block {
		m := make(map[netip.Prefix]overlay.Block, len(blocks))
		for _, b := range blocks {
			m[b.Prefix] = b
		}
		return m
	})
	b, ok := holders[p]
	return b, ok
}

// Known reports whether the masters' word is here at all. A store that has lost it would otherwise
// look like one whose networks were all removed.
func (f *Facts) Known() bool {
	return len(f.Networks()) > 0 || len(values(&f.admissions, f, discovery.KindAdmission)) > 0 || len(f.rows.Rows(discovery.KindLeader)) > 0 ||
		len(f.rows.Rows(discovery.KindMaster)) > 0
}

// Network returns a network by name.
func (f *Facts) Network(name string) (overlay.Network, bool) {
	for _, n := range f.Networks() {
		if n.Name == name && n.VNI != 0 {
			return n.Normal(), true
		}
	}
	return overlay.Network{}, false
}

// Identity returns the number of a set of groups, sorted. One that is retired has to be asked for again.
func (f *Facts) Identity(network string, groups []string) (overlay.Identity, bool) {
	for _, s := range f.Sets() {
		if s.Network == network && s.Retired == 0 && slices.Equal(s.Groups, groups) {
			return s.Identity, true
		}
	}
	return 0, false
}
