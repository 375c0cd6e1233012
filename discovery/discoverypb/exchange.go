// SPDX-License-Identifier: Apache-2.0

package discoverypb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"weft/discovery"
	"weft/discovery/state"
)

var errClosing = errors.New("this process ends")

// link is a stream as both of its ends see it.
type link interface {
	Send(m *SyncMessage) error
	Recv() (*SyncMessage, error)
}

// exchange is one stream. Two goroutines run side by side:
//
//	send  own digest, then, once the other digest is known: what the other side lacks of the topics that
//	      it takes, whenever that changes, and own changes of interest. It holds no queue: while the other
//	      side reads slowly, changes only move the store on, and what became old meanwhile is never sent.
//	recv  digests, interests and batches; a batch that leaves a gap makes send ask for a fresh look.
type exchange struct {
	s    *Syncer
	link link
	met  func()

	running  sync.WaitGroup
	heard    atomic.Int64 // when something last arrived, Unix nanoseconds
	applying atomic.Bool  // what arrived is being stored: no one is silent

	look    chan struct{} // there is a new cursor; capacity 1: the newest is enough
	lacking chan struct{} // we lack something; capacity 1: once is enough

	// Of send alone.
	said     time.Time // when something was last said
	greeted  bool
	answered uint64            // the other side's interest that all was sent of
	told     []discovery.Topic // our interest as the other side knows it
	interest uint64

	mu     sync.Mutex
	ended  bool
	cursor *state.Cursor // what the other side knows; nil until its digest came
}

func (s *Syncer) newExchange(l link, met func()) *exchange {
	x := &exchange{s: s, link: l, met: met, look: make(chan struct{}, 1), lacking: make(chan struct{}, 1)}
	x.heard.Store(time.Now().UnixNano())
	return x
}

// start runs f beside run.
func (x *exchange) start(f func()) {
	x.running.Add(1)
	x.s.running.Go(func() {
		defer x.running.Done()
		f()
	})
}

// run returns when something fails, and what; its goroutines end when the stream does.
func (x *exchange) run(ctx context.Context) error {
	s := x.s
	s.open.Add(1)
	defer s.open.Add(-1)
	s.answers.begin(x)
	defer s.answers.end(x)
	defer func() {
		x.mu.Lock()
		x.ended = true
		x.mu.Unlock()
		x.unfollow()
	}()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	failed := make(chan error, 2) // one per goroutine
	x.start(func() {
		// EOF is gRPC's word for: the stream is over, recv is told why.
		if err := x.send(ctx); !errors.Is(err, io.EOF) {
			failed <- err
		}
	})
	x.start(func() { failed <- x.recv() })

	watch := time.NewTicker(aliveEvery)
	defer watch.Stop()
	for {
		select {
		case err := <-failed:
			return err
		case <-ctx.Done():
			return ctx.Err()
		case <-s.closing:
			return errClosing
		case <-watch.C:
			silence := time.Since(time.Unix(0, x.heard.Load()))
			if silence > silentAfter && !x.applying.Load() {
				return fmt.Errorf("nothing heard for %v: %w", silence.Round(time.Millisecond), ErrSilent)
			}
		}
	}
}

func (x *exchange) send(ctx context.Context) error {
	if err := x.sendDigest(); err != nil {
		return err
	}
	idle := time.NewTimer(aliveEvery)
	defer idle.Stop()
	whole := time.NewTimer(digestEvery + rand.N(digestEvery))
	defer whole.Stop()
	for {
		turned := x.s.store.InterestChanged()
		if err := errors.Join(x.sendInterest(), x.sendMissing()); err != nil {
			return err
		}
		// What wakes this side may be nothing for the other, which has to hear something all the same.
		idle.Reset(time.Until(x.said.Add(aliveEvery)))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-x.lacking:
			if err := x.sendDigest(); err != nil {
				return err
			}
		case <-whole.C:
			// Nothing should ever be missing. If it is all the same, it is now looked for from the beginning.
			whole.Reset(digestEvery + rand.N(digestEvery))
			if err := x.sendDigest(); err != nil {
				return err
			}
		case <-x.look:
		case <-x.pending():
			x.gather(ctx)
		case <-turned:
		case <-idle.C:
			if err := x.sendAlive(); err != nil {
				return err
			}
		}
	}
}

// gather lets changes come together before they are sent, the longer the more exchanges there are: a message
// costs as much as some rows. A new interest is not kept waiting.
func (x *exchange) gather(ctx context.Context) {
	cursor := x.follower()
	if cursor == nil || !x.greeted || cursor.Interest() != x.answered {
		return
	}
	timer := time.NewTimer(min(time.Duration(x.s.open.Load())*gatherEach, gatherMost))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-cursor.Turned():
	case <-ctx.Done():
	}
}

func (x *exchange) sendDigest() error {
	d := x.s.store.Digest()
	x.told, x.interest = d.Topics, d.Interest
	return x.say(&SyncMessage{Body: &SyncMessage_Digest{Digest: digestOut(d)}})
}

