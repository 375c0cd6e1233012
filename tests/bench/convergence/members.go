// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime/debug"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"weft/discovery"
	"weft/discovery/gossip"
	"weft/tests/bench/report"
)

// crowd is how many members there are and what happens to them.
type crowd struct {
	members int
	deaths  int           // one after the other
	share   int           // one of so many members is frozen at a time
	rounds  int           // of freezing
	freeze  time.Duration // how long
	stretch int           // all times are so many times as long, so that this machine is no slow one; results are not
}

// member is one simulated node to membership: real serf on a transport in memory.
type member struct {
	id    discovery.NodeID
	radio *radio
	*gossip.Gossip
}

// simulateMembers measures how fast deaths are seen, and who is taken for dead that is not.
func simulateMembers(ctx context.Context, c crowd) (lines []report.Line, err error) {
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(roomy))
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	ctx, stop := context.WithCancel(ctx)
	group, ctx := errgroup.WithContext(ctx)
	defer func() {
		stop()
		err = errors.Join(err, group.Wait())
	}()
	began := time.Now()
	var a air
	members, err := c.begin(ctx, group, &a)
	if err != nil {
		return nil, err
	}
	say("%d members know each other after %v", c.members, time.Since(began).Round(time.Second))

	flaps, dead, back := 0, 0, []float64{}
	for round := range c.rounds {
		if err := a.tidy(ctx); err != nil {
			return nil, err
		}
		f, d, took, err := c.freezeSome(ctx, members, round)
		if err != nil {
			return nil, err
		}
		flaps, dead, back = flaps+f, dead+d, append(back, took)
	}
	if err := a.tidy(ctx); err != nil {
		return nil, err
	}
	seen, err := c.killSome(ctx, members)
	if err != nil {
		return nil, err
	}
	of := fmt.Sprintf("%d members", c.members)
	frozen := fmt.Sprintf("%d members, one in %d frozen for %v", c.members, c.share, c.freeze)
	slices.Sort(seen)
	return []report.Line{
		report.NewLine("death_seen_by_all_s_simulated", of, seen, report.Bar{}),
		report.NewLine("death_seen_by_all_longest_s_simulated", of, seen[len(seen)-1:], report.Bar{Most: 5}),
		report.NoMore("living_taken_for_dead", frozen, float64(flaps), 0),
		report.NoMore("frozen_taken_for_dead", frozen, float64(dead), 0),
		report.NewLine("frozen_back_for_all_s", frozen, back, report.Bar{}),
	}, nil
}

// begin makes the members and waits until all know all.
func (c *crowd) begin(ctx context.Context, group *errgroup.Group, a *air) ([]*member, error) {
	var members []*member
	for i := range c.members {
		addr := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		m := &member{id: discovery.NodeID(fmt.Sprintf("n%d", i)), radio: a.open(netip.AddrPortFrom(addr, gossip.DefaultPort))}
		o := gossip.Options{
			ID: m.id, Bind: addr, Transport: m.radio, Stretch: c.stretch, Echo: m.radio.echo,
		}
		for range min(3, i) {
			o.Join = append(o.Join, members[rand.N(i)].radio.addr.String())
		}
		var err error
		if m.Gossip, err = gossip.Open(o); err != nil {
			return nil, err
		}
		members = append(members, m)
		group.Go(func() error { return m.Run(ctx) })
		if err := know(ctx, members, i-newcomers); err != nil {
			return nil, err
		}
	}
	return members, know(ctx, members, len(members))
}

// newcomers is how many members may be on their way to the others. All at once would be too much for two processors, and
// living members would be taken for dead.
const newcomers = 32

// know waits until each of the members knows so many, or all that there are.
func know(ctx context.Context, members []*member, many int) error {
	return until(ctx, "the members know each other", func() error {
		for _, m := range members[:max(0, many)] {
			if s := m.Stats(); s.Alive < many {
				return fmt.Errorf("%s knows %d of %d", m.id, s.Alive, many)
			}
		}
		return nil
	})
}

// freezeSome freezes a share of the members, and counts the views in which a member that was not frozen was dead at
// any time, and those in which a frozen one was. took is how long after that all spoke to all again, in seconds.
func (c *crowd) freezeSome(ctx context.Context, members []*member, round int) (flaps, dead int, took float64, err error) {
	began := time.Now()
	frozen := make(map[discovery.NodeID]bool)
	each := max(1, len(members)/c.share)
	for i := range each {
		m := members[(round*each+i)%len(members)]
		frozen[m.id] = true
		m.radio.freeze()
	}
	select {
	case <-time.After(time.Duration(c.stretch) * c.freeze):
	case <-ctx.Done():
		return 0, 0, 0, ctx.Err()
	}
	for _, m := range members {
		m.radio.thaw()
	}
	thawed := time.Now()
	err = until(ctx, "all are heard by all again", func() error {
		for _, m := range members {
			if s := m.Stats(); s.Alive-s.Silent < len(members) {
				return fmt.Errorf("%s takes %d of %d for alive, and does not hear %d", m.id, s.Alive, len(members), s.Silent)
			}
		}
		return nil
	})
	took = time.Since(thawed).Seconds() / float64(c.stretch)
	for _, m := range members {
		for _, other := range m.Members() {
			switch changed := other.Since.After(began); {
			case changed && frozen[other.ID]:
				dead++
			case changed:
				flaps++
			}
		}
	}
	say("round %d: %d frozen, dead in %d views; %d views of others changed; all heard after %.1f s", round, len(frozen), dead, flaps, took)
	return flaps, dead, took, err
}

// killSome ends members one after the other, and returns how many seconds it took until all others knew.
func (c *crowd) killSome(ctx context.Context, members []*member) (seen []float64, err error) {
	for i := range c.deaths {
		victim := members[i]
		victim.radio.kill()
		began := time.Now()
		err := until(ctx, "the death of "+string(victim.id)+" is seen", func() error {
			for _, m := range members[i+1:] {
				if m.Alive(victim.id) {
					return fmt.Errorf("%s takes it for alive", m.id)
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		seen = append(seen, time.Since(began).Seconds()/float64(c.stretch))
	}
	say("deaths were seen by all after %.1f s", seen)
	return seen, nil
}
