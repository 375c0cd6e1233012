// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"weft/discovery/gossip"
)

// queue is how many packets a member's socket holds, as the kernel's would; more are lost.
const queue = 1024

var errGone = errors.New("nobody answers")

// air is where all members hear each other.
type air struct {
	news  atomic.Uint64 // how often somebody heard something new of who lives
	mu    sync.Mutex    // guards wires
	wires map[string]*radio
}

// tidy collects garbage, while nobody has anything to tell, and waits for the end of what comes of that.
func (a *air) tidy(ctx context.Context) error {
	if err := a.calm(ctx); err != nil {
		return err
	}
	runtime.GC()
	return a.calm(ctx)
}

// calm waits for a second in which there was less news than members: the last to hear of something take their time. That
// somebody joined is told by serf too, for minutes after a thousand have, when there is nothing else to tell.
func (a *air) calm(ctx context.Context) error {
	last := uint64(0)
	return each(ctx, time.Second, "all has been told", func() error {
		before := last
		last = a.news.Load()
		if before == 0 || last-before > a.size() {
			return fmt.Errorf("%d rumours were news to somebody", last-before)
		}
		return nil
	})
}

func (a *air) size() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return uint64(len(a.wires))
}

// radio is one member's transport. A dead one hears and says nothing more. A frozen one is like a process that was
// stopped: what comes for it waits, up to a queue, and whoever in it wants to say something waits until it goes on.
type radio struct {
	air     *air
	addr    netip.AddrPort
	packets chan *gossip.Packet // closed by nobody: members end by Shutdown
	streams chan net.Conn

	mu      sync.Mutex // guards what follows
	rumours rumours
	dead    bool
	frozen  bool
	held    []func()      // what happens when it goes on
	resume  chan struct{} // closed when it goes on; nil unless it is frozen
}

func (a *air) open(addr netip.AddrPort) *radio {
	w := &radio{air: a, addr: addr, packets: make(chan *gossip.Packet, queue), streams: make(chan net.Conn, queue), rumours: newRumours()}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.wires == nil {
		a.wires = make(map[string]*radio)
	}
	a.wires[addr.String()] = w
	return w
}

func (a *air) at(addr string) *radio {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.wires[addr]
}

func (w *radio) kill() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dead, w.held = true, nil
	w.goOn()
}

func (w *radio) freeze() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.frozen {
		w.frozen, w.resume = true, make(chan struct{})
	}
}

// goOn lets those speak who wait; mu is held.
func (w *radio) goOn() {
	if w.frozen {
		w.frozen = false
		close(w.resume)
	}
}

// pause waits as long as the member is frozen.
func (w *radio) pause() {
	w.mu.Lock()
	frozen, resume := w.frozen, w.resume
	w.mu.Unlock()
	if frozen {
		<-resume
	}
}

func (w *radio) thaw() {
	w.mu.Lock()
	w.goOn()
	held := w.held
	w.held = nil
	w.mu.Unlock()
	for _, f := range held {
		f()
	}
}

// do carries f out, later if the member is frozen, never if it is dead or has too much to do by then.
func (w *radio) do(f func()) {
	w.mu.Lock()
	switch {
	case w.dead:
	case w.frozen:
		if len(w.held) < queue {
			w.held = append(w.held, f)
		}
	default:
		w.mu.Unlock()
		f()
		return
	}
	w.mu.Unlock()
}

// echo tells whether the kernel of the member at addr answers, which a frozen process does not keep it from.
func (w *radio) echo(_ context.Context, addr netip.Addr) bool {
	to := w.air.at(netip.AddrPortFrom(addr, gossip.DefaultPort).String())
	return to != nil && !to.isDead()
}

func (w *radio) isDead() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dead
}

// FinalAdvertiseAddr implements gossip.Transport, as do the others.
func (w *radio) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return w.addr.Addr().AsSlice(), int(w.addr.Port()), nil
}

// WriteTo says a packet; as with UDP, nobody knows whether it was heard.
func (w *radio) WriteTo(b []byte, addr string) (time.Time, error) {
	w.pause()
	now := time.Now()
	to := w.air.at(addr)
	if to == nil {
		return now, nil
	}
	b = append([]byte(nil), b...)
	from := net.UDPAddrFromAddrPort(w.addr)
	w.do(func() {
		to.do(func() { to.hear(b, from) })
	})
	return now, nil
}

// hear takes what is new in a packet; what comes while the queue is full is lost.
func (w *radio) hear(b []byte, from net.Addr) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.packets) == cap(w.packets) {
		return
	}
	known := w.rumours.lives
	b = w.rumours.news(b)
	w.air.news.Add(w.rumours.lives - known)
	if b != nil {
		w.packets <- &gossip.Packet{Buf: b, From: from, Timestamp: time.Now()}
	}
}

// PacketCh is where packets come.
func (w *radio) PacketCh() <-chan *gossip.Packet { return w.packets }

// DialTimeout connects. A frozen member's kernel accepts, and nothing is read until it goes on.
func (w *radio) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	w.pause()
	to := w.air.at(addr)
	if to == nil || to.isDead() || w.isDead() {
		time.Sleep(timeout) // nobody says that nobody is there
		return nil, fmt.Errorf("connect to %s: %w", addr, errGone)
	}
	here, there := net.Pipe()
	w.do(func() {
		to.do(func() {
			select {
			case to.streams <- there:
			default:
				_ = there.Close() // of a pipe, which does not fail
			}
		})
	})
	return here, nil
}

// StreamCh is where connections come.
func (w *radio) StreamCh() <-chan net.Conn { return w.streams }

// Shutdown ends it.
func (w *radio) Shutdown() error {
	w.kill()
	return nil
}
