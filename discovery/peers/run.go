// SPDX-License-Identifier: Apache-2.0

package peers

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// answerWithin is how long another side may take to answer before the next one is tried.
const answerWithin = 700 * time.Millisecond

// Run keeps rows flowing until ctx ends, then returns nil.
//
//	                 answers                        ends, or none answers for Grace
//	try masters  ---------------->  one master  -------------------------------------.
//	     ^                              ^                                            v
//	     |                              '---------- a master answers ---  Fanout nodes, and masters
//	     '------ always, with growing pauses --------------------------------  tried beside them
//
// With Every it is a mesh instead: all masters at once, and no nodes.
func (p *Peers) Run(ctx context.Context) error {
	if p.o.Every {
		p.mesh(ctx)
		return nil
	}
	var running sync.WaitGroup
	running.Go(func() { p.keepMaster(ctx) })
	running.Go(func() { p.standIn(ctx) })
	running.Wait()
	return nil
}

// keepMaster exchanges with one master after the other, in random order.
func (p *Peers) keepMaster(ctx context.Context) {
	wait := pause{first: 100 * time.Millisecond, last: 5 * time.Second}
	for ctx.Err() == nil {
		masters := shuffled(p.o.Masters())
		for _, addr := range masters {
			met := p.talk(ctx, addr, func() {
				wait.reset()
				p.setMaster(addr)
			})
			if met {
				p.setMaster("")
				break // another order: the next master gets its turn
			}
		}
		if !sleep(ctx, wait.take()) {
			return
		}
	}
}

func (p *Peers) setMaster(addr string) {
	p.update(func(s *Stats) { s.Master, s.Since = addr, time.Now() })
	if addr == "" {
		p.log.Warn("no master answers")
	} else {
		p.log.Info("master answers", "addr", addr)
	}
}

// standIn talks to nodes for as long as no master answers.
func (p *Peers) standIn(ctx context.Context) {
	for ctx.Err() == nil && p.awaitMaster(ctx, false) {
		// A master that is replaced at once is no reason to talk to others.
		grace, stop := context.WithTimeout(ctx, p.o.Grace)
		back := p.awaitMaster(grace, true)
		stop()
		if !back {
			p.talkToNodes(ctx)
		}
	}
}

// awaitMaster waits until a master answers, or until none does; false when ctx ends before.
func (p *Peers) awaitMaster(ctx context.Context, answers bool) bool {
	for {
		changed := p.Changed()
		if (p.Stats().Master != "") == answers {
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

// talkToNodes keeps Fanout exchanges with random nodes until a master answers.
func (p *Peers) talkToNodes(ctx context.Context) {
	ctx, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	taken := &taken{addrs: make(map[string]bool)}
	for range p.o.Fanout {
		running.Go(func() { p.keepNode(ctx, taken) })
	}
	p.awaitMaster(ctx, true)
	stop()
	running.Wait()
}

// keepNode exchanges with one node that no one else of us talks to, then with another.
func (p *Peers) keepNode(ctx context.Context, taken *taken) {
	wait := pause{first: 100 * time.Millisecond, last: 2 * time.Second}
	for ctx.Err() == nil {
		if addr := taken.pick(p.o.Peers()); addr != "" {
			p.talkAsPeer(ctx, addr, &wait)
			taken.give(addr)
		}
		if !sleep(ctx, wait.take()) {
			return
		}
	}
}

// talk runs one exchange, which must be answered soon, and tells whether it was.
func (p *Peers) talk(ctx context.Context, addr string, met func()) (answered bool) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var mu sync.Mutex
	late := false
	timer := time.AfterFunc(answerWithin, func() {
		mu.Lock()
		defer mu.Unlock()
		if !answered {
			late = true
			stop()
		}
	})
	defer timer.Stop()
	p.mu.Lock()
	p.stats.Attempts++
	p.mu.Unlock()
	err := p.o.Exchange(ctx, addr, func() {
		mu.Lock()
		defer mu.Unlock()
		if !answered && !late {
			answered = true
			met()
		}
	})
	mu.Lock()
	defer mu.Unlock()
	if late || ctx.Err() == nil {
		p.mu.Lock()
		p.stats.Failures++
		p.mu.Unlock()
		p.log.Debug("exchange ended", "addr", addr, "answered", answered, "error", err)
	}
	return answered
}

// taken are the nodes that are talked to.
type taken struct {
	mu    sync.Mutex
	addrs map[string]bool
}

// pick takes a random address that is free, or returns an empty one.
func (t *taken) pick(addrs []string) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, addr := range shuffled(addrs) {
		if !t.addrs[addr] {
			t.addrs[addr] = true
			return addr
		}
	}
	return ""
}

func (t *taken) give(addr string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.addrs, addr)
}

func shuffled(addrs []string) []string {
	addrs = slices.Clone(addrs)
	rand.Shuffle(len(addrs), func(i, k int) { addrs[i], addrs[k] = addrs[k], addrs[i] })
	return addrs
}
