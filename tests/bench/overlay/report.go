// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"weft/tests/bench/report"
)

// result is what one run found.
type result struct {
	Options options
	Samples []sample
	Lines   []report.Line
	Began   time.Time
	Load    string // of the machine, before
}

// write prints the tables and writes results, page and plots.
func (r result) write(out io.Writer) error {
	about := r.about()
	fmt.Fprintf(out, "\n%s\n\n", about)
	if err := show(out, slices.Concat(r.costs(), [][]string{{}}, report.Table(r.Lines))); err != nil {
		return err
	}
	if r.Options.results == "" {
		return nil
	}
	err := errors.Join(
		report.ReplaceLines(filepath.Join(r.Options.results, "overlay.jsonl"), r.Lines),
		report.WriteLines(filepath.Join(r.Options.results, "overlay-raw.jsonl"), r.Samples),
	)
	if r.Options.page == "" {
		return err
	}
	folder := strings.TrimSuffix(r.Options.page, ".md")
	return errors.Join(err, os.MkdirAll(folder, 0o755),
		os.WriteFile(filepath.Join(folder, "overlay.svg"), r.plot(), 0o644),
		report.Show(r.Options.page, "overlay", fmt.Sprintf("%s\n\n![CPU cost of each variant against the bare link](%s/overlay.svg)\n\n%s\n%s",
			about, filepath.Base(folder), report.Markdown(r.costs()), report.Markdown(report.Table(r.Lines)))))
}

// about says what the numbers are of.
func (r result) about() string {
	gso := "on"
	if !r.Options.gso {
		gso = "off"
	}
	return fmt.Sprintf("%s, %d rounds of %s each, link MTU %d, segmentation by the link %s.",
		report.About(r.Began, r.Load), r.Options.rounds, r.Options.span, r.Options.mtu, gso)
}

// show prints a table.
func show(out io.Writer, table [][]string) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	for _, row := range table {
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	return w.Flush()
}

// costs is a table of each variant's cost and rate, against the first one of its measure.
func (r result) costs() [][]string {
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
			row = append(row, fmt.Sprintf("%.2f (%.2f)", report.Quantile(c, 0.5), report.Quantile(t, 0.5)))
		}
		if m.local { // one variant, in weft's column
			row = []string{row[0], "", "", "", row[1], ""}
		}
		table = append(table, row)
	}
	return table
}
