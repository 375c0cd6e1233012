// SPDX-License-Identifier: Apache-2.0

// Package ends starts tests/bench/load processes, has two of them talk, and counts the time on a CPU that
// their conversation took.
package ends

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"strings"
)

// Order is one line of load's input: to serve, or to run against a server.
type Order struct {
	Serve string     `json:"serve,omitempty"` // what: rr, bulk, crr, udp_rr, udp_flood, udp_gso
	Run   string     `json:"run,omitempty"`
	Addr  netip.Addr `json:"addr"`
	Port  uint16     `json:"port,omitempty"` // to serve at; 0: any
	CPU   int        `json:"cpu"`
	Span  int64      `json:"span,omitempty"` // milliseconds
}

// Answer is one line of load's output.
type Answer struct {
	Port  uint16 `json:"port,omitempty"`
	CPU   int64  `json:"cpu"` // time of the thread that talked, nanoseconds
	Ops   int64  `json:"ops"` // questions, connections or datagrams
	Bytes int64  `json:"bytes"`
	Span  int64  `json:"span,omitempty"` // nanoseconds
	Error string `json:"error,omitempty"`
}

// End is a load process that waits for orders.
type End struct {
	Cmd       *exec.Cmd
	in        io.WriteCloser
	out       *bufio.Scanner
	complaint strings.Builder
}

// Start starts an end by a command that start starts: cmd.Start, or what wraps it.
func Start(cmd *exec.Cmd, start func() error) (*End, error) {
	e := &End{Cmd: cmd}
	cmd.Stderr = &e.complaint
	if cmd.Env == nil {
		cmd.Env = os.Environ()
	}
	// Preemption of Go by signal would end the calls that load waits in.
	cmd.Env = append(cmd.Env, "GODEBUG=asyncpreemptoff=1", "GOMAXPROCS=1")
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	e.in, e.out = in, bufio.NewScanner(out)
	return e, start()
}

// Stop ends the process by the end of its input.
func (e *End) Stop() error {
	err := e.in.Close()
	return errors.Join(err, e.Cmd.Wait())
}

// Netns is the path of the network namespace that the process was started in.
func (e *End) Netns() string { return fmt.Sprintf("/proc/%d/ns/net", e.Cmd.Process.Pid) }

// Complaint is what the process wrote to its standard error.
func (e *End) Complaint() string { return strings.TrimSpace(e.complaint.String()) }

func (e *End) tell(o Order) error {
	line, err := json.Marshal(o)
	if err != nil {
		return err
	}
	_, err = e.in.Write(append(line, '\n'))
	return err
}

func (e *End) hear() (Answer, error) {
	var a Answer
	if !e.out.Scan() {
		return a, fmt.Errorf("an end of the conversation ended: %s", e.Complaint())
	}
	if err := json.Unmarshal(e.out.Bytes(), &a); err != nil {
		return a, err
	}
	if a.Error != "" {
		return a, errors.New(a.Error)
	}
	return a, nil
}

// Talk is what a conversation took. Softirq is the time of the kernel's threads, nanoseconds.
type Talk struct {
	Client, Server Answer
	Softirq        int64
}

// CPU is the time of all that took part, nanoseconds.
func (t Talk) CPU() int64 { return t.Client.CPU + t.Server.CPU + t.Softirq }

// Converse has server serve and client run, until the client's span is over. A client that is told no
// port asks at the one that the server got. A conversation in which nothing arrives is an error.
func Converse(server, client *End, serve, run Order, kernel Threads) (Talk, error) {
	if err := server.tell(serve); err != nil {
		return Talk{}, err
	}
	ready, err := server.hear()
	if err != nil {
		return Talk{}, fmt.Errorf("server: %w", err)
	}
	if run.Port == 0 {
		run.Port = ready.Port
	}
	before, err := kernel.Time()
	if err != nil {
		return Talk{}, err
	}
	if err := client.tell(run); err != nil {
		return Talk{}, err
	}
	var t Talk
	if t.Client, err = client.hear(); err != nil {
		return Talk{}, fmt.Errorf("client: %w", err)
	}
	if t.Server, err = server.hear(); err != nil {
		return Talk{}, fmt.Errorf("server: %w", err)
	}
	after, err := kernel.Time()
	if err != nil {
		return Talk{}, err
	}
	if t.Server.Ops == 0 {
		return Talk{}, errors.New("nothing arrived")
	}
	t.Softirq = after - before
	return t, nil
}
