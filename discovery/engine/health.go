// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"weft/discovery"
	"weft/discovery/state"
	"weft/discovery/zone"
)

// backend is what names need of a backend row; the rest is load balancing's.
type backend struct {
	Task     string `json:"task"`
	Health   string `json:"health"`
	Draining bool   `json:"draining"`
}

// fit tells whether something new should go to the task: as load balancing has it.
func (b backend) fit() bool { return !b.Draining && (b.Health == "" || b.Health == "healthy") }

// health folds what nodes say of their tasks as backends: a task that one of its VIPs should not use is not well.
type health struct {
	unwell map[string]map[string]string // by writer and key of the row: the task
}

// take adds what a backend row says.
func (h *health) take(r discovery.Row) ([]zone.Change, error) {
	var b backend
	if !r.Deleted {
		var err error
		if b, err = state.Value[backend](r); err != nil {
			return h.set(r.Writer, r.Key, ""), err
		}
	}
	if b.fit() {
		b.Task = ""
	}
	return h.set(r.Writer, r.Key, b.Task), nil
}

// void forgets the rows of a writer, but for some.
func (h *health) void(writer string, keep map[rowID]bool) []zone.Change {
	var changes []zone.Change
	for key := range h.unwell[writer] {
		if !keep[rowID{discovery.KindBackend, key}] {
			changes = append(changes, h.set(writer, key, "")...)
		}
	}
	return changes
}

// set notes which task a row says is not well, none if it is empty, and returns what that changes.
func (h *health) set(writer, key, task string) []zone.Change {
	was := h.unwell[writer][key]
	if was == task {
		return nil
	}
	var changes []zone.Change
	delete(h.unwell[writer], key)
	if was != "" && !h.says(writer, was) {
		changes = append(changes, zone.Change{Source: zone.UnwellSource(was, writer)})
	}
	if task != "" {
		if !h.says(writer, task) {
			changes = append(changes, zone.Change{Source: zone.UnwellSource(task, writer), Fact: zone.Unwell{}})
		}
		if h.unwell[writer] == nil {
			h.unwell[writer] = map[string]string{}
		}
		h.unwell[writer][key] = task
	}
	if len(h.unwell[writer]) == 0 {
		delete(h.unwell, writer)
	}
	return changes
}

// says tells whether a row of the writer says so of a task.
func (h *health) says(writer, task string) bool {
	for _, t := range h.unwell[writer] {
		if t == task {
			return true
		}
	}
	return false
}
