// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"

	"weft/discovery"
	"weft/discovery/zone"
)

// Hold waits until all rows that make the records of a name are here and in the zone, and returns whether they
// are: without, what the zone has may be a part, and what it lacks is no proof.
func (e *Engine) Hold(ctx context.Context, name string) bool {
	return e.hold(ctx, e.zone.Load().Topics(name))
}

// Held is Hold for who can't wait: false says that Hold might.
func (e *Engine) Held(name string) bool {
	topics := e.zone.Load().Topics(name)
	return e.wanted == nil || len(topics) == 0 || e.wanted.Holds(topics...) && !e.behind()
}

// HoldAll is Hold for every name.
func (e *Engine) HoldAll(ctx context.Context) bool {
	return e.hold(ctx, []discovery.Topic{{Kind: discovery.KindName, Of: discovery.Every}})
}

func (e *Engine) hold(ctx context.Context, topics []discovery.Topic) bool {
	if e.wanted == nil || len(topics) == 0 {
		return true
	}
	held := e.wanted.Use(ctx, topics...)
	if e.behind() {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.refresh()
	}
	return held
}

// behind tells that rows changed since the zone was made.
func (e *Engine) behind() bool { return e.seen.Load() != e.store.Revision() }

// Left takes out of the zone what the store does not hold any more. That is no change of what is true, so answers
// made of it have to be forgotten before.
func (e *Engine) Left() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.refresh()
	e.cursor.Forget(func(of discovery.Stream) bool { return !e.store.Holds(of) })
	var changes []zone.Change
	for name := range e.writers {
		changes = e.void(changes, name, func(id rowID) bool {
			return e.store.Holds(discovery.Stream{Writer: name, Topic: id.kind.Topic(id.key)})
		})
	}
	e.publish(changes)
}
