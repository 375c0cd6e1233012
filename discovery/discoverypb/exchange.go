// SPDX-License-Identifier: Apache-2.0

package discoverypb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

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
//	send  own digest, then, once the other digest is known: what the other side lacks, whenever
//	      something changes. It holds no queue: while the other side reads slowly, changes only
//	      move the store on, and what became old meanwhile is never sent.
//	recv  digests and batches; a batch that leaves a gap makes send ask for a fresh look.
type exchange struct {
	s    *Syncer
	link link
	met  func()

	running  sync.WaitGroup
	heard    atomic.Int64 // when something last arrived, Unix nanoseconds
	applying atomic.Bool  // what arrived is being stored: no one is silent

	look    chan struct{} // there is a new cursor; capacity 1: the newest is enough
	lacking chan struct{} // we lack something; capacity 1: once is enough

	mu     sync.Mutex
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
	greeted := false
	for {
		changed := x.s.store.Changed()
		if err := x.sendMissing(); err != nil {
			return err
		}
		idle.Reset(aliveEvery)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-x.lacking:
			if err := x.sendDigest(); err != nil {
				return err
			}
		case <-x.look:
			if greeted {
				continue
			}
			greeted = true
			if err := x.greet(); err != nil {
				return err
			}
		case <-changed:
		case <-idle.C:
			if err := x.link.Send(alive()); err != nil {
				return err
			}
		}
	}
}

// greet sends all that the other side lacks at first, and that this was all.
func (x *exchange) greet() error {
	x.s.met.Add(1)
	if x.met != nil {
		x.met()
	}
	if err := x.sendMissing(); err != nil {
		return err
	}
	return x.link.Send(alive())
}

func (x *exchange) sendDigest() error {
	return x.link.Send(&SyncMessage{Body: &SyncMessage_Digest{Digest: digestOut(x.s.store.Digest())}})
}

// sendMissing sends what the other side lacks now, nothing while its digest is unknown.
func (x *exchange) sendMissing() error {
	x.mu.Lock()
	cursor := x.cursor
	x.mu.Unlock()
	if cursor == nil {
		return nil
	}
	for batch := range cursor.Next() {
		for message := range batchOut(batch) {
			if err := x.link.Send(message); err != nil {
				return err
			}
		}
		x.s.sent.Add(uint64(len(batch.Rows)))
		x.s.transfer.Add(rowBytes(batch.Rows))
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
		case *SyncMessage_Alive:
			x.s.first.Do(func() { close(x.s.caughtUp) })
		}
	}
}

// takeDigest begins to follow what the other side knows: from here on what it sends counts as well.
func (x *exchange) takeDigest(d state.Digest) {
	x.mu.Lock()
	x.cursor = x.s.store.Cursor(d)
	x.mu.Unlock()
	select {
	case x.look <- struct{}{}:
	default:
	}
}

// takeBatch stores a batch, and asks for a fresh look when something is missing before it.
func (x *exchange) takeBatch(b state.Batch) error {
	x.mu.Lock()
	if x.cursor != nil {
		x.cursor.Knows(b.Stream, state.Position{Incarnation: b.Incarnation, Seq: b.To})
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
