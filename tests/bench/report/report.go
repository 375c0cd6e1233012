// SPDX-License-Identifier: Apache-2.0

// Package report is what benchmarks write: a line of JSON for each thing that was measured, and tables
// and plots in a page of the documentation, between marks. What is measured it leaves to them.
package report

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Bar is what a value should be. The zero value is no bar.
type Bar struct {
	Least, Most float64 // 0: no such limit
}

// Line is one line of a file of results.
type Line struct {
	Measure string   `json:"measure"`
	Against string   `json:"against"`
	Value   float64  `json:"value"`
	Bar     *float64 `json:"bar"` // null: there is none
	Holds   *bool    `json:"holds"`
	Runs    int      `json:"runs"`
	// Quartiles of the runs.
	Low  float64 `json:"low"`
	High float64 `json:"high"`

	least bool // the bar is one from below
}

// NewLine is the median of what the runs gave, held to its bar.
func NewLine(measure, against string, runs []float64, bar Bar) Line {
	runs = slices.Sorted(slices.Values(runs))
	l := Line{
		Measure: measure, Against: against, Runs: len(runs),
		Value: Quantile(runs, 0.5), Low: Quantile(runs, 0.25), High: Quantile(runs, 0.75),
	}
	switch {
	case bar.Least > 0:
		holds := l.Value >= bar.Least
		l.Bar, l.Holds, l.least = &bar.Least, &holds, true
	case bar.Most > 0:
		holds := l.Value <= bar.Most
		l.Bar, l.Holds = &bar.Most, &holds
	}
	return l
}

// NoMore is one value that may be at most a limit, which may be 0.
func NoMore(measure, against string, value, most float64) Line {
	l := NewLine(measure, against, []float64{value}, Bar{})
	holds := value <= most
	l.Bar, l.Holds = &most, &holds
	return l
}

// Quantile of sorted values, between the two that are nearest; 0 of none.
func Quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	at := q * float64(len(sorted)-1)
	i := int(at)
	if i+1 >= len(sorted) {
		return sorted[len(sorted)-1]
	}
	return sorted[i] + (sorted[i+1]-sorted[i])*(at-float64(i))
}

// Median of values in any order.
func Median(values []float64) float64 {
	return Quantile(slices.Sorted(slices.Values(values)), 0.5)
}

// WriteLines writes one JSON document a line.
func WriteLines[T any](path string, list []T) error {
	var b bytes.Buffer
	for _, one := range list {
		line, err := json.Marshal(one)
		if err != nil {
			return err
		}
		b.Write(append(line, '\n'))
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, b.Bytes(), 0o644)
}

// ReplaceLines writes lines in place of those of the same measures; what other benchmarks wrote into the file stays.
func ReplaceLines(path string, lines []Line) error {
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var all []any
	for old := range bytes.Lines(text) {
		var l Line
		if err := json.Unmarshal(old, &l); err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
		if !slices.ContainsFunc(lines, func(n Line) bool { return n.Measure == l.Measure }) {
			all = append(all, json.RawMessage(bytes.TrimSpace(old)))
		}
	}
	for _, l := range lines {
		all = append(all, l)
	}
	return WriteLines(path, all)
}

// Table of lines, the first row its heading.
func Table(lines []Line) [][]string {
	table := [][]string{{"measure", "against", "value", "quartiles", "bar", "holds"}}
	for _, l := range lines {
		row := []string{l.Measure, l.Against, number(l.Value), number(l.Low) + " to " + number(l.High), "", ""}
		if l.Bar != nil {
			row[4], row[5] = "<= "+number(*l.Bar), "no"
			if l.least {
				row[4] = ">= " + number(*l.Bar)
			}
			if *l.Holds {
				row[5] = "yes"
			}
		}
		table = append(table, row)
	}
	return table
}

func number(v float64) string {
	switch {
	case v >= 1000:
		return fmt.Sprintf("%.0f", v)
	case v >= 20:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

// Markdown is a table in that form.
func Markdown(table [][]string) string {
	var b strings.Builder
	for i, row := range table {
		fmt.Fprintf(&b, "| %s |\n", strings.Join(row, " | "))
		if i == 0 {
			b.WriteString(strings.Repeat("|---", len(row)) + "|\n")
		}
	}
	return b.String()
}

// Show puts text into a page, in place of what an earlier run of the same benchmark put there.
func Show(page, name, text string) error {
	begin := fmt.Sprintf("<!-- bench-%s: written by make bench-%s -->", name, name)
	end := fmt.Sprintf("<!-- bench-%s: end -->", name)
	old, err := os.ReadFile(page)
	if err != nil {
		return err
	}
	before, rest, found := strings.Cut(string(old), begin)
	_, after, closed := strings.Cut(rest, end)
	if !found || !closed {
		return fmt.Errorf("%s has no %q and %q", page, begin, end)
	}
	return os.WriteFile(page, []byte(before+begin+"\n\n"+strings.TrimSpace(text)+"\n\n"+end+after), 0o644)
}

// Load is how busy the machine is with all that runs, ours included.
func Load() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	first, _, _ := strings.Cut(string(text), " ")
	return first
}

// About says when and where numbers were made.
func About(began time.Time, before string) string {
	var u unix.Utsname
	_ = unix.Uname(&u) // fails for bad pointers only
	return fmt.Sprintf("%s, %s, Linux %s, load average %s before and %s after",
		began.UTC().Format(time.DateOnly), processor(), unix.ByteSliceToString(u.Release[:]), before, Load())
}

// processor is what the kernel calls the first one: the same program may take a third of the time on another.
func processor() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown processor"
	}
	of := map[string]string{}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		if name = strings.TrimSpace(name); of[name] == "" {
			of[name] = strings.TrimSpace(value)
		}
	}
	return fmt.Sprintf("%s (family %s, model %s)", of["model name"], of["cpu family"], of["model"])
}
