// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft/bpf/bpftest"
	"weft/bpf/row"
)

// What becomes of flows that are balanced per packet (outcome.h): three backends at ports 1 to 3 of a server, of which
// the packets tell. Times are written into the maps: nobody waits.

// crowd is what the client asks.
type crowd struct {
	*wires
	slots []row.Backend // by their port, from 1 on
}

func newCrowd(t *testing.T) *crowd {
	t.Helper()
	w := newWires(t, "workload")
	list := []backend{{"10.1.0.6:1", 1}, {"10.1.0.6:2", 1}, {"10.1.0.6:3", 1}}
	w.vip(vip4, list...)
	_, slots := vipRows(uint32(vip4.Port())<<8|32, list)
	return &crowd{w, slots}
}

func (c *crowd) id(backend uint16) uint32 { return c.slots[backend-1].ID }

// says is a segment of the client's port; it returns the backend that got it.
func (c *crowd) says(port uint16, flags uint8, ack uint32) uint16 {
	c.t.Helper()
	p := packet(bpftest.TCP, at(client.addr4, port), vip4, "")
	p.Flags, p.Ack = flags, ack
	return c.backendOf(p)
}

func (c *crowd) asks(port uint16) uint16 {
	c.t.Helper()
	return c.says(port, bpftest.SYN, 0)
}

// answers has a backend say something to the client's port, which hears it from the VIP.
func (c *crowd) answers(from, port uint16, flags uint8, seq uint32) {
	c.t.Helper()
	c.hears(vip4, from, port, flags, seq)
}

func (c *crowd) hears(by netip.AddrPort, from, port uint16, flags uint8, seq uint32) {
	c.t.Helper()
	p, want := packet(bpftest.TCP, at(server.addr4, from), at(client.addr4, port), ""), packet(bpftest.TCP, by, at(client.addr4, port), "")
	p.Flags, p.Seq, want.Flags, want.Seq = flags, seq, flags, seq
	c.wantTo(client, c.from(server, p), want)
}

const accepts = bpftest.SYN | bpftest.ACK

func (c *crowd) feedback(backend uint16) (f row.Feedback) {
	c.t.Helper()
	c.do(c.set.Maps["feedbacks"].Lookup(c.id(backend), &f))
	return f
}

func (c *crowd) tally(backend uint16) (sum row.Tally) {
	c.t.Helper()
	var perCPU []row.Tally
	c.do(c.set.Maps["tallies"].Lookup(c.id(backend), &perCPU))
	for _, t := range perCPU {
		sum.Chosen += t.Chosen
		sum.Refused += t.Refused
		sum.Timeouts += t.Timeouts
		sum.Resets += t.Resets
		sum.Ejections += t.Ejections
		sum.LatencySum += t.LatencySum
	}
	return sum
}

// age makes a flow older, and since when its backend is asked.
func (c *crowd) age(backend, port uint16, by time.Duration) {
	c.t.Helper()
	key := flowKey(bpftest.TCP, at(server.addr4, backend), at(client.addr4, port))
	var known row.Translation
	c.do(c.set.Maps["translations"].Lookup(key, &known))
	known.Since -= uint64(by)
	c.put("translations", key, known)
	f := c.feedback(backend)
	if f.Asked != 0 {
		f.Asked -= uint64(by)
	}
	f.Tried = 0
	c.put("feedbacks", c.id(backend), f)
}

// wantBarred wants a backend to get nothing of the next flows.
func (c *crowd) wantBarred(backend uint16) {
	c.t.Helper()
	if f := c.feedback(backend); f.Barred <= monotonic(c.t) {
		c.t.Fatalf("backend %d is not barred: %+v", backend, f)
	}
	for port := range uint16(50) {
		if got := c.asks(50000 + port); got == backend {
			c.t.Fatalf("backend %d is barred, and was chosen", backend)
		}
	}
}

func TestAPacketsRefusingBackendIsAskedOnce(t *testing.T) {
	c := newCrowd(t)
	c.known(c.slots)
	dead := c.asks(40000)
	c.answers(dead, 40000, bpftest.RST|bpftest.ACK, 0)
	c.wantBarred(dead)
	if got := c.tally(dead); got != (row.Tally{Chosen: 1, Refused: 1, Ejections: 1}) {
		t.Errorf("the dead one: %+v, want chosen, refused and ejected once", got)
	}
	// The same port asks again, whose connection is over.
	if got := c.asks(40000); got == dead {
		t.Error("a new connection went to the backend that refused the one before")
	}
}

