// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	wire "github.com/miekg/dns"
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
		c, began := &conn{ours, func() {}}, time.Now()
		if _, err := c.Write([]byte("answer")); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != takeWithin {
			t.Errorf("got %v after %v, want the deadline after %v", err, time.Since(began), takeWithin)
		}
		if _, err := theirs.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("the client reads %v, want the end", err)
		}
	})
}

// TestQuestionsOfOneConnectionAreAnsweredInTurn, however they are cut (RFC 7766, section 6.2.1).
func TestQuestionsOfOneConnectionAreAnsweredInTurn(t *testing.T) {
	f := start(t, Options{}, sample())
	c := f.connect("127.1.0.9")
	var all []byte
	for id := range uint16(50) {
		m := new(wire.Msg).SetQuestion("web.weft.mesos.", wire.TypeA)
		m.Id = id
		q, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		all = append(binary.BigEndian.AppendUint16(all, uint16(len(q))), q...)
	}
	for len(all) > 0 {
		n, err := c.Write(all[:min(7, len(all))])
		if err != nil {
			t.Fatal(err)
		}
		all = all[n:]
	}
	for id := range uint16(50) {
		m, err := (&wire.Conn{Conn: c}).ReadMsg()
		if err != nil || m.Id != id || len(m.Answer) != 2 {
			t.Fatalf("answer %d is %v, %v", id, m, err)
		}
	}
}
