// SPDX-License-Identifier: Apache-2.0

package gossip

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"
)

// A daemon that says nothing is no dead node: it may be stopped, starved or replaced, while the kernel forwards,
// balances and answers names as before. So a silent member's kernel is asked, by ICMP echoes. As long as it answers the
// member counts as alive, for up to patienceSilent: then nobody tells any more what becomes of the tasks there, so
// nothing new should go to them. It is gone when its kernel does not answer either.
//
// It may also be this member that missed a word: who was frozen itself has not heard that a suspicion was refuted, and
// nobody says so twice. So a silent member is asked in person too. If it speaks, and nobody has told so a second later,
// the two compare their views. That second is for those who only have not heard yet: when a frozen member goes on, all
// others ask it at once, and a thousand comparisons would keep it as busy as before.
//
//	       serf: failed           silent for long           no echo
//	alive --------------> silent -----------------> mute ------------> gone
//	  ^                     |  '-- no echo ----------------------------^ |
//	  '----- serf: alive ---'-------------------------'------------------'
const (
	patienceSilent = 10 * time.Second
	echoEvery      = time.Second           // of who is silent
	echoMute       = 5 * time.Second       // of who is mute
	echoTries      = 3                     // one of them has to be answered
	echoWithin     = 80 * time.Millisecond // each
	// echoBytes is the size of an echo: with the header of IPv6 its least MTU. What lets nothing that large through is
	// no way to a node, for tunnel frames would be lost there too.
	echoBytes = 1280 - 40
)

// doubt is what takes place between a member's silence and its death.
type doubt struct{ stop context.CancelFunc }

// asking is how a member is asked in person; serf's members are.
type asking interface {
	// Ping returns without an error when the daemon answers.
	Ping(name string, addr net.Addr) (time.Duration, error)
	// Join compares the views of all members.
	Join(addrs []string) (int, error)
}

// silence begins to doubt a member that serf takes for dead.
func (g *Gossip) silence(ctx context.Context, m Member, person asking) {
	g.mu.Lock()
	defer g.mu.Unlock()
	name := memberName(m.ID, m.Role)
	if name == memberName(g.o.ID, g.o.Role) {
		return
	}
	switch {
	case g.doubts[name] != nil:
		return // it is being asked
	case !g.members[name].Alive:
		m.Gone = true
		g.store(m) // it was dead before, or is new to us
		return
	}
	ctx, stop := context.WithCancel(ctx)
	d := &doubt{stop}
	g.doubts[name] = d
	g.doubting.Go(func() {
		defer stop()
		g.ask(ctx, m, person, func(gone bool) {
			g.mu.Lock()
			defer g.mu.Unlock()
			if g.doubts[name] != d {
				return // it was heard meanwhile
			}
			m.Gone = gone
			if gone {
				delete(g.doubts, name)
			}
			g.store(m)
		})
	})
}

// heard ends the doubt about a member; mu is held.
func (g *Gossip) heard(name string) {
	if d := g.doubts[name]; d != nil {
		d.stop()
		delete(g.doubts, name)
	}
}

// ask asks a kernel again and again until ctx ends, and tells when its member counts as dead: because it was silent for too
// long, or is gone.
func (g *Gossip) ask(ctx context.Context, m Member, person asking, dead func(gone bool)) {
	stretched := func(d time.Duration) time.Duration { return time.Duration(g.o.Stretch) * d }
	mute := time.NewTimer(stretched(patienceSilent))
	defer mute.Stop()
	next := time.NewTicker(stretched(echoEvery))
	defer next.Stop()
	for g.o.Echo(ctx, m.Addr.Addr()) {
		g.askInPerson(ctx, m, person, stretched(echoEvery))
		select {
		case <-ctx.Done():
			return
		case <-mute.C:
			dead(false)
			next.Reset(stretched(echoMute))
		case <-next.C:
		}
	}
	if ctx.Err() == nil {
		dead(true)
	}
}

// askInPerson asks a silent member whether it is there, and if it is, and has not been heard after the pause, compares
// the views of all members with it. Only one of those that are doubted is asked at a time: one comparison tells of all.
func (g *Gossip) askInPerson(ctx context.Context, m Member, person asking, pause time.Duration) {
	if !g.asking.TryLock() {
		return
	}
	defer g.asking.Unlock()
	if _, err := person.Ping(memberName(m.ID, m.Role), net.UDPAddrFromAddrPort(m.Addr)); err != nil {
		return
	}
	select {
	case <-time.After(pause):
	case <-ctx.Done():
		return
	}
	if _, err := person.Join([]string{m.Addr.String()}); err != nil {
		g.log.Debug("compare the views with a silent member", "node", m.ID, "error", err)
	}
}

// echo tells whether the kernel at addr answers. Without the right to ask (CAP_NET_RAW) it does not.
func (g *Gossip) echo(ctx context.Context, addr netip.Addr) bool {
	network, request, reply := "ip4:icmp", byte(8), byte(0)
	if addr.Is6() {
		network, request, reply = "ip6:ipv6-icmp", 128, 129
	}
	conn, err := new(net.ListenConfig).ListenPacket(ctx, network, g.o.Bind.String())
	if err != nil {
		return false
	}
	defer conn.Close() //nolint:errcheck // nothing was written that could be lost
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	message := make([]byte, echoBytes)
	message[0] = request
	binary.BigEndian.PutUint32(message[4:], rand.Uint32()) // id and sequence: which answers are to this question
	if addr.Is4() {                                        // of IPv6 the kernel makes the sum
		binary.BigEndian.PutUint16(message[2:], sum(message))
	}
	buf := make([]byte, 2*echoBytes)
	for range echoTries {
		if conn.SetDeadline(time.Now().Add(echoWithin)) != nil {
			return false // ctx ended
		}
		if _, err := conn.WriteTo(message, &net.IPAddr{IP: addr.AsSlice()}); err != nil {
			return false // nobody there is on the link, or there is no way
		}
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				break
			}
			if ip, ok := from.(*net.IPAddr); ok && n >= 8 && buf[0] == reply && string(buf[4:8]) == string(message[4:8]) && ip.IP.Equal(addr.AsSlice()) {
				return true
			}
		}
	}
	return false
}

// sum is the checksum of a message of even length (RFC 1071).
func sum(message []byte) uint16 {
	var s uint32
	for i := 0; i < len(message); i += 2 {
		s += uint32(binary.BigEndian.Uint16(message[i:]))
	}
	s = s>>16 + s&0xffff
	return ^uint16(s>>16 + s)
}
