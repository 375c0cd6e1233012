// SPDX-License-Identifier: Apache-2.0

package ledger

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

// Fence is the proof of leadership that a Change carries: it holds until the leader's lease ends,
// whatever the leader itself believes.
type Fence struct {
	key string
	// Epoch is the revision at which the leader stood for election; later leaders have greater ones.
	Epoch uint64
}

func (f Fence) holds(kvs []*mvccpb.KeyValue) bool {
	return len(kvs) == 1 && bytes.Equal(kvs[0].Key, []byte(f.key)) && uint64(kvs[0].CreateRevision) == f.Epoch
}

// Lead stands for election and, once elected, calls reign. Reign's context ends when ctx ends or
// leadership may be lost. Lead gives up leadership and returns when reign returns, with its error.
func (l *Ledger) Lead(ctx context.Context, reign func(context.Context, Fence) error) error {
	client, err := l.client(ctx)
	if err != nil {
		return err
	}
	session, err := l.session(ctx, client)
	if err != nil {
		return unavailable("stand for election", err)
	}
	// Gives up the lease, so that the next leader need not wait for its end.
	defer session.Close() //nolint:errcheck // a lease that is not given up ends by itself
	election := concurrency.NewElection(session, l.key(keyElect))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	lost := make(chan struct{})
	go func() {
		defer close(lost)
		select {
		case <-session.Done():
			cancel()
		case <-ctx.Done():
		}
	}()
	defer func() { cancel(); <-lost }()
	if err := election.Campaign(ctx, l.o.ID); err != nil {
		return unavailable("stand for election", err)
	}
	return reign(ctx, Fence{key: election.Key(), Epoch: uint64(election.Rev())})
}

// session makes the lease that leadership hangs on. Its context outlives ctx: giving up the lease is
// the last thing done with it.
func (l *Ledger) session(ctx context.Context, client *clientv3.Client) (*concurrency.Session, error) {
	grant, cancel := context.WithTimeout(ctx, 2*l.o.Lease)
	defer cancel()
	seconds := int64(l.o.Lease / time.Second)
	lease, err := client.Grant(grant, seconds)
	if err != nil {
		return nil, fmt.Errorf("ask for a lease: %w", err)
	}
	return concurrency.NewSession(client, concurrency.WithTTL(int(seconds)), concurrency.WithLease(lease.ID),
		concurrency.WithContext(context.WithoutCancel(ctx)))
}
