// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

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
	at := e.written()
	snapshot, err := e.await(ctx, func(s *Snapshot) error { return published(s, e.self, at, backends) })
	if err != nil {
		return nil, fmt.Errorf("publish %s: %w", r.Task, err)
	}
	mine := make([]lb.VIPStatus, len(backends))
	for i, b := range backends {
		mine[i] = clone(snapshot.find(b.VIP).VIPStatus)
	}
	return mine, nil
}

// Withdraw implements lb.Service. When it returns without error, this node's tables are without the
// task, or are being retried: the task's rows are gone in any case.
func (e *Engine) Withdraw(ctx context.Context, task string) error {
	err := e.replace(task, nil)
	if err == nil {
		at := e.written()
		_, err = e.await(ctx, func(s *Snapshot) error { return s.has(e.self, at) })
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
	if !slices.ContainsFunc(networks, func(n network) bool { return n.Name == r.Network }) {
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
	for _, r := range e.store.Own(discovery.KindBackend) {
		if b, err := state.Value[lb.Backend](r); err == nil && b.Task == task && !wanted[r.Key] {
			errs = append(errs, e.store.Delete(discovery.KindBackend, r.Key))
		}
	}
	return errors.Join(errs...)
}

// written is how far this node's own rows are. A pass that has them begins soon: what came last may be a
// row that this room does not wait for.
func (e *Engine) written() state.Position {
	at := e.store.Position(state.Stream{Writer: string(e.self)})
	select {
	case e.nudged <- struct{}{}:
	default:
	}
	return at
}

// has tells what misses until the rows of a node, up to a position, are in the snapshot.
func (s *Snapshot) has(node discovery.NodeID, at state.Position) error {
	if !s.Applied[node].Reaches(at) {
		return errors.New("the tables don't have it yet")
	}
	return nil
}

// published tells what a registration still waits for: each of its backends is in, or out for what it is
// itself, and nothing of an earlier one is left.
func published(s *Snapshot, self discovery.NodeID, at state.Position, backends []lb.Backend) error {
	if s.Err != nil {
		return s.Err
	}
	if err := s.has(self, at); err != nil {
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
