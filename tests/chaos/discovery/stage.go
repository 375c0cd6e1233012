// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"weft/overlay"
	"weft/tests/chaos/script"
	"weft/tests/lab"
)

// tasks of each host, each with a name of its own.
const tasks = 4

// stage is the cluster that things happen to: h1 and h2 with tasks whose names both hosts ask for, and three masters.
type stage struct {
	o       options
	lab     *lab.Lab
	running []*lab.Cmd
	names   []*name // of the tasks
	crowd   *crowd
}

// late is when names have to be true everywhere; in the short form, which runs on busy machines, later.
func (s *stage) late() time.Duration { return s.span(2*time.Second, time.Second) }

// set makes the network and the tasks, and waits until both hosts answer for all of them.
func (s *stage) set(ctx context.Context) error {
	if _, err := s.lab.Masters[0].Weft(ctx, "network", "add", "prod", "--subnet", "9.1.0.0/16").Output(); err != nil {
		return err
	}
	for _, h := range s.lab.Hosts {
		for i := range tasks {
			cmd := h.Weft(ctx, "run", "--network", "prod", "--name", fmt.Sprintf("%s-task-%d", h.Name, i), "--", "sleep", "100000")
			if err := cmd.Start(); err != nil {
				return err
			}
			s.running = append(s.running, cmd)
		}
	}
	if err := script.Until(ctx, s.find); err != nil {
		return err
	}
	return s.settled(ctx, s.names)
}

// find reads the tasks' addresses.
func (s *stage) find(ctx context.Context) error {
	s.names = nil
	for _, h := range s.lab.Hosts {
		text, err := h.Weft(ctx, "task", "list", "-o", "json").Output()
		if err != nil {
			return err
		}
		var list []overlay.Endpoint
		if err := json.Unmarshal([]byte(text), &list); err != nil || len(list) != tasks {
			return fmt.Errorf("%s has %d of %d tasks: %w", h.Name, len(list), tasks, err)
		}
		for _, e := range list {
			n := newName(e.Name+".weft.mesos.", h.Name, e.Addr4, s.late())
			n.done(e.Addr4)
			s.names = append(s.names, n)
		}
	}
	return nil
}

// settled waits until every host answers rightly for names: then they are held, and the kernel has the answers.
func (s *stage) settled(ctx context.Context, names []*name) error {
	for _, h := range s.lab.Hosts {
		for _, n := range names {
			a, err := openAsker(ctx, h, []*name{n})
			if err != nil {
				return err
			}
			err = script.Until(ctx, func(context.Context) error {
				t, err := a.round()
				if err == nil && t.lost+t.wrong > 0 {
					err = errors.New(t.first)
				}
				return err
			})
			if err := errors.Join(err, a.conn.Close()); err != nil {
				return err
			}
		}
	}
	return nil
}

// during lets an event happen while all hosts ask for all names.
func (s *stage) during(ctx context.Context, e event) (sum tally, err error) {
	names := s.names
	if e.prepare != nil {
		if names, err = e.prepare(ctx, s); err != nil {
			return sum, err
		}
	}
	asking, stop := context.WithCancel(ctx)
	defer stop()
	var group errgroup.Group
	tallies := make(chan tally, s.o.askers*len(s.lab.Hosts)) // one of each
	for _, h := range s.lab.Hosts {
		for range s.o.askers {
			a, err := openAsker(ctx, h, names)
			if err != nil {
				return sum, err
			}
			group.Go(func() error {
				t, err := a.run(asking)
				tallies <- t
				return errors.Join(err, a.conn.Close())
			})
		}
	}
	err = e.do(ctx, s, names)
	stop()
	err = errors.Join(err, group.Wait())
	close(tallies)
	for t := range tallies {
		sum.add(t)
	}
	return sum, err
}

// end stops what the stage started; the lab ends the rest.
func (s *stage) end() error {
	for _, cmd := range s.running {
		_ = cmd.Process.Signal(unix.SIGTERM) // it may have ended with its task
	}
	for _, cmd := range s.running {
		_ = cmd.Wait() // ended by us: its status says nothing
	}
	return nil
}
