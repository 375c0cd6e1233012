// SPDX-License-Identifier: Apache-2.0

// Command edge measures what a packet costs in the edge's XDP program: nanoseconds and, where the
// machine counts them, instructions, for the kinds of packets that make a difference; and how many of
// 100,000 flows live through what happens to edge nodes and backends. It attaches nothing; what the
// numbers have to be is in its table of bars.
//
//	edge [-rounds N] [-repeat N] [-json FILE] [-page FILE] [-short]
//
// Rounds go over all kinds in turn, so that what else the machine does meets all alike, and are short, so
// that it leaves many of them alone. Bars are held to the median over the rounds. From each round's time that of the wrapper
// (see bpftest.Undo) around a program that does nothing is taken off.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"weft/tests/bench/report"
)

func main() {
	var o options
	flag.IntVar(&o.rounds, "rounds", 101, "rounds over all kinds of packets")
	flag.IntVar(&o.repeat, "repeat", 20000, "packets in a round, of each kind")
	flag.StringVar(&o.out, "json", "", "put a JSON line per measure into this file")
	flag.StringVar(&o.page, "page", "", "put the table into this page")
	flag.BoolVar(&o.short, "short", false, "only that it runs: few packets, no bars")
	flag.Parse()
	if o.short {
		o.rounds, o.repeat = 3, 2000
	}
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "edge:", err)
		os.Exit(1)
	}
}

// options of a run.
type options struct {
	rounds, repeat int
	out, page      string // files; empty: none
	short          bool
}

func run(o options) error {
	began, before := time.Now(), report.Load()
	stage, err := newStage()
	if err != nil {
		return err
	}
	defer stage.close()
	counter, cerr := openInstructions()
	if cerr != nil {
		fmt.Printf("instructions: not counted on this machine: %v\n", cerr)
	}
	defer counter.close()
	var lines []report.Line
	samples := make([]sample, len(stage.kinds))
	for range o.rounds {
		for i, k := range stage.kinds {
			if err := samples[i].take(stage, k, o.repeat, counter); err != nil {
				return fmt.Errorf("%s: %w", k.name, err)
			}
		}
	}
	for i, k := range stage.kinds {
		lines = append(lines, report.NewLine("edge_ns_"+k.name, "", samples[i].ns, report.Bar{Most: k.bar}))
		if counter != nil {
			lines = append(lines, report.NewLine("edge_instructions_"+k.name, "", samples[i].instructions, report.Bar{}))
		}
	}
	flows := 100000
	if o.short {
		flows = 2000
	}
	lived, err := measureFlows(flows)
	if err != nil {
		return err
	}
	lines = append(lines, lived...)
	missed := 0
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	for i, row := range report.Table(lines) {
		fmt.Fprintln(w, strings.Join(row, "\t"))
		if i > 0 && lines[i-1].Holds != nil && !*lines[i-1].Holds {
			missed++
		}
	}
	err = w.Flush()
	if o.out != "" {
		err = errors.Join(err, report.ReplaceLines(o.out, lines))
	}
	if o.page != "" {
		text := fmt.Sprintf("%s, %d rounds.\n\n%s", report.About(began, before), o.rounds, report.Markdown(report.Table(lines)))
		err = errors.Join(err, report.Show(o.page, "edge", text))
	}
	if missed > 0 && !o.short {
		err = errors.Join(err, fmt.Errorf("%d bars are missed", missed))
	}
	return err
}

// sample is what was measured of one kind, per packet.
type sample struct{ ns, instructions []float64 }

// take runs the kind and, right after it, the same wrapper around nothing.
func (s *sample) take(st *stage, k kind, repeat int, c *instructions) error {
	full, fullCount, err := c.measure(st.undone[k.scramble].Full, k.frame, repeat)
	if err != nil {
		return err
	}
	empty, emptyCount, err := c.measure(st.undone[k.scramble].Empty, k.frame, repeat)
	if err != nil {
		return err
	}
	s.ns = append(s.ns, full-empty)
	s.instructions = append(s.instructions, fullCount-emptyCount)
	return nil
}
