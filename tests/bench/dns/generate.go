// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// order is what a generator is told, one a line; outcome is what it says then.
type order struct {
	Questions string         `json:"questions,omitempty"` // a file, kept from then on under its name
	Addr      netip.AddrPort `json:"addr"`
	CPU       int            `json:"cpu"`
	Span      time.Duration  `json:"span"`
	Window    int            `json:"window"` // questions that are open at once; 1 measures latency
	All       bool           `json:"all"`    // each question once, however long that takes
}

type outcome struct {
	Answers int64         `json:"answers"`
	Lost    int64         `json:"lost"`
	CPU     int64         `json:"cpu"` // ns of the thread
	Span    int64         `json:"span"`
	P50     time.Duration `json:"p50"`
	P999    time.Duration `json:"p999"`
	Error   string        `json:"error,omitempty"`
}

// generate carries out orders until its input ends.
func generate(in io.Reader, out io.Writer) error {
	runtime.LockOSThread()
	files := map[string][][]byte{}
	lines := bufio.NewScanner(in)
	answers := json.NewEncoder(out)
	for lines.Scan() {
		var o order
		if err := json.Unmarshal(lines.Bytes(), &o); err != nil {
			return err
		}
		result, err := carryOut(o, files)
		if err != nil {
			result.Error = err.Error()
		}
		if err := answers.Encode(result); err != nil {
			return err
		}
	}
	return lines.Err()
}

func carryOut(o order, files map[string][][]byte) (outcome, error) {
	if files[o.Questions] == nil {
		text, err := os.ReadFile(o.Questions)
		if err != nil {
			return outcome{}, err
		}
		for len(text) > 0 {
			n := int(binary.BigEndian.Uint16(text))
			files[o.Questions] = append(files[o.Questions], text[2:2+n])
			text = text[2+n:]
		}
	}
	var set unix.CPUSet
	set.Set(o.CPU)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return outcome{}, err
	}
	c, err := dial(o.Addr)
	if err != nil {
		return outcome{}, err
	}
	defer c.close()
	c.questions = files[o.Questions]
	began, busy := time.Now(), threadTime()
	var took []time.Duration
	switch {
	case o.All:
		err = c.each()
	case o.Window == 1:
		took, err = c.oneByOne(o.Span)
	default:
		err = c.flood(o.Span, o.Window)
	}
	r := outcome{Answers: c.answers, Lost: c.lost, CPU: threadTime() - busy, Span: int64(time.Since(began))}
	if len(took) > 0 {
		slices.Sort(took)
		r.P50, r.P999 = took[len(took)/2], took[len(took)*999/1000]
	}
	return r, err
}

// threadTime is the time on a CPU of this thread, nanoseconds.
func threadTime() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts) // the clock is there
	return ts.Nano()
}

// pick returns a question, by a cheap generator: the order must be no pattern.
func (c *client) pick() []byte {
	c.random ^= c.random << 13
	c.random ^= c.random >> 7
	c.random ^= c.random << 17
	return c.questions[c.random%uint64(len(c.questions))]
}

// check counts an answer when it is one to an open question, with records.
func (c *client) check(m []byte) error {
	if len(m) < 12 || m[2]&0x80 == 0 {
		return fmt.Errorf("%d bytes that are no answer", len(m))
	}
	if m[3]&0x0f != 0 || binary.BigEndian.Uint16(m[6:]) == 0 {
		return fmt.Errorf("an answer with rcode %d and %d records", m[3]&0x0f, binary.BigEndian.Uint16(m[6:]))
	}
	c.answers++
	return nil
}
