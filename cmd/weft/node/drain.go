// SPDX-License-Identifier: Apache-2.0

package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"weft/agent/sandbox"
	"weft/discovery"
	"weft/lb"
	"weft/overlay"
)

// behind is what of a task is behind VIPs: one registration, of one network.
type behind struct {
	id    string
	ports []uint16 // of the task, TCP
	wait  time.Duration
	name  *discovery.Name // where there is no VIP: the name tells how the task is
}

// behindOf gathers it from VIPs; of none it waits for nothing.
func behindOf(id string, vips []lb.VIPStatus) behind {
	b := behind{id: id}
	for _, v := range vips {
		for _, have := range v.Backends {
			if have.Task != id {
				continue
			}
			b.wait = max(b.wait, cmp.Or(have.Wait, lb.DefaultWait))
			if v.Protocol == lb.TCP {
				b.ports = append(b.ports, have.Port)
			}
		}
	}
	return b
}

const (
	quietEvery = 10 * time.Millisecond // between two looks at a task's connections
	quietLooks = 2                     // in a row that show none: a SYN may be under way at the first
	drainSlack = time.Second           // for the daemon's answer, at the deadline
)

// drain makes every node stop opening connections to a task, and waits until none is open at its VIPs' ports:
// until its VIPs' deadline at most. It tells out what was not reached.
func drain(ctx context.Context, d *Daemon, out io.Writer, pid int, all []behind) {
	wait := time.Duration(0)
	for _, b := range all {
		wait = max(wait, b.wait)
	}
	if wait == 0 {
		return // behind no VIP
	}
	deadline := time.Now().Add(wait)
	ctx, cancel := context.WithDeadline(ctx, deadline.Add(drainSlack))
	defer cancel()
	var ports []uint16
	for _, b := range all {
		if b.name != nil {
			continue
		}
		ports = append(ports, b.ports...)
		late, err := d.LB.SetState(ctx, b.id, lb.State{Draining: true})
		switch {
		case errors.Is(err, lb.ErrNotFound): // withdrawn already
		case err != nil:
			fmt.Fprintf(out, "weft: drain %s: %v\n", b.id, err)
		case len(late) > 0:
			fmt.Fprintf(out, "weft: drain %s: nodes %v may still connect to it\n", b.id, late)
		}
	}
	awaitQuiet(ctx, deadline, pid, ports)
}

// awaitQuiet returns when a task has no connection at ports, at the deadline, or when the task is gone.
func awaitQuiet(ctx context.Context, deadline time.Time, pid int, ports []uint16) {
	tick := time.NewTicker(quietEvery)
	defer tick.Stop()
	for looks := 0; looks < quietLooks && time.Now().Before(deadline); {
		n, err := sandbox.Established(pid, ports)
		if err != nil {
			return
		}
		if looks++; n > 0 {
			looks = 0
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// drainEndpoints drains the endpoints of one task of this node, asking what they are behind.
func drainEndpoints(ctx context.Context, d *Daemon, out io.Writer, task overlay.Endpoint) error {
	endpoints, err := d.Overlay.Endpoints(ctx)
	if err != nil {
		return err
	}
	var all []behind
	for _, e := range endpoints {
		if e.Task != task.Task {
			continue
		}
		vips, err := d.LB.VIPs(ctx, e.Network)
		if err != nil {
			return err
		}
		all = append(all, behindOf(e.ID, vips))
	}
	drain(ctx, d, out, task.OwnerPID, all)
	return nil
}
