// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"weft/discovery"
	"weft/lb"
)

const (
	firstAskAgain = 20 * time.Millisecond // after a peer could not be reached, doubling
	lastAskAgain  = 500 * time.Millisecond
)

// errGone ends the wait for a node that does not live any more.
var errGone = errors.New("the node is gone")

// Applied returns when this node's tables have rows up to where they are known, or when ctx ends.
func (e *Engine) Applied(ctx context.Context, known map[discovery.Stream]discovery.Position) error {
	for of, at := range known {
		for changed := e.store.Changed(); !e.store.Position(of).Reaches(at); changed = e.store.Changed() {
			select {
			case <-changed:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	}
	e.nudge()
	_, err := e.await(ctx, func(s *Snapshot) error { return cmp.Or(s.Err, s.has(known)) })
	if err != nil || e.follow == nil {
		return err
	}
	return e.follow(ctx)
}

// settle waits until every living node acts by the own rows as they are now, and returns those that don't in
// time.
func (e *Engine) settle(ctx context.Context, wait time.Duration) (late []discovery.NodeID) {
	known := e.written()
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(wait, lb.DefaultWait))
	defer cancel()
	if e.Applied(ctx, known) != nil {
		late = append(late, e.self)
	}
	if s := e.snapshot.Load(); s != nil && e.peers != nil {
		late = append(late, e.ask(ctx, s.peers, known)...)
	}
	slices.Sort(late)
	if len(late) > 0 {
		e.log.Warn("not every node acts by a backend's row yet", "late", late)
	}
	return late
}

// ask asks all peers at once.
func (e *Engine) ask(ctx context.Context, peers map[discovery.NodeID]string, known map[discovery.Stream]discovery.Position) (late []discovery.NodeID) {
	ctx, done := context.WithCancel(ctx)
	var asking, watching sync.WaitGroup
	var mu sync.Mutex // guards late
	stops := make(map[discovery.NodeID]context.CancelCauseFunc, len(peers))
	for node, addr := range peers {
		one, stop := context.WithCancelCause(ctx)
		stops[node] = stop
		asking.Go(func() {
			if !e.askOne(one, addr, known) {
				mu.Lock()
				defer mu.Unlock()
				late = append(late, node)
			}
			stop(nil)
		})
	}
	watching.Go(func() { e.dropGone(ctx, stops) })
	asking.Wait()
	done()
	watching.Wait()
	return late
}

// dropGone ends the wait for nodes that go, until ctx ends.
func (e *Engine) dropGone(ctx context.Context, stops map[discovery.NodeID]context.CancelCauseFunc) {
	for {
		changed := e.Changed()
		for node, stop := range stops {
			if _, lives := e.snapshot.Load().peers[node]; !lives {
				stop(errGone)
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// askOne reports whether a node need not be waited for any more.
func (e *Engine) askOne(ctx context.Context, addr string, known map[discovery.Stream]discovery.Position) bool {
	pause := firstAskAgain
	for {
		err := e.peers.Applied(ctx, addr, known)
		switch {
		case err == nil, errors.Is(context.Cause(ctx), errGone):
			return true
		case ctx.Err() != nil, errors.Is(err, errors.ErrUnsupported):
			return false
		}
		timer := time.NewTimer(pause/2 + rand.N(pause/2))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
		pause = min(2*pause, lastAskAgain)
	}
}
