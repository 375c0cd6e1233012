// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// patience bounds how long an end waits for the other, milliseconds.
const patience = 5000

func (c *conversation) serve(what string) error {
	switch what {
	case "rr", "bulk":
		return c.serveOne(what)
	case "crr":
		return c.serveMany()
	case "udp_rr", "udp_flood", "udp_gso":
		return c.serveDatagrams(what == "udp_rr")
	}
	return fmt.Errorf("what is %q: rr, bulk, crr, udp_rr, udp_flood and udp_gso are allowed", what)
}

func (c *conversation) run(what string) error {
	switch what {
	case "rr", "udp_rr":
		return c.ask(c.fd)
	case "bulk":
		return c.pour(c.buffer)
	case "crr":
		return c.askMany()
	case "udp_flood":
		return c.pour(c.buffer[:small])
	case "udp_gso":
		return c.pour(c.buffer[:burst*segment])
	}
	return fmt.Errorf("what is %q: rr, bulk, crr, udp_rr, udp_flood and udp_gso are allowed", what)
}

// over reports whether the span is, looking at the clock now and then.
func (c *conversation) over() bool {
	return c.ops&7 == 0 && !time.Now().Before(c.until)
}

// ask puts questions until the span is over.
func (c *conversation) ask(fd int) error {
	question := c.buffer[:small]
	if c.udp {
		if err := wait(fd, unix.SO_RCVTIMEO); err != nil {
			return err
		}
	}
	for !c.over() {
		if _, err := send(fd, question); err != nil {
			return fmt.Errorf("ask: %w", err)
		}
		if _, err := receive(fd, question); err != nil {
			return fmt.Errorf("hear: %w", err)
		}
		c.ops++
	}
	return nil
}

// pour sends until the span is over. A queue that is full for the moment loses datagrams: the
// receiver counts.
func (c *conversation) pour(message []byte) error {
	for !c.over() {
		n, err := send(c.fd, message)
		if errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.ECONNREFUSED) {
			err = nil
		}
		if err != nil {
			return fmt.Errorf("send: %w", err)
		}
		c.ops++
		c.bytes += int64(n)
	}
	return nil
}

// askMany opens a connection for each question.
func (c *conversation) askMany() error {
	for !c.over() {
		if err := c.askNew(0); err != nil {
			return err
		}
		c.ops++
	}
	return nil
}

func (c *conversation) askNew(first byte) error {
	c.close()
	if err := c.socket(); err != nil {
		return err
	}
	if err := unix.Connect(c.fd, c.peer); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	c.buffer[0] = first
	if _, err := send(c.fd, c.buffer[:small]); err != nil {
		return fmt.Errorf("ask: %w", err)
	}
	if _, err := receive(c.fd, c.buffer[:small]); err != nil {
		return fmt.Errorf("hear: %w", err)
	}
	return nil
}

// serveOne answers on one connection, or takes what it brings, until the client closes it.
func (c *conversation) serveOne(what string) error {
	fd, err := c.accept()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	message := c.buffer
	if what == "rr" {
		message = message[:small]
	}
	c.began, c.busy = time.Now(), threadTime()
	for {
		n, err := receive(fd, message)
		if err != nil {
			return fmt.Errorf("hear: %w", err)
		}
		if n == 0 {
			return nil
		}
		if what == "rr" {
			if _, err := send(fd, message); err != nil {
				return fmt.Errorf("answer: %w", err)
			}
		}
		c.ops++
		c.bytes += int64(n)
	}
}

func (c *conversation) serveMany() error {
	for {
		fd, err := c.accept()
		if err != nil {
			return err
		}
		if c.ops == 0 {
			c.began, c.busy = time.Now(), threadTime()
		}
		over, err := c.answerNew(fd)
		_ = unix.Close(fd) // the client has what it asked for
		if over || err != nil {
			return err
		}
		c.ops++
	}
}

// answerNew answers and waits for the client to close, so that the client does the work of closing.
func (c *conversation) answerNew(fd int) (over bool, err error) {
	if _, err := receive(fd, c.buffer[:small]); err != nil {
		return false, fmt.Errorf("hear: %w", err)
	}
	over = c.buffer[0] == last
	if _, err := send(fd, c.buffer[:small]); err != nil {
		return false, fmt.Errorf("answer: %w", err)
	}
	if _, err := receive(fd, c.buffer[:small]); err != nil {
		return false, fmt.Errorf("hear: %w", err)
	}
	return over, nil
}

// accept waits for a client, not for ever: the benchmark would hang with it.
func (c *conversation) accept() (int, error) {
	fds := []unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLIN}}
	if c.ops == 0 {
		if n, err := unix.Poll(fds, patience); err != nil || n == 0 {
			return 0, errors.Join(errors.New("no client came"), err)
		}
	}
	fd, _, errno := unix.RawSyscall(unix.SYS_ACCEPT4, uintptr(c.fd), 0, 0)
	if errno != 0 {
		return 0, fmt.Errorf("accept: %w", errno)
	}
	return int(fd), nil
}

// serveDatagrams counts datagrams, and answers if that is wanted, until the last one. The time up to
// the last one that counts is what is measured.
func (c *conversation) serveDatagrams(answer bool) error {
	if err := wait(c.fd, unix.SO_RCVTIMEO); err != nil {
		return err
	}
	// The first datagram says who asks; connected, the rest needs no addresses.
	_, from, err := unix.Recvfrom(c.fd, c.buffer, unix.MSG_PEEK)
	if err != nil {
		return fmt.Errorf("no client came: %w", err)
	}
	if err := unix.Connect(c.fd, from); err != nil {
		return err
	}
	c.began, c.busy = time.Now(), threadTime()
	for {
		n, err := receive(c.fd, c.buffer)
		if err != nil {
			return fmt.Errorf("hear: %w", err)
		}
		if n == 1 && c.buffer[0] == last {
			c.ended, c.idle = time.Now(), threadTime()
			_, err := send(c.fd, c.buffer[:1])
			return err
		}
		if answer {
			if _, err := send(c.fd, c.buffer[:n]); err != nil {
				return fmt.Errorf("answer: %w", err)
			}
		}
		c.ops++
		c.bytes += int64(n)
	}
}

// finish tells the server that the conversation is over. A closed connection says so itself.
func (c *conversation) finish(what string) error {
	if what == "crr" {
		return c.askNew(last)
	}
	if !c.udp {
		return nil
	}
	if what == "udp_gso" {
		if err := unix.SetsockoptInt(c.fd, unix.SOL_UDP, unix.UDP_SEGMENT, 0); err != nil {
			return err
		}
	}
	c.buffer[0] = last
	fds := []unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLIN}}
	for range 100 { // the last datagram may be lost as any
		if _, err := send(c.fd, c.buffer[:1]); err != nil {
			return fmt.Errorf("finish: %w", err)
		}
		if n, err := unix.Poll(fds, patience/100); err == nil && n > 0 {
			return nil
		}
	}
	return errors.New("the server does not hear the end")
}

func wait(fd, option int) error {
	t := unix.NsecToTimeval(patience * 1e6)
	return unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, option, &t)
}
