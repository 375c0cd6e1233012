// SPDX-License-Identifier: Apache-2.0

// Package discoverypb carries discovery over gRPC: rows between processes (Syncer) and
// discovery.Service on a socket (Register, NewClient). It decides neither whom to talk to, which is
// discovery/peers', nor which row is true, which is discovery/state's.
package discoverypb

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weft/discovery"
	"weft/discovery/state"
)

// ErrSilent tells that the other side was not heard for too long.
var ErrSilent = errors.New("the other side is silent")

// How an exchange notices that the other side hangs: who has nothing to say says so.
const (
	aliveEvery  = time.Second
	silentAfter = 4 * time.Second
)

// digestEvery is how often at least each side says all that it knows; up to twice as long, so that nodes do not
// do it together. Of 1,000 nodes that is about 100 KB a second at a master.
const digestEvery = 5 * time.Minute

// How long changes come together before they are sent: for each exchange that is open, and at most.
const (
	gatherEach = 100 * time.Microsecond
	gatherMost = 100 * time.Millisecond
)

// SyncOptions say what is exchanged. With whom is what connections and servers are for: package wire.
type SyncOptions struct {
	Store *state.Store // required
	// Applied returns when this process acts by rows up to where they are known. Nil: it never says.
	Applied func(ctx context.Context, known map[discovery.Stream]discovery.Position) error
	// Complete tells, of a store of every topic, that all writers there are have brought their rows, as far as
	// is known; asked until it says yes. Nil: yes.
	Complete func() bool
	Log      *slog.Logger // nil: nobody
}

// SyncStats counts what all exchanges of a Syncer did.
type SyncStats struct {
	Open     int64  // exchanges going on
	Met      uint64 // exchanges that began, both digests seen
	Sent     uint64 // rows
	Received uint64 // rows
	Changed  uint64 // received rows that changed something
	Gaps     uint64 // batches that did not fit and were asked for again
	Bytes    uint64 // of keys and values sent and received
	Wire     uint64 // bytes of messages with rows that were sent
}

// Syncer exchanges the rows of a store with others, as server and as client.
type Syncer struct {
	UnimplementedSyncServer
	store   *state.Store
	applied func(ctx context.Context, known map[discovery.Stream]discovery.Position) error
	log     *slog.Logger

	closing  chan struct{} // closed by Close
	close    sync.Once
	running  sync.WaitGroup // goroutines of all exchanges
	caughtUp chan struct{}  // closed by the first exchange that catches up
	first    sync.Once

	isComplete func() bool
	complete   atomic.Bool
	answers    *answers

	open                                               atomic.Int64
	met, sent, received, changed, gaps, transfer, wire atomic.Uint64
}

// NewSyncer returns a Syncer; nothing runs before Register or With.
func NewSyncer(o SyncOptions) (*Syncer, error) {
	if o.Store == nil {
		return nil, errors.New("sync rows: a store is needed")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Syncer{
		store: o.Store, applied: o.Applied, log: o.Log,
		closing: make(chan struct{}), caughtUp: make(chan struct{}), isComplete: o.Complete, answers: newAnswers(),
	}, nil
}

// Register serves Sync on r.
func (s *Syncer) Register(r grpc.ServiceRegistrar) { RegisterSyncServer(r, s) }

// Exchange implements SyncServer: it ends with the stream or with Close.
func (s *Syncer) Exchange(stream grpc.BidiStreamingServer[SyncMessage, SyncMessage]) error {
	// The goroutines end when the stream does, which is after this returns; Close waits for them.
	err := s.newExchange(stream, nil).run(stream.Context())
	switch {
	case stream.Context().Err() != nil:
		return status.FromContextError(stream.Context().Err()).Err()
	case errors.Is(err, state.ErrClosed), errors.Is(err, errClosing):
		return status.Error(codes.Unavailable, err.Error())
	}
	return status.Error(codes.Aborted, err.Error())
}

// With exchanges rows with the server of conn until ctx ends or something fails, and never returns
// nil. It calls met, if not nil, when the other side has answered.
func (s *Syncer) With(ctx context.Context, conn grpc.ClientConnInterface, met func()) error {
	streamCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := NewSyncClient(conn).Exchange(streamCtx)
	if err == nil {
		x := s.newExchange(stream, met)
		err = x.run(streamCtx)
		cancel()
		x.running.Wait()
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return fmt.Errorf("sync rows: %w", err)
}

// CaughtUp returns a channel that is closed when, for the first time, all that some other process
// knew has arrived.
func (s *Syncer) CaughtUp() <-chan struct{} { return s.caughtUp }

// Stats returns the present counts.
func (s *Syncer) Stats() SyncStats {
	return SyncStats{
		Open: s.open.Load(), Met: s.met.Load(), Sent: s.sent.Load(), Received: s.received.Load(),
		Changed: s.changed.Load(), Gaps: s.gaps.Load(), Bytes: s.transfer.Load(),
		Wire: s.wire.Load(),
	}
}

// Close ends every exchange and waits for them. Streams of a stopped gRPC server have ended already;
// a graceful stop would wait for them for ever, so Close comes first.
func (s *Syncer) Close() {
	s.close.Do(func() { close(s.closing) })
	s.running.Wait()
}
