// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	wire "github.com/miekg/dns"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"weft/discovery/dns/answer"
	"weft/discovery/dns/resident"
)

// readers is how many goroutines read a socket, so that one core's work keeps no other waiting.
const readers = 2

// quick is a socket that answers at once what was answered before, and plain questions about names of ours, and returns the rest
// as read. It is the same answer at a fraction of the cost: no message is taken apart or put together.
type quick struct {
	*net.UDPConn
	s *Server
}

// ReadFrom implements net.PacketConn.
func (q quick) ReadFrom(buf []byte) (int, net.Addr, error) {
	var space [maxUDP]byte
	for {
		n, from, err := q.ReadFromUDPAddrPort(buf)
		if err != nil {
			return n, nil, err
		}
		out, lesson, done := q.s.quickly(space[:0], buf[:n], from.Addr().Unmap())
		if !done {
			return n, net.UDPAddrFromAddrPort(from), nil
		}
		_, _ = q.WriteToUDPAddrPort(out, from) // who went away gets no answer
		q.s.teach(lesson)
	}
}

// Close leaves the socket to the server, as several readers share it.
func (quick) Close() error { return nil }

// anyone is a quick socket that is bound to no address: each answer says which one was asked.
type anyone struct{ quick }

// caller is who asked at such a socket, and where.
type caller struct{ *wire.SessionUDP }

// Network implements net.Addr.
func (caller) Network() string { return "udp" }

// String implements net.Addr.
func (c caller) String() string { return c.RemoteAddr().String() }

// ReadFrom implements net.PacketConn. Its addresses are callers.
func (a anyone) ReadFrom(buf []byte) (int, net.Addr, error) {
	var space [maxUDP]byte
	for {
		n, from, err := wire.ReadFromSessionUDP(a.UDPConn, buf)
		if err != nil {
			return n, nil, err
		}
		out, lesson, done := a.s.quickly(space[:0], buf[:n], askerAt(from.RemoteAddr()))
		if !done {
			return n, caller{from}, nil
		}
		_, _ = wire.WriteToSessionUDP(a.UDPConn, out, from) // who went away gets no answer
		a.s.teach(lesson)
	}
}

// WriteTo implements net.PacketConn for callers.
func (a anyone) WriteTo(m []byte, to net.Addr) (int, error) {
	c, ok := to.(caller)
	if !ok {
		return 0, fmt.Errorf("%v is none who asked here: %w", to, errors.ErrUnsupported)
	}
	return wire.WriteToSessionUDP(a.UDPConn, m, c.SessionUDP)
}

// quickly answers a message, into space, if nobody has to be waited for. Not done, it is for the long way. Lesson is the answer
// if it should become resident.
func (s *Server) quickly(space, m []byte, asker netip.Addr) (out []byte, lesson *resident.Lesson, done bool) {
	var rcode int
	if s.mesos != nil {
		out, rcode, done = s.spoken.Load().again(space, m)
	} else {
		vni, network := s.view(asker)
		if vni != 0 && !s.limits.ask(asker, time.Now()) {
			s.stats.limited.Add(1)
			out, done = resident.Refusal(m)
			return out, nil, done
		}
		if out, rcode, done = s.answers.To(space, m, vni); !done {
			out, rcode, lesson, done = s.compose(space, m, vni, network)
		}
	}
	if !done {
		return nil, nil, false
	}
	s.stats.own.Add(1)
	if rcode == wire.RcodeNameError {
		s.stats.missing.Add(1)
	}
	return out, lesson, true
}

// compose answers a plain question about a name of ours, all of which is here, that has no resident answer.
func (s *Server) compose(space, m []byte, vni uint32, network string) (out []byte, rcode int, lesson *resident.Lesson, done bool) {
	k, ok := s.answers.Question(m, vni)
	if !ok || s.held != nil && !s.held(k.Name) {
		return nil, 0, nil, false
	}
	z := s.zone.Load() // after its rows are held
	apex, own := z.Apex(k.Name)
	if _, former := z.Present(k.Name); !own || former {
		return nil, 0, nil, false
	}
	p, err := s.answers.Render(k, z, answer.Compose(z, network, apex, k.Name, k.Type))
	if err != nil {
		return nil, 0, nil, false
	}
	if out, rcode, done = s.answers.Say(space, m, p); done && s.answers.Wants(p) {
		lesson = p
	}
	return out, rcode, lesson, done
}

// teach has an answer become resident. Who reads the socket does not wait for it, nor for a change of the zone meanwhile.
func (s *Server) teach(lesson *resident.Lesson) {
	if lesson != nil {
		s.taught.Go(func() { s.answers.Learn(lesson) })
	}
}

// packets returns what the library's servers of a socket read.
func (s *Server) packets(conn *net.UDPConn) ([]net.PacketConn, error) {
	var one net.PacketConn = quick{conn, s}
	if local, ok := conn.LocalAddr().(*net.UDPAddr); !ok || local.IP.IsUnspecified() {
		// A socket of one family refuses the other's option.
		err4 := ipv4.NewPacketConn(conn).SetControlMessage(ipv4.FlagDst|ipv4.FlagInterface, true)
		err6 := ipv6.NewPacketConn(conn).SetControlMessage(ipv6.FlagDst|ipv6.FlagInterface, true)
		if err4 != nil && err6 != nil {
			return nil, fmt.Errorf("which address is asked at %v: %w", conn.LocalAddr(), errors.Join(err4, err6))
		}
		one = anyone{quick{conn, s}}
	}
	return slices.Repeat([]net.PacketConn{one}, readers), nil
}