// A backend of which nothing is known gets one flow, until that is answered.
func TestPacketsTryAFreshBackendOnce(t *testing.T) {
	c := newCrowd(t)
	seen := make(map[uint16]uint16)
	for port := range uint16(3) {
		seen[c.asks(40000+port)] = port
	}
	if len(seen) != 3 {
		t.Fatalf("three flows went to %d backends, want one to each", len(seen))
	}
	for backend, port := range seen {
		if c.feedback(backend).Tried == 0 { // who chooses on another CPU meanwhile sees it
			t.Errorf("nobody claimed the trial of backend %d", backend)
		}
		if backend != 2 {
			c.answers(backend, 40000+port, accepts, 0)
		}
	}
	for port := range uint16(50) {
		c.known([]row.Backend{c.slots[0], c.slots[2]}) // else they would be silent
		f := c.feedback(2)
		f.Asked, f.Tried = monotonic(t), 0 // else it would be forgotten that somebody asks, on a slow machine
		c.put("feedbacks", c.id(2), f)
		if c.asks(41000+port) == 2 {
			t.Fatal("a backend that has not answered yet was given another flow")
		}
	}
	// Nobody sent a second SYN: who asked has gone, and another may try.
	c.age(2, 40000+seen[2], 3*time.Second)
	found := false
	for port := range uint16(100) {
		found = found || c.asks(42000+port) == 2
	}
	if !found {
		t.Error("a backend whose asker has gone was not tried again")
	}
}

// A backend that answered before and does not now gets nothing, until it counts as lost that somebody asks.
func TestPacketsPassASilentBackend(t *testing.T) {
	c := newCrowd(t)
	for _, b := range c.slots {
		c.put("feedbacks", b.ID, row.Feedback{Latency: 1_000_000, Measured: monotonic(t)})
	}
	silent := c.asks(40000)
	c.age(silent, 40000, time.Second)
	for port := range uint16(50) {
		if c.asks(41000+port) == silent {
			t.Fatal("a silent backend was given another flow")
		}
		c.known(c.slots) // of the others none is silent
		c.put("feedbacks", c.id(silent), row.Feedback{Latency: 1_000_000, Measured: monotonic(t), Asked: monotonic(t) - uint64(time.Second)})
	}
}

func TestASecondSYNLeavesASilentBackend(t *testing.T) {
	c := newCrowd(t)
	c.known(c.slots)
	first := c.asks(40000)
	for range 20 {
		if got := c.asks(40000); got != first {
			t.Fatalf("a SYN that was sent again at once went to backend %d, want %d", got, first)
		}
	}
	c.put("feedbacks", c.id(first), row.Feedback{Latency: 1_000_000, Measured: monotonic(t), Asked: monotonic(t)})
	c.age(first, 40000, time.Second)
	second := c.asks(40000)
	if second == first {
		t.Fatal("a SYN that was sent again stayed at a silent backend")
	}
	c.hears(at(server.addr4, first), first, 40000, accepts, 0) // late: the client knows of none
	c.answers(second, 40000, accepts, 0)
	if got := c.says(40000, bpftest.ACK, 0); got != second {
		t.Errorf("what follows went to backend %d, want %d", got, second)
	}
	c.wantBarred(first)
	if got := c.tally(first); got.Timeouts != 1 || got.Ejections != 1 || got.Refused != 0 {
		t.Errorf("the silent one: %+v, want one time-out and one ejection", got)
	}
	// Others that wait for it leave it with their next SYN, without another failure.
	if f := c.feedback(first); f.Failures != 1 {
		t.Errorf("%d failures, want 1", f.Failures)
	}
}

func TestAWaitingFlowLeavesABarredBackend(t *testing.T) {
	c := newCrowd(t)
	c.known(c.slots)
	first := c.asks(40000)
	f := c.feedback(first)
	f.Barred = monotonic(t) + uint64(time.Hour)
	c.put("feedbacks", c.id(first), f)
	if got := c.asks(40000); got == first {
		t.Error("a SYN that was sent again stayed at a barred backend")
	}
	if got := c.feedback(first); got.Failures != 0 {
		t.Errorf("%d failures, want none", got.Failures)
	}
}

