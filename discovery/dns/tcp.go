// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	wire "github.com/miekg/dns"
	"golang.org/x/net/netutil"
	"golang.org/x/sync/errgroup"
)

// Limits of connections. What tasks may hold at most, some 125 of them, is less than all.
const (
	maxConns     = 4096 // per address of the server
	maxTaskConns = 32   // of one task
	maxHostConns = 512  // of one address of the host's, or of who is no task
	// maxUnderWay is how many questions of one connection are answered at a time. Of those that wait for resolvers all
	// connections of a task have maxOpen.
	maxUnderWay = 16
	// idle is how long a connection stays between questions (RFC 7766, section 6.2.3: a few seconds).
	idle = 10 * time.Second
	// takeWithin is how long a client may take to make room for an answer.
	takeWithin = 2 * time.Second
)

// listener lets in no more connections of one asker than are its share: the others are closed as they come.
type listener struct {
	net.Listener
	s *Server
}

// listen returns what the library's server of a socket accepts from.
func (s *Server) listen(l *net.TCPListener) net.Listener {
	return netutil.LimitListener(listener{l, s}, maxConns)
}

// Accept implements net.Listener.
func (l listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err // names the address
		}
		from, most := askerAt(c.RemoteAddr()), maxHostConns
		if vni, _ := l.s.view(from); vni != 0 {
			most = maxTaskConns
		}
		if done, ok := l.s.limits.connect(from, most, time.Now()); ok {
			return newConn(c, done), nil
		}
		l.s.stats.limited.Add(1)
		_ = c.Close() // it has not begun
	}
}

// serveTCP has a question answered beside the others of its connection: one that takes long holds up none behind it
// (RFC 7766, section 6.2.1.1). With too many under way no more is read.
func (s *Server) serveTCP(ctx context.Context, w wire.ResponseWriter, m *wire.Msg) {
	from, _ := w.RemoteAddr().(remote)
	from.conn.answers.Go(func() error {
		s.serve(ctx, reply{w, from.conn}, m)
		return nil
	})
}

// conn is one that is let in. A client that does not read loses it.
type conn struct {
	net.Conn
	done    func()
	answers errgroup.Group
	writing sync.Mutex // by one at a time: an answer is whole, and who waits for the client waits once
}

func newConn(c net.Conn, done func()) *conn {
	k := &conn{Conn: c, done: sync.OnceFunc(done)}
	k.answers.SetLimit(maxUnderWay)
	return k
}

// remote is where a connection is from, and the connection: of it the library gives who answers nothing else.
type remote struct {
	net.Addr
	conn *conn
}

// RemoteAddr implements net.Conn.
func (c *conn) RemoteAddr() net.Addr { return remote{c.Conn.RemoteAddr(), c} }

// Write implements net.Conn. What is not taken in time ends the connection: the library would go on with the next answer.
func (c *conn) Write(b []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	_ = c.SetWriteDeadline(time.Now().Add(takeWithin)) // fails for what is closed, as Write does
	n, err := c.Conn.Write(b)
	if err != nil {
		_ = c.Conn.Close() // its error is the one above
	}
	return n, err
}

// Close implements net.Conn. Who has asked all, and says so, is answered before.
func (c *conn) Close() error {
	_ = c.answers.Wait() // none errs
	c.done()
	return c.Conn.Close()
}

// reply is the library's, but for what it writes: that goes when no more is read, too.
type reply struct {
	wire.ResponseWriter
	conn *conn
}

// WriteMsg implements wire.ResponseWriter.
func (r reply) WriteMsg(m *wire.Msg) error {
	packed, err := m.Pack()
	if err != nil {
		return err
	}
	_, err = r.Write(packed)
	return err
}

// Write implements wire.ResponseWriter.
func (r reply) Write(m []byte) (int, error) {
	if len(m) > wire.MaxMsgSize {
		return 0, errors.New("longer than a message can be")
	}
	return r.conn.Write(append(binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(m)), uint16(len(m))), m...))
}

// askerAt is the address in one of a socket; the zero one is nobody's.
func askerAt(a net.Addr) netip.Addr {
	if r, ok := a.(remote); ok {
		a = r.Addr
	}
	switch a := a.(type) {
	case *net.UDPAddr:
		return a.AddrPort().Addr().Unmap()
	case caller:
		return askerAt(a.RemoteAddr())
	case *net.TCPAddr:
		return a.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}
