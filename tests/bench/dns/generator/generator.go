// SPDX-License-Identifier: Apache-2.0

// Package generator asks a name server as much as it can, or one question after the other, from one thread, and counts
// answers, time and processor. What is asked, and of whom, it is told; what the numbers mean it leaves to who tells it.
package generator

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	wire "github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// Order is what a generator is told, one a line.
type Order struct {
	Questions string         `json:"questions,omitempty"` // a file, kept from then on under its name
	Addr      netip.AddrPort `json:"addr"`
	CPU       int            `json:"cpu"`
	Span      time.Duration  `json:"span"`
	Window    int            `json:"window"` // questions that are open at once; 1 measures latency
	All       bool           `json:"all"`    // each question once, however long that takes
}

// Outcome is what it says then.
type Outcome struct {
	Answers int64         `json:"answers"`
	Lost    int64         `json:"lost"`
	CPU     int64         `json:"cpu"` // ns of the thread
	Span    int64         `json:"span"`
	P50     time.Duration `json:"p50"`
	P999    time.Duration `json:"p999"`
	Error   string        `json:"error,omitempty"`
}

// Run carries out orders until its input ends.
func Run(in io.Reader, out io.Writer) error {
	runtime.LockOSThread()
	files := map[string][][]byte{}
	lines := bufio.NewScanner(in)
	answers := json.NewEncoder(out)
	for lines.Scan() {
		var o Order
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

func carryOut(o Order, files map[string][][]byte) (Outcome, error) {
	if files[o.Questions] == nil {
		text, err := os.ReadFile(o.Questions)
		if err != nil {
			return Outcome{}, err
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
		return Outcome{}, err
	}
	c, err := dial(o.Addr)
	if err != nil {
		return Outcome{}, err
	}
	defer c.close()
	c.questions = files[o.Questions]
	began, busy := time.Now(), threadTime()
	var took []time.Duration
	switch {
	case o.All:
		err = c.each()
	case o.Window == 1:
		var calm func() error
		if calm, err = undisturbed(o.CPU); err == nil {
			took, err = c.oneByOne(o.Span)
			err = errors.Join(err, calm())
		}
	default:
		err = c.flood(o.Span, o.Window)
	}
	r := Outcome{Answers: c.answers, Lost: c.lost, CPU: threadTime() - busy, Span: int64(time.Since(began))}
	if len(took) > 0 {
		slices.Sort(took)
		r.P50, r.P999 = took[len(took)/2], took[len(took)*999/1000]
	}
	return r, err
}

// undisturbed keeps everything but interrupts off the processor of this thread, which is the one that measures how long
// answers take: the runtime's threads and its garbage, and who else is ready to run there. The function that it returns
// ends that.
func undisturbed(cpu int) (restore func() error, err error) {
	percent := debug.SetGCPercent(-1)
	var others unix.CPUSet
	for i := range runtime.NumCPU() {
		if i != cpu {
			others.Set(i)
		}
	}
	threads, err := os.ReadDir("/proc/self/task")
	for _, t := range threads {
		if id, bad := strconv.Atoi(t.Name()); bad == nil && id != unix.Gettid() && others.Count() > 0 {
			err = errors.Join(err, unix.SchedSetaffinity(id, &others))
		}
	}
	attr := func(policy, priority uint32) error {
		return unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: policy, Priority: priority}, 0)
	}
	return func() error {
		debug.SetGCPercent(percent)
		return attr(unix.SCHED_NORMAL, 0)
	}, errors.Join(err, attr(unix.SCHED_FIFO, 1))
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

// check counts an answer to an open question, with records. One that comes late, or twice, is none.
func (c *client) check(m []byte) error {
	if len(m) < 12 || m[2]&0x80 == 0 {
		return fmt.Errorf("%d bytes that are no answer", len(m))
	}
	id := binary.BigEndian.Uint16(m)
	q := &c.asked[id%openMax]
	if q.text == nil || q.id != id {
		return nil
	}
	text := q.text
	q.text = nil
	if m[3]&0x0f != 0 || binary.BigEndian.Uint16(m[6:]) == 0 {
		return fmt.Errorf("an answer with rcode %d and %d records", m[3]&0x0f, binary.BigEndian.Uint16(m[6:]))
	}
	if c.answers++; c.answers%wholly == 0 {
		return readWhole(m, text)
	}
	return nil
}

// readWhole reads an answer as a resolver does, and holds it to its question.
func readWhole(answer, question []byte) error {
	var a, q wire.Msg
	if err := errors.Join(a.Unpack(answer), q.Unpack(question)); err != nil {
		return fmt.Errorf("an answer that can't be read: %w", err)
	}
	asked := q.Question[0]
	if len(a.Question) != 1 || a.Question[0] != asked {
		return fmt.Errorf("an answer to %v, asked was %v", a.Question, asked)
	}
	for _, r := range a.Answer {
		if r.Header().Rrtype != asked.Qtype || !strings.EqualFold(r.Header().Name, asked.Name) {
			return fmt.Errorf("%v in answer to %v", r, asked)
		}
	}
	return nil
}
