// SPDX-License-Identifier: Apache-2.0

// Command ipvs compares a VIP of Weft with one of IPVS by the instructions that a question and its answer take, UDP,
// client and server in namespaces of one emulated guest whose clock counts instructions (tests/kernels -bench): so the
// machine that it runs on, and what else that does, does not matter. What is measured is guest_test.go, which runs there.
//
//	ipvs [-kernel SERIES] [-results FILE] [-page FILE]
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"weft/tests/bench/report"
)

const (
	barIPVS = 0.98 // of IPVS' instructions
	barFlat = 1.01 // of those with one service
	inGuest = "./tests/bench/ipvs"
)

func main() {
	kernel := flag.String("kernel", "6.12", "series of Debian's kernel that the guest runs (.ci/kernels.sh fetches it)")
	results := flag.String("results", "", "put a JSON line per measure into this file")
	page := flag.String("page", "", "markdown page that shows them")
	flag.Parse()
	if err := run(context.Background(), *kernel, *results, *page); err != nil {
		fmt.Fprintln(os.Stderr, "ipvs:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, kernel, results, page string) error {
	began, before := time.Now(), report.Load()
	cmd := exec.CommandContext(ctx, "go", "run", "./tests/kernels", "-modules", "ip_vs,ip_vs_rr", "-bench", "RoundTrip", kernel, inGuest)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("run the guest: %w\n%s", err, out)
	}
	lines, err := compare(counted(out))
	if err != nil {
		return fmt.Errorf("%w in what the guest printed:\n%s", err, out)
	}
	table := report.Table(lines)
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	missed := 0
	for i, r := range table {
		fmt.Fprintln(w, strings.Join(r, "\t"))
		if i > 0 && lines[i-1].Holds != nil && !*lines[i-1].Holds {
			missed++
		}
	}
	err = w.Flush()
	if results != "" {
		err = errors.Join(err, report.ReplaceLines(results, lines))
	}
	if page != "" {
		about := report.About(began, before) + "; guest: Debian's " + kernel
		err = errors.Join(err, report.Show(page, "ipvs", about+".\n\n"+report.Markdown(table)))
	}
	if missed > 0 {
		err = errors.Join(err, fmt.Errorf("%d bars are missed", missed))
	}
	return err
}

var counts = regexp.MustCompile(`(?m)^Benchmark\S*?RoundTrip/(\S+?)(?:-\d+)?\s.*?\s([0-9.]+) instructions/question`)

// counted returns instructions by what was measured: SOCKET/WAY/SERVICES.
func counted(out []byte) map[string]float64 {
	by := make(map[string]float64)
	for _, m := range counts.FindAllSubmatch(bytes.ReplaceAll(out, []byte("\r"), nil), -1) {
		n, err := strconv.ParseFloat(string(m[2]), 64)
		if err == nil {
			by[string(m[1])] = n
		}
	}
	return by
}

// compare makes lines of what was counted.
func compare(by map[string]float64) (lines []report.Line, err error) {
	at := func(socket, way string, services int) float64 {
		name := fmt.Sprintf("%s/%s/%d", socket, way, services)
		if by[name] == 0 {
			err = errors.Join(err, fmt.Errorf("no count of %s", name))
		}
		return by[name]
	}
	one := func(measure, against string, value float64, bar report.Bar) {
		lines = append(lines, report.NewLine(measure, against, []float64{value}, bar))
	}
	for _, socket := range sockets {
		for _, n := range serviceCounts {
			weft := at(socket, wayWeft, n)
			for _, way := range []string{wayWeft, wayIPVS} {
				one(fmt.Sprintf("udp_%s_instructions_%d", socket, n), way, at(socket, way, n), report.Bar{})
			}
			one(fmt.Sprintf("udp_%s_instructions_%d", socket, n), "ratio to "+wayIPVS, weft/at(socket, wayIPVS, n), report.Bar{Most: barIPVS})
			one(fmt.Sprintf("udp_%s_instructions_%d", socket, n), "ratio to "+wayDirect, weft/at(socket, wayDirect, 0), report.Bar{})
		}
		first, last := serviceCounts[0], slices.Max(serviceCounts)
		one(fmt.Sprintf("udp_%s_instructions_%d_to_%d", socket, last, first), "itself", at(socket, wayWeft, last)/at(socket, wayWeft, first), report.Bar{Most: barFlat})
	}
	return lines, err
}
