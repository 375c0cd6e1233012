// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"time"

	"weft/discovery"
	"weft/discovery/zone"
)

// unseen is how long a node that was never heard here, since this process began, is not taken for dead: its rows may
// be faster than its first word as a member.
const unseen = 10 * time.Second

// liveness is how a node was last seen.
type liveness struct {
	alive bool
	heard bool // at any time since this process began
	since time.Time
}

// look notes whether a node is alive now.
func (e *Engine) look(id discovery.NodeID, now time.Time) liveness {
	alive := id == e.self
	if e.members != nil {
		alive = e.members.Alive(id)
	}
	l, known := e.alive[id]
	if !known || l.alive != alive {
		l = liveness{alive, alive || l.heard, now}
		e.alive[id] = l
	}
	return l
}

// judgeNodes takes the names of the tasks of dead nodes out of the zone, and puts those of the living in again; for
// others the time of a change is noted. It tells whether somebody may be dead that is not taken for dead yet.
//
// Who hears no more than half of all nodes and masters is cut off itself, and proves nobody's death: what it knew of
// names stays. A node of which only the daemon is silent is none of the dead: its tasks run, and their names lead to them.
func (e *Engine) judgeNodes(now time.Time) (undecided bool) {
	for id := range e.alive {
		e.look(id, now)
	}
	nodes := e.store.Rows(discovery.KindNode)
	apart := e.members == nil || 2*e.members.Living() <= len(nodes)+len(e.store.Rows(discovery.KindMaster))
	var changes []zone.Change
	dead := make(map[discovery.NodeID]bool)
	for _, r := range nodes {
		id := discovery.NodeID(r.Writer)
		l := e.look(id, now)
		if l.alive || apart {
			continue
		}
		waits := !l.heard && now.Sub(l.since) < unseen
		undecided = undecided || waits
		if waits || l.heard && !e.members.Dead(id) {
			continue
		}
		dead[id] = true
		if !e.lost[id] {
			changes = append(changes, zone.Change{Source: zone.LostSource(id), Fact: zone.Lost{Node: id}})
			e.log.Warn("node is dead; its tasks have no names", "node", id)
		}
	}
	for id := range e.lost {
		if !dead[id] {
			changes = append(changes, zone.Change{Source: zone.LostSource(id)})
		}
	}
	e.lost = dead
	if len(changes) > 0 {
		e.publish(changes)
	}
	return undecided
}

// membersChanged is never closed without members.
func (e *Engine) membersChanged() <-chan struct{} {
	if e.members == nil {
		return nil
	}
	return e.members.Changed()
}
