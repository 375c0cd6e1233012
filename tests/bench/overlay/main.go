// SPDX-License-Identifier: Apache-2.0

// Command overlay measures Weft's virtual network side by side with the bare link, plain routing and
// the usual overlays, all of them built here in network namespaces. What it found goes into
// tests/bench/results and docs/benchmarks.md; what the numbers should be is in bars.go.
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
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"weft/tests/bench/report"
)

// options of a run.
type options struct {
	weft    string
	rounds  int
	span    time.Duration
	mtu     int  // of the link between hosts, bytes
	gso     bool // segmentation and joining of packets by that link
	big     int  // bytes that packets on the way may have together, above 64 KiB; 0: what links begin with
	short   bool
	wires   bool
	only    string // measures, separated by commas; empty: all
	among   string // variants, separated by commas; empty: all
	results string // folder
	page    string // with the table; empty: none
}

func main() {
	o := options{mtu: 1500, gso: true}
	flag.StringVar(&o.weft, "weft", "bin/weft", "the weft executable")
	flag.IntVar(&o.rounds, "rounds", 15, "rounds; each measures everything once, in random order")
	flag.DurationVar(&o.span, "span", 200*time.Millisecond, "how long one conversation lasts")
	flag.BoolVar(&o.short, "short", false, "one short round: that all of it works, no numbers")
	flag.BoolVar(&o.wires, "wires", false, "bulk and questions on other links between hosts")
	flag.StringVar(&o.only, "only", "", "measures, separated by commas (default: all)")
	flag.StringVar(&o.among, "variants", "", "variants to measure, separated by commas (default: all)")
	flag.StringVar(&o.results, "results", "tests/bench/results", "folder for what was measured; empty: it is only printed")
	flag.StringVar(&o.page, "page", "", "markdown page that shows it; plots go beside it")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	if err := run(ctx, os.Stdout, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench-overlay:", err)
		os.Exit(1)
	}
}

// run builds the variants, measures in rounds, and takes everything down whatever happened.
func run(ctx context.Context, out io.Writer, o options) error {
	if o.short {
		o.rounds, o.span = 1, 50*time.Millisecond
	}
	if os.Geteuid() != 0 {
		return errors.New("it needs root: it makes network namespaces and loads BPF programs")
	}
	if o.wires {
		return measureWires(ctx, out, o)
	}
	programs, err := measurePrograms(o)
	if err != nil {
		return err
	}
	policy, err := measurePolicy(o)
	if err != nil {
		return err
	}
	programs = append(programs, policy...)
	began, load := time.Now(), report.Load()
	samples, err := converseAll(ctx, out, o)
	if err != nil {
		return err
	}
	if o.short {
		fmt.Fprintf(out, "bench-overlay: %d conversations, all of them carried\n", len(samples))
		return nil
	}
	r := result{Options: o, Samples: samples, Lines: append(judge(samples, o.rounds, ""), programs...), Began: began, Load: load}
	return r.write(out)
}

// converseAll builds the variants, has them talk and takes them down.
func converseAll(ctx context.Context, out io.Writer, o options) (samples []sample, err error) {
	t, err := build(ctx, o)
	if t != nil {
		defer func() { err = errors.Join(err, t.down()) }()
	}
	if err != nil {
		return nil, err
	}
	return rounds(ctx, out, t, o)
}

// wants tells whether a measure is asked for.
func (o options) wants(measure string) bool {
	return o.only == "" || slices.Contains(strings.Split(o.only, ","), measure)
}

// absolute is a path that holds in every folder.
func absolute(path string) string {
	if a, err := filepath.Abs(path); err == nil {
		return a
	}
	return path
}
