// SPDX-License-Identifier: Apache-2.0

// Package script is what the commands of tests/chaos share: their flags, the lab, and events one after the other.
package script

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"weft/cmd/weft/labs"
	"weft/tests/lab"
	"weft/tests/lab/owned"
)

// Options of every run.
type Options struct {
	Weft, Next string // the executable, and the same with another layout of maps
	Results    string // file of JSON lines; empty: none
	Only       string // pattern of names of events
	Short      bool
	Keep       bool
}

// Flags adds them to the command line; the caller adds its own and parses.
func Flags() *Options {
	o := new(Options)
	flag.StringVar(&o.Weft, "weft", "bin/weft", "the weft executable")
	flag.StringVar(&o.Next, "next", "bin/weft-next", "the same with another layout (tests/chaos/nextlayout)")
	flag.StringVar(&o.Results, "results", "", "file for the results as JSON lines")
	flag.StringVar(&o.Only, "only", "", "only events whose name matches this regular expression")
	flag.BoolVar(&o.Short, "short", false, "seconds instead of minutes")
	flag.BoolVar(&o.Keep, "keep", false, "leave the lab up, until the next run")
	return o
}

// Main runs the command until it ends or is interrupted, and exits with 1 where it errs.
func Main(name string, run func(context.Context) error) {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, name+":", err)
		os.Exit(1) //nolint:gocritic // nothing is left to be undone
	}
}

// Up starts a lab of which all daemons are ready, in a folder of its own: what runs left that were killed goes first. end
// takes it down, unless it is to be kept, after what stop does.
func (o *Options) Up(ctx context.Context, size lab.Options) (l *lab.Lab, end func(stop func() error) error, err error) {
	for _, path := range []*string{&o.Weft, &o.Next} {
		if *path, err = filepath.Abs(*path); err != nil {
			return nil, nil, err
		}
	}
	size.Binary = o.Weft
	if size.Dir, err = owned.Folder("/run", "weft-chaos.", lab.Down); err != nil { // sockets need a short path
		return nil, nil, err
	}
	if l, err = lab.Up(ctx, size); err != nil {
		return nil, nil, errors.Join(err, lab.Down(size.Dir))
	}
	end = func(stop func() error) error {
		if o.Keep {
			_, err := fmt.Fprintf(os.Stderr, "the lab stays up until the next run: weft lab --dir %s status\n", l.Dir)
			return err
		}
		return errors.Join(stop(), lab.Down(l.Dir))
	}
	if err := labs.WaitReady(ctx, l); err != nil {
		return nil, nil, errors.Join(err, end(func() error { return nil }))
	}
	return l, end, nil
}

// Play calls act for each event whose name is asked for, in order.
func Play[E interface{ Name() string }](o *Options, events []E, act func(E) error) error {
	only, err := regexp.Compile(o.Only)
	if err != nil {
		return fmt.Errorf("only %q: %w", o.Only, err)
	}
	for _, e := range events {
		if !only.MatchString(e.Name()) {
			continue
		}
		if err := act(e); err != nil {
			return fmt.Errorf("%s: %w", e.Name(), err)
		}
	}
	return nil
}

// Patience bounds how long facts may travel.
const Patience = 30 * time.Second

// Until tries f until it succeeds, or Patience is over.
func Until(ctx context.Context, f func(context.Context) error) error {
	deadline := time.Now().Add(Patience)
	for {
		err := f(ctx)
		if err == nil || ctx.Err() != nil || time.Now().After(deadline) {
			return errors.Join(err, ctx.Err())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Tails returns the last words of the node daemons.
func Tails(l *lab.Lab) string {
	var b strings.Builder
	for _, h := range l.Hosts {
		fmt.Fprintf(&b, "netd of %s:\n%s\n", h.Name, h.Tail("netd", 20))
	}
	return b.String()
}
