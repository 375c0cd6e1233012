// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"weft/tests/bench/report"
	"weft/tests/chaos/actor"
)

// outcome is what became of the clients during one event.
type outcome struct {
	event
	took     time.Duration
	connects map[string]actor.Connects // by client
	held     []actor.Held
	ends     []time.Duration // of tasks, from their signal to their end
}

// actor runs the traffic program as a client.
func (s *stage) actor(ctx context.Context, client string, args ...string) (*actor.Actor, error) {
	return actor.Start(ctx, s.host("h1"), s.pids[client], client == "client", s.traffic, args...)
}

// during lets one thing happen while both clients connect.
func (s *stage) during(ctx context.Context, e event) (outcome, error) {
	o := outcome{event: e, connects: make(map[string]actor.Connects)}
	running := make(map[string]*actor.Actor)
	for client := range s.pids {
		a, err := s.actor(ctx, client, "connect", "-rate", strconv.Itoa(s.o.rate), s.vip.String())
		if err != nil {
			return o, err
		}
		running[client] = a
	}
	began := time.Now()
	err := errors.Join(pause(ctx, 300*time.Millisecond), e.do(ctx, s, &o), pause(ctx, 300*time.Millisecond))
	o.took = time.Since(began)
	for client, a := range running {
		var c actor.Connects
		err = errors.Join(err, a.Finish(&c))
		o.connects[client] = c
	}
	return o, err
}

func (o outcome) print(out io.Writer) {
	fmt.Fprintf(out, "%s (%.1f s)\n", o.name, o.took.Seconds())
	for _, client := range []string{"client", "outside"} {
		c := o.connects[client]
		fmt.Fprintf(out, "  %-8s %d connections, %d failed (%d are allowed), %d after a second try; longest %s\n",
			client, c.Started, c.Failed, o.most[client], c.Delayed, c.Longest.Round(time.Millisecond))
		for text, n := range c.Errors {
			fmt.Fprintf(out, "    %d %s\n", n, text)
		}
	}
	for _, h := range o.held {
		fmt.Fprintf(out, "  held     %d answers, longest %s, cut: %q\n", h.Asked, h.Longest.Round(time.Millisecond), h.Cut)
	}
	if len(o.ends) > 0 {
		fmt.Fprintf(out, "  ends     %d tasks, half of them within %s, all within %s\n",
			len(o.ends), o.middle().Round(time.Millisecond), slices.Max(o.ends).Round(time.Millisecond))
	}
}

// middle is the median of the ends.
func (o outcome) middle() time.Duration {
	return slices.Sorted(slices.Values(o.ends))[len(o.ends)/2]
}

// line is a measure as the benchmarks write it; the runs are connections.
type line struct {
	Measure string   `json:"measure"`
	Against string   `json:"against"`
	Value   float64  `json:"value"`
	Bar     *float64 `json:"bar"`
	Holds   *bool    `json:"holds"`
	Runs    int      `json:"runs"`
}

func hold(measure, against string, value, most, runs int) line {
	bar, holds := float64(most), value <= most
	return line{measure, against, float64(value), &bar, &holds, runs}
}

func (o outcome) lines() (all []line) {
	for _, client := range []string{"client", "outside"} {
		c := o.connects[client]
		all = append(all, hold("connects_failed_"+client, o.name, c.Failed, o.most[client], c.Started),
			line{Measure: "connects_delayed_" + client, Against: o.name, Value: float64(c.Delayed), Runs: c.Started})
	}
	cut := 0
	for _, h := range o.held {
		if h.Cut != "" || h.Asked == 0 {
			cut++
		}
	}
	if len(o.held) > 0 {
		all = append(all, hold("connections_cut", o.name, cut, 0, len(o.held)))
	}
	if len(o.ends) > 0 {
		all = append(all, line{Measure: "task_end_ms", Against: o.name, Value: float64(o.middle().Microseconds()) / 1000, Runs: len(o.ends)})
	}
	return all
}

// sum writes the results, and errs when a bar was missed.
func (s *stage) sum(all []outcome) error {
	var list []line
	missed, failed, connects := 0, 0, 0
	for _, o := range all {
		for _, l := range o.lines() {
			if l.Holds != nil && !*l.Holds {
				missed++
			}
			list = append(list, l)
		}
		for _, c := range o.connects {
			failed, connects = failed+c.Failed, connects+c.Started
		}
	}
	fmt.Fprintf(s.out, "chaos-lb: %d of %d connections failed, over %d events; %d bars missed\n", failed, connects, len(all), missed)
	if s.o.Results != "" {
		if err := report.WriteLines(s.o.Results, list); err != nil {
			return err
		}
	}
	if missed > 0 {
		return errors.New("more failed than may")
	}
	return nil
}
