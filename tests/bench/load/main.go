// SPDX-License-Identifier: Apache-2.0

// Command load is one end of a measured conversation. It reads orders from its standard input, one
// JSON object a line, and answers each on standard output; who starts it, where, and what the
// numbers mean it leaves to the benchmark.
//
//	{"serve":"rr","addr":"10.0.0.2","cpu":0}               -> {"port":40001}, and when it is over {"cpu":..,"ops":..}
//	{"run":"rr","addr":"10.0.0.2","port":40001,"cpu":0,"span":200} -> {"cpu":..,"ops":..,"span":..}
//
// It has one thread that matters, pinned to a CPU, and calls the kernel without telling the Go
// scheduler: what is counted is the conversation and nothing else.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"
)

// order is one line of input.
type order struct {
	Serve string     `json:"serve"` // what: rr, bulk, crr, udp_rr, udp_flood, udp_gso
	Run   string     `json:"run"`
	Addr  netip.Addr `json:"addr"`
	Port  uint16     `json:"port"` // to serve at; 0: any
	CPU   int        `json:"cpu"`
	Span  int        `json:"span"` // milliseconds
}

// result is one line of output.
type result struct {
	Port  uint16 `json:"port,omitempty"`
	CPU   int64  `json:"cpu"` // time of this thread, nanoseconds
	Ops   int64  `json:"ops"` // questions, connections or datagrams
	Bytes int64  `json:"bytes"`
	Span  int64  `json:"span,omitempty"` // nanoseconds
	Error string `json:"error,omitempty"`
}

func main() {
	runtime.LockOSThread()
	debug.SetGCPercent(-1)
	if err := obey(); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

func obey() error {
	out := json.NewEncoder(os.Stdout)
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var o order
		if err := json.Unmarshal(lines.Bytes(), &o); err != nil {
			return err
		}
		r, err := follow(o, out)
		if err != nil {
			r.Error = err.Error()
		}
		if err := out.Encode(r); err != nil {
			return err
		}
	}
	return lines.Err()
}

func follow(o order, out *json.Encoder) (result, error) {
	var one unix.CPUSet
	one.Set(o.CPU)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return result{}, fmt.Errorf("pin to CPU %d: %w", o.CPU, err)
	}
	if !o.Addr.IsValid() {
		return result{}, errors.New("no address")
	}
	c, err := open(o)
	if err != nil {
		return result{}, err
	}
	defer c.close()
	if o.Serve != "" {
		if err := out.Encode(result{Port: c.port}); err != nil {
			return result{}, err
		}
		return c.measured(func() error { return c.serve(o.Serve) })
	}
	if err := c.connect(o); err != nil {
		return result{}, err
	}
	c.until = time.Now().Add(time.Duration(o.Span) * time.Millisecond)
	r, err := c.measured(func() error { return c.run(o.Run) })
	return r, errors.Join(err, c.finish(o.Run))
}

// measured counts the thread's time over f, which is the whole conversation.
func (c *conversation) measured(f func() error) (result, error) {
	began, cpu := time.Now(), threadTime()
	c.began, c.busy = began, cpu
	err := f()
	if c.ended.IsZero() {
		c.ended, c.idle = time.Now(), threadTime()
	}
	return result{CPU: c.idle - c.busy, Ops: c.ops, Bytes: c.bytes, Span: c.ended.Sub(c.began).Nanoseconds()}, err
}

func threadTime() int64 {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t) // fails for unknown clocks only
	return t.Nano()
}
