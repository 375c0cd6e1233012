// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

// report is what one run found.
type report struct {
	Options options
	Samples []sample
	Lines   []line
	Began   time.Time
	Load    [2]string // of the machine, before and after
}

// write prints the tables and writes results, page and plots.
func (r report) write(out io.Writer) error {
	fmt.Fprintf(out, "\n%s\n\n", r.about())
	if err := r.print(out); err != nil {
		return err
	}
	if err := os.MkdirAll(r.Options.results, 0o755); err != nil {
		return err
	}
	err := errors.Join(
		writeLines(filepath.Join(r.Options.results, "overlay.jsonl"), r.Lines),
		writeLines(filepath.Join(r.Options.results, "overlay-raw.jsonl"), r.Samples),
	)
	if r.Options.page != "" {
		err = errors.Join(err, r.show())
	}
	return err
}

// about says what the numbers are of.
func (r report) about() string {
	var u unix.Utsname
	_ = unix.Uname(&u) // fails for bad pointers only
	gso := "on"
	if !r.Options.gso {
		gso = "off"
	}
	return fmt.Sprintf("%s, Linux %s, %d rounds of %s each, link MTU %d, segmentation by the link %s, load average %s before and %s after.",
		r.Began.UTC().Format(time.DateOnly), unix.ByteSliceToString(u.Release[:]), r.Options.rounds, r.Options.span,
		r.Options.mtu, gso, r.Load[0], r.Load[1])
}

func writeLines[T any](path string, list []T) error {
	var b bytes.Buffer
	for _, one := range list {
		line, err := json.Marshal(one)
		if err != nil {
			return err
		}
		b.Write(append(line, '\n'))
	}
	return os.WriteFile(path, b.Bytes(), 0o644)
}

func (r report) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	for _, row := range slices.Concat(r.costs(), [][]string{{}}, r.verdicts()) {
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	return w.Flush()
}

// costs is a table of each variant's cost and rate, against the first one of its measure.
func (r report) costs() [][]string {
	table := [][]string{{"cost (rate)", routed, docker, flannel, weft, weftSlow}}
	for _, m := range measures(r.Options) {
		variants := m.variants("")
		base := variants[0]
		row := []string{fmt.Sprintf("%s against %s", m.name, base)}
		for _, v := range variants[1:] {
			c := ratios(r.Samples, r.Options.rounds, m.name, v, base, cost)
			t := ratios(r.Samples, r.Options.rounds, m.name, v, base, rate)
			if len(c) == 0 {
				row = append(row, "")
				continue
			}
			slices.Sort(c)
			slices.Sort(t)
			row = append(row, fmt.Sprintf("%.2f (%.2f)", quantile(c, 0.5), quantile(t, 0.5)))
		}
		if m.local { // one variant, in weft's column
			row = []string{row[0], "", "", "", row[1], ""}
		}
		table = append(table, row)
	}
	return table
}

// verdicts is a table of what is compared with a bar, and of what is said beside.
func (r report) verdicts() [][]string {
	table := [][]string{{"measure", "against", "value", "quartiles", "bar", "holds"}}
	for _, l := range r.Lines {
		row := []string{l.Measure, l.Against, fmt.Sprintf("%.2f", l.Value), fmt.Sprintf("%.2f to %.2f", l.Low, l.High), "", ""}
		if l.Bar != nil {
			row[4], row[5] = fmt.Sprintf("%.2f", *l.Bar), "no"
			if *l.Holds {
				row[5] = "yes"
			}
		}
		table = append(table, row)
	}
	return table
}

// Marks around what a run writes into the page.
const (
	beginMark = "<!-- bench-overlay: written by make bench-overlay -->"
	endMark   = "<!-- bench-overlay: end -->"
)

// show puts tables and plots into the page.
func (r report) show() error {
	folder := strings.TrimSuffix(r.Options.page, ".md")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(folder, "overlay.svg"), r.plot(), 0o644); err != nil {
		return err
	}
	text, err := os.ReadFile(r.Options.page)
	if err != nil {
		return err
	}
	before, rest, found := strings.Cut(string(text), beginMark)
	_, after, closed := strings.Cut(rest, endMark)
	if !found || !closed {
		return fmt.Errorf("%s has no %q and %q", r.Options.page, beginMark, endMark)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s%s\n\n%s\n\n", before, beginMark, r.about())
	fmt.Fprintf(&b, "![CPU cost of each variant against the bare link](%s/overlay.svg)\n\n", filepath.Base(folder))
	b.WriteString(markdown(r.costs()) + "\n" + markdown(r.verdicts()) + "\n" + endMark + after)
	return os.WriteFile(r.Options.page, []byte(b.String()), 0o644)
}

func markdown(table [][]string) string {
	var b strings.Builder
	for i, row := range table {
		fmt.Fprintf(&b, "| %s |\n", strings.Join(row, " | "))
		if i == 0 {
			b.WriteString(strings.Repeat("|---", len(row)) + "|\n")
		}
	}
	return b.String()
}
