// SPDX-License-Identifier: Apache-2.0

package main

import "weft/tests/bench/report"

// bar is what a ratio of costs should not be above.
type bar struct {
	measure, variant, against string
	most                      float64 // 0: reported only
}

func bars() []bar {
	list := []bar{
		{"tcp_rr", weft, raw, 1.22},
		{"tcp_bulk", weft, raw, 1.12},
		{"tcp_crr", weft, raw, 1.25},
		{"tcp_rr", weft, routed, 1.00},
		{"tcp_bulk", weft, routed, 1.05},
		{"tcp_crr", weft, routed, 0.95},
		{"tcp_rr", weft, docker, 0.78},
		{"tcp_bulk", weft, docker, 0.78},
		{"tcp_crr", weft, docker, 0.78},
		{"tcp_rr", weft, flannel, 0.62},
		{"tcp_bulk", weft, flannel, 0.65},
		{"tcp_crr", weft, flannel, 0.52},
		{"local_tcp_rr", weftAtHome, bridged, 0.92},
		{"local_tcp_bulk", weftAtHome, bridged, 0},
		{"local_tcp_crr", weftAtHome, bridged, 0},
	}
	for _, m := range []string{
		"tcp_bulk_two_cores", "udp_rr", "udp_flood", "udp_gso", "tcp_rr_v6", "tcp_bulk_v6", "tcp_crr_v6", "udp_rr_v6", "udp_gso_v6",
	} {
		for _, against := range []string{raw, routed, docker, flannel} {
			list = append(list, bar{m, weft, against, 0})
		}
	}
	return list
}

// judge compares samples with the bars, each round by itself. On another link than the usual one, which
// suffix names, there are none.
func judge(samples []sample, rounds int, suffix string) []report.Line {
	var lines []report.Line
	for _, b := range bars() {
		if suffix != "" {
			b.most = 0
		}
		if r := ratios(samples, rounds, b.measure, b.variant, b.against, cost); len(r) > 0 {
			lines = append(lines, report.NewLine(b.measure+"_cost"+suffix, b.against, r, report.Bar{Most: b.most}))
		}
	}
	return lines
}

func cost(s sample) float64 { return s.Cost }
func rate(s sample) float64 { return s.Rate }

// ratios of a variant to another one, one for each round that has both.
func ratios(samples []sample, rounds int, measure, variant, against string, of func(sample) float64) []float64 {
	var list []float64
	for round := range rounds {
		var a, b float64
		for _, s := range samples {
			if s.Round == round && s.Measure == measure {
				switch s.Variant {
				case variant:
					a = of(s)
				case against:
					b = of(s)
				}
			}
		}
		if a > 0 && b > 0 {
			list = append(list, a/b)
		}
	}
	return list
}
