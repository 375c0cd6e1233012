// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"weft/discovery"
	"weft/overlay"
	"weft/overlay/apply"
)

// loop restores, then reconciles whenever something changed, and after a failure again and again.
func (e *Engine) loop(ctx context.Context, g *errgroup.Group) error {
	gone, err := e.o.Links.Watch(ctx)
	if err != nil {
		return err
	}
	defer func() {
		for range gone { // closed when ctx has ended
		}
	}()
	audit := time.NewTicker(auditEvery)
	defer audit.Stop()
	failures := 0
	for {
		changed := e.o.Rows.Changed(discovery.KindNetwork, discovery.KindGroup, discovery.KindRule, discovery.KindBlock,
			discovery.KindIdentity, discovery.KindAdmission, discovery.KindPlain, discovery.KindNode)
		err := e.step(ctx, g)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var retry <-chan time.Time
		if err != nil {
			pause := backoff(failures)
			e.log.Error("overlay is not as it should be", "error", err.Error(), "retry_in", pause)
			failures++
			retry = time.After(pause)
		} else {
			failures = 0
		}
		if err := e.pause(ctx, changed, gone, audit.C, retry); err != nil {
			return err
		}
	}
}

// pause waits until there is something to do. After a failure only ctx's end and the time to try again
// count: what fails is not tried faster because more is asked.
func (e *Engine) pause(ctx context.Context, changed, gone <-chan struct{}, audit, retry <-chan time.Time) error {
	kick, news := (<-chan struct{})(e.kick), e.paths.News()
	if retry != nil {
		changed, gone, audit, kick, news = nil, nil, nil, nil, nil
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-kick:
	case <-news:
	case <-changed:
	case _, open := <-gone:
		if !open {
			return errors.Join(ctx.Err(), errors.New("links are not watched any more"))
		}
	case <-audit:
		e.sync.audit.Store(true)
	case <-retry:
	}
	return nil
}

// backoff returns the pause after that many failures in a row, with up to a quarter taken off so that
// nodes do not try in step.
func backoff(failures int) time.Duration {
	d := min(firstRetry<<min(failures, 10), lastRetry)
	return d - rand.N(d/4+1)
}

// step does all that there is to do now.
func (e *Engine) step(ctx context.Context, g *errgroup.Group) error {
	select {
	case <-e.ready:
	default:
		if err := e.restore(ctx); err != nil {
			return fmt.Errorf("restore: %w", err)
		}
		close(e.ready)
	}
	e.watchOwners(ctx, g)
	ended := e.endWhatEnded(ctx)
	e.returnBlocks(time.Now())
	errs := []error{ended, e.syncWants(), e.syncTables(ctx)}
	return errors.Join(errs...)
}

// watchOwners waits for the owner of each live entry that is not waited for yet.
func (e *Engine) watchOwners(ctx context.Context, g *errgroup.Group) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, en := range e.entries {
		if en.phase != live || en.watched || en.OwnerPID == 0 {
			continue
		}
		en.watched = true
		g.Go(func() error {
			err := e.o.WaitOwner(ctx, en.OwnerPID, en.OwnerStart)
			e.mu.Lock()
			en.ended, en.watched = err == nil, false
			e.mu.Unlock()
			if err != nil && ctx.Err() == nil {
				e.log.Error("owner can't be watched", "attachment", en.ID, "pid", en.OwnerPID, "error", err.Error())
			}
			e.wake()
			return nil
		})
	}
}

// endWhatEnded takes down what has lost its link, its owner or its network, and what was half taken
// down before.
func (e *Engine) endWhatEnded(ctx context.Context) error {
	// The list after the entries: one that becomes live meanwhile is not missed in it.
	entries := e.allEntries()
	links, err := e.o.Links.List(ctx)
	if err != nil {
		return err
	}
	known := e.facts.Known()
	var errs []error
	for _, en := range entries {
		why := e.fault(en, links, known)
		if why == "" {
			continue
		}
		if err := e.endIf(ctx, en, why); err != nil {
			errs = append(errs, fmt.Errorf("attachment %s: %w", en.ID, err))
		}
	}
	return errors.Join(errs...)
}

func (e *Engine) allEntries() []entry {
	e.mu.Lock()
	defer e.mu.Unlock()
	var list []entry
	for _, en := range e.entries {
		list = append(list, *en)
	}
	return list
}

// fault tells why an entry must go, empty when it may stay.
func (e *Engine) fault(en entry, links []apply.Link, known bool) string {
	switch en.phase {
	case leaving:
		return "half taken down"
	case reserved:
		return "" // Attach is at it
	case live:
	}
	if en.ended {
		return "owner ended"
	}
	if en.InHost() {
		return "" // there is nothing else of it
	}
	if !isAmong(en, links) {
		return "link gone"
	}
	if !known {
		return ""
	}
	n, ok := e.facts.Network(en.Network)
	if !ok || n.VNI != en.VNI || !within(n, en.Addrs()) {
		return "network gone"
	}
	for _, a := range en.Addrs() {
		if b, held := e.facts.Block(n.BlockOf(a)); held && b.Node != e.o.Node {
			return "addresses now of node " + string(b.Node)
		}
	}
	return ""
}

func isAmong(en entry, links []apply.Link) bool {
	return slices.ContainsFunc(links, func(l apply.Link) bool { return l.Name == en.HostInterface && l.Ifindex == en.ifindex })
}

func within(n overlay.Network, addrs []netip.Addr) bool {
	for _, a := range addrs {
		if !slices.ContainsFunc(n.Subnets(), func(p netip.Prefix) bool { return p.Contains(a) }) {
			return false
		}
	}
	return true
}

// endIf takes an entry down unless it is another one by now: Detach and Attach may have come between.
// One that they are at is left to them: they wake the loop when they are done.
func (e *Engine) endIf(ctx context.Context, seen entry, why string) error {
	unlock, _ := e.ids.try(seen.ID)
	if unlock == nil {
		return nil
	}
	defer unlock()
	e.mu.Lock()
	now, there := e.entries[seen.ID]
	same := there && now.phase == seen.phase && now.ifindex == seen.ifindex
	if same && seen.phase == live {
		e.stats.Ended++
	}
	e.mu.Unlock()
	if !same {
		return nil
	}
	if err := e.takeDown(ctx, seen.ID); err != nil {
		return err
	}
	e.log.Info("detached", "attachment", seen.ID, "task", seen.Task, "reason", why)
	return nil
}
