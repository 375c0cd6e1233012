// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	size  = 64       // bytes of a datagram: flow, number, time
	burst = 32       // given to the kernel, or taken from it, at once
	room  = 64 << 20 // bytes that may wait at a receiver: what is lost was lost before
	pause = time.Millisecond
	// late is how many datagrams a sender that was not run makes up for. More of them at once would not fit the
	// queue of a virtual link (net.core.netdev_max_backlog, 1000).
	late = 256
)

// sent is what a sender prints.
type sent struct {
	Flow    uint32 `json:"flow"`
	Sent    int    `json:"sent"`
	Refused int    `json:"refused"` // by the kernel, with an error
	Skipped int    `json:"skipped"` // not sent, because the sender was not run in time
}

// message is struct mmsghdr of sendmmsg(2).
type message struct {
	header unix.Msghdr
	length uint32
	_      uint32
}

// batch is a row of datagrams for one call of the kernel.
type batch struct {
	messages [burst]message
	vectors  [burst]unix.Iovec
	data     [burst][size]byte
}

func newBatch() *batch {
	b := new(batch)
	for i := range b.messages {
		b.vectors[i].Base = &b.data[i][0]
		b.vectors[i].SetLen(size)
		b.messages[i].header.Iov = &b.vectors[i]
		b.messages[i].header.SetIovlen(1)
	}
	return b
}

// call is sendmmsg or recvmmsg of the first n datagrams.
func (b *batch) call(trap uintptr, fd, n, flags int) (int, error) {
	for {
		r, _, errno := unix.Syscall6(trap, uintptr(fd), uintptr(unsafe.Pointer(&b.messages[0])), uintptr(n), uintptr(flags), 0, 0)
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 {
			return 0, errno
		}
		return int(r), nil
	}
}

func now() int64 {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &t) // fails for unknown clocks only
	return t.Nano()
}

func sockaddr(a netip.AddrPort) (unix.Sockaddr, int) {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}, unix.AF_INET
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}, unix.AF_INET6
}

// send sends at rate until end. Each datagram says of which flow it is, its number there, and when it left.
func send(to netip.AddrPort, flow uint32, rate int, end <-chan struct{}) (sent, error) {
	s := sent{Flow: flow}
	addr, family := sockaddr(to)
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return s, err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, addr); err != nil {
		return s, fmt.Errorf("connect to %s: %w", to, err)
	}
	runtime.LockOSThread()
	b := newBatch()
	began := now()
	for !over(end) {
		elapsed := now() - began
		due := int(float64(elapsed)*float64(rate)/1e9) - s.Sent - s.Skipped
		if due > late {
			s.Skipped += due - late
			due = late
		}
		for due > 0 {
			n := min(due, burst)
			s.put(b, fd, n)
			due -= n
		}
		time.Sleep(pause)
	}
	return s, nil
}

// put sends the next n datagrams, each once: one that the kernel refuses is lost.
func (s *sent) put(b *batch, fd, n int) {
	at := now()
	for i := range n {
		d := b.data[i][:]
		binary.BigEndian.PutUint32(d, s.Flow)
		binary.BigEndian.PutUint64(d[4:], uint64(s.Sent+i))
		binary.BigEndian.PutUint64(d[12:], uint64(at))
	}
	done, err := b.call(unix.SYS_SENDMMSG, fd, n, 0)
	if err != nil {
		done, s.Refused = 1, s.Refused+1
	}
	s.Sent += done
}

// sink counts what arrives.
type sink struct {
	mu    sync.Mutex // guards what follows
	flows map[uint32]*arrivals
}

// arrivals is what arrived of a flow. Gaps are times without a datagram of it.
type arrivals struct {
	Flow     uint32             `json:"flow"`
	Received int                `json:"received"`
	Twice    int                `json:"twice"`
	Gaps     [len(gaps) + 1]int `json:"gaps"`
	Longest  int64              `json:"longest"` // gap, nanoseconds
	Delay    int64              `json:"delay"`   // longest way of a datagram, nanoseconds

	last int64
	seen []uint64 // a bit per number
}

// gaps are the bounds of a histogram.
var gaps = [...]time.Duration{time.Millisecond, 5 * time.Millisecond, 20 * time.Millisecond, 100 * time.Millisecond, 500 * time.Millisecond}

// received is what serve reports.
type received struct {
	Flows []*arrivals `json:"flows"`
	// Overrun counts datagrams that this end took too late: the receiver's fault, not the network's.
	Overrun int `json:"overrun"`
}

// take reads datagrams until the socket fails.
func (s *sink) take(fd int) error {
	runtime.LockOSThread()
	b := newBatch()
	for {
		n, err := b.call(unix.SYS_RECVMMSG, fd, burst, unix.MSG_WAITFORONE)
		if err != nil {
			return fmt.Errorf("receive: %w", err)
		}
		at := now()
		s.mu.Lock()
		for i := range n {
			if d := b.data[i][:b.messages[i].length]; len(d) == size {
				s.note(d, at)
			}
		}
		s.mu.Unlock()
	}
}

func (s *sink) note(d []byte, at int64) {
	flow, number := binary.BigEndian.Uint32(d), binary.BigEndian.Uint64(d[4:])
	a := s.flows[flow]
	if a == nil {
		a = &arrivals{Flow: flow, last: at}
		s.flows[flow] = a
	}
	if a.isSeen(number) {
		a.Twice++
		return
	}
	a.Received++
	a.Delay = max(a.Delay, at-int64(binary.BigEndian.Uint64(d[12:])))
	gap := at - a.last
	a.last = at
	a.Longest = max(a.Longest, gap)
	i := 0
	for i < len(gaps) && time.Duration(gap) >= gaps[i] {
		i++
	}
	a.Gaps[i]++
}

// isSeen reports whether a number came before, and notes it.
func (a *arrivals) isSeen(number uint64) bool {
	word, bit := int(number/64), uint64(1)<<(number%64)
	for len(a.seen) <= word {
		a.seen = append(a.seen, make([]uint64, 1024)...)
	}
	was := a.seen[word]&bit != 0
	a.seen[word] |= bit
	return was
}

// report returns all flows, each as it is now.
func (s *sink) report() received {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := received{Overrun: overrun()}
	for _, a := range s.flows {
		copied := *a
		r.Flows = append(r.Flows, &copied)
	}
	return r
}

// overrun reads how many datagrams found no room at a socket of this namespace (proc(5): snmp, snmp6).
func overrun() int {
	sum := 0
	six, _ := os.ReadFile("/proc/self/net/snmp6") // not there without IPv6
	for line := range strings.Lines(string(six)) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == "Udp6RcvbufErrors" {
			n, _ := strconv.Atoi(f[1])
			sum += n
		}
	}
	four, _ := os.ReadFile("/proc/self/net/snmp")
	var names []string
	for line := range strings.Lines(string(four)) {
		f := strings.Fields(line)
		if len(f) == 0 || f[0] != "Udp:" {
			continue
		}
		if names == nil {
			names = f
			continue
		}
		for i, name := range names {
			if name == "RcvbufErrors" {
				n, _ := strconv.Atoi(f[i])
				sum += n
			}
		}
	}
	return sum
}

// openSink binds a socket of a family.
func openSink(family int) (int, error) {
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	var addr unix.Sockaddr = &unix.SockaddrInet4{Port: datagramPort}
	if family == unix.AF_INET6 {
		addr = &unix.SockaddrInet6{Port: datagramPort}
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
			return 0, err
		}
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, room); err != nil {
		return 0, err
	}
	return fd, unix.Bind(fd, addr)
}
