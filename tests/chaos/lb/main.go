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
	"os/signal"
	"path/filepath"
	"regexp"
	"time"

	"golang.org/x/sys/unix"

	"weft/cmd/weft/labs"
	"weft/tests/chaos/actor"
	"weft/tests/lab"
)

// options of a run.
type options struct {
	weft     string
	dir      string
	results  string // file of JSON lines; empty: none
	only     string // pattern of names of events
	short    bool
	keep     bool
	rate     int // connections a second of each client
	restarts int
	requests int // at least, over all restarts
}

func main() {
	var o options
	flag.StringVar(&o.weft, "weft", "bin/weft", "the weft executable")
	flag.StringVar(&o.dir, "dir", "/run/weft-chaos-lb", "folder of the lab")
	flag.StringVar(&o.results, "results", "", "file for the results as JSON lines")
	flag.StringVar(&o.only, "only", "", "only events whose name matches this regular expression")
	flag.BoolVar(&o.short, "short", false, "seconds instead of minutes")
	flag.BoolVar(&o.keep, "keep", false, "leave the lab up")
	flag.IntVar(&o.rate, "rate", 1000, "connections a second of each of two clients")
	flag.IntVar(&o.restarts, "restarts", 1000, "restarts of tasks")
	flag.IntVar(&o.requests, "requests", 1000000, "requests during the restarts, at least")
	flag.Parse()
	if o.short {
		o.rate, o.restarts, o.requests = min(o.rate, 300), 4, 1000
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	if err := run(ctx, os.Stdout, o); err != nil {
		fmt.Fprintln(os.Stderr, "chaos-lb:", err)
		os.Exit(1) //nolint:gocritic // nothing is left to be undone
	}
}

func run(ctx context.Context, out io.Writer, o options) (err error) {
	if o.weft, err = filepath.Abs(o.weft); err != nil {
		return err
	}
	tools, err := os.MkdirTemp("", "weft-chaos-lb-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tools)) }()
	traffic, err := actor.Build(ctx, tools)
	if err != nil {
		return err
	}
	began := time.Now()
	l, err := lab.Up(ctx, lab.Options{Dir: o.dir, Hosts: 3, Binary: o.weft})
	if err != nil {
		return err
	}
	s := &stage{o: o, out: out, lab: l, traffic: traffic, servers: make(map[string]*task)}
	if !o.keep {
		defer func() { err = errors.Join(err, s.end(), lab.Down(o.dir)) }()
	}
	if err := labs.WaitReady(ctx, l); err != nil {
		return err
	}
	if err := s.set(ctx); err != nil {
		return err
	}
	fmt.Fprintf(out, "three hosts and a master are up (%.1f s)\n", time.Since(began).Seconds())
	return s.play(ctx)
}

// play lets the events happen, one after the other.
func (s *stage) play(ctx context.Context) error {
	only, err := regexp.Compile(s.o.only)
	if err != nil {
		return fmt.Errorf("only %q: %w", s.o.only, err)
	}
	var all []outcome
	for _, e := range events() {
		if !only.MatchString(e.name) || s.o.short && e.long {
			continue
		}
		o, err := s.during(ctx, e)
		if err != nil {
			return fmt.Errorf("%s: %w\n%s", e.name, err, s.logs())
		}
		o.print(s.out)
		all = append(all, o)
	}
	return s.sum(all)
}
