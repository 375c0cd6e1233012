// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	wire "github.com/miekg/dns"

	"weft/discovery/dns/dnstest"
)

// within waits for what a test wants to see.
func within(t *testing.T, limit time.Duration, what string, seen func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !seen(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}

func (f *fixture) connect(from string) net.Conn {
	f.t.Helper()
	c, err := dialFrom("tcp", from).Dial("tcp", f.addr)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = c.Close() })
	return c
}

// answered tells whether a connection is one that questions are answered on.
func answered(t *testing.T, c net.Conn) bool {
	t.Helper()
	conn := wire.Conn{Conn: c}
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if err := conn.WriteMsg(new(wire.Msg).SetQuestion("web.weft.mesos.", wire.TypeA)); err != nil {
		return false
	}
	m, err := conn.ReadMsg()
	return err == nil && len(m.Answer) == 2
}

// TestConnectionsOfOneTaskAreItsOwnShare: a task that holds all it can get keeps no other from its own.
func TestConnectionsOfOneTaskAreItsOwnShare(t *testing.T) {
	f := start(t, Options{}, sample())
	var held []net.Conn
	for range maxTaskConns {
		held = append(held, f.connect("127.1.0.9"))
	}
	for i, c := range held {
		if !answered(t, c) {
			t.Fatalf("connection %d of %d is not answered", i, maxTaskConns)
		}
	}
	if answered(t, f.connect("127.1.0.9")) || f.Stats().Limited != 1 {
		t.Errorf("one more than %d is answered; %d counted", maxTaskConns, f.Stats().Limited)
	}
	for _, other := range []string{"127.1.0.10", "127.2.0.9", "127.3.0.1"} {
		if !answered(t, f.connect(other)) {
			t.Errorf("%s is not answered", other)
		}
	}
	if err := held[0].Close(); err != nil {
		t.Fatal(err)
	}
	within(t, 5*time.Second, "a place that was given back is another's", func() bool { return answered(t, f.connect("127.1.0.9")) })
}

// TestWhoDoesNotReadLosesTheConnection: the library goes on with the next answer when one is not taken, and would for ever.
func TestWhoDoesNotReadLosesTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		c, began := newConn(ours, func() {}), time.Now()
		if _, err := c.Write([]byte("answer")); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != takeWithin {
			t.Errorf("got %v after %v, want the deadline after %v", err, time.Since(began), takeWithin)
		}
		if _, err := theirs.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("the client reads %v, want the end", err)
		}
	})
}

// TestWhoDoesNotReadIsWaitedForOnce, however many answers there are for it.
func TestWhoDoesNotReadIsWaitedForOnce(t *testing.T) {
	ours, _ := net.Pipe()
	c := newConn(ours, func() {})
	var late, closed atomic.Int64
	for range maxUnderWay {
		c.answers.Go(func() error {
			switch _, err := c.Write([]byte("answer")); {
			case errors.Is(err, os.ErrDeadlineExceeded):
				late.Add(1)
			case errors.Is(err, io.ErrClosedPipe):
				closed.Add(1)
			}
			return nil
		})
	}
	if err := c.Close(); late.Load() != 1 || closed.Load() != maxUnderWay-1 {
		t.Errorf("%d waited, %d did not have to, %v; want 1, %d", late.Load(), closed.Load(), err, maxUnderWay-1)
	}
}

// pour sends questions, with ids from 0 on, in pieces.
func pour(t *testing.T, c net.Conn, piece int, names ...string) {
	t.Helper()
	var all []byte
	for id, name := range names {
		m := new(wire.Msg).SetQuestion(name, wire.TypeA)
		m.Id = uint16(id)
		q, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		all = append(binary.BigEndian.AppendUint16(all, uint16(len(q))), q...)
	}
	for len(all) > 0 {
		n, err := c.Write(all[:min(piece, len(all))])
		if err != nil {
			t.Fatal(err)
		}
		all = all[n:]
	}
}

