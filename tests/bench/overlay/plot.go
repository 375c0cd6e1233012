// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"slices"

	"weft/tests/bench/report"
)

// Geometry of the plot, pixels.
const (
	plotLeft   = 130
	plotTop    = 46
	barHeight  = 12
	groupGap   = 14
	plotScale  = 170 // of a ratio of 1
	plotWidth  = 720
	plotRight  = 3.2 // ratio where bars end; what is longer is cut and says so
	labelGap   = 5
	legendStep = 96
)

// colours of variants, readable for the colour-blind and on dark and white.
func colour(variant string) string {
	switch variant {
	case routed:
		return "#999999"
	case docker:
		return "#56b4e9"
	case flannel:
		return "#e69f00"
	case weft:
		return "#009e73"
	default:
		return "#8fd0bb"
	}
}

// plot draws a bar for each variant and measure: its CPU cost against the bare link, with the
// quartiles as a thin line.
func (r result) plot() []byte {
	var body bytes.Buffer
	y := plotTop
	variants := []string{routed, docker, flannel, weft, weftSlow}
	for _, m := range measures(r.Options) {
		if m.local {
			continue
		}
		top := y
		for _, v := range variants {
			c := ratios(r.Samples, r.Options.rounds, m.name, v, raw, cost)
			if len(c) == 0 {
				continue
			}
			slices.Sort(c)
			drawBar(&body, y, v, c)
			y += barHeight
		}
		fmt.Fprintf(&body, `<text x="%d" y="%d" text-anchor="end">%s</text>`+"\n", plotLeft-labelGap, (top+y)/2+4, m.name)
		y += groupGap
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="11">`+"\n", plotWidth, y+10)
	b.WriteString("<style>text{fill:#333}@media(prefers-color-scheme:dark){text{fill:#ccc}}</style>\n")
	fmt.Fprintf(&b, `<text x="%d" y="16" font-size="13">CPU cost against the bare link between two hosts (1 = no overlay; shorter is better)</text>`+"\n", labelGap)
	for i, v := range variants {
		fmt.Fprintf(&b, `<rect x="%d" y="24" width="10" height="10" fill="%s"/><text x="%d" y="33">%s</text>`+"\n",
			plotLeft+i*legendStep, colour(v), plotLeft+i*legendStep+14, v)
	}
	fmt.Fprintf(&b, `<line x1="%d" y1="%d" x2="%d" y2="%d" stroke="#888" stroke-dasharray="3 3"/>`+"\n",
		plotLeft+plotScale, plotTop-6, plotLeft+plotScale, y-groupGap)
	b.Write(body.Bytes())
	b.WriteString("</svg>\n")
	return b.Bytes()
}

func drawBar(b *bytes.Buffer, y int, variant string, sorted []float64) {
	at := func(ratio float64) float64 { return plotLeft + min(ratio, plotRight)*plotScale }
	median := report.Quantile(sorted, 0.5)
	middle := float64(y) + float64(barHeight-2)/2
	fmt.Fprintf(b, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"><title>%s %.2f</title></rect>`,
		plotLeft, y, at(median)-plotLeft, barHeight-2, colour(variant), variant, median)
	fmt.Fprintf(b, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="#555"/>`,
		at(report.Quantile(sorted, 0.25)), middle, at(report.Quantile(sorted, 0.75)), middle)
	fmt.Fprintf(b, `<text x="%.1f" y="%d" font-size="9">%.2f</text>`+"\n", at(report.Quantile(sorted, 0.75))+3, y+barHeight-3, median)
}
