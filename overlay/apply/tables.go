// SPDX-License-Identifier: Apache-2.0

package apply

import (
	"errors"
	"fmt"

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
	Spaces    table.Table[uint64, row.Space]
	Openings  table.Table[row.OpeningKey, row.Opening]
}

// Validate names the tables that are missing.
func (t Tables) Validate() error {
	var errs []error
	for name, missing := range map[string]bool{
		"workloads": t.Workloads == nil, "endpoints": t.Endpoints == nil, "blocks": t.Blocks == nil, "prefixes": t.Prefixes == nil,
		"vteps": t.VTEPs == nil, "verdicts": t.Verdicts == nil, "spaces": t.Spaces == nil,
		"openings": t.Openings == nil,
	} {
		if missing {
			errs = append(errs, fmt.Errorf("no table %s", name))
		}
	}
	return errors.Join(errs...)
}

// Sync makes the tables hold exactly want, writing only what differs, in an order in which nothing is
// open that is not open before or after:
//
//  1. endpoints whose identity gets its first rule are ruled: narrow verdicts count from now on
//  2. verdicts (see syncVerdicts), then endpoints: who may reach a task is known before the task is
//  3. places: blocks, prefixes, vteps, the namespaces' VIPs, and what is open to the world
//  4. workloads: a task sends when all is there
//
// It goes on after an error, since what it removes may be the room that was missing.
func (t Tables) Sync(want compile.Rows) (table.Diff, error) {
	var all table.Diff
	var errs []error
	done := func(name string, d table.Diff, err error) {
		all.Added, all.Replaced, all.Removed = all.Added+d.Added, all.Replaced+d.Replaced, all.Removed+d.Removed
		if err != nil {
			errs = append(errs, fmt.Errorf("table %s: %w", name, err))
		}
	}
	sync := func(name string, f func() (table.Diff, error)) {
		d, err := f()
		done(name, d, err)
	}
	ruled, err := t.rule(want.Endpoints)
	done("endpoints", ruled, err)
	if err != nil {
		return all, errors.Join(errs...) // a verdict that denies might be passed over
	}
	endpoints := want.Endpoints
	sync("verdicts", func() (d table.Diff, err error) {
		if d, err = syncVerdicts(t.Verdicts, want.Verdicts); err != nil {
			endpoints = allRuled(endpoints) // of old verdicts some may be left
		}
		return d, err
	})
	sync("endpoints", func() (table.Diff, error) { return table.Sync(t.Endpoints, endpoints) })
	sync("blocks", func() (table.Diff, error) { return table.Sync(t.Blocks, want.Blocks) })
	sync("prefixes", func() (table.Diff, error) { return table.Sync(t.Prefixes, want.Prefixes) })
	sync("vteps", func() (table.Diff, error) { return table.Sync(t.VTEPs, want.VTEPs) })
	sync("openings", func() (table.Diff, error) { return table.Sync(t.Openings, want.Openings) })
	sync("spaces", func() (table.Diff, error) { return table.Sync(t.Spaces, want.Spaces) })
	sync("workloads", func() (table.Diff, error) { return table.Sync(t.Workloads, want.Workloads) })
	return all, errors.Join(errs...)
}

func allRuled(endpoints map[row.EndpointKey]row.Endpoint) map[row.EndpointKey]row.Endpoint {
	all := make(map[row.EndpointKey]row.Endpoint, len(endpoints))
	for key, e := range endpoints {
		e.Flags |= row.EndpointRuled
		all[key] = e
	}
	return all
}

// rule marks those endpoints as ruled that are to be. Asking for narrow verdicts that are not there
// changes no outcome.
func (t Tables) rule(want map[row.EndpointKey]row.Endpoint) (d table.Diff, err error) {
	have, err := t.Endpoints.All()
	if err != nil {
		return d, err
	}
	var errs []error
	for key, e := range have {
		if e.Flags&row.EndpointRuled != 0 || want[key].Flags&row.EndpointRuled == 0 {
			continue
		}
		e.Flags |= row.EndpointRuled
		if err := t.Endpoints.Put(key, e); err != nil {
			errs = append(errs, err)
			continue
		}
		d.Replaced++
	}
	return d, errors.Join(errs...)
}

// syncVerdicts writes what denies, then what allows, then removes what allows, then what denies. A
// packet looks up narrow keys before wide ones, so that the outcome of a change half done is not a
// mixture of two outcomes; by this order a packet that is denied both before and after is denied in
// every step between.
//
// Proof: in stage 1 only denials are added. In stage 2 an allowance that such a packet would meet first
// has, since the new table denies, a narrower new denial before it. After that the allowances are the
// new ones and some old; an old one that it meets first was met before as well. In stage 4 only new
// allowances are left, and removing a denial uncovers those of the new table. A stage whose premise a
// failure took away is left out: 2 when 1 failed, 4 when 1 or 3 failed.
func syncVerdicts(t table.Table[row.VerdictKey, row.Verdict], want map[row.VerdictKey]row.Verdict) (table.Diff, error) {
	have, err := t.All()
	if err != nil {
		return table.Diff{}, err
	}
	c := verdictChange{t: t, have: have, want: want}
	denied := c.put(true)
	var allowed error
	if denied == nil {
		allowed = c.put(false)
	}
	closed := c.remove(false)
	var opened error
	if denied == nil && closed == nil {
		opened = c.remove(true)
	}
	return c.diff, errors.Join(denied, allowed, closed, opened)
}

type verdictChange struct {
	t          table.Table[row.VerdictKey, row.Verdict]
	have, want map[row.VerdictKey]row.Verdict
	diff       table.Diff
}

func denies(v row.Verdict) bool { return v.Action == row.VerdictDeny }

// put writes those verdicts that deny, or those that do not.
func (c *verdictChange) put(deny bool) error {
	var errs []error
	for key, v := range c.want {
		old, there := c.have[key]
		if denies(v) != deny || there && old == v {
			continue
		}
		switch err := c.t.Put(key, v); {
		case err != nil:
			errs = append(errs, err)
		case there:
			c.diff.Replaced++
		default:
			c.diff.Added++
		}
	}
	return errors.Join(errs...)
}

// remove deletes the unwanted of those that deny, or of those that do not.
func (c *verdictChange) remove(deny bool) error {
	var errs []error
	for key, v := range c.have {
		if _, wanted := c.want[key]; wanted || denies(v) != deny {
			continue
		}
		if err := c.t.Delete(key); err != nil {
			errs = append(errs, err)
			continue
		}
		c.diff.Removed++
	}
	return errors.Join(errs...)
}
