// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"weft/tests/bench/ends"
)

const (
	small   = 64        // bytes of a question, an answer and a flood's datagram
	large   = 128 << 10 // bytes given to or taken from the kernel at once
	segment = 1200      // bytes of a datagram that the kernel cuts (as QUIC has them)
	burst   = 48        // such datagrams given to the kernel at once
	last    = 'Q'       // first byte of the message that ends a conversation
	room    = 32 << 20  // bytes that may wait at a receiver of datagrams
)

// conversation is one end's sockets and what passed through them.
type conversation struct {
	fd     int
	udp    bool
	port   uint16
	peer   unix.Sockaddr
	family int
	buffer []byte

	until        time.Time
	ops, bytes   int64
	began, ended time.Time
	busy, idle   int64 // thread's time at began and ended, nanoseconds
}

// open makes a server's socket and binds it, or a client's.
func open(o ends.Order) (*conversation, error) {
	what := o.Serve + o.Run
	c := &conversation{udp: strings.HasPrefix(what, "udp"), buffer: make([]byte, large), family: unix.AF_INET}
	if o.Addr.Is6() {
		c.family = unix.AF_INET6
	}
	c.peer = sockaddr(o.Addr, o.Port)
	if err := c.socket(); err != nil {
		return nil, err
	}
	if o.Serve == "" {
		return c, nil
	}
	// A port that is asked for was used by the conversation before.
	if err := unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return nil, err
	}
	if err := unix.Bind(c.fd, sockaddr(o.Addr, o.Port)); err != nil {
		return nil, fmt.Errorf("bind to %s: %w", o.Addr, err)
	}
	if !c.udp {
		if err := unix.Listen(c.fd, 128); err != nil {
			return nil, err
		}
	}
	if what == "udp_gso" {
		if err := unix.SetsockoptInt(c.fd, unix.SOL_UDP, unix.UDP_GRO, 1); err != nil {
			return nil, fmt.Errorf("take joined datagrams: %w", err)
		}
	}
	local, err := unix.Getsockname(c.fd)
	if err != nil {
		return nil, err
	}
	switch a := local.(type) {
	case *unix.SockaddrInet4:
		c.port = uint16(a.Port)
	case *unix.SockaddrInet6:
		c.port = uint16(a.Port)
	}
	return c, nil
}

func (c *conversation) socket() (err error) {
	kind := unix.SOCK_STREAM
	if c.udp {
		kind = unix.SOCK_DGRAM
	}
	if c.fd, err = unix.Socket(c.family, kind|unix.SOCK_CLOEXEC, 0); err != nil {
		return err
	}
	if c.udp {
		return unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, room)
	}
	// Whatever the machine's default: paced ones measure their pacing.
	if err := unix.SetsockoptString(c.fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, "cubic"); err != nil {
		return fmt.Errorf("use cubic: %w", err)
	}
	return unix.SetsockoptInt(c.fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
}

func (c *conversation) connect(o ends.Order) error {
	if o.Run == "crr" { // connects itself
		return nil
	}
	if err := unix.Connect(c.fd, c.peer); err != nil {
		return fmt.Errorf("connect to %s: %w", o.Addr, err)
	}
	if o.Run == "udp_gso" {
		return unix.SetsockoptInt(c.fd, unix.SOL_UDP, unix.UDP_SEGMENT, segment)
	}
	return nil
}

func (c *conversation) close() { _ = unix.Close(c.fd) } // whatever was sent has been waited for

func sockaddr(a netip.Addr, port uint16) unix.Sockaddr {
	if a.Is4() {
		return &unix.SockaddrInet4{Port: int(port), Addr: a.As4()}
	}
	return &unix.SockaddrInet6{Port: int(port), Addr: a.As16()}
}

// send and receive call the kernel at once: nothing else in this process has to run meanwhile.
func send(fd int, b []byte) (int, error)    { return raw(unix.SYS_WRITE, fd, b) }
func receive(fd int, b []byte) (int, error) { return raw(unix.SYS_READ, fd, b) }

func raw(call uintptr, fd int, b []byte) (int, error) {
	for {
		n, _, errno := unix.RawSyscall(call, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 {
			return 0, errno
		}
		return int(n), nil
	}
}
