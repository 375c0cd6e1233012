// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"weft/tests/lab"
)

// endpoint is a tests/bench/load process that waits for orders.
type endpoint struct {
	addr4, addr6 netip.Addr
	cmd          *lab.Cmd
	in           io.WriteCloser
	out          *bufio.Scanner
	complaint    strings.Builder
}

// order and answer are load's.
type order struct {
	Serve string     `json:"serve,omitempty"`
	Run   string     `json:"run,omitempty"`
	Addr  netip.Addr `json:"addr"`
	Port  uint16     `json:"port,omitempty"`
	CPU   int        `json:"cpu"`
	Span  int64      `json:"span,omitempty"` // milliseconds
}

type answer struct {
	Port  uint16 `json:"port"`
	CPU   int64  `json:"cpu"`
	Ops   int64  `json:"ops"`
	Bytes int64  `json:"bytes"`
	Span  int64  `json:"span"`
	Error string `json:"error"`
}

// start starts an endpoint by a command of a host; own gives it a network namespace of its own.
func start(cmd *lab.Cmd, own bool) (*endpoint, error) {
	e := &endpoint{cmd: cmd}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	e.in, e.out = in, bufio.NewScanner(out)
	cmd.Stderr = &e.complaint
	// Preemption of Go by signal would end the calls that load waits in.
	cmd.Env = append(cmd.Env, "GODEBUG=asyncpreemptoff=1", "GOMAXPROCS=1")
	if own {
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	}
	return e, cmd.Start()
}

// netns is the path of the endpoint's namespace, if start gave it one.
func (e *endpoint) netns() string { return fmt.Sprintf("/proc/%d/ns/net", e.cmd.Process.Pid) }

func (e *endpoint) addr(v6 bool) netip.Addr {
	if v6 {
		return e.addr6
	}
	return e.addr4
}

func (e *endpoint) tell(o order) error {
	line, err := json.Marshal(o)
	if err != nil {
		return err
	}
	_, err = e.in.Write(append(line, '\n'))
	return err
}

func (e *endpoint) hear() (answer, error) {
	var a answer
	if !e.out.Scan() {
		return a, fmt.Errorf("an endpoint ended: %s", strings.TrimSpace(e.complaint.String()))
	}
	if err := json.Unmarshal(e.out.Bytes(), &a); err != nil {
		return a, err
	}
	if a.Error != "" {
		return a, errors.New(a.Error)
	}
	return a, nil
}

// stop ends the endpoint by the end of its input.
func (e *endpoint) stop() error {
	err := e.in.Close()
	return errors.Join(err, e.cmd.Wait())
}

// inside runs f on a thread in the network namespace at path, which ends with it.
func inside(path string, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread dies in its namespace
		ns, err := os.Open(path)
		if err != nil {
			done <- err
			return
		}
		defer ns.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter %s: %w", path, err)
			return
		}
		done <- f()
	}()
	return <-done
}

// until tries f until it succeeds or a deadline passes.
func until(ctx context.Context, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}
