// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/net/netutil"
)

// Limits of connections. What tasks may hold at most, some 125 of them, is less than all.
const (
	maxConns     = 4096 // per address of the server
	maxTaskConns = 32   // of one task
	maxHostConns = 512  // of one address of the host's, or of who is no task
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
			return &conn{c, sync.OnceFunc(done)}, nil
		}
		l.s.stats.limited.Add(1)
		_ = c.Close() // it has not begun
	}
}

// conn is one that is let in. A client that does not read loses it.
type conn struct {
	net.Conn
	done func()
}

// Write implements net.Conn. What is not taken in time ends the connection: the library would go on with the next answer.
func (c *conn) Write(b []byte) (int, error) {
	_ = c.SetWriteDeadline(time.Now().Add(takeWithin)) // fails for what is closed, as Write does
	n, err := c.Conn.Write(b)
	if err != nil {
		_ = c.Conn.Close() // its error is the one above
	}
	return n, err
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.done()
	return c.Conn.Close()
}

// askerAt is the address in one of a socket; the zero one is nobody's.
func askerAt(a net.Addr) netip.Addr {
	switch a := a.(type) {
	case *net.UDPAddr:
		return a.AddrPort().Addr().Unmap()
	case *net.TCPAddr:
		return a.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}
