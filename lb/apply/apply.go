// SPDX-License-Identifier: Apache-2.0

// Package apply writes the rows of lb/compile into the kernel's tables, in an order in which no
// packet ever meets a VIP that counts a backend which is not there. What the rows are is
// lb/compile's, when to write and whether to try again is lb/engine's.
package apply

import (
	"errors"
	"fmt"

	"weft/bpf/row"
	"weft/bpf/table"
	"weft/lb/compile"
)

// Tables is where VIPs are looked up.
type Tables struct {
	VIPs     table.Table[row.VIPKey, row.VIP]
	Backends table.Table[row.BackendKey, row.Backend]
	Maglevs  table.Table[uint32, row.Maglev]
}

// Diff counts what Sync changed.
type Diff struct {
	VIPs, Backends, Maglevs table.Diff
}

// Changed reports whether anything was written.
func (d Diff) Changed() bool { return d != Diff{} }

// Read returns what the tables hold.
func (t Tables) Read() (compile.Rows, error) {
	vips, err := t.VIPs.All()
	if err != nil {
		return compile.Rows{}, fmt.Errorf("read vips: %w", err)
	}
	backends, err := t.Backends.All()
	if err != nil {
		return compile.Rows{}, fmt.Errorf("read backends: %w", err)
	}
	maglevs, err := t.Maglevs.All()
	if err != nil {
		return compile.Rows{}, fmt.Errorf("read maglevs: %w", err)
	}
	return compile.Rows{VIPs: vips, Backends: backends, Maglevs: maglevs}, nil
}

// Sync makes the tables, which hold have, hold exactly want, writing only what differs:
//
//  1. backends that are new or changed, then the tables of clients that lead to them
//  2. VIPs: those that grew find their slots filled, those that shrank stop looking beyond
//  3. VIPs that are gone
//  4. tables that no VIP asks any more, and backends that none counts
//
// A VIP whose write fails is left out of the later stages, so that it serves what it served; the
// others go on, because what they remove may be the room that was missing. The error counts and
// joins the failures. Sync tries once: after an error the tables are to be read again.
func (t Tables) Sync(have, want compile.Rows) (Diff, error) {
	var d Diff
	var f failures
	vips := change[row.VIPKey, row.VIP]{
		table: t.VIPs, have: have.VIPs, want: want.VIPs, diff: &d.VIPs,
		held: func(_ row.VIPKey, v row.VIP) bool { return f.held[v.ID] },
		failed: func(k row.VIPKey, v row.VIP, err error) {
			f.hold(v.ID, fmt.Errorf("vip %s:%d: %w", k.Addr.Netip(), row.Port(k.Port), err))
		},
	}
	backends := change[row.BackendKey, row.Backend]{
		table: t.Backends, have: have.Backends, want: want.Backends, diff: &d.Backends,
		held: func(k row.BackendKey, _ row.Backend) bool { return f.held[k.VIP] },
		failed: func(k row.BackendKey, b row.Backend, err error) {
			f.hold(k.VIP, fmt.Errorf("backend %s:%d: %w", b.Addr.Netip(), row.Port(b.Port), err))
		},
	}
	maglevs := change[uint32, row.Maglev]{
		table: t.Maglevs, have: have.Maglevs, want: want.Maglevs, diff: &d.Maglevs,
		held:   func(vip uint32, _ row.Maglev) bool { return f.held[vip] },
		failed: func(vip uint32, _ row.Maglev, err error) { f.hold(vip, fmt.Errorf("clients of vip %d: %w", vip, err)) },
	}
	backends.put()
	maglevs.put()
	vips.put()
	vips.remove()
	maglevs.remove()
	backends.remove()
	return d, f.join()
}

// maxErrors is how many failures are told in full.
const maxErrors = 3

// failures remembers the VIPs, by id, that could not be written.
type failures struct {
	held  map[uint32]bool
	count int
	errs  []error
}

func (f *failures) hold(vip uint32, err error) {
	if f.held == nil {
		f.held = make(map[uint32]bool)
	}
	f.held[vip] = true
	f.count++
	if len(f.errs) < maxErrors {
		f.errs = append(f.errs, err)
	}
}

func (f *failures) join() error {
	err := errors.Join(f.errs...)
	if f.count > maxErrors {
		err = fmt.Errorf("%w\nand %d more", err, f.count-maxErrors)
	}
	return err
}

// change makes one table equal, except for the rows that are held.
type change[K, V comparable] struct {
	table      table.Table[K, V]
	have, want map[K]V
	diff       *table.Diff
	held       func(K, V) bool
	failed     func(K, V, error)
}

// put writes the rows of want that differ.
func (c change[K, V]) put() {
	for key, value := range c.want {
		old, ok := c.have[key]
		if ok && old == value || c.held(key, value) {
			continue
		}
		if err := c.table.Put(key, value); err != nil {
			c.failed(key, value, fmt.Errorf("write: %w", err))
			continue
		}
		if ok {
			c.diff.Replaced++
		} else {
			c.diff.Added++
		}
	}
}

// remove deletes the rows of have that are not in want.
func (c change[K, V]) remove() {
	for key, value := range c.have {
		if _, ok := c.want[key]; ok || c.held(key, value) {
			continue
		}
		if err := c.table.Delete(key); err != nil {
			c.failed(key, value, fmt.Errorf("remove: %w", err))
			continue
		}
		c.diff.Removed++
	}
}
