// SPDX-License-Identifier: Apache-2.0

package apply

import (
	"errors"
	"fmt"
	"reflect"

	"weft/bpf/row"
	"weft/bpf/table"
	"weft/overlay/compile"
)

// Tables is what the packet path reads of the overlay.
type Tables struct {
	Workloads table.Table[uint32, row.Workload]
	Endpoints table.Table[row.EndpointKey, row.Endpoint]
	Blocks    table.Table[row.BlockKey, row.Block]
	Prefixes  table.Table[row.PrefixKey, row.Prefix]
	VTEPs     table.Table[row.Addr, row.VTEP]
	Verdicts  table.Table[row.VerdictKey, row.Verdict]
	Clauses   table.Table[row.ClausesKey, row.Clauses]
	Sources   table.Table[row.SourceKey, row.Source]
	Spaces    table.Table[uint64, row.Space]
	Openings  table.Table[row.OpeningKey, row.Opening]
}

// Validate names the tables that are missing.
func (t Tables) Validate() error {
	var errs []error
	for name, missing := range map[string]bool{
		"workloads": t.Workloads == nil, "endpoints": t.Endpoints == nil, "blocks": t.Blocks == nil, "prefixes": t.Prefixes == nil,
		"vteps": t.VTEPs == nil, "verdicts": t.Verdicts == nil, "clauses": t.Clauses == nil, "sources": t.Sources == nil,
		"spaces": t.Spaces == nil, "openings": t.Openings == nil,
	} {
		if missing {
			errs = append(errs, fmt.Errorf("no table %s", name))
		}
	}
	return errors.Join(errs...)
}

// Sync makes the tables hold exactly want, writing only what differs (see Update).
func (t Tables) Sync(want compile.Rows) (table.Diff, error) {
	var c compile.Change
	var errs [3]error
	c.Clauses.Put, c.Clauses.Gone, errs[0] = table.Compare(t.Clauses, want.Clauses)
	c.Verdicts.Put, c.Verdicts.Gone, errs[1] = table.Compare(t.Verdicts, want.Verdicts)
	c.Sources.Put, c.Sources.Gone, errs[2] = table.Compare(t.Sources, want.Sources)
	if err := errors.Join(errs[:]...); err != nil {
		return table.Diff{}, err
	}
	return t.Update(compile.Rows{}, want, c)
}

// Update writes what a Policy changed, and makes those of the other tables hold exactly want that are not
// the same in last, which the tables are known to hold:
//
//  1. policy (see change), then endpoints: who may reach a task is known before the task is
//  2. places: blocks, prefixes, vteps, the namespaces' VIPs, and what is open to the world
//  3. workloads: a task sends when all is there
//
// It goes on after an error, since what it removes may be the room that was missing.
func (t Tables) Update(last, want compile.Rows, c compile.Change) (table.Diff, error) {
	all, err := t.change(c)
	errs := []error{err}
	sync := func(name string, f func() (table.Diff, error)) {
		d, err := f()
		all.Added, all.Replaced, all.Removed = all.Added+d.Added, all.Replaced+d.Replaced, all.Removed+d.Removed
		if err != nil {
			errs = append(errs, fmt.Errorf("table %s: %w", name, err))
		}
	}
	sync("endpoints", func() (table.Diff, error) { return syncIf(t.Endpoints, last.Endpoints, want.Endpoints) })
	sync("blocks", func() (table.Diff, error) { return syncIf(t.Blocks, last.Blocks, want.Blocks) })
	sync("prefixes", func() (table.Diff, error) { return syncIf(t.Prefixes, last.Prefixes, want.Prefixes) })
	sync("vteps", func() (table.Diff, error) { return syncIf(t.VTEPs, last.VTEPs, want.VTEPs) })
	sync("openings", func() (table.Diff, error) { return syncIf(t.Openings, last.Openings, want.Openings) })
	sync("spaces", func() (table.Diff, error) { return syncIf(t.Spaces, last.Spaces, want.Spaces) })
	sync("workloads", func() (table.Diff, error) { return syncIf(t.Workloads, last.Workloads, want.Workloads) })
	return all, errors.Join(errs...)
}

// syncIf reads the table only where it is not known what it holds. The same map twice is not looked into.
func syncIf[K, V comparable](t table.Table[K, V], last, want map[K]V) (table.Diff, error) {
	switch {
	case last == nil:
		return table.Sync(t, want)
	case reflect.ValueOf(last).UnsafePointer() == reflect.ValueOf(want).UnsafePointer():
		return table.Diff{}, nil
	}
	return table.Update(t, last, want)
}

// change writes a change of policy. A pair of identities has one verdict, which is replaced at once, so
// a packet meets the outcome before or the one after and never a mixture. What a row leads to is there
// before the row, and goes after it: clauses before verdicts, verdicts before the sources that are looked
// up by; then backwards. A stage whose premise a failure took away is left out: what is old stays.
func (t Tables) change(c compile.Change) (d table.Diff, err error) {
	stage := func(name string, count *int, f func() (int, error)) {
		if err != nil {
			return
		}
		var n int
		if n, err = f(); err != nil {
			err = fmt.Errorf("table %s: %w", name, err)
		}
		*count += n
	}
	stage("clauses", &d.Added, func() (int, error) { return table.PutAll(t.Clauses, c.Clauses.Put) })
	stage("verdicts", &d.Added, func() (int, error) { return table.PutAll(t.Verdicts, c.Verdicts.Put) })
	stage("sources", &d.Added, func() (int, error) { return table.PutAll(t.Sources, c.Sources.Put) })
	if errors.Is(err, table.ErrFull) {
		err = errors.Join(err, t.makeRoom(c))
		return d, err
	}
	stage("sources", &d.Removed, func() (int, error) { return table.DeleteAll(t.Sources, c.Sources.Gone) })
	stage("verdicts", &d.Removed, func() (int, error) { return table.DeleteAll(t.Verdicts, c.Verdicts.Gone) })
	stage("clauses", &d.Removed, func() (int, error) { return table.DeleteAll(t.Clauses, c.Clauses.Gone) })
	return d, err
}

// makeRoom takes away what nobody wants though not all that is wanted could be written: a packet that
// meets neither is dropped.
func (t Tables) makeRoom(c compile.Change) error {
	_, sources := table.DeleteAll(t.Sources, c.Sources.Gone)
	_, verdicts := table.DeleteAll(t.Verdicts, c.Verdicts.Gone)
	if verdicts != nil {
		return errors.Join(sources, verdicts)
	}
	return sources
}
