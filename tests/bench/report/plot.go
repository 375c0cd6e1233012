// SPDX-License-Identifier: Apache-2.0

package report

import (
	"bytes"
	"fmt"
	"math"
)

// Bars is a plot: for each group, a bar for each of its values.
type Bars struct {
	Title  string
	Unit   string
	Groups []Group
}

// Group has one bar for each value.
type Group struct {
	Name   string
	Values []Value
}

// Value is one bar.
type Value struct {
	Name   string
	Median float64
	Low    float64 // quartiles, a thin line
	High   float64
	Ours   bool
}

// Geometry, pixels. Bars are on a logarithmic scale: what is compared differs by tens.
const (
	plotWidth = 720
	plotLeft  = 210
	plotTop   = 40
	barHeight = 13
	groupGap  = 22
	plotRight = 60 // room for the last number
)

// SVG draws the plot, readable on dark and white and for the colour-blind.
func (p Bars) SVG() []byte {
	least, most := math.Inf(1), 0.0
	for _, g := range p.Groups {
		for _, v := range g.Values {
			least, most = min(least, v.Low), max(most, v.High)
		}
	}
	from := math.Floor(math.Log10(least))
	scale := (plotWidth - plotLeft - plotRight) / (math.Log10(most) - from)
	at := func(v float64) float64 { return plotLeft + (math.Log10(v)-from)*scale }
	var body bytes.Buffer
	y := plotTop
	for _, g := range p.Groups {
		fmt.Fprintf(&body, `<text x="5" y="%d" font-weight="bold">%s</text>`+"\n", y+barHeight-3, g.Name)
		y += barHeight + 3
		for _, v := range g.Values {
			colour := "#8a9ba8"
			if v.Ours {
				colour = "#009e73"
			}
			middle := float64(y) + float64(barHeight-2)/2
			fmt.Fprintf(&body, `<text x="%d" y="%d" text-anchor="end">%s</text>`, plotLeft-6, y+barHeight-3, v.Name)
			fmt.Fprintf(&body, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>`, plotLeft, y, at(v.Median)-plotLeft, barHeight-2, colour)
			fmt.Fprintf(&body, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="#555"/>`, at(v.Low), middle, at(v.High), middle)
			fmt.Fprintf(&body, `<text x="%.1f" y="%d" font-size="10">%s</text>`+"\n", at(v.High)+4, y+barHeight-3, number(v.Median))
			y += barHeight
		}
		y += groupGap - barHeight
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="11">`+"\n", plotWidth, y+6)
	b.WriteString("<style>text{fill:#333}@media(prefers-color-scheme:dark){text{fill:#ccc}}</style>\n")
	fmt.Fprintf(&b, `<text x="5" y="18" font-size="13">%s (%s, logarithmic)</text>`+"\n", p.Title, p.Unit)
	b.Write(body.Bytes())
	b.WriteString("</svg>\n")
	return b.Bytes()
}