func read(t *testing.T, c net.Conn) *wire.Msg {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	m, err := (&wire.Conn{Conn: c}).ReadMsg()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestQuestionsOfOneConnectionAreAllAnswered, however they are cut (RFC 7766, section 6.2.1), each answer whole.
func TestQuestionsOfOneConnectionAreAllAnswered(t *testing.T) {
	f := start(t, Options{}, sample())
	c := f.connect("127.1.0.9")
	names := slices.Repeat([]string{"web.weft.mesos.", "many.weft.mesos."}, 100)
	pour(t, c, 7, names...)
	seen := map[uint16]bool{}
	for range names {
		m := read(t, c)
		if seen[m.Id] || len(m.Answer) != map[uint16]int{0: 2, 1: 60}[m.Id%2] {
			t.Fatalf("answer %d, seen before: %t, is %v", m.Id, seen[m.Id], m)
		}
		seen[m.Id] = true
	}
}

// paused is a resolver that answers when it is let to.
func paused(t *testing.T) (r *dnstest.Resolver, open *atomic.Int64, release func()) {
	t.Helper()
	open = &atomic.Int64{}
	gate := make(chan struct{})
	release = sync.OnceFunc(func() { close(gate) })
	r = newResolver(t, func(w wire.ResponseWriter, m *wire.Msg) {
		open.Add(1)
		<-gate
		answering(m.Question[0].Name+" 0 IN A 192.0.2.1")(w, m)
	})
	t.Cleanup(release)
	return r, open, release
}

func TestSlowQuestionHoldsUpNoneBehindIt(t *testing.T) {
	r, _, release := paused(t)
	f := start(t, Options{Resolvers: []netip.AddrPort{r.Addr}}, sample())
	c := f.connect("127.1.0.9")
	pour(t, c, 512, "slow.example.", "web.weft.mesos.", "slower.example.", "none.weft.mesos.")
	got := []uint16{read(t, c).Id, read(t, c).Id}
	if slices.Sort(got); !slices.Equal(got, []uint16{1, 3}) {
		t.Fatalf("answers %v came first, want those of our names, 1 and 3", got)
	}
	release()
	for range 2 {
		if m := read(t, c); m.Id%2 != 0 || len(m.Answer) != 1 {
			t.Errorf("got %v, want the resolver's answers, 0 and 2", m)
		}
	}
}

// TestConnectionHasOnlySoManyUnderWay: with all of them slow the next waits, and none is lost.
func TestConnectionHasOnlySoManyUnderWay(t *testing.T) {
	r, open, release := paused(t)
	f := start(t, Options{Resolvers: []netip.AddrPort{r.Addr}}, sample())
	c := f.connect("127.1.0.9")
	var names []string
	for i := range maxUnderWay + 4 {
		names = append(names, fmt.Sprintf("slow-%d.example.", i))
	}
	pour(t, c, 512, append(names, "web.weft.mesos.")...)
	within(t, 5*time.Second, "as many as may be are under way", func() bool { return open.Load() == maxUnderWay })
	if err := c.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if m, err := (&wire.Conn{Conn: c}).ReadMsg(); !errors.Is(err, os.ErrDeadlineExceeded) || open.Load() != maxUnderWay {
		t.Errorf("%d are under way, read %v, %v", open.Load(), m, err)
	}
	release()
	for range maxUnderWay + 5 {
		if m := read(t, c); m.Rcode != wire.RcodeSuccess {
			t.Errorf("got %v", m)
		}
	}
}

// TestWhoHasAskedAllIsStillAnswered: a client may end its side once it has asked (RFC 7766, section 6.2.3).
func TestWhoHasAskedAllIsStillAnswered(t *testing.T) {
	r, open, release := paused(t)
	f := start(t, Options{Resolvers: []netip.AddrPort{r.Addr}}, sample())
	c := f.connect("127.1.0.9")
	pour(t, c, 512, "slow.example.")
	within(t, 5*time.Second, "the question is under way", func() bool { return open.Load() == 1 })
	if end, ok := c.(*net.TCPConn); !ok || end.CloseWrite() != nil {
		t.Fatal("the client can't end its side")
	}
	release()
	if m := read(t, c); len(m.Answer) != 1 {
		t.Errorf("got %v, want the resolver's answer", m)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("then %v, want the end", err)
	}
}
