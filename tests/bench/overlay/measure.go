// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"

	"weft/tests/bench/ends"
	"weft/tests/bench/report"
)

// measure is one kind of conversation.
type measure struct {
	name  string // as results have it
	load  string // as tests/bench/load has it
	v6    bool
	two   bool // client and server on a core each, otherwise on the same one
	bytes bool // cost is per byte taken, otherwise per answer or datagram taken
	local bool // pairs of one host
}

func measures(o options) []measure {
	all := []measure{
		{name: "tcp_rr", load: "rr"},
		{name: "tcp_bulk", load: "bulk", bytes: true},
		{name: "tcp_crr", load: "crr"},
		{name: "tcp_bulk_two_cores", load: "bulk", bytes: true, two: true},
		{name: "udp_rr", load: "udp_rr"},
		{name: "udp_flood", load: "udp_flood", two: true},
		{name: "udp_gso", load: "udp_gso", bytes: true, two: true},
		{name: "tcp_rr_v6", load: "rr", v6: true},
		{name: "tcp_bulk_v6", load: "bulk", v6: true, bytes: true},
		{name: "tcp_crr_v6", load: "crr", v6: true},
		{name: "udp_rr_v6", load: "udp_rr", v6: true},
		{name: "udp_gso_v6", load: "udp_gso", v6: true, bytes: true, two: true},
		{name: "local_tcp_rr", load: "rr", local: true},
		{name: "local_tcp_bulk", load: "bulk", bytes: true, local: true},
		{name: "local_tcp_crr", load: "crr", local: true},
	}
	var chosen []measure
	for _, m := range all {
		if o.wants(m.name) {
			chosen = append(chosen, m)
		}
	}
	return chosen
}

func (m measure) variants(among string) []string {
	all := []string{raw, routed, docker, flannel, weft, weftSlow}
	if m.local {
		all = []string{bridged, weftAtHome}
	}
	if among == "" {
		return all
	}
	return slices.DeleteFunc(all, func(v string) bool { return !slices.Contains(strings.Split(among, ","), v) })
}

// sample is one conversation. Times are nanoseconds.
type sample struct {
	Round   int     `json:"round"`
	Measure string  `json:"measure"`
	Variant string  `json:"variant"`
	Cost    float64 `json:"cost"` // CPU time per unit: both ends and the kernel's threads
	Rate    float64 `json:"rate"` // units a second
	Client  int64   `json:"client"`
	Server  int64   `json:"server"`
	Softirq int64   `json:"softirq"`
	Sent    int64   `json:"sent"` // operations of the client
	Taken   int64   `json:"taken"`
	Span    int64   `json:"span"`
}

// rounds measures everything o.rounds times, in random order, one conversation at a time. The variants
// of a measure follow one another, so that a ratio is of neighbours in time.
func rounds(ctx context.Context, out io.Writer, t *topology, o options) ([]sample, error) {
	kernel, err := ends.Softirq()
	if err != nil {
		return nil, err
	}
	var samples []sample
	list := measures(o)
	for round := range o.rounds {
		rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		for _, m := range list {
			variants := m.variants(o.among)
			rand.Shuffle(len(variants), func(i, j int) { variants[i], variants[j] = variants[j], variants[i] })
			for _, v := range variants {
				if ctx.Err() != nil {
					return nil, ctx.Err()
				}
				s, err := converse(t.pairs[v], m, round%runtime.NumCPU(), o, kernel)
				if err != nil {
					return nil, fmt.Errorf("%s by %s: %w", m.name, v, err)
				}
				s.Round, s.Measure, s.Variant = round, m.name, v
				samples = append(samples, s)
			}
		}
		fmt.Fprintf(out, "round %d of %d, load %s\n", round+1, o.rounds, report.Load())
	}
	return samples, nil
}

// converse has a pair talk for a span.
func converse(p *pair, m measure, cpu int, o options, kernel ends.Threads) (sample, error) {
	server, client := p.server, p.client
	to := ends.Order{Serve: m.load, Addr: server.addr(m.v6), CPU: cpu}
	if m.two {
		to.CPU = (cpu + 1) % runtime.NumCPU()
	}
	t, err := ends.Converse(server.End, client.End, to,
		ends.Order{Run: m.load, Addr: to.Addr, CPU: cpu, Span: o.span.Milliseconds()}, kernel)
	if err != nil {
		return sample{}, err
	}
	units := t.Server.Ops
	if m.bytes {
		units = t.Server.Bytes
	}
	return sample{
		Client: t.Client.CPU, Server: t.Server.CPU, Softirq: t.Softirq, Sent: t.Client.Ops, Taken: units, Span: t.Client.Span,
		Cost: float64(t.CPU()) / float64(units), Rate: float64(units) / float64(t.Client.Span) * 1e9,
	}, nil
}
