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
	"time"

	"weft/tests/bench/report"
	"weft/tests/chaos/script"
	"weft/tests/lab"
)

// options of a run.
type options struct {
	*script.Options
	askers  int // of each host; each has many questions under way
	changes int // a second
}

func main() {
	o := options{Options: script.Flags()}
	flag.IntVar(&o.askers, "askers", 2, "sockets of each host that ask")
	flag.IntVar(&o.changes, "changes", 10_000, "changes of names a second, in the event of that name")
	flag.Parse()
	script.Main("chaos", func(ctx context.Context) error { return run(ctx, os.Stdout, o) })
}

func run(ctx context.Context, out io.Writer, o options) (err error) {
	began := time.Now()
	l, end, err := o.Up(ctx, lab.Options{Hosts: 2, Masters: 3})
	if err != nil {
		return err
	}
	s := &stage{o: o, lab: l}
	defer func() { err = errors.Join(err, end(s.end)) }()
	if err := s.set(ctx); err != nil {
		return err
	}
	fmt.Fprintf(out, "two hosts with %d names and three masters are up (%.1f s)\n", len(s.names), time.Since(began).Seconds())
	return s.play(ctx, out)
}

// play lets the events happen, one after the other.
func (s *stage) play(ctx context.Context, out io.Writer) error {
	var sum tally
	var lines []report.Line
	err := script.Play(s.o.Options, events(), func(e event) error {
		began := time.Now()
		t, err := s.during(ctx, e)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%-28s %6.1f s  %s\n", e.name, time.Since(began).Seconds(), &t)
		lines = append(lines, report.NoMore("questions_lost_or_wrong", fmt.Sprintf("%s, of %d", e.name, t.asked), float64(t.lost+t.wrong), 0))
		sum.add(t)
		return nil
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%-28s           %s\n", "sum", &sum)
	lines = append(lines, report.NoMore("questions_lost_or_wrong", fmt.Sprintf("all events, of %d", sum.asked), float64(sum.lost+sum.wrong), 0))
	if s.o.Results != "" {
		if err := report.ReplaceLines(s.o.Results, lines); err != nil {
			return err
		}
	}
	if sum.lost+sum.wrong > 0 {
		return fmt.Errorf("%d questions were lost and %d answered wrong", sum.lost, sum.wrong)
	}
	return nil
}
