// SPDX-License-Identifier: Apache-2.0

// Command edge measures what a packet costs in the edge's XDP program: nanoseconds and, where the
// machine counts them, instructions, for the kinds of packets that make a difference; and how many of
// 100,000 flows live through what happens to edge nodes and backends. It attaches nothing; what the
// numbers have to be is in its table of bars.
//
//	edge [-rounds N] [-repeat N] [-json FILE] [-short]
//
// Rounds go over all kinds in turn, so that what else the machine does meets all alike, and are short, so
// that it leaves many of them alone. It can only add to a time: bars are held to the lower quartile of
// the rounds; the median is printed beside it. From each round's time that of the wrapper (see bpftest.Undo) around a program
// that does nothing is taken off.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"slices"
)

func main() {
	rounds := flag.Int("rounds", 101, "rounds over all kinds of packets")
	repeat := flag.Int("repeat", 20000, "packets in a round, of each kind")
	out := flag.String("json", "", "append a JSON line per measure to this file")
	short := flag.Bool("short", false, "only that it runs: few packets, no bars")
	flag.Parse()
	if *short {
		*rounds, *repeat = 3, 2000
	}
	if err := run(*rounds, *repeat, *out, *short); err != nil {
		fmt.Fprintln(os.Stderr, "edge:", err)
		os.Exit(1)
	}
}

// line is one measure, in the form that all of the repository's benchmarks have.
type line struct {
	Measure string  `json:"measure"`
	Against string  `json:"against"`
	Value   float64 `json:"value"`
	Bar     float64 `json:"bar"` // 0: none
	Holds   bool    `json:"holds"`
	Runs    int     `json:"runs"`
}

func run(rounds, repeat int, out string, short bool) error {
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
	var lines []line
	samples := make([]sample, len(stage.kinds))
	for range rounds {
		for i, k := range stage.kinds {
			if err := samples[i].take(stage, k, repeat, counter); err != nil {
				return fmt.Errorf("%s: %w", k.name, err)
			}
		}
	}
	fmt.Printf("%-20s %9s %9s %6s %13s\n", "packet", "ns", "median", "bar", "instructions")
	missed := false
	for i, k := range stage.kinds {
		s := &samples[i]
		l := line{Measure: "edge_ns_" + k.name, Value: quantile(s.ns, 4), Bar: k.bar, Runs: rounds}
		l.Holds = k.bar == 0 || l.Value <= k.bar
		missed = missed || !l.Holds
		fmt.Printf("%-20s %9.0f %9.0f %6s %13s\n",
			k.name, l.Value, quantile(s.ns, 2), number(k.bar), number(quantile(s.instructions, 2)))
		lines = append(lines, l)
		if counter != nil {
			lines = append(lines, line{Measure: "edge_instructions_" + k.name, Value: quantile(s.instructions, 2), Holds: true, Runs: rounds})
		}
	}
	flows := 100000
	if short {
		flows = 2000
	}
	lived, err := measureFlows(flows)
	if err != nil {
		return err
	}
	fmt.Printf("\n%-46s %9s %9s\n", "flows", "value", "bar")
	for _, l := range lived {
		missed = missed || !l.Holds
		fmt.Printf("%-46s %9g %9g\n", l.Measure, l.Value, l.Bar)
	}
	lines = append(lines, lived...)
	if err := appendLines(out, lines); err != nil {
		return err
	}
	if missed && !short {
		return errors.New("a bar is missed")
	}
	return nil
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

// quantile is the value that one in n is below.
func quantile(values []float64, n int) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/n]
}

func number(v float64) string {
	if v == 0 || math.IsNaN(v) {
		return "-"
	}
	return fmt.Sprintf("%.0f", v)
}

func appendLines(path string, lines []line) (err error) {
	if path == "" {
		return nil
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	encoder := json.NewEncoder(f)
	for _, l := range lines {
		if err := encoder.Encode(l); err != nil {
			return err
		}
	}
	return nil
}
