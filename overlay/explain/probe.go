// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"weft/bpf/row"
	"weft/discovery"
	"weft/overlay"
	"weft/overlay/compile"
)

// Probe is a packet that is sent to be followed. Nobody at the destination hears of it but the kernel: a
// SYN from a port that nobody has is reset before any process could accept it, a datagram has a wrong
// checksum, so that the stack refuses it, and an echo is answered by the stack.
type Probe struct {
	Task     overlay.Endpoint // that sends it
	From, To netip.AddrPort   // ICMP: the echo's id in both
	Protocol uint8            // ICMPv6 as ICMP
	Node     discovery.NodeID // of the destination; empty: not known, or this one
	VIP      bool             // the destination is one: its tasks may be anywhere
}

// FirstProbePort is where ports of probes begin: above those that stacks choose by themselves.
const FirstProbePort = 61000

// PlanProbe finds what a question's packet would be. Its source has to be a task of this node; port is one
// from FirstProbePort on.
func PlanProbe(f compile.Facts, w World, q overlay.Question, port uint16) (Probe, error) {
	a, err := ask(f, w, q)
	if err != nil {
		return Probe{}, err
	}
	switch {
	case !a.src.task:
		return Probe{}, fmt.Errorf("%w source: %s is no task: only a task's way can be followed", overlay.ErrInvalid, a.src)
	case a.src.Node != f.Node:
		return Probe{}, fmt.Errorf("%w source: %s runs on node %s: follow it from there", overlay.ErrInvalid, a.src, a.src.Node)
	case !a.dst.addr.IsValid():
		return Probe{}, fmt.Errorf("%w destination: %s has no address: name one", overlay.ErrInvalid, a.dst)
	case a.src.addr.Is4() != a.dst.addr.Is4():
		return Probe{}, fmt.Errorf("%w: %s and %s have no address family in common", overlay.ErrInvalid, a.src, a.dst)
	}
	p := Probe{Task: a.src.Endpoint, VIP: isVIP(a.dst.addr), Protocol: a.service.Proto, From: netip.AddrPortFrom(a.src.addr, port)}
	p.To = netip.AddrPortFrom(a.dst.addr, a.service.Port)
	if p.Protocol == compile.ICMP {
		p.To = netip.AddrPortFrom(a.dst.addr, port)
	}
	if _, plain := PlainEndpoint(f.Plain, a.dst.addr); a.dst.task && a.dst.Node != f.Node && !plain { // which reports nothing
		p.Node = a.dst.Node
	}
	return p, nil
}

// TraceKey is the row by which programs know the packets of a trace.
func TraceKey(vni overlay.VNI, from netip.AddrPort, protocol uint8) row.TraceKey {
	return row.TraceKey{VNI: uint32(vni), Addr: row.AddrOf(from.Addr()), Port: row.Port(from.Port()), Proto: protocol}
}

// gateway is the MAC of every host end (bpf/src/lib/config.h).
var gateway = [6]byte{0x0a, 0x77, 0x65, 0x66, 0x74, 0x01}

const (
	probeTTL  = 64
	icmpv6    = 58
	ethernet  = 14
	headSYN   = 20
	headUDP   = 8
	headICMP  = 8
	tcpSYN    = 0x02
	tcpWindow = 1024
)

