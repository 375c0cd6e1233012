// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"net"
	"net/netip"
	"time"

	wire "github.com/miekg/dns"

	"weft/discovery/dns/resident"
)

// readers is how many goroutines read a socket, so that one core's work keeps no other waiting.
const readers = 2

// quick is a socket that answers from memory what is there, and returns the rest as read. It is the
// same answer at a fraction of the cost: no message is taken apart or put together.
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
		asker := from.Addr().Unmap()
		vni, _ := q.s.view(asker)
		if vni != 0 && !q.s.limits.ask(asker, time.Now()) {
			q.refuse(buf[:n], from)
			continue
		}
		out, rcode, hit := q.s.answers.To(space[:0], buf[:n], vni)
		if !hit {
			return n, net.UDPAddrFromAddrPort(from), nil
		}
		q.s.stats.own.Add(1)
		if rcode == wire.RcodeNameError {
			q.s.stats.missing.Add(1)
		}
		_, _ = q.WriteToUDPAddrPort(out, from) // who went away gets no answer
	}
}

// refuse sends a question back as refused: cheaper than what would be answered, and no longer.
func (q quick) refuse(m []byte, to netip.AddrPort) {
	q.s.stats.limited.Add(1)
	if m, ok := resident.Refusal(m); ok {
		_, _ = q.WriteToUDPAddrPort(m, to) // who went away gets no answer
	}
}

// Close leaves the socket to the server, as several readers share it.
func (quick) Close() error { return nil }

// packets returns what the library's servers of a socket read. One that is bound to no address has to
// say in each answer which one was asked, and the library knows how for plain sockets.
func (s *Server) packets(conn *net.UDPConn) []net.PacketConn {
	local, ok := conn.LocalAddr().(*net.UDPAddr)
	if !ok || local.IP.IsUnspecified() || s.mesos != nil {
		return []net.PacketConn{conn}
	}
	list := make([]net.PacketConn, readers)
	for i := range list {
		list[i] = quick{conn, s}
	}
	return list
}
