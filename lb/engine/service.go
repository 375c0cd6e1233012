// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"weft/discovery"
	"weft/discovery/state"
	"weft/lb"
	"weft/lb/compile"
)

// errStopped tells that Run has ended.
var errStopped = errors.New("load balancing is stopping")

// Publish implements lb.Service. When it returns without error, the VIPs serve on this node.
func (e *Engine) Publish(ctx context.Context, r lb.Registration) ([]lb.VIPStatus, error) {
	backends, err := r.Backends(e.self)
	if err == nil {
		err = e.check(r, backends)
	}
	if err == nil {
		err = ctx.Err()
	}
	if err == nil {
		err = e.replace(r.Task, backends)
	}
	if err != nil {
		return nil, fmt.Errorf("publish %s: %w", r.Task, err)
	}
	known := e.written()
	snapshot, err := e.await(ctx, func(s *Snapshot) error { return published(s, e.self, known, backends) })
	if err != nil {
		return nil, fmt.Errorf("publish %s: %w", r.Task, err)
	}
	e.settle(ctx, longest(backends))
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("publish %s: waiting for other nodes: %w", r.Task, err)
	}
	mine := make([]lb.VIPStatus, len(backends))
	for i, b := range backends {
		mine[i] = clone(snapshot.find(b.VIP).VIPStatus)
		mine[i].Backends = slices.DeleteFunc(mine[i].Backends, func(o lb.BackendStatus) bool { return o.Task != r.Task || o.Node != e.self })
	}
	return mine, nil
}

// SetState implements lb.Service.
func (e *Engine) SetState(ctx context.Context, task string, s lb.State) ([]discovery.NodeID, error) {
	backends, err := []lb.Backend(nil), s.Validate()
	if err == nil {
		err = ctx.Err()
	}
	if err == nil {
		backends, err = e.restate(task, s)
	}
	if err != nil {
		return nil, fmt.Errorf("set state of %s: %w", task, err)
	}
	return e.settle(ctx, longest(backends)), nil
}

// restate writes a task's state into its rows.
func (e *Engine) restate(task string, s lb.State) ([]lb.Backend, error) {
	e.publishing.Lock()
	defer e.publishing.Unlock()
	backends := e.own(task)
	if len(backends) == 0 {
		return nil, fmt.Errorf("%w: it is behind no VIP of this node", lb.ErrNotFound)
	}
	for _, b := range backends {
		b.Health, b.Detail, b.Draining = s.Health, s.Detail, s.Draining
		if err := state.Put(e.store, discovery.KindBackend, b.RowKey(), b); err != nil {
			return nil, err
		}
	}
	return backends, nil
}

// own returns this node's rows of a task.
func (e *Engine) own(task string) (backends []lb.Backend) {
	for _, r := range e.store.Own(discovery.KindBackend) {
		if b, err := state.Value[lb.Backend](r); err == nil && b.Task == task {
			backends = append(backends, b)
		}
	}
	return backends
}

// longest is how long the most patient VIP waits.
func longest(backends []lb.Backend) (wait time.Duration) {
	for _, b := range backends {
		wait = max(wait, cmp.Or(b.Wait, lb.DefaultWait))
	}
	return wait
}

// Withdraw implements lb.Service. When it returns without error, this node's tables are without the
// task, or are being retried: the task's rows are gone in any case.
func (e *Engine) Withdraw(ctx context.Context, task string) error {
	err := e.replace(task, nil)
	if err == nil {
		known := e.written()
		_, err = e.await(ctx, func(s *Snapshot) error { return s.has(known) })
	}
	if err != nil {
		return fmt.Errorf("withdraw %s: %w", task, err)
	}
	return nil
}

// VIPs implements lb.Service.
func (e *Engine) VIPs(ctx context.Context, network string) ([]lb.VIPStatus, error) {
	snapshot, err := e.await(ctx, func(*Snapshot) error { return nil })
	if err != nil {
		return nil, fmt.Errorf("list VIPs: %w", err)
	}
	vips := snapshot.VIPs
	if network != "" {
		vips = slices.DeleteFunc(slices.Clone(vips), func(v *compile.VIP) bool { return v.Network != network })
	}
	all, err := e.statuses(vips)
	if err != nil {
		return nil, fmt.Errorf("list VIPs: %w", err)
	}
	return all, nil
}

// Published returns the tasks that have rows on this node, ordered: after a restart, those whose
// task is gone are to be withdrawn.
func (e *Engine) Published() []string {
	var tasks []string
	for _, r := range e.store.Own(discovery.KindBackend) {
		if b, err := state.Value[lb.Backend](r); err == nil {
			tasks = append(tasks, b.Task)
		}
	}
	slices.Sort(tasks)
	return slices.Compact(tasks)
}

// check refuses what this node's rows contradict.
func (e *Engine) check(r lb.Registration, backends []lb.Backend) error {
	networks := all[network](e.store, discovery.KindNetwork, e.log)
	known := func(n network) bool { return n.Name == r.Network }
	if r.Network != discovery.HostNetwork && !slices.ContainsFunc(networks, known) {
		slices.SortFunc(networks, compareNetworks)
		known := make([]string, len(networks))
		for i, n := range networks {
			known[i] = n.Name
		}
		if len(known) == 0 {
			known = []string{"none"}
		}
		return fmt.Errorf("network %q: %w; known are %s", r.Network, lb.ErrNotFound, strings.Join(known, ", "))
	}
	literals := slices.DeleteFunc(slices.Clone(backends), func(b lb.Backend) bool { return !b.VIP.Addr.IsValid() })
	if len(literals) == 0 {
		return nil
	}
	literals = slices.CompactFunc(literals, func(a, b lb.Backend) bool { return a.VIP.Addr == b.VIP.Addr }) // by both protocols
	pins := all[lb.Pin](e.store, discovery.KindPin, e.log)
	var errs []error
	for _, b := range literals {
		errs = append(errs, e.checkLiteral(b.VIP.Addr, networks, pins))
	}
	return errors.Join(errs...)
}

