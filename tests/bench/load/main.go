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
	"os"
	"runtime"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"

	"weft/tests/bench/ends"
)

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
		var o ends.Order
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

func follow(o ends.Order, out *json.Encoder) (ends.Answer, error) {
	var one unix.CPUSet
	one.Set(o.CPU)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return ends.Answer{}, fmt.Errorf("pin to CPU %d: %w", o.CPU, err)
	}
	if !o.Addr.IsValid() {
		return ends.Answer{}, errors.New("no address")
	}
	c, err := open(o)
	if err != nil {
		return ends.Answer{}, err
	}
	defer c.close()
	if o.Serve != "" {
		if err := out.Encode(ends.Answer{Port: c.port}); err != nil {
			return ends.Answer{}, err
		}
		return c.measured(func() error { return c.serve(o.Serve) })
	}
	if err := c.connect(o); err != nil {
		return ends.Answer{}, err
	}
	c.until = time.Now().Add(time.Duration(o.Span) * time.Millisecond)
	r, err := c.measured(func() error { return c.run(o.Run) })
	return r, errors.Join(err, c.finish(o.Run))
}

// measured counts the thread's time over f, which is the whole conversation.
func (c *conversation) measured(f func() error) (ends.Answer, error) {
	began, cpu := time.Now(), threadTime()
	c.began, c.busy = began, cpu
	err := f()
	if c.ended.IsZero() {
		c.ended, c.idle = time.Now(), threadTime()
	}
	return ends.Answer{CPU: c.idle - c.busy, Ops: c.ops, Bytes: c.bytes, Span: c.ended.Sub(c.began).Nanoseconds()}, err
}

func threadTime() int64 {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t) // fails for unknown clocks only
	return t.Nano()
}
