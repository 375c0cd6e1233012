// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"

	"weft/discovery"
	"weft/discovery/state"
	"weft/overlay"
	"weft/overlay/apply"
	"weft/overlay/compile"
)

// restore takes up what an earlier process left: endpoints on disk whose link is alive go on as they
// are; the others, and links that nobody knows, are taken down. It may be called again after an error.
func (e *Engine) restore(ctx context.Context) error {
	e.resumeReturns()
	links, err := e.o.Links.List(ctx)
	if err != nil {
		return err
	}
	byName := make(map[string]apply.Link, len(links))
	for _, l := range links {
		byName[l.Name] = l
	}
	var errs []error
	for _, r := range e.o.Rows.Own(discovery.KindEndpoint) {
		ep, err := state.Value[overlay.Endpoint](r)
		if err != nil || ep.ID != r.Key {
			// Nobody can say what it was: its link, if any, goes with the unknown ones.
			errs = append(errs, e.o.Rows.Delete(discovery.KindEndpoint, r.Key))
			continue
		}
		if ep.InHost() {
			errs = append(errs, e.takeUp(ep))
			continue
		}
		errs = append(errs, e.resume(ctx, ep, byName[ep.HostInterface]))
		delete(byName, ep.HostInterface)
	}
	for name := range byName {
		errs = append(errs, e.o.Links.Remove(ctx, name))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := e.syncTables(ctx); err != nil {
		return err
	}
	return e.openLinks(ctx, links)
}

// resumeReturns takes up which blocks the masters were told to take back: they may have done so.
func (e *Engine) resumeReturns() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, r := range e.o.Rows.Own(discovery.KindWant) {
		if w, err := state.Value[overlay.Want](r); err == nil {
			for _, p := range w.Return {
				e.returning[p] = true
			}
		}
	}
}

// resume makes an entry of an endpoint from disk. Without a cookie its link was never finished, and
// nobody was told that it was there.
func (e *Engine) resume(ctx context.Context, ep overlay.Endpoint, link apply.Link) error {
	en := &entry{Endpoint: ep, ifindex: link.Ifindex, phase: live}
	if link.Ifindex == 0 || ep.Cookie == 0 || ep.Node != e.o.Node {
		en.phase = leaving
	}
	if en.phase == live {
		if err := e.o.Attacher.AttachWorkload(link.Ifindex); err != nil {
			return fmt.Errorf("attachment %s: %w", ep.ID, err)
		}
	}
	if en.phase == live && len(ep.Ports) > 0 && !holdsItself(ep) && e.o.Host != nil {
		// What a program took while no daemon held it leads to the task all the same.
		if err := e.o.Host.Hold(ctx, compile.PortsOf(ep)); err != nil {
			e.log.Warn("port is not held", "attachment", ep.ID, "error", err.Error())
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.entries[ep.ID] = en
	e.tell()
	return nil
}

// openLinks lets packets pass where a crash came between tables and that.
func (e *Engine) openLinks(ctx context.Context, links []apply.Link) error {
	var errs []error
	for _, en := range e.liveEntries() {
		for _, l := range links {
			if l.Name != en.HostInterface || l.Up {
				continue
			}
			n, _ := e.facts.Network(en.Network)
			if err := e.o.Links.Up(ctx, specOf(en.Endpoint, n)); err != nil {
				errs = append(errs, fmt.Errorf("attachment %s: %w", en.ID, err))
			}
		}
	}
	return errors.Join(errs...)
}