func TestPacketsTellLatency(t *testing.T) {
	c := newCrowd(t)
	b := c.asks(40000)
	c.age(b, 40000, 5*time.Millisecond)
	c.answers(b, 40000, accepts, 7)
	f := c.feedback(b)
	if f.Latency < 5_000_000 || f.Asked != 0 || f.InFlight != 0 || f.Connecting != 0 {
		t.Errorf("after the connect: %+v, want 5 ms or more, and nothing in flight", f)
	}
	f.Failures = 1
	c.put("feedbacks", c.id(b), f)
	c.answers(b, 40000, bpftest.ACK, 8) // data tells nothing
	if got := c.feedback(b); got.Failures != 1 || got.Latency != f.Latency {
		t.Errorf("after data: %+v, want it as it was: %+v", got, f)
	}
	c.age(b, 40000, 200*time.Millisecond)
	c.answers(b, 40000, bpftest.FIN|bpftest.ACK, 8)
	if got := c.feedback(b); got.Failures != 0 || got.Latency < 50_000_000 {
		t.Errorf("after the end: %+v, want no failure and a quarter of 200 ms", got)
	}
	if got := c.tally(b); got.LatencySum < 200_000_000 || got.Chosen != 1 {
		t.Errorf("%+v, want one connection of 200 ms or more", got)
	}
	sum := c.tally(b).LatencySum
	c.answers(b, 40000, bpftest.FIN|bpftest.ACK, 8) // sent again
	if got := c.tally(b).LatencySum; got != sum {
		t.Error("an end was counted twice")
	}
}

// Connections that are cut before the backend said a word are failures, when there are several; those that are cut
// later, by whoever, ended well.
func TestPacketsTellCuts(t *testing.T) {
	tests := []struct {
		name     string
		end      func(c *crowd, backend, port uint16)
		failures uint32
		resets   uint64
	}{
		{"the backend, at once", func(c *crowd, b, port uint16) { c.answers(b, port, bpftest.RST, 101) }, 3, 1},
		{"the backend, after a word", func(c *crowd, b, port uint16) { c.answers(b, port, bpftest.RST, 105) }, 0, 0},
		{"the task, after a word", func(c *crowd, b, port uint16) { c.says(port, bpftest.RST|bpftest.ACK, 105) }, 0, 0},
		{"the task, at once", func(c *crowd, b, port uint16) { c.says(port, bpftest.RST|bpftest.ACK, 101) }, 2, 0},
		{"the task, as one that knows nothing", func(c *crowd, b, port uint16) { c.says(port, bpftest.RST, 0) }, 2, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := newCrowd(t)
			c.known(c.slots)
			b := c.asks(40000)
			c.answers(b, 40000, accepts, 100)
			f := c.feedback(b)
			f.Failures = 2
			c.put("feedbacks", c.id(b), f)
			tt.end(c, b, 40000)
			if got := c.feedback(b); got.Failures != tt.failures || (got.Barred > 0) != (tt.failures == 3) {
				t.Errorf("%+v, want %d failures, barred when there are three", got, tt.failures)
			}
			if got := c.tally(b); got.Resets != tt.resets {
				t.Errorf("%+v, want %d resets", got, tt.resets)
			}
			seen := make(map[uint16]bool)
			for range 60 { // over: the port's next connection is a new one
				got := c.asks(40000)
				seen[got] = true
				c.answers(got, 40000, bpftest.RST, 0)
				c.known(c.slots)
			}
			if len(seen) < 2 {
				t.Error("a port that is used again always gets the same backend")
			}
		})
	}
}

// A task that is its own backend answers by way of the VIP.
func TestATaskTellsOfItself(t *testing.T) {
	w := newWires(t, "workload")
	own, v := at(client.addr4, 8080), vip4
	w.vip(v, backend{own.String(), 1})
	_, slots := vipRows(uint32(v.Port())<<8|32, one(own.String()))
	w.wantTo(client, w.from(client, packet(bpftest.TCP, at(client.addr4, 40000), v, "")), packet(bpftest.TCP, at(v.Addr(), 40000), own, ""))
	p, want := packet(bpftest.TCP, own, at(v.Addr(), 40000), ""), packet(bpftest.TCP, v, at(client.addr4, 40000), "")
	p.Flags, want.Flags = accepts, accepts
	w.wantTo(client, w.from(client, p), want)
	var f row.Feedback
	w.do(w.set.Maps["feedbacks"].Lookup(slots[0].ID, &f))
	if f.Latency == 0 || f.Asked != 0 {
		t.Errorf("%+v, want a latency", f)
	}
}

// complaint is an ICMP error by somebody about a packet between two sockets.
func complaint(by netip.Addr, kind, code uint8, about bpftest.Packet) bpftest.Packet {
	proto := uint8(bpftest.ICMP)
	if by.Is6() {
		proto = bpftest.ICMPv6
	}
	return bpftest.Packet{Proto: proto, Src: by, Dst: about.Src, ICMPType: kind, ICMPCode: code, Payload: about.Bytes()[14:]}
}

