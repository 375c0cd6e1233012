// SPDX-License-Identifier: Apache-2.0

package engine

import "weft/discovery/zone"

// publish makes the zone after changes, tells the server, then everyone else. It also says the zone
// complete once that is so, and never takes it back: what was known stays known.
func (e *Engine) publish(changes []zone.Change) {
	old := e.zone.Load()
	next, diff := old, zone.Diff{}
	if len(changes) > 0 {
		e.stats.changes.Add(uint64(len(changes)))
		next, diff = old.With(changes)
	}
	if !next.Complete() && e.synced() {
		next = next.Completed()
		e.log.Info("zone is complete", "names", next.Names(), "records", next.Records())
	}
	if next == old {
		return
	}
	if e.server != nil {
		e.server.SetZone(next, diff)
	}
	e.zone.Store(next)
	close(*e.changed.Swap(new(make(chan struct{}))))
}
