// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"weft/discovery"
	"weft/discovery/discoverypb"
	"weft/discovery/engine"
	"weft/discovery/interest"
	"weft/discovery/state"
	"weft/discovery/wire"
	"weft/overlay"
)

// answering is of how many nodes one makes its zone of the rows, as all do in a cluster: two cores can't do that for a
// thousand. On the others a name is known when its row is there.
const answering = 25

// node is one simulated node: what a node daemon does with facts, without a kernel and without a disk.
type node struct {
	id     discovery.NodeID
	number int
	store  *state.Store
	syncer *discoverypb.Syncer
	wanted *interest.Interest
	engine *engine.Engine // nil: not one of those that answer
	conn   *wire.Conn
	feeds  []*state.Feed
	uses   []int         // services that its tasks ask for
	lost   atomic.Uint64 // streams that broke

	mu    sync.Mutex // guards what is awaited
	names map[string]awaited
	rows  map[string]*change // by key
}

// awaited is an address that a name has to have.
type awaited struct {
	name   string
	addr   netip.Addr
	change *change
}

// change is one task that began, on its way to who has to know.
type change struct {
	began time.Time
	left  atomic.Int32 // nodes that do not know yet
	last  atomic.Int64 // nanoseconds after began until the latest one did
}

func (c *change) seen() {
	for took := int64(time.Since(c.began)); ; {
		last := c.last.Load()
		if last >= took || c.last.CompareAndSwap(last, took) {
			break
		}
	}
	c.left.Add(-1)
}

func openNode(number int, addr string) (*node, error) {
	n := &node{number: number, id: discovery.NodeID(fmt.Sprintf("n%d", number)), names: map[string]awaited{}, rows: map[string]*change{}}
	var err error
	if n.store, err = state.Open(state.Options{Self: string(n.id)}); err != nil {
		return nil, err
	}
	if n.syncer, err = discoverypb.NewSyncer(discoverypb.SyncOptions{Store: n.store}); err != nil {
		return nil, err
	}
	n.wanted, err = interest.New(interest.Options{
		Store: n.store, Answers: n.syncer, Master: func() bool { return true }, Patience: time.Minute,
	})
	if err != nil {
		return nil, err
	}
	n.feeds = []*state.Feed{n.store.Feed(discovery.KindBackend)}
	if number%answering == 0 {
		n.engine, err = engine.New(engine.Options{Store: n.store, Interest: n.wanted, Synced: n.wanted.Settled})
	} else {
		n.feeds = append(n.feeds, n.store.Feed(discovery.KindName))
	}
	if err != nil {
		return nil, err
	}
	n.conn, err = wire.Connect(addr, nil, nil)
	if err != nil {
		return nil, err
	}
	underlay := netip.AddrFrom4([4]byte{10, 0, byte(number >> 8), byte(number)})
	return n, errors.Join(
		state.Put(n.store, discovery.KindNode, string(n.id), discovery.Node{
			ID: n.id, Hostname: string(n.id), Addrs: []netip.Addr{underlay}, Peer: underlay.String() + ":7701", MTU: 1500,
		}),
		state.Put(n.store, discovery.KindWant, "blocks/prod", overlay.Want{Network: prod.Name, Blocks4: 1}),
	)
}

// run is the node until ctx ends. A stream that breaks is begun again, as discovery/peers does, and counted.
func (n *node) run(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	running.Go(func() {
		for n.syncer.With(ctx, n.conn, nil) != nil && ctx.Err() == nil {
			n.lost.Add(1)
		}
	})
	running.Go(func() { n.watchRows(ctx) })
	if n.engine == nil {
		<-ctx.Done()
		return nil
	}
	running.Go(func() { n.watchNames(ctx) })
	return n.engine.Run(ctx)
}

func (n *node) close() error {
	n.syncer.Close()
	return errors.Join(n.conn.Close(), n.store.Close())
}

func (n *node) watchNames(ctx context.Context) {
	for {
		changed := n.engine.Changed()
		n.look()
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// look ticks off the names that have their address now.
func (n *node) look() {
	z := n.engine.Zone()
	n.mu.Lock()
	defer n.mu.Unlock()
	for task, want := range n.names {
		for _, r := range z.Lookup("", want.name).Records {
			if r.Addr == want.addr {
				want.change.seen()
				delete(n.names, task)
				break
			}
		}
	}
}

func (n *node) watchRows(ctx context.Context) {
	for {
		changed := n.store.Changed(discovery.KindBackend, discovery.KindName)
		var rows []discovery.Row
		for _, f := range n.feeds {
			rows = append(rows, f.Take()...)
		}
		n.mu.Lock()
		for _, r := range rows {
			if c := n.rows[r.Key]; c != nil && !r.Deleted {
				c.seen()
				delete(n.rows, r.Key)
			}
		}
		n.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// await adds what the node has to be able to answer, before it is said.
func (n *node) await(t task, c *change, runs discovery.NodeID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.engine == nil {
		n.rows[t.name(runs).RowKey()] = c
		return
	}
	n.names[t.id] = awaited{serviceName(t.service) + ".weft.mesos.", t.addr, c}
}

// awaitVIP adds the backend that the node has to know.
func (n *node) awaitVIP(t task, c *change, runs discovery.NodeID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.rows[t.backend(runs).RowKey()] = c
}