// complaintAsQuoted is a complaint about a packet whose transport sum is that of another one: as who complains met it, for
// nobody reads it.
func complaintAsQuoted(by netip.Addr, kind [2]uint8, about, met bpftest.Packet) bpftest.Packet {
	p := complaint(by, kind[0], kind[1], about)
	sum := len(p.Payload) - len(about.Payload) - 4 // TCP's
	if about.Proto == bpftest.UDP {
		sum += 2
	}
	copy(p.Payload[sum:sum+2], met.Bytes()[14+sum:])
	return p
}

// Who hears an ICMP error hears of the VIP, in what is quoted and, where the backend sent it, as who says so.
func TestNewsOfABackendComeFromTheVIP(t *testing.T) {
	w := newWires(t, "workload")
	router := map[bool]netip.Addr{false: server.addr4.Next(), true: server.addr6.Next()}
	port := uint16(40000)
	each(func(v6 bool, proto uint8) {
		s, v := at(server.addr(v6), 8080), vipOf(v6)
		w.vip(v, backend{s.String(), 1})
		kinds := [][2]uint8{{3, 3}, {3, 4}, {11, 0}, {12, 0}}
		if v6 {
			kinds = [][2]uint8{{1, 4}, {2, 0}, {3, 0}, {4, 0}}
		}
		for _, kind := range kinds {
			for _, by := range []netip.Addr{s.Addr(), router[v6]} {
				port++
				c := at(client.addr(v6), port)
				for _, options := range [][]byte{nil, make([]byte, 8)} {
					about, to := packet(proto, c, s, "lost it"), packet(proto, c, v, "lost it")
					if !v6 {
						about.Options, to.Options = options, options
					}
					w.wantTo(server, w.from(client, to), about)
					want := complaintAsQuoted(by, kind, to, about)
					if by == s.Addr() {
						want.Src = v.Addr()
					}
					w.wantNews(complaint(by, kind[0], kind[1], about), want)
				}
			}
		}
	})
}

// wantNews has the server's link send an ICMP error, which the client is to get as want. Of a router it comes as of the
// world by the client's link.
func (w *wires) wantNews(sent, want bpftest.Packet) {
	w.t.Helper()
	if sent.Src == server.addr4 || sent.Src == server.addr6 {
		w.wantTo(client, w.from(server, sent), want)
		return
	}
	r := w.run("to_workload", sent.Bytes(), bpftest.Meta{Ifindex: client.link})
	if diff := cmp.Diff(r.Out, want.Bytes()); r.Action != bpftest.Next || diff != "" {
		w.t.Fatalf("%s; frame (-got +want):\n%s", r.Action, diff)
	}
}

func TestNewsThatAreOfNoVIPStay(t *testing.T) {
	w := newWires(t, "workload")
	for _, v6 := range []bool{false, true} {
		c, s, v := at(client.addr(v6), 40000), at(server.addr(v6), 8080), vipOf(v6)
		w.vip(v, backend{s.String(), 1})
		w.wantTo(server, w.from(client, packet(bpftest.UDP, c, v, "")), packet(bpftest.UDP, c, s, ""))
		kind := uint8(3)
		if v6 {
			kind = 1
		}
		cut := complaint(s.Addr(), kind, 3, packet(bpftest.UDP, c, s, ""))
		cut.Payload = cut.Payload[:len(cut.Payload)-2] // of 8 bytes of UDP
		about := complaint(s.Addr(), kind, 3, packet(bpftest.UDP, at(c.Addr(), 40001), s, ""))
		of := complaint(s.Addr(), kind, 3, packet(bpftest.UDP, at(remote.addr(v6), 40000), s, ""))
		of.Dst = c.Addr()
		for _, p := range []bpftest.Packet{cut, about, of} {
			w.wantTo(client, w.from(server, p), p)
		}
	}
}

