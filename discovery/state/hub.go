// SPDX-License-Identifier: Apache-2.0

package state

import (
	"sync"

	"weft/discovery"
)

// hub tells cursors of the streams that changed: each of those that it takes, so that a change costs what its
// followers cost, not what all cursors do.
type hub struct {
	mu  sync.Mutex
	all map[*Cursor]struct{} // what everyone holds goes to all
	// by has who takes a topic; the zero one stands for all of them.
	by map[discovery.Topic]map[*Cursor]struct{}
}

func (h *hub) add(c *Cursor, whole bool, topics []discovery.Topic) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.all == nil {
		h.all, h.by = make(map[*Cursor]struct{}), make(map[discovery.Topic]map[*Cursor]struct{})
	}
	h.all[c] = struct{}{}
	if whole {
		h.put(c, discovery.Topic{})
	}
	for _, t := range topics {
		h.put(c, t)
	}
}

func (h *hub) put(c *Cursor, t discovery.Topic) {
	if h.by[t] == nil {
		h.by[t] = make(map[*Cursor]struct{})
	}
	h.by[t][c] = struct{}{}
}

func (h *hub) drop(c *Cursor, t discovery.Topic) {
	if delete(h.by[t], c); len(h.by[t]) == 0 {
		delete(h.by, t)
	}
}

func (h *hub) turn(c *Cursor, take, leave []discovery.Topic) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, follows := h.all[c]; !follows {
		return // it was closed
	}
	for _, t := range leave {
		h.drop(c, t)
	}
	for _, t := range take {
		h.put(c, t)
	}
}

func (h *hub) remove(c *Cursor) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.all, c)
	h.drop(c, discovery.Topic{})
	c.mu.Lock()
	defer c.mu.Unlock()
	for t := range c.topics {
		h.drop(c, t)
	}
}

// wake is called after the rows are published, so that who looks finds them.
func (h *hub) wake(touched []discovery.Stream, mem *memory) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, of := range touched {
		st := mem.stream(of)
		now, _ := st.position()
		if of.Topic.IsZero() {
			wakeAll(h.all, of, now)
			continue
		}
		wakeAll(h.by[discovery.Topic{}], of, now)
		wakeAll(h.by[of.Topic], of, now)
		wakeAll(h.by[discovery.Topic{Kind: of.Topic.Kind, Of: discovery.Every}], of, now)
	}
}

// wakeAll wakes those who are not as far: what came from somebody is no news there.
func wakeAll(cursors map[*Cursor]struct{}, of discovery.Stream, now discovery.Position) {
	for c := range cursors {
		c.mu.Lock()
		if now.After(c.known.Known[of]) {
			c.note(of)
		}
		c.mu.Unlock()
	}
}
