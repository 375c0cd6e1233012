// SPDX-License-Identifier: Apache-2.0

// Command overlay lets everything happen to a cluster that its networks have to survive, under traffic, and counts
// what is lost: numbered datagrams and new connections between tasks of two hosts, in both families, while
// daemons die, change version and freeze, masters are gone, pins are wiped and addresses change.
//
//	overlay -weft bin/weft -next bin/weft-next [-short]
//
// It prints a line for each event and ends with the sum, and with status 1 when that is not zero.
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
	weft, next string
	dir        string
	results    string // file of JSON lines; empty: none
	only       string // pattern of names of events
	short      bool
	keep       bool
	udp        int // datagrams a second, over both families and directions
	connects   int // new connections a second, over both families
}

func main() {
	var o options
	flag.StringVar(&o.weft, "weft", "bin/weft", "the weft executable")
	flag.StringVar(&o.next, "next", "bin/weft-next", "the same with another layout (tests/chaos/nextlayout)")
	flag.StringVar(&o.dir, "dir", "/run/weft-chaos", "folder of the lab")
	flag.StringVar(&o.results, "results", "", "file for the results as JSON lines")
	flag.StringVar(&o.only, "only", "", "only events whose name matches this regular expression")
	flag.BoolVar(&o.short, "short", false, "seconds instead of minutes")
	flag.BoolVar(&o.keep, "keep", false, "leave the lab up")
	flag.IntVar(&o.udp, "udp", 50000, "datagrams a second")
	flag.IntVar(&o.connects, "connects", 1000, "new connections a second")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	if err := run(ctx, os.Stdout, o); err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		os.Exit(1) //nolint:gocritic // nothing is left to be undone
	}
}

func run(ctx context.Context, out io.Writer, o options) (err error) {
	for _, path := range []*string{&o.weft, &o.next} {
		if *path, err = filepath.Abs(*path); err != nil {
			return err
		}
	}
	tools, err := os.MkdirTemp("", "weft-chaos-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tools)) }()
	traffic, err := actor.Build(ctx, tools)
	if err != nil {
		return err
	}
	began := time.Now()
	l, err := lab.Up(ctx, lab.Options{Dir: o.dir, Hosts: 3, Masters: 3, Binary: o.weft})
	if err != nil {
		return err
	}
	s := &stage{o: o, out: out, lab: l, traffic: traffic}
	if !o.keep {
		defer func() { err = errors.Join(err, s.end(), lab.Down(o.dir)) }()
	}
	if err := labs.WaitReady(ctx, l); err != nil {
		return err
	}
	if err := s.set(ctx); err != nil {
		return err
	}
	fmt.Fprintf(out, "three hosts and three masters are up (%.1f s)\n", time.Since(began).Seconds())
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
		if !only.MatchString(e.name) {
			continue
		}
		r, err := s.during(ctx, e)
		if err != nil {
			return fmt.Errorf("%s: %w", e.name, err)
		}
		r.print(s.out)
		all = append(all, r)
	}
	return s.sum(all)
}
