// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"weft/bpf/row"
	"weft/bpf/table"
	"weft/overlay/compile"
)

// syncer lets many callers share one comparison of the tables: who comes while one is going on waits
// for the next, which serves all that waited.
type syncer struct {
	mu     sync.Mutex // held while tables are written; guards the next two
	policy *compile.Policy
	exact  bool         // the tables hold what policy says
	last   compile.Rows // which the other tables hold; of those that may hold something else, nil
	audit  atomic.Bool  // they are to be read again, in case someone else changed them
	asked  sync.Mutex   // guards what follows
	ticket uint64       // of the last caller
	served uint64       // tickets up to here were served
	err    error        // of the comparison that served them
}

// syncTables makes tables and firewall equal to what rows and live entries come to. It returns when a
// comparison that began after the call has ended, with its error.
func (e *Engine) syncTables(ctx context.Context) error {
	s := &e.sync
	s.asked.Lock()
	s.ticket++
	mine := s.ticket
	s.asked.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked.Lock()
	upTo, served, err := s.ticket, s.served, s.err
	s.asked.Unlock()
	if served >= mine {
		return err
	}
	err = e.syncOnce(ctx)
	s.asked.Lock()
	s.served, s.err = upTo, err
	s.asked.Unlock()
	return err
}

func (e *Engine) syncOnce(ctx context.Context) error {
	if !e.facts.Known() {
		return nil // what the rows should be is not known: they stay
	}
	f := e.now()
	diff, err := e.writeTables(f)
	err = errors.Join(err, e.setFirewall(ctx, f), e.setNode(ctx, f))
	e.mu.Lock()
	defer e.mu.Unlock()
	e.stats.Syncs++
	if err != nil {
		e.stats.SyncErrors++
	}
	w := &e.stats.Written
	w.Added, w.Replaced, w.Removed = w.Added+diff.Added, w.Replaced+diff.Replaced, w.Removed+diff.Removed
	return err
}

func (e *Engine) setFirewall(ctx context.Context, f compile.Facts) error {
	if e.o.Host == nil {
		return nil
	}
	return e.o.Host.SetFirewall(ctx, subnets(f), compile.Ports(f.Tasks))
}

// setNode gives the node its addresses towards the networks and leads it to them, after the tables know it.
func (e *Engine) setNode(ctx context.Context, f compile.Facts) error {
	if e.o.Host == nil || e.o.Self.Ifindex == 0 {
		return nil
	}
	return e.o.Host.SetNode(ctx, f.Self(), subnets(f))
}

func subnets(f compile.Facts) []netip.Prefix {
	var list []netip.Prefix
	for _, n := range f.Networks {
		list = append(list, n.Subnets()...)
	}
	return list
}

// closePorts lets the ports of a task that leaves lead nowhere, then gives them back.
func (e *Engine) closePorts(ctx context.Context, en entry) error {
	if len(en.Ports) == 0 || e.o.Host == nil {
		return nil
	}
	e.sync.mu.Lock() // as in removeRows
	defer e.sync.mu.Unlock()
	if e.facts.Known() {
		if err := e.setFirewall(ctx, e.now()); err != nil {
			return fmt.Errorf("close ports: %w", err)
		}
	}
	return e.o.Host.Release(ctx, compile.PortsOf(en.Endpoint))
}

// writeTables compiles what changed since the last time and writes that. After a failure and at the start it reads the
// tables and writes what differs, as it does for an audit, which finds nothing. The caller holds e.sync.mu.
func (e *Engine) writeTables(f compile.Facts) (diff table.Diff, err error) {
	s := &e.sync
	change := s.policy.Update(f)
	want := s.policy.Places(f)
	audit := s.audit.Swap(false)
	if s.exact {
		diff, err = e.o.Tables.Update(s.last, want, change)
	} else {
		diff, err = e.o.Tables.Sync(s.policy.All(want))
	}
	if audit && err == nil {
		var mended table.Diff
		if mended, err = e.o.Tables.Sync(s.policy.All(want)); mended != (table.Diff{}) {
			e.mended.Add(1)
			e.log.Warn("tables were changed by somebody else: they are mended", "rows", mended.String())
		}
	}
	s.exact, s.last = err == nil, want
	if err != nil {
		s.last = compile.Rows{}
		err = fmt.Errorf("write tables: %w", err)
	}
	return diff, err
}

// removeRows removes the rows of one task, which leaves, and nothing else: that must not depend on
// what else is to be written. The verdicts that nobody needs any more go with the next comparison.
func (e *Engine) removeRows(en entry) error {
	if en.ifindex == 0 {
		return nil
	}
	e.sync.mu.Lock() // a comparison that began when the task was there must not write it again
	defer e.sync.mu.Unlock()
	t, last := e.o.Tables, &e.sync.last
	last.Workloads, last.Endpoints, last.Spaces = nil, nil, nil
	errs := []error{t.Workloads.Delete(en.ifindex)}
	for _, a := range en.Addrs() {
		errs = append(errs, t.Endpoints.Delete(row.EndpointKey{VNI: uint32(en.VNI), Addr: row.AddrOf(a)}))
	}
	for _, p := range compile.PortsOf(en.Endpoint) {
		key := row.OpeningKey{VNI: uint32(en.VNI), Addr: row.AddrOf(p.Task.Addr()), Port: row.Port(p.Task.Port()), Proto: p.Proto}
		errs = append(errs, t.Openings.Delete(key))
	}
	shared := slices.ContainsFunc(e.liveEntries(), func(o entry) bool { return o.Cookie == en.Cookie })
	if !shared {
		errs = append(errs, t.Spaces.Delete(en.Cookie))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove rows: %w", err)
	}
	return nil
}
