// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"weft/tests/bench/report"
)

// bar is how many times less CPU one of ours takes per answer than another, the best of those named.
type bar struct {
	measure, ours string
	against       []string
	least         float64 // 0: reported only
}

func bars() []bar {
	best := []string{nsd, knot}
	return []bar{
		{"a", kernel, []string{file}, 12},
		{"a", kernel, []string{hosts}, 6},
		{"a", kernel, best, 2.5},
		{"a", kernel, []string{unbound}, 0},
		{"a", kernel, []string{plain}, 0},
		{"a", kernel, []string{goAlone}, 0},
		{"a", kernel, []string{mirror}, 0},
		{"a", mirror, []string{file}, 0}, // what the bars above could be at most
		{"a", mirror, []string{hosts}, 0},
		{"a", mirror, best, 0},
		{"a_large", kernel, []string{file}, 8},
		{"a_large", kernel, best, 2},
		{"a_large", mirror, []string{file}, 0},
		{"a_large_uniform", kernel, []string{file}, 0},
		{"a_large_uniform", kernel, best, 0},
		{"srv", kernel, []string{file}, 8},
		{"srv", kernel, best, 2},
		{"a", goAlone, []string{plain}, 1},
		{"a", goAlone, []string{hosts}, 1.3},
		{"a", goAlone, []string{file}, 1.3},
		{"a", goAlone, best, 0},
		{"srv", goAlone, []string{file}, 1.3},
		{"a", weftMesos, []string{mesosDNS}, 0},
		{"srv", weftMesos, []string{mesosDNS}, 0},
	}
}

// judge compares, each round by itself.
func judge(samples []sample) []report.Line {
	var lines []report.Line
	for _, b := range bars() {
		runs := paired(samples, b.measure, b.ours, b.against, func(s sample) float64 { return s.Cost })
		if len(runs) == 0 {
			continue
		}
		name := fmt.Sprintf("%s_queries_per_cpu_second_%s", strings.ReplaceAll(b.ours, "-", "_"), b.measure)
		lines = append(lines, report.NewLine(name, strings.Join(b.against, " or "), runs, report.Bar{Least: b.least}))
	}
	others := slices.DeleteFunc(slices.Clone(allServers), func(n string) bool { return n == kernel || n == goAlone || n == mirror })
	var p50 []float64
	for _, r := range paired(samples, "latency", kernel, others, func(s sample) float64 { return s.P50 }) {
		p50 = append(p50, 1/r)
	}
	if len(p50) > 0 {
		lines = append(lines, report.NewLine("latency_p50_ratio", "the best of the others", p50, report.Bar{Most: 0.25}))
	}
	lines = append(lines,
		report.NewLine("latency_p50_us", "-", values(samples, "latency", kernel, func(s sample) float64 { return s.P50 / 1e3 }), report.Bar{}),
		report.NewLine("latency_p99.9_us", "-", values(samples, "latency", kernel, func(s sample) float64 { return s.P999 / 1e3 }), report.Bar{Most: 20}),
		report.NewLine("latency_p99.9_us_of_mirror", "-", values(samples, "latency", mirror, func(s sample) float64 { return s.P999 / 1e3 }), report.Bar{}))
	return lines
}

func values(samples []sample, measure, server string, of func(sample) float64) []float64 {
	var list []float64
	for _, s := range samples {
		if s.Measure == measure && s.Server == server {
			list = append(list, of(s))
		}
	}
	return list
}

// paired are, for each round, what another takes over what ours takes. Of several others it is the one
// that is best in that round: the strictest reading of a bar that names more than one.
func paired(samples []sample, measure, ours string, others []string, of func(sample) float64) []float64 {
	mine, best := map[int]float64{}, map[int]float64{}
	for _, s := range samples {
		v := of(s)
		switch {
		case s.Measure != measure || v <= 0:
		case s.Server == ours:
			mine[s.Round] = v
		case slices.Contains(others, s.Server) && (best[s.Round] == 0 || v < best[s.Round]):
			best[s.Round] = v
		}
	}
	var list []float64
	for _, round := range slices.Sorted(maps.Keys(mine)) {
		if other := best[round]; other > 0 {
			list = append(list, other/mine[round])
		}
	}
	return list
}

// write prints the tables and writes results, page and plot.
func write(out io.Writer, o options, samples []sample, lines []report.Line, about string) error {
	costs := costTable(samples)
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	for _, row := range slices.Concat(costs, [][]string{{}}, report.Table(lines)) {
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	if err := w.Flush(); err != nil || o.results == "" {
		return err
	}
	err := errors.Join(
		report.ReplaceLines(filepath.Join(o.results, "discovery.jsonl"), lines),
		report.WriteLines(filepath.Join(o.results, "discovery-raw.jsonl"), samples))
	if o.page == "" || err != nil {
		return err
	}
	folder := strings.TrimSuffix(o.page, ".md")
	text := fmt.Sprintf("%s; %d rounds of %s each, one client thread with %d questions open.\n\n![CPU time per answer](%s/dns.svg)\n\n%s\n%s",
		about, o.rounds, o.span, window, filepath.Base(folder), report.Markdown(costs), report.Markdown(report.Table(lines)))
	return errors.Join(
		os.MkdirAll(folder, 0o755),
		os.WriteFile(filepath.Join(folder, "dns.svg"), plot(samples).SVG(), 0o644),
		report.Show(o.page, "dns", text))
}

// costTable has a row for each server: medians.
func costTable(samples []sample) [][]string {
	list := []string{"a", "srv", "a_large", "a_large_uniform"}
	head := []string{"server"}
	for _, m := range list {
		head = append(head, m+", ns of CPU (answers/s)")
	}
	table := [][]string{append(head, "latency p50, us", "p99.9, us")}
	for _, name := range allServers {
		row := []string{name}
		for _, m := range list {
			cell := ""
			if costs := values(samples, m, name, func(s sample) float64 { return s.Cost }); len(costs) > 0 {
				cell = fmt.Sprintf("%.0f (%.0fk)", report.Median(costs), report.Median(values(samples, m, name, func(s sample) float64 { return s.Rate / 1e3 })))
			}
			row = append(row, cell)
		}
		for _, of := range []func(sample) float64{func(s sample) float64 { return s.P50 }, func(s sample) float64 { return s.P999 }} {
			row = append(row, fmt.Sprintf("%.1f", report.Median(values(samples, "latency", name, of))/1e3))
		}
		table = append(table, row)
	}
	return table
}

func plot(samples []sample) report.Bars {
	p := report.Bars{Title: "CPU time for one answer, client and server", Unit: "ns"}
	for _, m := range []struct{ name, text string }{
		{"a", "A, 10,000 names"},
		{"srv", "SRV"},
		{"a_large", "A, 1,000,000 names of which 10,000 are asked"},
		{"a_large_uniform", "A, 1,000,000 names, all asked alike"},
	} {
		g := report.Group{Name: m.text}
		for _, name := range allServers {
			costs := slices.Sorted(slices.Values(values(samples, m.name, name, func(s sample) float64 { return s.Cost })))
			if len(costs) > 0 {
				g.Values = append(g.Values, report.Value{
					Name: name, Median: report.Quantile(costs, 0.5), Low: report.Quantile(costs, 0.25), High: report.Quantile(costs, 0.75),
					Ours: strings.HasPrefix(name, "weft"),
				})
			}
		}
		if len(g.Values) > 0 {
			p.Groups = append(p.Groups, g)
		}
	}
	return p
}
