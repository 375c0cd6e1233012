// SPDX-License-Identifier: Apache-2.0

// Package main measures what a large cluster costs one node: 1,000 nodes with 100 tasks each and 1,000 groups, whose
// rows come to a node as they come from a master, are booted from disk and compiled into tables in memory.
// Results join those of tests/bench/overlay.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// line is one measure, as in tests/bench/overlay.
type line struct {
	Measure string   `json:"measure"`
	Against string   `json:"against"`
	Value   float64  `json:"value"`
	Bar     *float64 `json:"bar"`
	Holds   *bool    `json:"holds"`
	Runs    int      `json:"runs"`
	Low     float64  `json:"low"`
	High    float64  `json:"high"`
}

func main() {
	short := flag.Bool("short", false, "a tenth of the size, once: only that it runs")
	results := flag.String("results", "tests/bench/results", "folder of overlay.jsonl; empty: nothing is written")
	flag.Parse()
	if err := run(*short, *results); err != nil {
		fmt.Fprintln(os.Stderr, "scale:", err)
		os.Exit(1)
	}
}

func run(short bool, results string) error {
	size, runs := size{nodes: 1000, tasks: 100, groups: 1000}, 3
	if short {
		size, runs = size.tenth(), 1
	}
	values := make(map[string][]float64)
	for range runs {
		found, err := measure(context.Background(), size)
		if err != nil {
			return err
		}
		for name, v := range found {
			values[name] = append(values[name], v)
		}
	}
	lines := linesOf(values, size)
	for _, l := range lines {
		bar := ""
		if l.Bar != nil {
			bar = fmt.Sprintf("bar %g, holds %v", *l.Bar, *l.Holds)
		}
		fmt.Printf("%-45s %-30s %10.3f  (%.3f to %.3f)  %s\n", l.Measure, l.Against, l.Value, l.Low, l.High, bar)
	}
	if short || results == "" {
		return nil
	}
	return merge(filepath.Join(results, "overlay.jsonl"), lines)
}

// linesOf makes medians of what was found; only the full size has bars.
func linesOf(values map[string][]float64, s size) []line {
	bars := map[string]float64{
		memoryPerTask: 100, bootToServing: 1, applyOneChange: 10,
	}
	var lines []line
	for name, list := range values {
		slices.Sort(list)
		measure, against, _ := strings.Cut(name, " ")
		l := line{
			Measure: measure, Against: against, Value: list[len(list)/2], Runs: len(list), Low: list[0], High: list[len(list)-1],
		}
		if bar, ok := bars[name]; ok && s.nodes == 1000 {
			holds := l.Value < bar
			l.Bar, l.Holds = &bar, &holds
		}
		lines = append(lines, l)
	}
	slices.SortFunc(lines, func(a, b line) int { return strings.Compare(a.Measure+a.Against, b.Measure+b.Against) })
	return lines
}

// merge puts lines in the place of those of the same measures.
func merge(path string, lines []line) error {
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var out bytes.Buffer
	for text := range bytes.Lines(old) {
		var l line
		if json.Unmarshal(text, &l) == nil && slices.ContainsFunc(lines, func(n line) bool { return n.Measure == l.Measure }) {
			continue
		}
		out.Write(text)
	}
	for _, l := range lines {
		text, err := json.Marshal(l)
		if err != nil {
			return err
		}
		out.Write(append(text, '\n'))
	}
	return os.WriteFile(path, out.Bytes(), 0o644)
}
