// SPDX-License-Identifier: Apache-2.0

package gossip

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/hashicorp/serf/serf"

	"weft/discovery"
)

// How fast a death is seen: a member is asked every probeInterval by about one other, asked through
// others and by TCP for the rest of the interval, then suspected for suspicion * log10(members) * interval
// (at least suspicion intervals), in which it can say that it lives; then its kernel is asked (silent.go). Together
// about 1.3 s in a small cluster and 3.3 s among a thousand; make bench-convergence measures it.
// Who finds that others are right and it is slow itself (frozen, starved) waits up to 8 times as
// long (memberlist's awareness), so that it does not declare the rest dead.
const (
	probeInterval = 200 * time.Millisecond
	probeTimeout  = 100 * time.Millisecond
	suspicion     = 3
	suspicionMax  = 3                      // times as long while nobody else confirms
	retransmit    = 8                      // times log10(members) that each passes a message on: misses e^-8 of them (4: 2 %)
	reclaim       = 100 * time.Millisecond // after a death: the id may be used at another address

	// eventQueue is how many events serf may be ahead of the loop that only stores them.
	eventQueue = 512

	joinFirst  = 200 * time.Millisecond // pause after an attempt to join, doubled up to joinLast
	joinLast   = 10 * time.Second
	joinLonely = time.Second // instead of joinLast while nobody else is known
	tick       = 200 * time.Millisecond
)

// Run is a member until ctx ends, then returns nil. It does not say good-bye: a restart within a
// second is not noticed, and what stays away is found dead. It gives an error when it can't listen
// and when another member has the same id.
func (g *Gossip) Run(ctx context.Context) error {
	events := make(chan serf.Event, eventQueue)
	member, logs, err := g.create(events)
	if err != nil {
		return fmt.Errorf("gossip as %s: %w", g.o.ID, err)
	}
	joined := make(chan struct{})
	joinCtx, stopJoin := context.WithCancel(ctx)
	var joinErr error
	go func() {
		defer close(joined)
		joinErr = g.keepJoined(joinCtx, member)
	}()
	for running := true; running; {
		select {
		case e := <-events:
			g.take(joinCtx, e, member.Memberlist())
		case <-joined:
			running = false
		}
	}
	stopJoin()
	g.doubting.Wait()
	logs.mute()
	if err := member.Shutdown(); err != nil {
		g.log.Warn("gossip shut down", "error", err)
	}
	if joinErr != nil {
		return fmt.Errorf("gossip as %s: %w", g.o.ID, joinErr)
	}
	return nil
}

// create makes the member, which listens from then on.
func (g *Gossip) create(events chan<- serf.Event) (*serf.Serf, *logWriter, error) {
	config, logs, err := g.config(events)
	if err != nil {
		return nil, nil, err
	}
	m := config.MemberlistConfig
	if m.Transport == nil {
		// Made here, for a serf that can't listen leaves goroutines behind.
		lines := slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
		lines.SetOutput(logs)
		if m.Transport, err = memberlist.NewNetTransport(&memberlist.NetTransportConfig{
			BindAddrs: []string{m.BindAddr}, BindPort: m.BindPort, Logger: lines,
		}); err != nil {
			return nil, nil, err
		}
	}
	member, err := serf.Create(config)
	if err != nil {
		logs.mute()
		return nil, nil, errors.Join(err, m.Transport.Shutdown())
	}
	return member, logs, nil
}

func (g *Gossip) config(events chan<- serf.Event) (*serf.Config, *logWriter, error) {
	logs := &logWriter{log: g.log}

	m := memberlist.DefaultLANConfig()
	m.BindAddr, m.BindPort = g.o.Bind.String(), int(g.o.Port)
	m.AdvertiseAddr, m.AdvertisePort = m.BindAddr, m.BindPort
	m.TCPTimeout = 2 * time.Second
	m.ProbeInterval, m.ProbeTimeout = probeInterval, probeTimeout
	m.SuspicionMult, m.SuspicionMaxTimeoutMult = suspicion, suspicionMax
	m.GossipInterval = 100 * time.Millisecond
	m.RetransmitMult = retransmit
	m.EnableCompression = false // a table of 80 KB is made for each packet of a few hundred bytes
	m.PushPullInterval = 15 * time.Second
	m.DeadNodeReclaimTime = reclaim
	keys, err := g.o.keyring()
	if err != nil {
		return nil, nil, err
	}
	m.Keyring = keys
	m.LogOutput = logs
	m.Transport = g.o.Transport

	for _, d := range []*time.Duration{
		&m.TCPTimeout, &m.ProbeInterval, &m.ProbeTimeout, &m.GossipInterval, &m.PushPullInterval, &m.DeadNodeReclaimTime,
		&m.GossipToTheDeadTime,
	} {
		*d *= time.Duration(g.o.Stretch)
	}

	c := serf.DefaultConfig()
	c.NodeName = memberName(g.o.ID, g.o.Role)
	c.Tags = map[string]string{roleTag: string(g.o.Role)}
	maps.Copy(c.Tags, g.o.Tags)
	c.EventCh = events
	c.MemberlistConfig = m
	c.LogOutput = logs
	c.Merge = &g.conflict
	c.EnableNameConflictResolution = false
	c.DisableCoordinates = true
	c.ReconnectInterval = time.Duration(g.o.Stretch) * 2 * time.Second
	if g.o.Dir != "" {
		if err := os.MkdirAll(g.o.Dir, 0o700); err != nil {
			return nil, nil, err
		}
		c.SnapshotPath = filepath.Join(g.o.Dir, "members")
		c.RejoinAfterLeave = true
	}
	return c, logs, nil
}

