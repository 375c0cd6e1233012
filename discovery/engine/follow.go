// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"maps"
	"slices"
	"time"

	"weft/discovery"
	"weft/discovery/state"
	"weft/discovery/zone"
)

// followed are the kinds that wake the engine. An admission makes no record, but may void others.
var followed = []discovery.Kind{
	discovery.KindName, discovery.KindNode, discovery.KindNetwork, discovery.KindMaster, discovery.KindLeader,
	discovery.KindAdmission, discovery.KindBackend,
}

// rowID is a row of some writer.
type rowID struct {
	kind discovery.Kind
	key  string
}

// version is a row's incarnation and seq.
type version struct{ incarnation, seq uint64 }

// writer holds the rows of a writer that gave facts, and which version did.
type writer map[rowID]version

// restart forgets how far the rows were followed, not what they said.
func (e *Engine) restart() {
	e.cursor = e.store.Cursor(state.Digest{Whole: true})
	if e.writers == nil {
		e.writers, e.gone = map[string]writer{}, map[string]uint64{}
	}
}

// refresh publishes what changed in the rows since it was called last. The cost is that of the rows
// that changed, but for the removal of a node: then all rows are looked at.
func (e *Engine) refresh() {
	var changes []zone.Change
	removed := false
	defer e.seen.Store(e.store.Revision()) // as it is now, once the zone is made of it
	for b := range e.cursor.Next() {
		changes = e.follow(changes, b, &removed)
	}
	if removed {
		// What the store no longer tells of is void: the rows of a removed node go without a word.
		e.stats.rebuilds.Add(1)
		e.restart()
		told := map[string]bool{}
		for b := range e.cursor.Next() {
			told[b.Writer] = true
			changes = e.follow(changes, b, &removed)
		}
		for _, name := range slices.Concat(slices.Collect(maps.Keys(e.writers)), slices.Collect(maps.Keys(e.health.unwell))) {
			if !told[name] {
				changes = e.void(changes, name, func(rowID) bool { return false })
			}
		}
	}
	e.publish(changes)
}

// follow adds what a batch of rows changes.
func (e *Engine) follow(changes []zone.Change, b state.Batch, removed *bool) []zone.Change {
	e.last = time.Now()
	if e.heard.IsZero() && b.Writer == discovery.Ledger {
		e.heard = e.last
	}
	if b.Reset {
		keep := map[rowID]bool{}
		for _, r := range b.Rows {
			keep[rowID{r.Kind, r.Key}] = true
		}
		changes = e.void(changes, b.Writer, func(id rowID) bool { return keep[id] || id.kind.Topic(id.key) != b.Topic })
	}
	for _, r := range b.Rows {
		if r.Kind == discovery.KindAdmission && r.Writer == discovery.Ledger && e.removes(r) {
			*removed = true
		}
		changes = e.take(changes, r)
	}
	return changes
}

// void takes away the rows of a writer, but for some.
func (e *Engine) void(changes []zone.Change, name string, keep func(rowID) bool) []zone.Change {
	for id := range e.writers[name] {
		if !keep(id) {
			delete(e.writers[name], id)
			e.moved = e.moved || id.kind == discovery.KindNode
			changes = append(changes, zone.Change{Source: zone.Source{Kind: id.kind, Key: id.key, Writer: name}})
			changes = e.named(changes, name, id, false)
		}
	}
	if len(e.writers[name]) == 0 {
		delete(e.writers, name)
	}
	return e.judged(changes, name, e.health.void(name, keep))
}

// take adds what one row changes.
func (e *Engine) take(changes []zone.Change, r discovery.Row) []zone.Change {
	if r.Kind == discovery.KindBackend && r.Writer != discovery.Ledger {
		tasks, err := e.health.take(r)
		e.understood(r, err)
		return e.judged(changes, r.Writer, tasks)
	}
	e.moved = e.moved || r.Kind == discovery.KindNode || r.Kind == discovery.KindMaster
	id, v := rowID{r.Kind, r.Key}, version{r.Incarnation, r.Seq}
	known, had := e.writers[r.Writer][id]
	if had && known == v && !r.Deleted {
		return changes
	}
	var fact zone.Fact
	if !r.Deleted {
		var err error
		if fact, err = factOf(r); err != nil {
			fact = nil
			e.understood(r, err)
		}
	}
	switch {
	case fact != nil:
		if e.writers[r.Writer] == nil {
			e.writers[r.Writer] = writer{}
		}
		e.writers[r.Writer][id] = v
	case had:
		delete(e.writers[r.Writer], id)
	default:
		return changes
	}
	changes = append(changes, zone.Change{Source: zone.Source{Kind: r.Kind, Key: r.Key, Writer: r.Writer}, Fact: fact})
	return e.named(changes, r.Writer, id, fact != nil)
}

// understood tells the operator of a row that can't be read.
func (e *Engine) understood(r discovery.Row, err error) {
	if err != nil {
		e.stats.broken.Add(1)
		e.log.Warn("row not understood", "kind", r.Kind, "key", r.Key, "writer", r.Writer, "error", err)
	}
}

// removes tells whether an admission voids rows that it did not void before.
func (e *Engine) removes(r discovery.Row) bool {
	if r.Deleted {
		return false
	}
	a, err := state.Value[discovery.Admission](r)
	if err != nil || a.Gone <= e.gone[r.Key] {
		return false
	}
	e.gone[r.Key] = a.Gone
	return true
}

// quiet tells whether the first rows have all come, as far as can be told without asking who sends
// them.
func (e *Engine) quiet(now time.Time) bool {
	return !e.heard.IsZero() && (e.restored || now.Sub(e.last) >= pause || now.Sub(e.heard) >= patience)
}