// What ICMP says of a backend: a flow that nobody answered was refused, an answered one goes on; datagrams leave.
func TestNewsTellOfABackend(t *testing.T) {
	tests := []struct {
		name             string
		proto            uint8
		kind, code       uint8
		answered         bool
		refused, remains bool
	}{
		{"tcp, port unreachable", bpftest.TCP, 3, 3, false, true, false},
		{"tcp, host unreachable", bpftest.TCP, 3, 1, false, true, false},
		{"tcp, too big", bpftest.TCP, 3, 4, false, false, true},
		{"tcp, time exceeded", bpftest.TCP, 11, 0, false, false, true},
		{"tcp, answered", bpftest.TCP, 3, 3, true, false, true},
		{"udp, port unreachable", bpftest.UDP, 3, 3, false, true, false},
		{"udp, too big", bpftest.UDP, 3, 4, false, false, true},
		{"udp, answered", bpftest.UDP, 3, 3, true, false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := newCrowd(t)
			c.known(c.slots)
			own := at(client.addr4, 40000)
			ask := packet(tt.proto, own, vip4, "")
			b := c.backendOf(ask)
			from := at(server.addr4, b)
			if tt.answered {
				answer, want := packet(tt.proto, from, own, ""), packet(tt.proto, vip4, own, "")
				answer.Flags, want.Flags = accepts, accepts
				c.wantTo(client, c.from(server, answer), want)
			}
			c.from(server, complaint(server.addr4, tt.kind, tt.code, packet(tt.proto, own, from, "")))
			if got := c.feedback(b); (got.Barred > 0) != tt.refused || (got.Failures > 0) != tt.refused {
				t.Errorf("%+v, want refused %t", got, tt.refused)
			}
			if got := c.tally(b); (got.Refused > 0) != tt.refused || got.Chosen != 1 {
				t.Errorf("%+v, want refused %t", got, tt.refused)
			}
			left := false
			for range 30 {
				got := c.backendOf(ask)
				left = left || got != b
				if tt.remains || tt.refused || left {
					continue
				}
				// By chance it may choose the same one again.
				c.from(server, complaint(server.addr4, tt.kind, tt.code, packet(tt.proto, own, at(server.addr4, got), "")))
			}
			if left == tt.remains {
				t.Errorf("the flow left %t, want %t", left, !tt.remains)
			}
		})
	}
}

// The first datagram that answers ends what was known of failures; a connect does not.
func TestADatagramForgivesFailures(t *testing.T) {
	c := newCrowd(t)
	own := at(client.addr4, 40000)
	b := c.backendOf(packet(bpftest.UDP, own, vip4, ""))
	for _, want := range []uint32{0, 3} { // the second time it is no news
		c.put("feedbacks", c.id(b), row.Feedback{Failures: 3})
		c.wantTo(client, c.from(server, packet(bpftest.UDP, at(server.addr4, b), own, "")), packet(bpftest.UDP, vip4, own, ""))
		if got := c.feedback(b); got.Failures != want || got.Asked != 0 || got.Latency != 0 {
			t.Errorf("%+v, want %d failures and nothing else", got, want)
		}
	}
}

// The sequence number of the backend's first byte is kept in network order.
func TestTheFirstByteOfABackendIsKnown(t *testing.T) {
	c := newCrowd(t)
	b := c.asks(40000)
	c.answers(b, 40000, accepts, 0xffffffff) // the next one is 0
	var known row.Translation
	c.do(c.set.Maps["translations"].Lookup(flowKey(bpftest.TCP, at(server.addr4, b), at(client.addr4, 40000)), &known))
	if known.First != 0 || known.State != row.TranslationAnswered {
		t.Errorf("%+v, want the first byte to be 0", known)
	}
	c = newCrowd(t)
	b = c.asks(40000)
	c.answers(b, 40000, accepts, 0x01020304)
	c.do(c.set.Maps["translations"].Lookup(flowKey(bpftest.TCP, at(server.addr4, b), at(client.addr4, 40000)), &known))
	if got := binary.NativeEndian.AppendUint32(nil, known.First); !bytes.Equal(got, []byte{1, 2, 3, 5}) {
		t.Errorf("% x, want 01 02 03 05", got)
	}
}

// Two VIPs share their only backend, and a task has one port for both: the answers are those of the later flow, whatever
// the SYN of the earlier one meets there.
func TestASYNLeavesTheFlowOfAnotherVIP(t *testing.T) {
	w := newWires(t, "workload")
	own, s, other := at(client.addr4, 40000), at(server.addr4, 8080), at(vip4.Addr(), 81)
	w.vip(vip4, one(s.String())...)
	w.vip(other, one(s.String())...)
	ask := func(v netip.AddrPort) {
		w.wantTo(server, w.from(client, packet(bpftest.TCP, own, v, "")), packet(bpftest.TCP, own, s, ""))
	}
	answer := func(flags uint8) {
		p, want := packet(bpftest.TCP, s, own, ""), packet(bpftest.TCP, other, own, "")
		p.Flags, want.Flags = flags, flags
		w.wantTo(client, w.from(server, p), want)
	}
	ask(vip4)
	ask(other)
	answer(bpftest.RST) // it is over
	ask(vip4)
	answer(bpftest.ACK)
}
