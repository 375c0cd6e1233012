// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	patience = 5 * time.Second // for a connection, an answer
	// delayed is what a connection takes when a packet of it was lost and sent again (RFC 6298: one second).
	delayed = 900 * time.Millisecond
	rhythm  = 5 * time.Millisecond // of questions over the held connection
)

// serve counts datagrams and answers connections.
func serve(in io.Reader, out io.Writer) error {
	s := &sink{flows: make(map[uint32]*arrivals)}
	failed := make(chan error, 4) // two families, connections, input
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		fd, err := openSink(family)
		if err != nil {
			return fmt.Errorf("open a sink: %w", err)
		}
		go func() { failed <- s.take(fd) }()
	}
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", ":"+strconv.Itoa(streamPort))
	if err != nil {
		return err
	}
	go func() { failed <- echo(l) }()
	go func() { failed <- answer(in, out, func() any { return s.report() }) }()
	return <-failed
}

func echo(l net.Listener) error {
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			buffer := make([]byte, 8)
			for {
				if _, err := io.ReadFull(c, buffer); err != nil {
					return // the client is done
				}
				if _, err := c.Write(buffer); err != nil {
					return
				}
			}
		}()
	}
}

// connects is what connect prints.
type connects struct {
	Started int            `json:"started"`
	Failed  int            `json:"failed"`
	Delayed int            `json:"delayed"` // done, but a packet was lost
	Longest int64          `json:"longest"` // nanoseconds
	Errors  map[string]int `json:"errors,omitempty"`
}

// connect opens connections at rate until end, whatever became of those before, and asks each one question.
func connect(addr string, rate int, end <-chan struct{}) connects {
	var mu sync.Mutex
	var all sync.WaitGroup
	c := connects{Errors: make(map[string]int)}
	began := time.Now()
	for !over(end) {
		for due := int(time.Since(began).Seconds() * float64(rate)); c.Started < due; c.Started++ {
			all.Go(func() {
				start := time.Now()
				err := question(addr)
				took := time.Since(start)
				mu.Lock()
				defer mu.Unlock()
				c.Longest = max(c.Longest, took.Nanoseconds())
				switch {
				case err != nil:
					c.Failed++
					c.Errors[plain(err)]++
				case took >= delayed:
					c.Delayed++
				}
			})
		}
		time.Sleep(time.Millisecond)
	}
	all.Wait()
	return c
}

// plain is an error without the ports, which differ.
func plain(err error) string {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Op + ": " + op.Err.Error()
	}
	return err.Error()
}

func question(addr string) error {
	c, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return err
	}
	defer c.Close()
	// No TIME_WAIT: a minute's worth of them would use up the ports.
	if tcp, ok := c.(*net.TCPConn); ok {
		if err := tcp.SetLinger(0); err != nil {
			return err
		}
	}
	return ask(c)
}

func ask(c net.Conn) error {
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := c.Write([]byte("question")); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, 8))
	return err
}

// held is what hold reports.
type held struct {
	Asked   int    `json:"asked"`
	Longest int64  `json:"longest"` // for an answer, nanoseconds
	Cut     string `json:"cut,omitempty"`
}

// hold asks over one connection until it is cut.
func hold(addr string, in io.Reader, out io.Writer) error {
	c, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return err
	}
	defer c.Close()
	var mu sync.Mutex
	var h held
	go func() {
		for {
			start := time.Now()
			err := ask(c)
			mu.Lock()
			h.Asked++
			h.Longest = max(h.Longest, time.Since(start).Nanoseconds())
			if err != nil {
				h.Cut = err.Error()
			}
			mu.Unlock()
			if err != nil {
				return
			}
			time.Sleep(rhythm)
		}
	}()
	return answer(in, out, func() any {
		mu.Lock()
		defer mu.Unlock()
		report := h
		h = held{Cut: h.Cut}
		return report
	})
}
