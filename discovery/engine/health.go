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

// take notes what a backend row says, and returns the tasks of which now is said something else.
func (h *health) take(r discovery.Row) (tasks []string, err error) {
	var b backend
	if !r.Deleted {
		if b, err = state.Value[backend](r); err != nil {
			b = backend{}
		}
	}
	if b.fit() {
		b.Task = ""
	}
	return h.set(r.Writer, r.Key, b.Task), err
}

// void forgets the rows of a writer, but for some.
func (h *health) void(writer string, keep func(rowID) bool) (tasks []string) {
	for key := range h.unwell[writer] {
		if !keep(rowID{discovery.KindBackend, key}) {
			tasks = append(tasks, h.set(writer, key, "")...)
		}
	}
	return tasks
}

// set notes which task a row says is not well; empty: none.
func (h *health) set(writer, key, task string) (tasks []string) {
	was := h.unwell[writer][key]
	if was == task {
		return nil
	}
	delete(h.unwell[writer], key)
	if was != "" && !h.says(writer, was) {
		tasks = append(tasks, was)
	}
	if task != "" {
		if !h.says(writer, task) {
			tasks = append(tasks, task)
		}
		if h.unwell[writer] == nil {
			h.unwell[writer] = map[string]string{}
		}
		h.unwell[writer][key] = task
	}
	if len(h.unwell[writer]) == 0 {
		delete(h.unwell, writer)
	}
	return tasks
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

// judged adds what tasks of a writer, of which something else is said now, are in the zone.
func (e *Engine) judged(changes []zone.Change, writer string, tasks []string) []zone.Change {
	for _, task := range tasks {
		for id := range e.writers[writer] {
			if id.kind != discovery.KindName || discovery.TaskOfRow(id.key) != task {
				continue
			}
			c := zone.Change{Source: zone.UnwellSource(id.key, writer)}
			if e.health.says(writer, task) {
				c.Fact = zone.Unwell{}
			}
			changes = append(changes, c)
		}
	}
	return changes
}

// named adds whether the task of a row of names, which came or went, is well.
func (e *Engine) named(changes []zone.Change, writer string, id rowID, there bool) []zone.Change {
	if id.kind != discovery.KindName || !e.health.says(writer, discovery.TaskOfRow(id.key)) {
		return changes
	}
	c := zone.Change{Source: zone.UnwellSource(id.key, writer)}
	if there {
		c.Fact = zone.Unwell{}
	}
	return append(changes, c)
}
