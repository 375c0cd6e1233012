// SPDX-License-Identifier: Apache-2.0

// Command lb lets everything happen to a VIP's backends under traffic, and counts the connections that fail:
// restarts of tasks that exit at once when they are told to, backends that refuse and that are silent, nodes that go
// and come back, and a drain while a connection is open.
//
//	lb -weft bin/weft [-short]
//
// It prints a line for each event, and ends with status 1 when a bar is missed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"weft/tests/chaos/actor"
	"weft/tests/chaos/script"
	"weft/tests/lab"
)

// options of a run.
type options struct {
	*script.Options
	rate     int // connections a second of each client
	restarts int
	requests int // at least, over all restarts
}

func main() {
	o := options{Options: script.Flags()}
	flag.IntVar(&o.rate, "rate", 1000, "connections a second of each of two clients")
	flag.IntVar(&o.restarts, "restarts", 1000, "restarts of tasks")
	flag.IntVar(&o.requests, "requests", 1000000, "requests during the restarts, at least")
	flag.Parse()
	if o.Short {
		o.rate, o.restarts, o.requests = min(o.rate, 300), 4, 1000
	}
	script.Main("chaos-lb", func(ctx context.Context) error { return run(ctx, os.Stdout, o) })
}

func run(ctx context.Context, out io.Writer, o options) (err error) {
	traffic, remove, err := actor.Build(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()
	began := time.Now()
	l, end, err := o.Up(ctx, lab.Options{Hosts: 3})
	if err != nil {
		return err
	}
	s := &stage{o: o, out: out, lab: l, traffic: traffic, servers: make(map[string]*task)}
	defer func() { err = errors.Join(err, end(s.end)) }()
	if err := s.set(ctx); err != nil {
		return err
	}
	fmt.Fprintf(out, "three hosts and a master are up (%.1f s)\n", time.Since(began).Seconds())
	var all []outcome
	err = script.Play(o.Options, events(), func(e event) error {
		if o.Short && e.long {
			return nil
		}
		r, err := s.during(ctx, e)
		if err != nil {
			return fmt.Errorf("%w\n%s", err, script.Tails(l))
		}
		r.print(s.out)
		all = append(all, r)
		return nil
	})
	if err != nil {
		return err
	}
	return s.sum(all)
}