// sendInterest tells what changed of the topics that this side takes.
func (x *exchange) sendInterest() error {
	if x.s.store.InterestVersion() == x.interest {
		return nil
	}
	now, version := x.s.store.Interest()
	message := &Interest{Interest: version, Take: topicsOut(missingFrom(x.told, now)), Leave: topicsOut(missingFrom(now, x.told))}
	x.told, x.interest = now, version
	return x.say(&SyncMessage{Body: &SyncMessage_Interest{Interest: message}})
}

// missingFrom returns what is in list, but not in other. Both are in order.
func missingFrom(other, list []discovery.Topic) (missing []discovery.Topic) {
	for _, t := range list {
		if _, there := slices.BinarySearchFunc(other, t, discovery.Topic.Compare); !there {
			missing = append(missing, t)
		}
	}
	return missing
}

// sendMissing sends what the other side lacks now, nothing while its digest is unknown, and says so when all of
// an interest was sent.
func (x *exchange) sendMissing() error {
	cursor := x.follower()
	if cursor == nil {
		return nil
	}
	first := !x.greeted
	if first {
		x.greeted = true
		x.s.met.Add(1)
		if x.met != nil {
			x.met()
		}
	}
	interest := cursor.Interest()
	for batch := range cursor.Next() {
		for message := range batchOut(batch) {
			x.s.wire.Add(uint64(proto.Size(message)))
			if err := x.say(message); err != nil {
				return err
			}
		}
		x.s.sent.Add(uint64(len(batch.Rows)))
		x.s.transfer.Add(rowBytes(batch.Rows))
	}
	if !first && interest == x.answered {
		return nil
	}
	x.answered = interest
	return x.sendAlive()
}

func (x *exchange) say(m *SyncMessage) error {
	x.said = time.Now()
	return x.link.Send(m)
}

func (x *exchange) sendAlive() error {
	return x.say(&SyncMessage{Body: &SyncMessage_Alive{Alive: &Alive{Interest: x.answered, Whole: x.s.knowsAll()}}})
}

// follower returns the cursor of the other side's digest, nil while that is unknown.
func (x *exchange) follower() *state.Cursor {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.cursor
}

// pending is never ready while the other digest is unknown.
func (x *exchange) pending() <-chan struct{} {
	if cursor := x.follower(); cursor != nil {
		return cursor.Pending()
	}
	return nil
}

func (x *exchange) recv() error {
	var whole batchIn
	greeted := false
	for {
		m, err := x.link.Recv()
		if err != nil {
			return err
		}
		x.heard.Store(time.Now().UnixNano())
		switch body := m.GetBody().(type) {
		case *SyncMessage_Digest:
			greeted = true
			x.takeDigest(digestIn(body.Digest))
		case *SyncMessage_Batch:
			if !greeted {
				return errors.New("a batch came before the digest")
			}
			complete, err := whole.add(body.Batch)
			if err != nil {
				return err
			}
			if complete {
				if err := x.takeBatch(whole.take()); err != nil {
					return err
				}
			}
		case *SyncMessage_Interest:
			x.takeInterest(body.Interest)
		case *SyncMessage_Alive:
			x.s.first.Do(func() { close(x.s.caughtUp) })
			x.s.answers.take(x, body.Alive.GetInterest(), body.Alive.GetWhole())
		}
	}
}

// takeDigest begins to follow what the other side knows: from here on what it sends counts as well.
func (x *exchange) takeDigest(d state.Digest) {
	x.unfollow()
	x.mu.Lock()
	if !x.ended {
		x.cursor = x.s.store.Follow(d)
	}
	x.mu.Unlock()
	select {
	case x.look <- struct{}{}:
	default:
	}
}

func (x *exchange) takeInterest(i *Interest) {
	if cursor := x.follower(); cursor != nil {
		cursor.Turn(topicsIn(i.GetTake()), topicsIn(i.GetLeave()), i.GetInterest())
	}
}

// takeBatch stores a batch, and asks for a fresh look when something is missing before it.
func (x *exchange) takeBatch(b state.Batch) error {
	x.mu.Lock()
	if x.cursor != nil {
		x.cursor.Knows(b.Stream, discovery.Position{Incarnation: b.Incarnation, Seq: b.To})
	}
	x.mu.Unlock()
	x.s.received.Add(uint64(len(b.Rows)))
	x.s.transfer.Add(rowBytes(b.Rows))

	x.applying.Store(true)
	changed, err := x.s.store.ApplyBatch(b)
	x.heard.Store(time.Now().UnixNano())
	x.applying.Store(false)
	if errors.Is(err, state.ErrGap) {
		x.s.gaps.Add(1)
		select {
		case x.lacking <- struct{}{}:
		default:
		}
		return nil
	}
	x.s.changed.Add(uint64(changed))
	return err
}

// unfollow forgets what the other side knows.
func (x *exchange) unfollow() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.cursor != nil {
		x.cursor.Close()
		x.cursor = nil
	}
}
