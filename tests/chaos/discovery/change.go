// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"

	"weft/discovery"
	"weft/discovery/discoverypb"
	"weft/discovery/state"
	"weft/discovery/wire"
)

// changing is how many names change, announcers how many speak at a time.
const changing, announcers = 64, 32

// nameOf is a name of no task's.
func nameOf(label string, addr netip.Addr) discovery.Name {
	return discovery.Name{Task: label, Label: label, Framework: "weft", Network: "prod", Addrs: []netip.Addr{addr}}
}

// prepare announces names that will change, and waits until both hosts know them.
func (s *stage) prepare(ctx context.Context, prefix, host string, tell func(label string, addr netip.Addr) error) (names []*name, err error) {
	for i := range changing {
		addr, label := netip.AddrFrom4([4]byte{9, 255, 0, byte(i)}), fmt.Sprintf("%s-%d", prefix, i)
		n := newName(label+".weft.mesos.", host, addr, s.late())
		err = errors.Join(err, tell(label, addr))
		n.done(addr)
		names = append(names, n)
	}
	return names, errors.Join(err, s.settled(ctx, names))
}

// addrOfRound is another address for each name and round.
func addrOfRound(round, i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10 + byte(round>>16), byte(round >> 8), byte(round), byte(i)})
}

func (s *stage) client() (*discoverypb.Client, *wire.Conn, error) {
	conn, err := wire.Connect("unix:"+s.lab.Hosts[0].Socket(), nil, nil)
	if err != nil {
		return nil, nil, err
	}
	return discoverypb.NewClient(conn), conn, nil
}

func prepareAnnouncing(ctx context.Context, s *stage) ([]*name, error) {
	c, conn, err := s.client()
	if err != nil {
		return nil, err
	}
	names, err := s.prepare(ctx, "own", s.lab.Hosts[0].Name, func(label string, addr netip.Addr) error {
		return c.Announce(ctx, nameOf(label, addr))
	})
	return names, errors.Join(err, conn.Close())
}

// announceOften gives names of h1 other addresses as fast as its disk allows. h1 itself must answer with the new one from
// the moment that it has said so.
func announceOften(ctx context.Context, s *stage, names []*name) error {
	c, conn, err := s.client()
	if err != nil {
		return err
	}
	began, lasts := time.Now(), s.span(time.Second, 30*time.Second)
	done := make([]int, announcers)
	group, ctx := errgroup.WithContext(ctx)
	for w := range announcers {
		group.Go(func() error {
			for round := 1; time.Since(began) < lasts; round++ {
				for i := w; i < changing; i += announcers {
					addr := addrOfRound(round, i)
					names[i].begin(addr)
					if err := c.Announce(ctx, nameOf(fmt.Sprintf("own-%d", i), addr)); err != nil {
						return err
					}
					names[i].done(addr)
					done[w]++
				}
			}
			return nil
		})
	}
	err = group.Wait()
	s.said(done, began)
	time.Sleep(s.late()) // what is wrong then stays wrong
	return errors.Join(err, conn.Close())
}

func (s *stage) said(done []int, began time.Time) {
	sum := 0
	for _, n := range done {
		sum += n
	}
	fmt.Printf("(%.0f changes a second)\n", float64(sum)/time.Since(began).Seconds())
}

// crowd is a node without kernel, tasks and disk, whose names change faster than a disk could keep them.
type crowd struct {
	store *state.Store
	stop  context.CancelFunc
	ended chan error
}

// openCrowd exchanges rows with a master, from h1's namespace.
func (s *stage) openCrowd(ctx context.Context) (*crowd, error) {
	h := s.lab.Hosts[0]
	dial := func(ctx context.Context, addr string) (conn net.Conn, err error) {
		err = h.In(func() error {
			conn, err = new(net.Dialer).DialContext(ctx, "tcp", addr)
			return err
		})
		return conn, err
	}
	conn, err := wire.Connect(s.lab.MasterAddrs()[0], nil, dial)
	if err != nil {
		return nil, err
	}
	c := &crowd{ended: make(chan error, 1)}
	if c.store, err = state.Open(state.Options{Self: "crowd"}); err != nil {
		return nil, err
	}
	syncer, err := discoverypb.NewSyncer(discoverypb.SyncOptions{Store: c.store})
	if err != nil {
		return nil, err
	}
	ctx, c.stop = context.WithCancel(ctx)
	go func() {
		err := syncer.With(ctx, conn, nil)
		if ctx.Err() != nil {
			err = nil
		}
		syncer.Close()
		c.ended <- errors.Join(err, conn.Close())
	}()
	return c, nil
}

func (c *crowd) tell(label string, addr netip.Addr) error {
	n := nameOf(label, addr)
	n.Node = "crowd"
	return state.Put(c.store, discovery.KindName, n.RowKey(), n)
}

func prepareFlood(ctx context.Context, s *stage) (names []*name, err error) {
	if s.crowd, err = s.openCrowd(ctx); err != nil {
		return nil, err
	}
	return s.prepare(ctx, "crowd", "crowd", s.crowd.tell)
}

// flood changes names of another node thousands of times a second.
func flood(ctx context.Context, s *stage, names []*name) error {
	began, lasts := time.Now(), s.span(2*time.Second, 60*time.Second)
	changes := 0
	for round := 1; time.Since(began) < lasts; round++ {
		for i, n := range names {
			changes++
			due := time.Duration(changes) * time.Second / time.Duration(s.o.changes)
			select {
			case <-time.After(due - time.Since(began)):
			case <-ctx.Done():
				return ctx.Err()
			}
			addr := addrOfRound(round, i)
			n.begin(addr)
			if err := s.crowd.tell(fmt.Sprintf("crowd-%d", i), addr); err != nil {
				return err
			}
			n.done(addr)
		}
	}
	s.said([]int{changes}, began)
	time.Sleep(s.late() + time.Second) // what is wrong then stays wrong
	s.crowd.stop()
	return errors.Join(<-s.crowd.ended, s.crowd.store.Close())
}
