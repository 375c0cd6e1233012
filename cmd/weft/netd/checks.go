// SPDX-License-Identifier: Apache-2.0

package netd

import (
	"context"
	"sync"

	"weft/agent/health"
	"weft/cmd/weft/node"
	"weft/discovery"
	"weft/discovery/state"
	"weft/lb"
	"weft/overlay"
)

// checkTasks asks tasks of this node how they are whose registration says by what (lb.Registration): containers, whose
// runtime's plugin has ended by then. Others are asked by who runs them.
func (d *daemon) checkTasks(ctx context.Context) error {
	var asking sync.WaitGroup
	defer asking.Wait()
	asked := make(map[string]string) // check, by task
	stop := make(map[string]context.CancelFunc)
	defer func() {
		for _, end := range stop {
			end()
		}
	}()
	for {
		changed := d.store.Changed(discovery.KindBackend)
		wanted := d.checks()
		for task, text := range asked {
			if wanted[task] != text {
				stop[task]()
				delete(asked, task)
				delete(stop, task)
			}
		}
		for task, text := range wanted {
			if _, already := asked[task]; already {
				continue
			}
			one, end := context.WithCancel(ctx)
			asked[task], stop[task] = text, end
			asking.Go(func() { d.checkTask(one, task, text) })
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// checks are those that own rows want, by task.
func (d *daemon) checks() map[string]string {
	wanted := make(map[string]string)
	for _, r := range d.store.Own(discovery.KindBackend) {
		if b, err := state.Value[lb.Backend](r); err == nil && b.Check != "" {
			wanted[b.Task] = b.Check
		}
	}
	return wanted
}

// checkTask asks one task until ctx ends. It begins when the task has its link: after a restart that takes a while.
func (d *daemon) checkTask(ctx context.Context, task, text string) {
	check, err := health.Parse(text)
	if err != nil {
		d.log.ErrorContext(ctx, "task is not checked", "task", task, "error", err)
		return
	}
	if e, there := d.endpoint(ctx, task); there {
		o := health.Options{Check: check, Addr: e.Addrs()[0], NetNS: e.NetNS, Serving: node.Serving}
		health.Watch(ctx, o, func(s lb.State) { d.tellHealth(ctx, task, s) })
	}
}

// endpoint waits for a task's.
func (d *daemon) endpoint(ctx context.Context, task string) (overlay.Endpoint, bool) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for endpoints := range d.overlay.Watch(ctx) {
		for _, e := range endpoints {
			if e.ID == task && len(e.Addrs()) > 0 {
				return e, true
			}
		}
	}
	return overlay.Endpoint{}, false
}

// tellHealth leaves one that drains as it is: it gets nothing new anyway.
func (d *daemon) tellHealth(ctx context.Context, task string, s lb.State) {
	for _, r := range d.store.Own(discovery.KindBackend) {
		if b, err := state.Value[lb.Backend](r); err == nil && b.Task == task && b.Draining {
			return
		}
	}
	if _, err := d.lb.SetState(ctx, task, s); err != nil && ctx.Err() == nil {
		d.log.ErrorContext(ctx, "health is not told", "task", task, "error", err)
		return
	}
	d.log.InfoContext(ctx, "health", "task", task, "is", s.Health, "detail", s.Detail)
}
