// SPDX-License-Identifier: Apache-2.0

// Command lb measures VIPs: what a connection by way of one costs beside a direct one and beside
// nftables and iptables, how the choice does where backends are slow or dead, and what many VIPs take.
// Everything runs in network namespaces made here.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"

	"weft/tests/bench/ends"
	"weft/tests/bench/report"
	"weft/tests/lab/owned"
)

// options of a run.
type options struct {
	rounds  int
	span    time.Duration
	short   bool
	results string // folder
	page    string // with the table; empty: none
}

func main() {
	var o options
	flag.IntVar(&o.rounds, "rounds", 12, "rounds; each measures everything once, in random order")
	flag.DurationVar(&o.span, "span", 200*time.Millisecond, "how long one conversation lasts; choices are watched for ten of them")
	flag.BoolVar(&o.short, "short", false, "one short round: that all of it works, no numbers")
	flag.StringVar(&o.results, "results", "tests/bench/results", "folder for what was measured; empty: it is only printed")
	flag.StringVar(&o.page, "page", "", "markdown page that shows it; the plot goes beside it")
	flag.Parse()
	if err := run(context.Background(), os.Stdout, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench-lb:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer, o options) (err error) {
	if o.short {
		o.rounds, o.span = 1, 50*time.Millisecond
	}
	// The kernel ends our processes with the thread that started them: this one, which stays.
	runtime.LockOSThread()
	if os.Geteuid() != 0 {
		return errors.New("it needs root: it makes network namespaces and loads BPF programs")
	}
	dir, err := owned.Folder(os.TempDir(), "weft-bench-load.", os.RemoveAll)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	load := filepath.Join(dir, "load")
	if text, err := exec.CommandContext(ctx, "go", "build", "-o", load, "./tests/bench/load").CombinedOutput(); err != nil {
		return fmt.Errorf("build load: %w: %s", err, text)
	}
	s, err := newStage(load)
	defer func() { err = errors.Join(err, s.down()) }()
	if err != nil {
		return err
	}
	if err := s.loadRivals(); err != nil {
		return err
	}
	began, before := time.Now(), report.Load()
	costs, err := s.paths(out, o)
	if err != nil {
		return err
	}
	lines := costs.lines()
	for _, more := range []func(options) ([]report.Line, error){s.choices, s.scale} {
		found, err := more(o)
		if err != nil {
			return err
		}
		lines = append(lines, found...)
	}
	if o.short {
		fmt.Fprintf(out, "bench-lb: %d lines, all of it works\n", len(lines))
		return nil
	}
	return write(out, o, costs, lines, fmt.Sprintf("%s, %d rounds", report.About(began, before), o.rounds))
}

// costs are nanoseconds of CPU a question, by load (rr, crr) and variant, one for each round.
type costs map[string]map[string][]float64

// paths measures connections and questions by each way, neighbours in time.
func (s *stage) paths(out io.Writer, o options) (costs, error) {
	kernel, err := ends.Softirq()
	if err != nil {
		return nil, err
	}
	found := costs{"rr": {}, "crr": {}}
	for round := range o.rounds {
		for load, by := range found {
			for _, n := range counts {
				if err := s.write(s.rowsOf(n)); err != nil {
					return nil, err
				}
				ways := []string{rival(direct, n), rival(weft, n), rival(nft, n), rival(iptables, n)}
				rand.Shuffle(len(ways), func(i, j int) { ways[i], ways[j] = ways[j], ways[i] })
				for _, way := range ways {
					cost, err := s.path(way, n, load, round%runtime.NumCPU(), o.span.Milliseconds(), kernel)
					if err != nil {
						return nil, fmt.Errorf("%s by %s: %w", load, way, err)
					}
					by[way] = append(by[way], cost)
				}
			}
		}
		fmt.Fprintf(out, "round %d of %d, load %s\n", round+1, o.rounds, report.Load())
	}
	return found, nil
}

func (s *stage) path(way string, n int, load string, cpu int, span int64, kernel ends.Threads) (float64, error) {
	name, _, _ := strings.Cut(way, "-")
	c, ask := s.seats[name], service(n-1)
	if c == nil {
		c = s.seats[way]
	}
	if name == direct {
		ask = c.server
	}
	return converse(s.server, c.End, load, netip.AddrPortFrom(c.server.Addr(), serverPort), ask, cpu, span, kernel)
}

// lines compares Weft with the others, round by round.
func (c costs) lines() []report.Line {
	var lines []report.Line
	for _, load := range []string{"crr", "rr"} {
		most := map[string]float64{"crr": 1.05, "rr": 1.03}[load]
		for _, n := range counts {
			for _, against := range []string{direct, nft, iptables} {
				bar := report.Bar{Most: 1}
				if against == direct {
					bar.Most = most
				}
				lines = append(lines, report.NewLine(fmt.Sprintf("%s_cost_%d", load, n), against, ratios(c[load][rival(weft, n)], c[load][rival(against, n)]), bar))
			}
		}
	}
	return lines
}

func ratios(a, b []float64) []float64 {
	list := make([]float64, len(a))
	for i := range a {
		list[i] = a[i] / b[i]
	}
	return list
}

// plot shows what a connection and a question cost against a direct one.
func (c costs) plot() report.Bars {
	p := report.Bars{Title: "CPU cost through a VIP, the last of many services", Unit: "direct = 1"}
	for _, load := range []string{"crr", "rr"} {
		for _, n := range counts {
			g := report.Group{Name: fmt.Sprintf("%s, %d services", load, n)}
			for _, way := range []string{weft, nft, iptables} {
				l := report.NewLine("", "", ratios(c[load][rival(way, n)], c[load][rival(direct, n)]), report.Bar{})
				g.Values = append(g.Values, report.Value{Name: way, Median: l.Value, Low: l.Low, High: l.High, Ours: way == weft})
			}
			p.Groups = append(p.Groups, g)
		}
	}
	return p
}

func write(out io.Writer, o options, c costs, lines []report.Line, about string) error {
	table := report.Table(lines)
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "\n%s\n\n", about)
	for _, r := range table {
		fmt.Fprintln(w, strings.Join(r, "\t"))
	}
	if err := w.Flush(); err != nil || o.results == "" {
		return err
	}
	err := report.ReplaceLines(filepath.Join(o.results, "lb.jsonl"), lines)
	if o.page == "" {
		return err
	}
	folder := strings.TrimSuffix(o.page, ".md")
	return errors.Join(err,
		os.MkdirAll(folder, 0o755),
		os.WriteFile(filepath.Join(folder, "lb.svg"), c.plot().SVG(), 0o644),
		report.Show(o.page, "lb", fmt.Sprintf("%s.\n\n![CPU cost through a VIP](%s/lb.svg)\n\n%s", about, filepath.Base(folder), report.Markdown(table))),
	)
}