// Frame returns the probe as the task's interface sends it.
func (p Probe) Frame() []byte {
	head, proto := 40, p.Protocol
	if p.From.Addr().Is4() {
		head = 20
	} else if proto == compile.ICMP {
		proto = icmpv6
	}
	size := map[uint8]int{compile.TCP: headSYN, compile.UDP: headUDP, compile.ICMP: headICMP}[p.Protocol]
	b := make([]byte, ethernet+head+size)
	copy(b, gateway[:])
	copy(b[6:], macBytes(p.Task.MAC))
	ip, l4 := b[ethernet:ethernet+head], b[ethernet+head:]
	be := binary.BigEndian
	if head == 20 {
		be.PutUint16(b[12:], 0x0800)
		ip[0], ip[6], ip[8], ip[9] = 0x45, 0x40, probeTTL, proto // do not fragment
		be.PutUint16(ip[2:], uint16(head+size))
		copy(ip[12:], p.From.Addr().AsSlice())
		copy(ip[16:], p.To.Addr().AsSlice())
		be.PutUint16(ip[10:], checksum(ip, 0))
	} else {
		be.PutUint16(b[12:], 0x86dd)
		ip[0], ip[6], ip[7] = 0x60, proto, probeTTL
		be.PutUint16(ip[4:], uint16(size))
		copy(ip[8:], p.From.Addr().AsSlice())
		copy(ip[24:], p.To.Addr().AsSlice())
	}
	p.transport(l4, proto)
	return b
}

func (p Probe) transport(l4 []byte, proto uint8) {
	be := binary.BigEndian
	pseudo := uint32(len(l4)) + uint32(proto)
	for _, a := range []netip.Addr{p.From.Addr(), p.To.Addr()} {
		pseudo += sum(a.AsSlice())
	}
	switch p.Protocol {
	case compile.ICMP:
		l4[0] = 8
		if proto == compile.ICMP {
			pseudo = 0
		} else {
			l4[0] = 128
		}
		be.PutUint16(l4[4:], p.From.Port())
		be.PutUint16(l4[2:], checksum(l4, pseudo))
		return
	case compile.TCP:
		l4[12], l4[13] = headSYN/4<<4, tcpSYN
		be.PutUint16(l4[14:], tcpWindow)
	case compile.UDP:
		be.PutUint16(l4[4:], headUDP)
	}
	be.PutUint16(l4, p.From.Port())
	be.PutUint16(l4[2:], p.To.Port())
	at, wrong := 16, uint16(0)
	if p.Protocol == compile.UDP {
		at, wrong = 6, 0x5555 // see Probe
	}
	c := checksum(l4, pseudo) ^ wrong
	if c == 0 && p.Protocol == compile.UDP { // would mean that there is none
		c = 1
	}
	be.PutUint16(l4[at:], c)
}

// sum adds 16-bit words; b is of even length.
func sum(b []byte) (s uint32) {
	for i := 0; i < len(b); i += 2 {
		s += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	return s
}

// checksum is the Internet's (RFC 1071).
func checksum(b []byte, s uint32) uint16 {
	s += sum(b)
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return ^uint16(s)
}

func macBytes(text string) []byte {
	b := make([]byte, 0, 6)
	for part := range strings.SplitSeq(text, ":") {
		n, err := strconv.ParseUint(part, 16, 8)
		if err != nil {
			return make([]byte, 6)
		}
		b = append(b, byte(n))
	}
	return b
}

// Chain orders the events of several nodes as the packets went. Clocks of nodes differ by more than a packet takes, so
// only the order of one node's events counts; a packet that was sent off is met next where it arrives. It
// begins at the node called first.
func Chain(of map[discovery.NodeID][]overlay.Event, first discovery.NodeID) []overlay.Event {
	var walk []overlay.Event
	at := first
	for {
		if len(of[at]) == 0 {
			next, ok := other(of, at)
			if !ok {
				return walk
			}
			at = next
		}
		e := of[at][0]
		of[at], walk = of[at][1:], append(walk, e)
		if e.Reason == row.ReasonEncapsulated.String() {
			if next, ok := other(of, at); ok {
				at = next
			}
		}
	}
}

// other returns the first node by name, not the one given, that still has events.
func other(of map[discovery.NodeID][]overlay.Event, but discovery.NodeID) (next discovery.NodeID, ok bool) {
	for node, events := range of {
		if node != but && len(events) > 0 && (!ok || node < next) {
			next, ok = node, true
		}
	}
	return next, ok
}
