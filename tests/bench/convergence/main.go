// SPDX-License-Identifier: Apache-2.0

// Package main measures how fast facts become true everywhere: on eight real nodes in the lab, on a thousand simulated
// ones (real master, real rows and streams, no kernel), and among a thousand simulated members of which some die or
// freeze (real serf over a transport in memory).
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"weft/tests/bench/report"
)

// roomy is what a thousand simulated machines may take, bytes, before garbage is collected: they share one heap, and to
// collect that holds all of them up for seconds, in which changes wait and the living are suspected. A machine of its own has a
// thousandth of it. So it is collected between what is measured.
const roomy = 18 << 30

func main() {
	var o options
	flag.BoolVar(&o.short, "short", false, "small, and a few seconds: only that it runs")
	flag.StringVar(&o.weft, "weft", "bin/weft", "the executable for real nodes")
	flag.StringVar(&o.only, "only", "", "one part: facts, members or hosts")
	flag.StringVar(&o.results, "results", "tests/bench/results", "folder of discovery.jsonl")
	flag.StringVar(&o.page, "page", "", "page that shows the results; empty: none")
	flag.IntVar(&o.nodes, "nodes", 1000, "simulated nodes")
	flag.IntVar(&o.members, "members", 1000, "simulated members")
	flag.IntVar(&o.stretch, "stretch", 8, "how many times slower simulated members live")
	flag.IntVar(&o.rounds, "rounds", 20, "of freezing one in twenty members")
	flag.StringVar(&o.profile, "profile", "", "file for a profile of the simulated changes' processor time (go tool pprof)")
	flag.DurationVar(&o.lasting, "lasting", 30*time.Second, "of each half of the simulated changes")
	flag.Parse()
	if err := run(context.Background(), o); err != nil {
		fmt.Fprintln(os.Stderr, "convergence:", err)
		os.Exit(1)
	}
}

type options struct {
	short                     bool
	lasting                   time.Duration
	stretch, rounds           int
	nodes, members            int
	weft, only, results, page string
	profile                   string
}

func say(format string, args ...any) { fmt.Printf(format+"\n", args...) }

func run(ctx context.Context, o options) error {
	began, load := time.Now(), report.Load()
	facts := size{nodes: o.nodes, tasks: 20 * o.nodes, services: 2 * o.nodes, uses: 20, vips: 10, rate: 100, lasting: o.lasting}
	facts.profile = o.profile
	members := crowd{members: o.members, deaths: 10, share: 20, rounds: o.rounds, freeze: 5 * time.Second, stretch: o.stretch}
	hosts := rounds{hosts: 8, tasks: 200, deaths: 3}
	if o.short {
		hosts = rounds{hosts: 3, tasks: 5, deaths: 1}
		members = crowd{members: 20, deaths: 1, share: 20, rounds: 1, freeze: time.Second, stretch: 1}
		facts = size{nodes: 30, tasks: 600, services: 60, uses: 10, vips: 10, rate: 100, lasting: time.Second}
	}
	var lines []report.Line
	for _, part := range []struct {
		name string
		run  func() ([]report.Line, error)
	}{
		{"facts", func() ([]report.Line, error) { return simulateFacts(ctx, facts) }},
		{"hosts", func() ([]report.Line, error) { return measureHosts(ctx, o.weft, hosts) }},
		{"members", func() ([]report.Line, error) { return simulateMembers(ctx, members) }},
	} {
		if o.only != "" && o.only != part.name {
			continue
		}
		found, err := part.run()
		if err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
		lines = append(lines, found...)
		debug.FreeOSMemory() // the next part is not to pay for it
	}
	fmt.Print(report.Markdown(report.Table(lines)))
	if o.short || o.results == "" {
		return nil
	}
	if err := report.ReplaceLines(filepath.Join(o.results, "discovery.jsonl"), lines); err != nil || o.page == "" {
		return err
	}
	return report.Show(o.page, "convergence", report.About(began, load)+".\n\n"+report.Markdown(report.Table(lines)))
}
