// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"weft/lb"
	"weft/tests/chaos/actor"
	"weft/tests/chaos/script"
)

// event is something that happens to backends. It returns when all is as before.
type event struct {
	name string
	do   func(context.Context, *stage, *outcome) error
	// most is how many connections of each client may fail.
	most map[string]int
	// long tells that it says nothing new in the short form.
	long bool
}

// A node finds out about a dead backend by one connection, whoever opened it; that may be either client's.
var found = map[string]int{"client": 1, "outside": 1}

// Name is what -only picks it by.
func (e event) Name() string { return e.name }

// events lists them in the order in which they happen.
func events() []event {
	return []event{
		{name: "rolling restarts", do: restarts},
		{name: "a backend refuses", do: refusing, most: found},
		{name: "a backend is silent", do: silent, most: found},
		{name: "a node's daemon goes and comes back", do: away},
		{name: "a node is cut off and comes back", do: cutOff, most: found},
		{name: "a node's daemon hangs", do: hangs, long: true},
		{name: "a drained backend keeps its connection", do: drained},
	}
}

// span is how long something lasts, in the short form and in the long one.
func (s *stage) span(short, long time.Duration) time.Duration {
	if s.o.Short {
		return short
	}
	return long
}

// restarts ends one server after the other, and starts another in its place.
func restarts(ctx context.Context, s *stage, o *outcome) error {
	began := time.Now()
	for i := range s.o.restarts {
		name := []string{"web1", "web2", "web3"}[i%3]
		took, err := s.servers[name].end(unix.SIGTERM)
		if err != nil {
			return err
		}
		o.ends = append(o.ends, took)
		if err := s.serve(ctx, name, label); err != nil {
			return err
		}
	}
	// As many requests as asked for, both clients together.
	if rest := time.Duration(float64(s.o.requests)/float64(2*s.o.rate)*float64(time.Second)) - time.Since(began); rest > 0 {
		return pause(ctx, rest)
	}
	return nil
}

// refusing has a backend in place of web3 where nobody listens.
func refusing(ctx context.Context, s *stage, _ *outcome) error {
	return s.withDead(ctx, func() error { return nil })
}

// silent has one whose link is down as well.
func silent(ctx context.Context, s *stage, _ *outcome) error {
	return s.withDead(ctx, func() error { return s.inside(ctx, "h3", "dead", "ip", "link", "set", "eth0", "down") })
}

// withDead puts a dead task in the place of web3. Its check succeeds all the same: what clients notice counts.
func (s *stage) withDead(ctx context.Context, kill func() error) error {
	if _, err := s.servers["web3"].end(unix.SIGTERM); err != nil {
		return err
	}
	in := filepath.Join(s.lab.Dir, "in")
	dead, err := s.start(ctx, "h3", "dead", []string{"--vip", label, "--health", "command:test -e " + in + ",interval=50ms"}, "sleep", "100000")
	if err != nil {
		return err
	}
	err = dead.says(" is ")
	if err == nil {
		err = kill()
	}
	if err == nil {
		err = errors.Join(os.WriteFile(in, nil, 0o644), dead.says("is healthy"))
	}
	if err == nil {
		err = pause(ctx, s.span(2*time.Second, 4*time.Second)) // after 5 s it is tried again
	}
	_, ended := dead.end(unix.SIGTERM)
	return errors.Join(err, ended, os.Remove(in), s.serve(ctx, "web3", label))
}

// away ends the daemon of h3, whose tasks go on, and starts it again.
func away(ctx context.Context, s *stage, _ *outcome) error {
	h := s.host("h3")
	if err := h.Signal("netd", unix.SIGTERM); err != nil {
		return err
	}
	if err := s.see(ctx, "h1", "web3", false); err != nil {
		return err
	}
	return errors.Join(pause(ctx, s.span(0, 10*time.Second)), h.StartNetd(), h.WaitReady(ctx), s.see(ctx, "h1", "web3", true))
}

// cutOff lets nothing reach h3 any more that is longer than a header.
func cutOff(ctx context.Context, s *stage, _ *outcome) error {
	h := s.host("h3")
	if err := h.Narrow(narrowest); err != nil {
		return err
	}
	err := s.see(ctx, "h1", "web3", false)
	return errors.Join(err, pause(ctx, s.span(0, 10*time.Second)), h.Narrow(s.lab.MTU), s.see(ctx, "h1", "web3", true))
}

// narrowest is the least MTU that IPv4 and the kernel allow.
const narrowest = 68

// hangs stops the daemon of h2 in the middle of whatever it does: a task's end and start wait for it, but not for ever.
func hangs(ctx context.Context, s *stage, o *outcome) error {
	h := s.host("h2")
	if err := h.Signal("netd", unix.SIGSTOP); err != nil {
		return err
	}
	took, err := s.servers["web1"].end(unix.SIGTERM)
	o.ends = append(o.ends, took)
	if most := lb.DefaultWait + 2*time.Second; err == nil && took > most {
		err = fmt.Errorf("a task's end took %s, want at most %s", took, most)
	}
	return errors.Join(err, s.serve(ctx, "web1", label), h.Signal("netd", unix.SIGCONT), s.see(ctx, "h2", "web1", true), s.see(ctx, "h1", "web2", true))
}

// drained has a VIP of one backend that somebody holds a connection to. Another backend comes and the first one
// drains: what is new goes to the other one, what is held goes on, and the task waits for it.
func drained(ctx context.Context, s *stage, o *outcome) error {
	// The drain has to outlast what is asked of the clients meanwhile: on a busy machine that is longer than
	// lb.DefaultWait, after which the task ends whoever holds it.
	patient := label + ",wait=" + script.Patience.String()
	err := errors.Join(s.servers["web1"].endOnly(), s.serve(ctx, "web1", patient), s.servers["web2"].endOnly(), s.servers["web3"].endOnly())
	if err != nil {
		return err
	}
	held, err := s.actor(ctx, "client", "hold", s.vip.String())
	if err != nil {
		return err
	}
	outside, err := s.actor(ctx, "outside", "hold", s.vip.String())
	if err != nil {
		return err
	}
	for _, name := range []string{"web2", "web3"} {
		if err := s.serve(ctx, name, label); err != nil {
			return err
		}
	}
	first := s.servers["web1"]
	ended := make(chan error, 1)
	go func() {
		_, err := first.end(unix.SIGTERM)
		ended <- err
	}()
	if err := s.see(ctx, "h1", "web1", false); err != nil {
		return err
	}
	for _, h := range []*actor.Actor{held, outside} {
		var r actor.Held
		if err := h.Ask(&r); err != nil {
			return err
		}
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return err
		}
		if err := errors.Join(h.Ask(&r), h.End()); err != nil {
			return err
		}
		o.held = append(o.held, r)
	}
	return errors.Join(<-ended, s.serve(ctx, "web1", label))
}

// endOnly ends a task.
func (t *task) endOnly() error {
	_, err := t.end(unix.SIGTERM)
	return err
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
