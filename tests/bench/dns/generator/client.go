// SPDX-License-Identifier: Apache-2.0

package generator

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Limits of the generator.
const (
	batchMax = 64
	bufSize  = 2048
	patience = 50 * time.Millisecond // until open questions count as lost
	openMax  = 1024                  // questions that answers are held to: a power of two, more than are open
	wholly   = 256                   // of so many answers one is read to the end: what that takes is no server's
)

// mmsghdr is the kernel's struct mmsghdr (sendmmsg(2)).
type mmsghdr struct {
	header unix.Msghdr
	size   uint32
	_      [4]byte
}

// client asks from one connected socket, many questions with one call.
type client struct {
	fd            int
	questions     [][]byte
	random        uint64
	id            uint16
	answers, lost int64
	asked         [openMax]question // by the last bits of its id

	out, in     [batchMax]mmsghdr
	outv, inv   [batchMax]unix.Iovec
	outbuf      [batchMax][512]byte
	inbuf       [batchMax][bufSize]byte
	outstanding int
}

// question is one that is open; text is nil when there is none.
type question struct {
	id   uint16
	text []byte
}

func dial(addr netip.AddrPort) (*client, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	c := &client{fd: fd, random: uint64(time.Now().UnixNano()) | 1}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: addr.Addr().As4(), Port: int(addr.Port())}); err != nil {
		return nil, errors.Join(fmt.Errorf("connect to %s: %w", addr, err), unix.Close(fd))
	}
	limit := unix.NsecToTimeval(int64(patience))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	for i := range batchMax {
		c.outv[i].Base, c.inv[i].Base = &c.outbuf[i][0], &c.inbuf[i][0]
		c.inv[i].SetLen(bufSize)
		c.out[i].header.Iov, c.in[i].header.Iov = &c.outv[i], &c.inv[i]
		c.out[i].header.SetIovlen(1)
		c.in[i].header.SetIovlen(1)
	}
	return c, nil
}

func (c *client) close() { _ = unix.Close(c.fd) } // nothing waits to be written

// stage copies a question into slot i, with an id of its own.
func (c *client) stage(i int, text []byte) {
	n := copy(c.outbuf[i][:], text)
	c.id++
	binary.BigEndian.PutUint16(c.outbuf[i][:], c.id)
	c.outv[i].SetLen(n)
	c.asked[c.id%openMax] = question{c.id, text}
}

// send sends the first n slots.
func (c *client) send(n int) error {
	for sent := 0; sent < n; {
		done, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(c.fd), uintptr(unsafe.Pointer(&c.out[sent])), uintptr(n-sent), 0, 0, 0)
		if errno != 0 {
			return fmt.Errorf("ask: %w", errno)
		}
		sent += int(done)
	}
	c.outstanding += n
	return nil
}

// receive takes what answers are there, at least one unless patience ends.
func (c *client) receive() error {
	n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(c.fd), uintptr(unsafe.Pointer(&c.in[0])), batchMax, unix.MSG_WAITFORONE, 0, 0)
	switch {
	case errno == unix.EAGAIN:
		c.lost += int64(c.outstanding)
		c.outstanding = 0
		return nil
	case errno != 0:
		return fmt.Errorf("hear: %w", errno)
	}
	for i := range int(n) {
		if err := c.check(c.inbuf[i][:c.in[i].size]); err != nil {
			return err
		}
	}
	c.outstanding = max(0, c.outstanding-int(n))
	return nil
}

// flood keeps up to window questions open.
func (c *client) flood(span time.Duration, window int) error {
	for end := time.Now().Add(span); time.Now().Before(end); {
		n := min(window-c.outstanding, batchMax)
		for i := range n {
			c.stage(i, c.pick())
		}
		if err := c.send(n); err != nil {
			return err
		}
		if err := c.receive(); err != nil {
			return err
		}
	}
	return nil
}

// each asks every question once, and again those that were lost.
func (c *client) each() error {
	const window = 32
	for at := 0; at < len(c.questions); {
		n := min(window, len(c.questions)-at)
		for i := range n {
			c.stage(i, c.questions[at+i])
		}
		lost := c.lost
		if err := c.send(n); err != nil {
			return err
		}
		for c.outstanding > 0 {
			if err := c.receive(); err != nil {
				return err
			}
		}
		if c.lost == lost {
			at += n
		}
	}
	return nil
}

// ask sends one question and waits for its answer, by the plainest calls that the kernel has: what the
// generator takes for them counts as latency. It is the process's only thread that works, so nobody waits.
func (c *client) ask() error {
	n := uintptr(c.outv[0].Len)
	if _, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(c.fd), uintptr(unsafe.Pointer(&c.outbuf[0][0])), n, 0, 0, 0); errno != 0 {
		return fmt.Errorf("ask: %w", errno)
	}
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(c.fd), uintptr(unsafe.Pointer(&c.inbuf[0][0])), bufSize, 0, 0, 0)
	switch {
	case errno == unix.EAGAIN:
		c.lost++
		return nil
	case errno != 0:
		return fmt.Errorf("hear: %w", errno)
	}
	return c.check(c.inbuf[0][:n])
}

// oneByOne measures how long each answer takes.
func (c *client) oneByOne(span time.Duration) ([]time.Duration, error) {
	took := make([]time.Duration, 0, 1<<20)
	for end := time.Now().Add(span); len(took) < cap(took); {
		c.stage(0, c.pick())
		before, answers := time.Now(), c.answers
		if !before.Before(end) {
			break
		}
		if err := c.ask(); err != nil {
			return nil, err
		}
		if c.answers > answers {
			took = append(took, time.Since(before))
		}
	}
	return took, nil
}
