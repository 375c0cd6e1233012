// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"cmp"
	"slices"

	"weft/overlay"
	"weft/overlay/compile"
)

// now returns what rows are made from now.
func (e *Engine) now() compile.Facts {
	f := compile.Facts{
		Node: e.o.Node, VTEP: e.o.Underlay.Addr, MTU: e.o.Underlay.MTU,
		Nodes: e.facts.Admitted(), Paths: e.paths.Found(),
		Plain: e.facts.Plain(), OwnMAC: e.ownMAC(),
		Networks: e.facts.Networks(), Blocks: e.facts.Blocks(), Sets: e.facts.Sets(), Rules: e.facts.Rules(),
		Host: e.o.Self,
	}
	f.Tasks, f.InHost = e.liveTasks()
	return f
}

// liveTasks returns what liveEntries does as compile wants it, the same lists until one comes, goes or changes.
func (e *Engine) liveTasks() (tasks []compile.Task, inHost []overlay.Endpoint) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.tasksOf == e.changed {
		return e.tasks, e.inHost
	}
	for _, en := range e.entries {
		switch {
		case en.phase != live:
		case en.InHost():
			inHost = append(inHost, en.Endpoint)
		default:
			tasks = append(tasks, compile.Task{Endpoint: en.Endpoint, Ifindex: en.ifindex})
		}
	}
	slices.SortFunc(tasks, func(a, b compile.Task) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortFunc(inHost, func(a, b overlay.Endpoint) int { return cmp.Compare(a.ID, b.ID) })
	e.tasks, e.inHost, e.tasksOf = tasks, inHost, e.changed
	return tasks, inHost
}

// ownMAC is what plain nodes know this node by, zero for overlay.VTEPMAC.
func (e *Engine) ownMAC() (mac [6]byte) {
	if e.o.OwnMAC != nil && len(e.facts.Plain()) > 0 {
		mac = e.o.OwnMAC(e.facts.Networks(), e.facts.Blocks())
	}
	return mac
}

// liveEntries returns copies of the live entries, by id.
func (e *Engine) liveEntries() []entry {
	e.mu.Lock()
	defer e.mu.Unlock()
	var list []entry
	for _, en := range e.entries {
		if en.phase == live {
			list = append(list, *en)
		}
	}
	slices.SortFunc(list, func(a, b entry) int { return cmp.Compare(a.ID, b.ID) })
	return list
}
