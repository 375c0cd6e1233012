// SPDX-License-Identifier: Apache-2.0

// Command dns measures Weft's names side by side with the usual servers: CoreDNS, NSD, Knot, Unbound and
// the plainest server that the library makes, each in one network namespace with a client in another,
// asked in turns. What it found goes into tests/bench/results and docs/benchmarks.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"weft/tests/bench/dns/generator"
	"weft/tests/bench/report"
	"weft/tests/lab/owned"
)

// options of a run.
type options struct {
	rounds   int
	span     time.Duration
	short    bool
	few      int    // names of the ordinary zone, and those of the large one that are in use
	many     int    // names of the large zone, more than few
	coredns  string // executable; empty: it is built
	weft     string // executable; empty: weft mesos-dns is left out
	mesosDNS string // executable of Mesos-DNS; empty: it is left out
	only     string // servers, with commas between; empty: all
	results  string // folder
	page     string // with the table; empty: none
	role     string // of a child: generate, weft, server, plain, mirror or zone
	names    string // file of a child
	ifindex  int    // of the link, for weft and mirror
	tasks    int    // for zone
}

func main() {
	var o options
	flag.IntVar(&o.rounds, "rounds", 15, "rounds; each measures everything once, in random order")
	flag.DurationVar(&o.span, "span", 300*time.Millisecond, "how long one server is asked at a time")
	flag.BoolVar(&o.short, "short", false, "one short round: that all of it works, no numbers")
	flag.IntVar(&o.few, "few", 10000, "names of the ordinary zone, and how many of the large one are in use")
	flag.IntVar(&o.many, "many", 1000000, "names of the large zone; 0: none")
	flag.StringVar(&o.coredns, "coredns", "", "CoreDNS's executable; none: it is left out (default: it is built)")
	flag.StringVar(&o.weft, "weft", "", "Weft's executable, for weft mesos-dns; none: that is left out")
	flag.StringVar(&o.mesosDNS, "mesos-dns", "", "Mesos-DNS' executable; none: it is left out")
	flag.StringVar(&o.only, "only", "", "only these servers, with commas between, such as weft,nsd")
	flag.StringVar(&o.results, "results", "tests/bench/results", "folder for what was measured; empty: it is only printed")
	flag.StringVar(&o.page, "page", "", "markdown page that shows it; the plot goes beside it")
	flag.StringVar(&o.role, "role", "", "what a child process is")
	flag.StringVar(&o.names, "names", "", "a child's tasks")
	flag.IntVar(&o.ifindex, "ifindex", 0, "a child's link")
	flag.IntVar(&o.tasks, "tasks", 0, "a child's tasks")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	if err := start(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench-dns:", err)
		os.Exit(1)
	}
}

func start(ctx context.Context, o options) error {
	switch o.role {
	case "":
		return run(ctx, os.Stdout, o)
	case "generate":
		return generator.Run(os.Stdin, os.Stdout)
	case "weft":
		return serveKernel(ctx, o)
	case "server":
		return serveGo(ctx, o)
	case "plain":
		return servePlain(ctx, o)
	case "mirror":
		return serveMirror(ctx, o)
	case "zone":
		return holdZone(os.Stdout, o)
	}
	return fmt.Errorf("role is %q: generate, weft, server, plain, mirror and zone are there", o.role)
}

// skipped says what the short form left out.
func skipped(out io.Writer, o options) {
	if o.coredns == "" {
		fmt.Fprintln(out, "skipped: CoreDNS, whose build takes a minute (-coredns FILE asks one that is built)")
	}
	fmt.Fprintf(out, "skipped: zones of 10,000 and a million names (%d and %d here), all rounds but one; nothing is judged or written\n", o.few, o.many)
}

// run measures everything and takes all down whatever happened. It is the only thread in the node's
// network namespace; children inherit that.
func run(ctx context.Context, out io.Writer, o options) (err error) {
	if o.short {
		o.rounds, o.span, o.few, o.many = 1, 50*time.Millisecond, 500, min(o.many, 2000)
	}
	if os.Geteuid() != 0 {
		return errors.New("it needs root: it makes network namespaces and loads BPF programs")
	}
	dir, err := owned.Folder("/run", "weft-bench-dns.", os.RemoveAll)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if o.coredns, err = buildCoreDNS(ctx, o, dir); err != nil {
		return err
	}
	runtime.LockOSThread() // never unlocked: the namespace ends with the process
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("make a network namespace: %w", err)
	}
	began, load := time.Now(), report.Load()
	var samples []sample
	for _, names := range []int{o.few, o.many} {
		if names == 0 {
			continue
		}
		fmt.Fprintf(out, "%d names\n", names)
		s, err := measureZone(ctx, out, o, dir, names)
		if err != nil {
			return fmt.Errorf("%d names: %w", names, err)
		}
		samples = append(samples, s...)
	}
	lines := judge(samples)
	held, err := measureHeld(ctx, o)
	if err != nil {
		return err
	}
	reads, err := measureReads(ctx, o, dir)
	if err != nil {
		return err
	}
	lines = slices.Concat(lines, held, reads)
	if o.short {
		fmt.Fprintf(out, "bench-dns: %d conversations, all of them answered\n", len(samples))
		skipped(out, o)
		return nil
	}
	return write(out, o, samples, lines, report.About(began, load))
}
