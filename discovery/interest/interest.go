// SPDX-License-Identifier: Apache-2.0

// Package interest decides which topics a node holds: those that somebody asked for lately, and all names while
// no master answers. Which topics a question is about it is told; how rows travel is discoverypb's.
//
//	        first question, waits until all rows are here
//	(none)  ------------------------------------------------>  in use  <----.
//	   ^                                                         |          | a question
//	   |  ColdFor without a question: Leave        Idle: Cool    v          |
//	   '-----------------------------------------------------  cold  -------'
package interest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"weft/discovery"
)

// Defaults of Options.
const (
	DefaultIdle     = 10 * time.Minute
	DefaultColdFor  = time.Minute
	DefaultPatience = time.Second
)

// maxTopics is how many topics are held one by one; who asks for more names than that holds all of them, whose number is the
// cluster's and not the asker's.
const maxTopics = 4096

// While no master answers.
const (
	grace  = time.Second     // as peers.DefaultGrace: then nodes are talked to
	spread = 2 * time.Second // after which names of all have come round between nodes
	look   = 200 * time.Millisecond
)

// Store holds the rows; discovery/state does.
type Store interface {
	Take(topics ...discovery.Topic) (version uint64)
	Leave(topics ...discovery.Topic)
	Interest() (topics []discovery.Topic, version uint64)
}

// Answers tells what others have sent; discoverypb.Syncer does.
type Answers interface {
	// Held is the version of the interest of which somebody who knows everything has sent all.
	Held() uint64
	// Shared counts those who have sent what they know for a version.
	Shared(version uint64) int
	// Answered is closed at the next change of both.
	Answered() <-chan struct{}
}

// Options say what the interest works with.
type Options struct {
	Store   Store         // required
	Answers Answers       // required
	Master  func() bool   // tells whether a master answers; required
	Idle    time.Duration // without a question, until what is answered elsewhere (Cool) is not any more
	ColdFor time.Duration // without a question after that, until the rows go
	// Patience is how long the first question for a topic waits at most.
	Patience time.Duration
	// Cool is told of topics that nobody asked for: who answers for them without asking here ends that; that of every
	// name stands for names of which there is no topic, too. Nil: nobody.
	Cool func([]discovery.Topic)
	// Left is told when rows went because nobody asked for them. Nil: nobody.
	Left func()
	Log  *slog.Logger // nil: nobody
}

// Interest is what a node holds on interest. Run keeps it small.
type Interest struct {
	o   Options
	log *slog.Logger

	mu     sync.Mutex // guards what follows
	topics map[discovery.Topic]*use
	lonely time.Time // since when no master answers; zero: one does
	stands bool      // all names are taken, because no master answers
	stood  time.Time // when they were
	all    uint64    // the version in which they were
}

// use is one topic that is taken.
type use struct {
	version uint64    // of the interest that began it
	began   time.Time // when it was taken
	asked   time.Time
	held    bool // all its rows were here once; since then they come as they change
	cold    bool
}

// Stats are the present counts.
type Stats struct {
	Topics int
	Held   int  // those of them whose rows are all here
	All    bool // all names are taken, because no master answers
}

var everyName = discovery.Topic{Kind: discovery.KindName, Of: discovery.Every}

// New goes on with the topics that the store holds from its disk.
func New(o Options) (*Interest, error) {
	if o.Store == nil || o.Answers == nil || o.Master == nil {
		return nil, errors.New("interest: a store, answers and master are needed")
	}
	if o.Idle < 0 || o.ColdFor < 0 || o.Patience < 0 {
		return nil, fmt.Errorf("interest: idle %v, cold for %v, patience %v: none may be negative: %w", o.Idle, o.ColdFor, o.Patience, discovery.ErrInvalid)
	}
	for value, standard := range map[*time.Duration]time.Duration{&o.Idle: DefaultIdle, &o.ColdFor: DefaultColdFor, &o.Patience: DefaultPatience} {
		if *value == 0 {
			*value = standard
		}
	}
	i := &Interest{o: o, log: o.Log, topics: make(map[discovery.Topic]*use)}
	if i.log == nil {
		i.log = slog.New(slog.DiscardHandler)
	}
	topics, _ := o.Store.Interest()
	i.Adopt(topics)
	return i, nil
}

// Adopt takes topics as if they had been asked for, without waiting: what an earlier process answers for.
func (i *Interest) Adopt(topics []discovery.Topic) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.take(i.covered(topics), time.Now())
}

// Use says that a question is about topics, and returns whether all their rows are here, for which it waits
// if the topics are new. What it returns false for may be in part here: nothing of it is proof.
func (i *Interest) Use(ctx context.Context, topics ...discovery.Topic) bool {
	for {
		answered := i.o.Answers.Answered()
		held, left := i.use(topics)
		if held || left <= 0 {
			return held
		}
		timer := time.NewTimer(left)
		select {
		case <-answered:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return false
		}
		timer.Stop()
	}
}

// Holds is Use for who can't wait: where it is false the topics are as they were.
func (i *Interest) Holds(topics ...discovery.Topic) bool {
	now := time.Now()
	i.mu.Lock()
	defer i.mu.Unlock()
	topics = i.covered(topics)
	for _, t := range topics {
		if u := i.topics[t]; u == nil || !i.isHeld(u, now) {
			return false
		}
	}
	i.take(topics, now)
	return true
}

