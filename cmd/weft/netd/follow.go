// SPDX-License-Identifier: Apache-2.0

package netd

import (
	"context"
	"errors"
	"slices"

	"weft/discovery"
	"weft/discovery/state"
	"weft/overlay"
)

// followTasks takes tasks out of VIPs and names when the overlay says that they ended: whatever
// ended them, they leave together. The first list comes after a restart as well, so what ended while
// the daemon was away leaves then.
func (d *daemon) followTasks(ctx context.Context) error {
	swept := false
	for range d.overlay.Watch(ctx) {
		first := !swept
		if first {
			d.sweep(ctx)
			swept = true
		}
		// What is published is read before who is there: a task attaches before it publishes, so one
		// that comes in between is not taken for one that left.
		published, named := d.lb.Published(), d.store.Own(discovery.KindName)
		endpoints, err := d.overlay.Endpoints(ctx)
		if err != nil {
			continue // ctx has ended: so will the loop
		}
		if first {
			d.moveTasks(ctx, endpoints, named)
		}
		alive := make(map[string]bool, len(endpoints))
		for _, e := range endpoints {
			alive[e.Task], alive[e.ID] = true, true // of a second network, what is published has the attachment's id
		}
		for _, task := range published {
			if !alive[task] {
				d.leave(ctx, task, d.lb.Withdraw)
			}
		}
		for _, r := range named {
			if name, err := state.Value[discovery.Name](r); err == nil && !alive[name.Task] {
				d.leave(ctx, name.Task, d.discovery.Retract)
			}
		}
	}
	return nil
}

// moveTasks tells where tasks in the node's own network are, which may have other addresses since the daemon ran last.
func (d *daemon) moveTasks(ctx context.Context, endpoints []overlay.Endpoint, named []discovery.Row) {
	for _, e := range endpoints {
		if !e.InHost() {
			continue
		}
		errs := []error{d.lb.Readdress(e.ID, e.Addrs())}
		for _, r := range named {
			name, err := state.Value[discovery.Name](r)
			if err != nil || name.Task != e.ID || slices.Equal(name.Addrs, e.Addrs()) {
				continue
			}
			name.Addrs = e.Addrs()
			errs = append(errs, d.discovery.Announce(ctx, name))
		}
		if err := errors.Join(errs...); err != nil {
			d.log.ErrorContext(ctx, "task in the node's network is told of at its old addresses", "task", e.Task, "error", err)
		}
	}
}

func (d *daemon) leave(ctx context.Context, task string, by func(context.Context, string) error) {
	if err := by(ctx, task); err != nil {
		d.log.ErrorContext(ctx, "withdraw an ended task", "task", task, "error", err)
	}
}

// sweep removes what is pinned for links that are gone. It comes when the overlay has restored its
// tasks: every link that lives has this process's programs by then.
func (d *daemon) sweep(ctx context.Context) {
	n, err := d.plane.Sweep()
	switch {
	case err != nil:
		d.log.ErrorContext(ctx, "sweep dead pins", "error", err)
	case n > 0:
		d.log.InfoContext(ctx, "swept", "dead_links", n)
	}
}

// followVIPs hands the names of VIPs to discovery whenever load balancing has others.
func (d *daemon) followVIPs(ctx context.Context) error {
	named := uint64(0)
	for {
		changed := d.lb.Changed()
		if s := d.lb.Snapshot(); s != nil && s.Named != named {
			named = s.Named
			d.discovery.SetServices(s.Names)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// adoptAnswers goes on taking the names that an earlier process answers for in the kernel.
func (d *daemon) adoptAnswers() {
	z := d.discovery.Zone()
	for name := range d.names.Resident {
		d.interest.Adopt(z.Topics(name))
	}
}

// forgetAnswers takes the answers made of topics out of the kernel; where all names are such a topic, those of all.
func (d *daemon) forgetAnswers(topics []discovery.Topic) {
	z := d.discovery.Zone()
	all := slices.Contains(topics, discovery.Topic{Kind: discovery.KindName, Of: discovery.Every})
	d.names.Forget(func(name string) bool {
		return all && len(z.Topics(name)) > 0 || slices.ContainsFunc(z.Topics(name), func(t discovery.Topic) bool { return slices.Contains(topics, t) })
	})
}
