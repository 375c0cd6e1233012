// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"cmp"
	"slices"

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
	f.Tasks = e.liveTasks()
	return f
}

// liveTasks returns what liveEntries does as compile wants it, the same list until one comes, goes or changes.
func (e *Engine) liveTasks() []compile.Task {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.tasksOf == e.changed {
		return e.tasks
	}
	var list []compile.Task
	for _, en := range e.entries {
		if en.phase == live {
			list = append(list, compile.Task{Endpoint: en.Endpoint, Ifindex: en.ifindex})
		}
	}
	slices.SortFunc(list, func(a, b compile.Task) int { return cmp.Compare(a.ID, b.ID) })
	e.tasks, e.tasksOf = list, e.changed
	return list
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