// take stores what an event says, until ctx ends what it begins.
func (g *Gossip) take(ctx context.Context, e serf.Event, person asking) {
	event, ok := e.(serf.MemberEvent)
	if !ok {
		return
	}
	for i := range event.Members {
		m := &event.Members[i]
		if event.Type == serf.EventMemberReap {
			g.forget(m.Name)
			continue
		}
		addr, _ := netip.AddrFromSlice(m.Addr)
		tags := make(map[string]string, len(m.Tags))
		for name, value := range m.Tags {
			if name != roleTag {
				tags[name] = value
			}
		}
		now := Member{
			ID:    discovery.NodeID(strings.TrimSuffix(m.Name, masterSuffix)),
			Role:  Role(m.Tags[roleTag]),
			Addr:  netip.AddrPortFrom(addr.Unmap(), m.Port),
			Tags:  tags,
			Alive: m.Status == serf.StatusAlive,
		}
		if event.Type == serf.EventMemberFailed {
			g.silence(ctx, now, person)
		} else {
			g.update(now)
		}
	}
}

// keepJoined tries those addresses that are no members again and again, in random order, faster
// while nobody else is there. It ends with ctx or when another member has our id for good.
func (g *Gossip) keepJoined(ctx context.Context, member *serf.Serf) error {
	started := time.Now()
	var next, shouted time.Time
	pause := joinFirst
	timer := time.NewTimer(0)
	defer timer.Stop()
	changed := g.Changed() // looked through only when it is: there may be a thousand
	missing := g.missing()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		v := g.conflict.verdict(started, time.Now())
		select {
		case <-changed:
			changed = g.Changed()
			missing = g.missing()
		default:
		}
		switch {
		case v.err != nil && v.newcomer:
			return v.err
		case v.err != nil && time.Since(shouted) > time.Minute:
			shouted = time.Now()
			g.log.Error("name conflict", "error", v.err)
		}
		switch {
		case v.claimed && time.Now().After(next):
			g.join(ctx, member, g.others()) // they say whom of us they believe in
			next = time.Now().Add(2 * tick)
		case v.claimed:
		case len(missing) == 0:
			pause, next = joinFirst, time.Time{}
		case time.Now().After(next):
			g.join(ctx, member, missing)
			pause = min(2*pause, joinLast)
			if g.lonely() {
				pause = min(pause, joinLonely)
			}
			next = time.Now().Add(pause/2 + rand.N(pause))
		}
		timer.Reset(tick)
	}
}

// join asks one after the other until one answers.
func (g *Gossip) join(ctx context.Context, member *serf.Serf, addrs []string) {
	rand.Shuffle(len(addrs), func(i, k int) { addrs[i], addrs[k] = addrs[k], addrs[i] })
	for _, addr := range addrs {
		if ctx.Err() != nil {
			return
		}
		g.mu.Lock()
		g.stats.Joins++
		g.mu.Unlock()
		if _, err := member.Join([]string{addr}, true); err != nil {
			g.log.Debug("join", "addr", addr, "error", err)
			continue
		}
		return
	}
}

// missing returns the addresses of Join at which no living member is known.
func (g *Gossip) missing() []string {
	var missing []string
	g.mu.RLock()
	defer g.mu.RUnlock()
	for _, addr := range g.o.Join {
		addr = withPort(addr)
		if at, err := netip.ParseAddrPort(addr); err != nil || !g.livesAt(at) {
			missing = append(missing, addr)
		}
	}
	return missing
}

// livesAt tells whether a living member is known at an address; mu is held.
func (g *Gossip) livesAt(addr netip.AddrPort) bool {
	for _, m := range g.members {
		if m.Alive && m.Addr == addr {
			return true
		}
	}
	return false
}

// others returns where anyone else may be.
func (g *Gossip) others() []string {
	var addrs []string
	for _, m := range g.Members() {
		if m.Alive && (m.ID != g.o.ID || m.Role != g.o.Role) {
			addrs = append(addrs, m.Addr.String())
		}
	}
	return append(addrs, g.missing()...)
}

func (g *Gossip) lonely() bool { return len(g.Members()) == 1 }

// withPort adds the default port to an address without one.
func withPort(addr string) string {
	if ip, err := netip.ParseAddr(addr); err == nil {
		return netip.AddrPortFrom(ip, DefaultPort).String()
	}
	if _, _, err := net.SplitHostPort(addr); err != nil {
		return net.JoinHostPort(addr, strconv.Itoa(DefaultPort))
	}
	return addr
}
