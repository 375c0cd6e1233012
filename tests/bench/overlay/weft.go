// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"weft/overlay"
	"weft/tests/lab"
)

// makeWeft: tasks of `weft run` on hosts with the real daemon.
func (t *topology) makeWeft(ctx context.Context, a, b side) error {
	if err := t.lab.Masters[0].StartMaster(); err != nil {
		return err
	}
	p, err := t.weftPair(ctx, weft, a, b)
	if err != nil {
		return err
	}
	second, err := t.weftTask(ctx, a, "home")
	if err != nil {
		return err
	}
	t.pairs[weft] = p
	t.pairs[weftAtHome] = &pair{variant: weftAtHome, client: p.client, server: second}
	return nil
}

// makeSlow: the same by the kernel's VXLAN device.
func (t *topology) makeSlow(ctx context.Context, a, b side) error {
	p, err := t.weftPair(ctx, weftSlow, a, b, "--slow-encap", "--slow-decap")
	t.pairs[weftSlow] = p
	return err
}

func (t *topology) weftPair(ctx context.Context, variant string, a, b side, flags ...string) (*pair, error) {
	// The last of equal flags counts: the underlay is not the lab's bridge.
	t.lab.Netd = append([]string{"--underlay", "wire0"}, flags...)
	p := &pair{variant: variant}
	for _, s := range []side{a, b} {
		if err := s.host.StartNetd(); err != nil {
			return nil, err
		}
	}
	if variant == weft {
		err := until(ctx, func() error {
			_, err := t.lab.Masters[0].Weft(ctx, "network", "add", network, "--subnet", "9.1.0.0/16", "--subnet6", "fd01:b:1::/64").Output()
			if err != nil && strings.Contains(err.Error(), "exists") {
				return nil
			}
			return err
		})
		if err != nil {
			return nil, err
		}
		if _, err := t.lab.Masters[0].Weft(ctx, "group", "add", network, "all").Output(); err != nil {
			return nil, err
		}
	}
	for _, s := range []side{a, b} {
		e, err := t.weftTask(ctx, s, fmt.Sprintf("%s-%s", variant, s.host.Name))
		if err != nil {
			return nil, err
		}
		p.add(s, e)
	}
	return p, nil
}

const network = "bench"

// weftTask runs an endpoint as a task and waits until it has addresses. The daemon may know the
// network a little later than the master.
func (t *topology) weftTask(ctx context.Context, s side, name string) (*endpoint, error) {
	err := until(ctx, func() error {
		_, err := s.host.Weft(ctx, "run", "--network", network, "--group", "all", "--name", "probe", "--", "true").Output()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%w\nnetd of %s:\n%s", err, s.host.Name, s.host.Tail("netd", 10))
	}
	e, err := start(s.host.Weft(ctx, "run", "--network", network, "--group", "all", "--name", name, "--", t.load), false)
	if err != nil {
		return nil, err
	}
	t.endpoints = append(t.endpoints, e)
	return e, until(ctx, func() error { return e.find(ctx, s.host, name) })
}

// find reads the task's addresses.
func (e *endpoint) find(ctx context.Context, h *lab.Host, name string) error {
	out, err := h.Weft(ctx, "task", "list", "-o", "json").Output()
	if err != nil {
		return err
	}
	var tasks []overlay.Endpoint
	if err := json.Unmarshal([]byte(out), &tasks); err != nil {
		return err
	}
	for _, task := range tasks {
		if task.Name == name {
			e.addr4, e.addr6 = task.Addr4, task.Addr6
			return nil
		}
	}
	return errors.Join(fmt.Errorf("task %s is not there", name), errors.New(e.Complaint()))
}
