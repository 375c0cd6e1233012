// SPDX-License-Identifier: Apache-2.0

package netd

import (
	"context"

	"weft/discovery"
)

// followTasks takes tasks out of VIPs and names when the overlay says that they ended: whatever
// ended them, they leave together. The first list comes after a restart as well, so what ended while
// the daemon was away leaves then.
func (d *daemon) followTasks(ctx context.Context) error {
	for endpoints := range d.overlay.Watch(ctx) {
		alive := make(map[string]bool, len(endpoints))
		for _, e := range endpoints {
			alive[e.Task] = true
		}
		for _, task := range d.lb.Published() {
			if alive[task] {
				continue
			}
			if err := d.lb.Withdraw(ctx, task); err != nil {
				d.log.ErrorContext(ctx, "withdraw an ended task", "task", task, "error", err)
			}
		}
		for _, name := range d.store.Own(discovery.KindName) {
			if alive[name.Key] {
				continue
			}
			if err := d.discovery.Retract(ctx, name.Key); err != nil {
				d.log.ErrorContext(ctx, "retract an ended task", "task", name.Key, "error", err)
			}
		}
	}
	return nil
}

// followVIPs hands the names of VIPs to discovery whenever load balancing has others.
func (d *daemon) followVIPs(ctx context.Context) error {
	for {
		changed := d.lb.Changed()
		d.discovery.SetServices(d.lb.Names())
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}
