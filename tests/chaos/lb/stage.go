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
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"weft/lb"
	"weft/overlay"
	"weft/tests/chaos/script"
	"weft/tests/lab"
)

// stage is the cluster that things happen to.
//
//	h1: client outside web1     h2: web2     h3: web3
//
// All servers are behind /web:9001. outside is a client whose processes are outside of the host's cgroup: the
// packet path balances what it sends.
type stage struct {
	o       options
	out     io.Writer
	lab     *lab.Lab
	traffic string // the tasks' program
	clients []*task
	pids    map[string]int // of clients, by name
	servers map[string]*task
	vip     netip.AddrPort
}

var homes = map[string]string{"web1": "h1", "web2": "h2", "web3": "h3"}

func (s *stage) host(name string) *lab.Host {
	h, err := s.lab.Host(name)
	if err != nil {
		panic(err) // the stage's own names
	}
	return h
}

func (s *stage) weft(ctx context.Context, host string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, script.Patience)
	defer cancel()
	return s.host(host).Weft(ctx, args...).Output()
}

func (s *stage) json(ctx context.Context, host string, to any, args ...string) error {
	out, err := s.weft(ctx, host, append(args, "-o", "json")...)
	if err != nil {
		return err
	}
	return json.Unmarshal([]byte(out), to)
}

// task is a `weft run`.
type task struct {
	cmd   *lab.Cmd
	in    io.WriteCloser // its program ends with it
	said  chan string    // what it says of itself, closed at its end; as much as a life says, so that nobody waits
	words []string       // taken from said
}

// start starts a task of the stage's program or another.
func (s *stage) start(ctx context.Context, host, name string, flags []string, command ...string) (*task, error) {
	args := append([]string{"run", "--network", "prod", "--name", name}, flags...)
	t := &task{cmd: s.host(host).Weft(ctx, append(append(args, "--"), command...)...), said: make(chan string, 1000)}
	var err error
	if t.in, err = t.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	words, err := t.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := t.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(t.said)
		for lines := bufio.NewScanner(words); lines.Scan(); {
			t.said <- lines.Text()
		}
	}()
	return t, nil
}

// says waits until it says a word.
func (t *task) says(word string) error {
	deadline := time.After(script.Patience)
	for {
		select {
		case line, more := <-t.said:
			t.words = append(t.words, line)
			if strings.Contains(line, word) {
				return nil
			}
			if !more {
				return fmt.Errorf("it ended before it said %q: %s", word, strings.Join(t.words, "; "))
			}
		case <-deadline:
			return fmt.Errorf("it did not say %q: %s", word, strings.Join(t.words, "; "))
		}
	}
}

// end sends it a signal and returns after how long it has ended.
func (t *task) end(sig unix.Signal) (time.Duration, error) {
	began := time.Now()
	if err := t.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return 0, err
	}
	for line := range t.said { // until its end, which closes its pipes
		t.words = append(t.words, line)
	}
	_ = t.in.Close()
	_ = t.cmd.Wait() // ended by us: its status says nothing
	return time.Since(began), nil
}

const health = "tcp:9001,interval=200ms,timeout=1s"

// serve starts a server and returns when every node sends to it.
func (s *stage) serve(ctx context.Context, name, label string) error {
	t, err := s.start(ctx, homes[name], name, []string{"--vip", label, "--health", health}, s.traffic, "serve")
	if err != nil {
		return err
	}
	s.servers[name] = t
	if err := t.says("is healthy"); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

const label = "/web:9001=9001/tcp"

// set makes network and tasks.
func (s *stage) set(ctx context.Context) error {
	if _, err := s.weft(ctx, "m1", "network", "add", "prod", "--subnet", "9.1.0.0/16"); err != nil {
		return err
	}
	s.pids = make(map[string]int)
	for _, name := range []string{"client", "outside"} {
		t, err := s.start(ctx, "h1", name, nil, "sleep", "100000")
		if err != nil {
			return err
		}
		s.clients = append(s.clients, t)
		if err := t.says(" is "); err != nil {
			return err
		}
		if s.pids[name], err = s.pid(ctx, "h1", name); err != nil {
			return err
		}
	}
	for name := range homes {
		if err := s.serve(ctx, name, label); err != nil {
			return err
		}
	}
	return script.Until(ctx, func(ctx context.Context) error {
		vips, err := s.backends(ctx, "h1")
		if err == nil && len(vips) != len(homes) {
			err = fmt.Errorf("h1 knows %d backends, want %d", len(vips), len(homes))
		}
		return err
	})
}

// pid is the process of a task.
func (s *stage) pid(ctx context.Context, host, name string) (int, error) {
	var e overlay.Endpoint
	err := s.json(ctx, host, &e, "task", "show", name)
	return e.OwnerPID, err
}

// backends are those of the VIP as a host sees them, by the name of their task.
func (s *stage) backends(ctx context.Context, host string) (map[string]lb.BackendStatus, error) {
	var vips []lb.VIPStatus
	if err := s.json(ctx, host, &vips, "vip", "show", "web"); err != nil {
		return nil, err
	}
	found := make(map[string]lb.BackendStatus)
	for _, v := range vips {
		s.vip = netip.AddrPortFrom(v.Addrs[0], v.Port)
		for _, b := range v.Backends {
			found[b.Task[:strings.LastIndexByte(b.Task, '-')]] = b
		}
	}
	return found, nil
}

// see waits until a host sees a backend in, or out.
func (s *stage) see(ctx context.Context, host, name string, in bool) error {
	return script.Until(ctx, func(ctx context.Context) error {
		found, err := s.backends(ctx, host)
		if b, there := found[name]; err == nil && (!there || b.In != in) {
			err = fmt.Errorf("%s sees %s: there %t, in %t (%s); want in %t", host, name, there, b.In, b.Reason, in)
		}
		return err
	})
}

// inside runs a command in the network of a task.
func (s *stage) inside(ctx context.Context, host, name, command string, args ...string) error {
	pid, err := s.pid(ctx, host, name)
	if err != nil {
		return err
	}
	_, err = s.host(host).Command(ctx, "nsenter", append([]string{"-t", strconv.Itoa(pid), "-n", command}, args...)...).Output()
	return err
}

// end stops what the stage started; the lab ends the rest.
func (s *stage) end() (err error) {
	all := s.clients
	for _, t := range s.servers {
		all = append(all, t)
	}
	for _, t := range all {
		_, failed := t.end(unix.SIGTERM)
		err = errors.Join(err, failed)
	}
	return err
}
