// SPDX-License-Identifier: Apache-2.0

// Package ledger keeps what the masters have decided: keys in etcd, embedded in the masters or an
// existing cluster, read as a sequence of revisions and written by compare-and-swap. It knows keys
// and bytes, revisions and epochs; what they mean is control/fabric's.
//
// Every key lies below one prefix. One key of them, the version, is written by every commit and
// compared by every commit, so a decision made on revision N is applied if and only if nothing was
// decided since N: decisions are pure functions of a snapshot, and no lock is needed.
package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Sentinels of this room; test with errors.Is.
var (
	// ErrConflict tells that something was decided since the base of a Change.
	ErrConflict = errors.New("the ledger changed meanwhile")
	// ErrFenced tells that the Fence of a Change is not the leader's any more.
	ErrFenced = errors.New("another master leads")
	// ErrClosed tells that Run has returned.
	ErrClosed = errors.New("the ledger is closed")
	// ErrUnavailable tells that no majority of the masters answered in time.
	ErrUnavailable = errors.New("no majority of the masters answers")
)

// Ledger is a master's access to the replicated store.
//
//	New ──Run──> starting ──> ready (Ready is closed) ──ctx ends──> closed
type Ledger struct {
	o     Options
	ready chan struct{} // closed by Run once etcd is set and a majority has elected
	done  chan struct{} // closed by Run when it returns
	etcd  *clientv3.Client
}

// New checks the options. Nothing is started until Run.
func New(o Options) (*Ledger, error) {
	o = o.withDefaults()
	if err := o.validate(); err != nil {
		return nil, err
	}
	return &Ledger{o: o, ready: make(chan struct{}), done: make(chan struct{})}, nil
}

// Ready is closed when the store answers: at once for an existing cluster, when a majority of the
// masters is up for an embedded one.
func (l *Ledger) Ready() <-chan struct{} { return l.ready }

// Run starts the embedded server, or connects to the existing cluster, and keeps it until ctx ends
// or the server dies. Other methods wait for it. It can run once.
func (l *Ledger) Run(ctx context.Context) error {
	defer close(l.done)
	if len(l.o.Endpoints) > 0 {
		return l.runClient(ctx)
	}
	return l.runServer(ctx)
}

func (l *Ledger) runClient(ctx context.Context) (err error) {
	client, err := clientv3.New(clientv3.Config{
		Endpoints:            l.o.Endpoints,
		TLS:                  l.o.TLS,
		DialTimeout:          5 * time.Second,
		DialKeepAliveTime:    10 * time.Second,
		DialKeepAliveTimeout: 3 * time.Second,
		Logger:               zapLogger(l.o.Log),
	})
	if err != nil {
		return fmt.Errorf("connect to etcd at %v: %w", l.o.Endpoints, err)
	}
	defer func() { err = errors.Join(err, ignoreCanceled(client.Close())) }()
	l.etcd = client
	close(l.ready)
	<-ctx.Done()
	return nil
}

func ignoreCanceled(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// client waits until the store is ready. A read before that would fail with the first election.
func (l *Ledger) client(ctx context.Context) (*clientv3.Client, error) {
	select {
	case <-l.done:
		return nil, ErrClosed
	default:
	}
	select {
	case <-l.ready:
		return l.etcd, nil
	case <-l.done:
		return nil, ErrClosed
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: the store is not ready: %w", ErrUnavailable, ctx.Err())
	}
}
