// SPDX-License-Identifier: Apache-2.0

// Command kernels runs test binaries on other kernels, in small emulated guests: it makes an initramfs
// of them, boots it, and counts what passed. What is tested is in the packages that it is given;
// fetching the kernels is left to .ci/kernels.sh.
//
//	kernels [-store DIR] [-timeout D] [-run REGEXP | -bench REGEXP] [-modules M[,M]] [-v] SERIES[,SERIES] PACKAGE...
//
// With -bench the guest's clock counts instructions, so what benchmarks print does not depend on what else
// this machine does.
//
// Stages; two to five for each kernel, side by side, for a guest has one CPU:
//
//  1. build   test binaries and the guest's first process, without C       build.go
//  2. image   vmlinux out of the distribution's image, kept in the store    image.go
//  3. modules the drivers that the tests need, and what those need          modules.go
//  4. archive all of it as a newc archive, which the kernel unpacks         archive.go
//  5. boot    and read the console until the guest is off                   guest.go
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
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"weft/tests/lab/owned"
)

// wantedModules are the drivers that tests use; those a kernel has built in are not found, and that
// is well.
var wantedModules = []string{
	"veth", "vxlan", "8021q", "bridge", "dummy", "sch_ingress", "cls_bpf", "act_bpf", "nf_tables", "nft_chain_nat",
	"nft_masq", "nft_ct", "inet_diag", "tcp_diag", "udp_diag",
}

// bootRetries is how often a guest is started again whose kernel died before its first process: the
// emulator's fault, for nothing of ours has run then.
const bootRetries = 2

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "kernels:", err)
		os.Exit(1)
	}
}

// options of one run.
type options struct {
	store    string
	silence  time.Duration
	run      string
	bench    string   // counts instructions instead of testing
	modules  []string // besides wantedModules
	verbose  bool
	series   []string
	packages []string
}

func parse(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("kernels", flag.ContinueOnError)
	flags.StringVar(&o.store, "store", ".tools/kernels", "`folder` that .ci/kernels.sh fetched into")
	flags.DurationVar(&o.silence, "silence", 20*time.Minute, "how long a guest may say nothing")
	flags.StringVar(&o.run, "run", "", "only tests that match the `regexp`")
	flags.StringVar(&o.bench, "bench", "", "no tests, but benchmarks that match the `regexp`; a nanosecond is an instruction")
	more := flags.String("modules", "", "drivers that these tests need besides, by commas")
	flags.BoolVar(&o.verbose, "v", false, "show what the guests print (it is kept in STORE/SERIES/console.log)")
	if err := flags.Parse(args); err != nil {
		return options{}, err
	}
	if flags.NArg() < 2 {
		return options{}, errors.New("usage: kernels [flags] SERIES[,SERIES] PACKAGE [PACKAGE]")
	}
	o.series = strings.Split(flags.Arg(0), ",")
	o.packages = flags.Args()[1:]
	o.modules = append(slices.Clone(wantedModules), strings.Split(*more, ",")...)
	return o, nil
}

// flags are those of the test binaries.
func (o options) flags() []string {
	if o.bench != "" {
		return []string{"-test.run=^$", "-test.bench=" + o.bench, "-test.benchtime=1x"}
	}
	return []string{"-test.run=" + o.run}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	work, err := owned.Folder(os.TempDir(), "weft-kernels.", os.RemoveAll)
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(work) }() // else the next run does
	binaries, err := build(ctx, work, o.packages)
	if err != nil {
		return err
	}
	var guests errgroup.Group
	guests.SetLimit(runtime.NumCPU())
	errs := make([]error, len(o.series))
	for i, series := range o.series {
		guests.Go(func() error {
			if err := binaries.runOn(ctx, o, series, out); err != nil {
				errs[i] = fmt.Errorf("kernel %s: %w", series, err)
			}
			return nil // one that fails stops no other
		})
	}
	return errors.Join(append(errs, guests.Wait())...)
}

// runOn boots one kernel and prints its line.
func (b *binaries) runOn(ctx context.Context, o options, series string, out io.Writer) (err error) {
	dir := filepath.Join(o.store, series)
	version, err := os.ReadFile(filepath.Join(dir, "version"))
	if err != nil {
		return fmt.Errorf("not fetched (make test-kernels does): %w", err)
	}
	kernel, err := image(ctx, dir)
	if err != nil {
		return err
	}
	drivers, err := modules(ctx, filepath.Join(dir, "modules"), o.modules)
	if err != nil {
		return err
	}
	initrd := filepath.Join(filepath.Dir(b.init), "initrd-"+series)
	if err := pack(initrd, b, drivers, o.flags()); err != nil {
		return fmt.Errorf("make initramfs: %w", err)
	}
	log, err := os.Create(filepath.Join(dir, "console.log"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	console := io.Writer(log)
	if o.verbose {
		console = io.MultiWriter(log, out)
	}
	start := time.Now()
	guest := guest{kernel: kernel, initrd: initrd, benchmarks: o.bench != "", silence: o.silence}
	r, err := guest.boot(ctx, console)
	for range bootRetries {
		if !errors.Is(err, errNoBoot) || ctx.Err() != nil {
			break
		}
		_, _ = fmt.Fprintf(out, "kernel %s: once more: %v\n", series, errNoBoot)
		r, err = guest.boot(ctx, console)
	}
	for _, line := range r.measured {
		_, _ = fmt.Fprintln(out, line)
	}
	_, _ = fmt.Fprintf(out, "kernel %s: %d passed, %d failed, %d skipped in %.1f s, %.1f s of a processor\n",
		strings.TrimSpace(string(version)), r.passed, r.failed, r.skipped, time.Since(start).Seconds(), r.processor.Seconds())
	return err
}