// checkLiteral refuses a literal VIP at an address that is something else already.
func (e *Engine) checkLiteral(a netip.Addr, networks []network, pins []lb.Pin) error {
	if slices.Contains(e.reserved, a) {
		return fmt.Errorf("%w VIP address %s: the node itself answers there; take another", lb.ErrInvalid, a)
	}
	for _, n := range networks {
		for _, p := range []netip.Prefix{n.Subnet4, n.Subnet6} {
			if p.Contains(a) {
				return fmt.Errorf("%w VIP address %s: it is of network %s (%s), whose addresses are its tasks'; take one outside of every network",
					lb.ErrInvalid, a, n.Name, p)
			}
		}
	}
	if i := slices.IndexFunc(pins, func(p lb.Pin) bool { return p.Addr4 == a || p.Addr6 == a }); i >= 0 {
		return fmt.Errorf("VIP address %s: %w: it is the address of %s; take one outside of 11.0.0.0/8 and fd01:c::/64",
			a, lb.ErrConflict, pins[i].Name)
	}
	return nil
}

// Readdress gives a task's backends other addresses: of a task in the node's own network, when the node has others. A task
// that has them, or is behind no VIP, is left alone.
func (e *Engine) Readdress(task string, addrs []netip.Addr) error {
	e.publishing.Lock()
	defer e.publishing.Unlock()
	var errs []error
	for _, b := range e.own(task) {
		if !slices.Equal(b.Addrs, addrs) {
			b.Addrs = addrs
			errs = append(errs, state.Put(e.store, discovery.KindBackend, b.RowKey(), b))
		}
	}
	return errors.Join(errs...)
}

// replace makes the own rows of a task exactly backends.
func (e *Engine) replace(task string, backends []lb.Backend) error {
	e.publishing.Lock()
	defer e.publishing.Unlock()
	wanted := make(map[string]bool, len(backends))
	for _, b := range backends {
		wanted[b.RowKey()] = true
		if err := state.Put(e.store, discovery.KindBackend, b.RowKey(), b); err != nil {
			return err
		}
	}
	var errs []error
	for _, b := range e.own(task) {
		if key := b.RowKey(); !wanted[key] {
			errs = append(errs, e.store.Delete(discovery.KindBackend, key))
		}
	}
	return errors.Join(errs...)
}

// written is how far own rows and those of the masters are. A pass that has them begins soon: what came last
// may be a row that this room does not wait for.
func (e *Engine) written() map[discovery.Stream]discovery.Position {
	own := streamOf(e.self)
	known := map[discovery.Stream]discovery.Position{own: e.store.Position(own), ledger: e.store.Position(ledger)}
	e.nudge()
	return known
}

// has tells what misses until rows, up to where they are known, are in the snapshot.
func (s *Snapshot) has(known map[discovery.Stream]discovery.Position) error {
	for of, at := range known {
		if !s.Applied[of].Reaches(at) {
			return errors.New("the tables don't have it yet")
		}
	}
	return nil
}

// published tells what a registration still waits for: each of its backends is in, or out for what it is
// itself, and nothing of an earlier one is left.
func published(s *Snapshot, self discovery.NodeID, known map[discovery.Stream]discovery.Position, backends []lb.Backend) error {
	if s.Err != nil {
		return s.Err
	}
	if err := s.has(known); err != nil {
		return err
	}
	for _, b := range backends {
		v := s.find(b.VIP)
		if v == nil {
			return fmt.Errorf("%s was withdrawn meanwhile", b.Task)
		}
		i := slices.IndexFunc(v.Backends, func(have lb.BackendStatus) bool { return have.Task == b.Task && have.Node == self })
		if i < 0 {
			return fmt.Errorf("%s was withdrawn meanwhile", b.Task)
		}
		have := v.Backends[i]
		if fit := have.Weight > 0 && !have.Draining && (have.Health == lb.Unchecked || have.Health == lb.Healthy); fit && !have.In {
			return fmt.Errorf("%s is not served yet: %s", v.Key, have.Reason)
		}
	}
	return nil
}

// await returns the first snapshot that ready has no objection to. When ctx ends, the error holds
// the last objection.
func (e *Engine) await(ctx context.Context, ready func(*Snapshot) error) (*Snapshot, error) {
	for {
		changed := e.Changed()
		last := errors.New("not started yet")
		if s := e.snapshot.Load(); s != nil {
			if last = ready(s); last == nil {
				return s, nil
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w (%w)", last, context.Cause(ctx))
		case <-e.ended:
			return nil, errStopped
		}
	}
}

// clone lets the caller change what it got.
func clone(v lb.VIPStatus) lb.VIPStatus {
	v.Addrs = slices.Clone(v.Addrs)
	v.Backends = slices.Clone(v.Backends)
	return v
}