// use tells whether all topics are held, or how long that is worth waiting for.
func (i *Interest) use(topics []discovery.Topic) (held bool, left time.Duration) {
	now := time.Now()
	i.mu.Lock()
	defer i.mu.Unlock()
	topics = i.covered(topics)
	i.take(topics, now)
	held = true
	for _, t := range topics {
		if u := i.topics[t]; !i.isHeld(u, now) {
			held = false
			left = max(left, i.o.Patience-now.Sub(u.began))
		}
	}
	return held, left
}

// covered puts all names in the place of topics that are too many; mu is held.
func (i *Interest) covered(topics []discovery.Topic) []discovery.Topic {
	fresh := func(t discovery.Topic) bool { return i.topics[t] == nil }
	if len(i.topics) < maxTopics || !slices.ContainsFunc(topics, fresh) {
		return topics
	}
	return append(slices.DeleteFunc(slices.Clone(topics), fresh), everyName)
}

// take takes topics; mu is held.
func (i *Interest) take(topics []discovery.Topic, now time.Time) {
	fresh := false
	for _, t := range topics {
		u := i.topics[t]
		if u == nil {
			if len(i.topics) >= maxTopics {
				i.log.Info("many names are asked for; all are taken", "topics", len(i.topics))
			}
			u, fresh = &use{began: now}, true
			i.topics[t] = u
		}
		u.asked, u.cold = now, false
	}
	if !fresh {
		return
	}
	for _, t := range topics {
		i.topics[t].version = i.o.Store.Take(t)
	}
}

// isHeld tells whether all rows of a topic are here; mu is held.
func (i *Interest) isHeld(u *use, now time.Time) bool {
	if !u.held && i.o.Answers.Held() >= u.version {
		u.held = true
	}
	return u.held || i.standsIn(now)
}

// standsIn tells that nodes hold all names among themselves; mu is held.
func (i *Interest) standsIn(now time.Time) bool {
	return i.stands && now.Sub(i.stood) >= spread && i.o.Answers.Shared(i.all) > 0
}

// Settled tells whether all that is taken now is held.
func (i *Interest) Settled() bool {
	now := time.Now()
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, u := range i.topics {
		if !i.isHeld(u, now) {
			return false
		}
	}
	return true
}

// Stats returns the present counts.
func (i *Interest) Stats() Stats {
	now := time.Now()
	i.mu.Lock()
	defer i.mu.Unlock()
	s := Stats{Topics: len(i.topics), All: i.stands}
	for _, u := range i.topics {
		if i.isHeld(u, now) {
			s.Held++
		}
	}
	return s
}

// Run gives up what is not asked for, and stands in for masters, until ctx ends; then it returns nil.
func (i *Interest) Run(ctx context.Context) error {
	tick := time.NewTicker(look)
	defer tick.Stop()
	swept := time.Now()
	for {
		now := time.Now()
		i.stand(now)
		if now.Sub(swept) >= min(i.o.ColdFor, i.o.Idle)/4 {
			swept = now
			i.sweep(now)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// stand takes all names when no master answers, and leaves them when one has vouched for what is in use.
func (i *Interest) stand(now time.Time) {
	i.mu.Lock()
	left := false
	defer func() {
		i.mu.Unlock()
		if left && i.o.Left != nil {
			i.o.Left()
		}
	}()
	if i.o.Master() {
		i.lonely = time.Time{}
		if i.stands && i.o.Answers.Held() >= i.all && i.inUseHeld() {
			i.stands = false
			if i.topics[everyName] == nil {
				i.o.Store.Leave(everyName)
				left = true
			}
			i.log.Info("a master vouches for names again; those that nobody asks for are left")
		}
		return
	}
	if i.lonely.IsZero() {
		i.lonely = now
	}
	if !i.stands && now.Sub(i.lonely) >= grace {
		i.stands, i.stood, i.all = true, now, i.o.Store.Take(everyName)
		i.log.Warn("no master answers; all names are taken from other nodes")
	}
}

// inUseHeld tells that a master has vouched for every topic in use; mu is held.
func (i *Interest) inUseHeld() bool {
	version := uint64(0)
	for _, u := range i.topics {
		version = max(version, u.version)
	}
	return i.o.Answers.Held() >= version
}

// sweep cools what is idle, and leaves what stayed cold.
func (i *Interest) sweep(now time.Time) {
	var cool, leave []discovery.Topic
	i.mu.Lock()
	for t, u := range i.topics {
		switch idle := now.Sub(u.asked); {
		case u.cold && idle >= i.o.Idle+i.o.ColdFor:
			leave = append(leave, t)
			delete(i.topics, t)
		case !u.cold && idle >= i.o.Idle:
			u.cold = true
			cool = append(cool, t)
		}
	}
	if i.stands {
		leave = slices.DeleteFunc(leave, func(t discovery.Topic) bool { return t == everyName })
	}
	if len(leave) > 0 {
		i.o.Store.Leave(leave...)
	}
	i.mu.Unlock()
	if len(cool) > 0 && i.o.Cool != nil {
		i.o.Cool(cool)
	}
	if len(leave) > 0 && i.o.Left != nil {
		i.o.Left()
	}
}
