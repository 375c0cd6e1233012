// SPDX-License-Identifier: Apache-2.0

// Command discovery asks for names at full rate while everything happens that names have to survive: daemons die and
// change version, all masters are gone, names change by thousands a second. Each answer is held to what was true
// when the question was under way.
//
//	discovery -weft bin/weft -next bin/weft-next [-short]
//
// It prints a line for each event and ends with the sum, and with status 1 when anything was lost or wrong.
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

	"weft/tests/bench/report"
	"weft/tests/lab"
)

// options of a run.
type options struct {
	weft, next string
	dir        string
	results    string // file of JSON lines; empty: none
	only       string // pattern of names of events
	short      bool
	askers     int // of each host; each has many questions under way
	changes    int // a second
}

func main() {
	var o options
	flag.StringVar(&o.weft, "weft", "bin/weft", "the weft executable")
	flag.StringVar(&o.next, "next", "bin/weft-next", "the same with another layout (tests/chaos/nextlayout)")
	flag.StringVar(&o.dir, "dir", "/run/weft-chaos-discovery", "folder of the lab")
	flag.StringVar(&o.results, "results", "", "file for the results as JSON lines")
	flag.StringVar(&o.only, "only", "", "only events whose name matches this regular expression")
	flag.BoolVar(&o.short, "short", false, "seconds instead of minutes")
	flag.IntVar(&o.askers, "askers", 2, "sockets of each host that ask")
	flag.IntVar(&o.changes, "changes", 10_000, "changes of names a second, in the event of that name")
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
	began := time.Now()
	l, err := lab.Up(ctx, lab.Options{Dir: o.dir, Hosts: 2, Masters: 3, Binary: o.weft})
	if err != nil {
		return err
	}
	s := &stage{o: o, lab: l}
	defer func() { err = errors.Join(err, s.end(), lab.Down(o.dir)) }()
	if err := s.set(ctx); err != nil {
		return err
	}
	fmt.Fprintf(out, "two hosts with %d names and three masters are up (%.1f s)\n", len(s.names), time.Since(began).Seconds())
	return s.play(ctx, out)
}

// play lets the events happen, one after the other.
func (s *stage) play(ctx context.Context, out io.Writer) error {
	only, err := regexp.Compile(s.o.only)
	if err != nil {
		return fmt.Errorf("only %q: %w", s.o.only, err)
	}
	var sum tally
	var lines []report.Line
	for _, e := range events() {
		if !only.MatchString(e.name) {
			continue
		}
		began := time.Now()
		t, err := s.during(ctx, e)
		if err != nil {
			return fmt.Errorf("%s: %w", e.name, err)
		}
		fmt.Fprintf(out, "%-28s %6.1f s  %s\n", e.name, time.Since(began).Seconds(), &t)
		lines = append(lines, report.NoMore("questions_lost_or_wrong", fmt.Sprintf("%s, of %d", e.name, t.asked), float64(t.lost+t.wrong), 0))
		sum.add(t)
	}
	fmt.Fprintf(out, "%-28s           %s\n", "sum", &sum)
	lines = append(lines, report.NoMore("questions_lost_or_wrong", fmt.Sprintf("all events, of %d", sum.asked), float64(sum.lost+sum.wrong), 0))
	if s.o.results != "" {
		if err := report.ReplaceLines(s.o.results, lines); err != nil {
			return err
		}
	}
	if sum.lost+sum.wrong > 0 {
		return fmt.Errorf("%d questions were lost and %d answered wrong", sum.lost, sum.wrong)
	}
	return nil
}
