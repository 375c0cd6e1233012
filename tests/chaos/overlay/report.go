// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"
)

// outcome is what became of the traffic during one event.
type outcome struct {
	name     string
	costs    bool // see event
	took     time.Duration
	sent     []sent
	arrivals []arrivals
	connects []connects
	held     []held
	overrun  int   // datagrams that the receiving program was too slow for
	drops    drops // by kernel and programs
}

// total is an outcome in numbers.
type total struct {
	sent, lost, refused, skipped, twice int
	connects, failed, delayed, cut      int
	gap, delay, connect, answer         time.Duration
	gaps                                []int
}

func (o outcome) total() total {
	t := total{gaps: make([]int, len(bounds))}
	for _, s := range o.sent {
		t.sent += s.Sent
		t.lost += s.Sent
		t.refused += s.Refused
		t.skipped += s.Skipped
	}
	for _, a := range o.arrivals {
		t.lost -= a.Received
		t.twice += a.Twice
		t.gap = max(t.gap, a.Longest)
		t.delay = max(t.delay, a.Delay)
		for i, n := range a.Gaps {
			t.gaps[i] += n
		}
	}
	for _, c := range o.connects {
		t.connects += c.Started
		t.failed += c.Failed
		t.delayed += c.Delayed
		t.connect = max(t.connect, c.Longest)
	}
	for _, h := range o.held {
		t.answer = max(t.answer, h.Longest)
		if h.Cut != "" {
			t.cut++
		}
	}
	return t
}

// bounds name the classes of gaps that traffic counts.
var bounds = [...]string{"<1ms", "<5ms", "<20ms", "<100ms", "<500ms", "more"}

func (o outcome) print(out io.Writer) {
	t := o.total()
	fmt.Fprintf(out, "%s (%.1f s)\n", o.name, o.took.Seconds())
	fmt.Fprintf(out, "  datagrams    %d sent, %d lost; longest way %s, longest gap %s\n", t.sent, t.lost, round(t.delay), round(t.gap))
	var gaps []string
	for i, n := range t.gaps {
		gaps = append(gaps, fmt.Sprintf("%s %d", bounds[i], n))
	}
	fmt.Fprintf(out, "  gaps         %s\n", strings.Join(gaps, ", "))
	fmt.Fprintf(out, "  connections  %d opened, %d failed, %d after a second try; longest %s\n", t.connects, t.failed, t.delayed, round(t.connect))
	fmt.Fprintf(out, "  held         %d, %d cut; longest answer %s\n", len(o.held), t.cut, round(t.answer))
	for _, c := range o.connects {
		for text, n := range c.Errors {
			fmt.Fprintf(out, "    %d connections: %s\n", n, text)
		}
	}
	for _, h := range o.held {
		if h.Cut != "" {
			fmt.Fprintf(out, "    held connection: %s\n", h.Cut)
		}
	}
	if t.twice+t.refused+t.skipped+o.overrun > 0 {
		fmt.Fprintf(out, "  beside       %d came twice, %d refused by the sender's kernel, %d not sent in time, %d lost by the receiver's queue\n",
			t.twice, t.refused, t.skipped, o.overrun)
	}
	if t.lost+t.failed+t.delayed+t.cut == 0 {
		return
	}
	for _, why := range slices.Sorted(maps.Keys(o.drops)) {
		fmt.Fprintf(out, "    %-30s %d\n", why, o.drops[why])
	}
}

func round(d time.Duration) time.Duration { return d.Round(10 * time.Microsecond) }

// line is a measure as the benchmarks write it.
type line struct {
	Measure string   `json:"measure"`
	Against string   `json:"against"`
	Value   float64  `json:"value"`
	Bar     *float64 `json:"bar"`
	Holds   *bool    `json:"holds"`
	Runs    int      `json:"runs"` // datagrams sent, connections opened, connections held
}

func lines(against string, t total, held int) []line {
	bar := 0.0
	hold := func(measure string, value, of int) line {
		holds := value == 0
		return line{measure, against, float64(value), &bar, &holds, of}
	}
	tell := func(measure string, value float64, of int) line {
		return line{Measure: measure, Against: against, Value: value, Runs: of}
	}
	return []line{
		hold("packets_lost", t.lost, t.sent), hold("connects_failed", t.failed, t.connects), hold("connections_cut", t.cut, held),
		tell("connects_delayed", float64(t.delayed), t.connects),
		tell("longest_gap_ms", float64(t.gap.Microseconds())/1000, t.sent),
	}
}

// sum prints the last line and writes the results.
func (s *stage) sum(all []outcome) error {
	var list []line
	var sum total
	held := 0
	events := 0
	for _, o := range all {
		t := o.total()
		told := lines(o.name, t, len(o.held))
		if o.costs {
			for i := range told {
				told[i].Bar, told[i].Holds = nil, nil
			}
			list = append(list, told...)
			continue
		}
		list = append(list, told...)
		events++
		sum.sent, sum.lost, sum.twice = sum.sent+t.sent, sum.lost+t.lost, sum.twice+t.twice
		sum.connects, sum.failed, sum.delayed = sum.connects+t.connects, sum.failed+t.failed, sum.delayed+t.delayed
		sum.cut, sum.gap, held = sum.cut+t.cut, max(sum.gap, t.gap), held+len(o.held)
	}
	list = append(list, lines("every event", sum, held)...)
	list[len(list)-len(lines("", sum, held))].Measure = "packets_lost_over_events"
	fmt.Fprintf(s.out, "chaos: lost = %d of %d datagrams, %d of %d connections failed (%d after a second try), %d of %d held ones cut, over %d events\n",
		sum.lost, sum.sent, sum.failed, sum.connects, sum.delayed, sum.cut, held, events)
	if s.o.Results != "" {
		if err := write(s.o.Results, list); err != nil {
			return err
		}
	}
	if sum.lost+sum.failed+sum.cut+sum.twice > 0 {
		return errors.New("something was lost")
	}
	return nil
}

func write(path string, list []line) error {
	var b bytes.Buffer
	for _, l := range list {
		if err := json.NewEncoder(&b).Encode(l); err != nil {
			return err
		}
	}
	return os.WriteFile(path, b.Bytes(), 0o644)
}
