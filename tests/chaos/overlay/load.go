// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"weft/tests/chaos/actor"
	"weft/tests/chaos/script"
)

// start runs the traffic program in a task's network.
func (s *stage) start(ctx context.Context, task string, below bool, args ...string) (*actor.Actor, error) {
	e := s.tasks[task]
	return actor.Start(ctx, s.host(string(e.Node)), e.OwnerPID, below, s.traffic, args...)
}

// What traffic prints; see tests/chaos/traffic.
type (
	sent struct {
		Flow                   uint32
		Sent, Refused, Skipped int
	}
	arrivals struct {
		Flow            uint32
		Received, Twice int
		Gaps            []int
		Longest, Delay  time.Duration
	}
	received struct {
		Flows   []arrivals
		Overrun int
	}
	connects = actor.Connects
	held     = actor.Held
)

// load is the traffic of one event.
type load struct {
	senders, connectors, holders []*actor.Actor
}

// traffic starts all of it: of the rates a tenth more goes between tasks of one host.
func (s *stage) begin(ctx context.Context) (*load, error) {
	l := new(load)
	add := func(list *[]*actor.Actor, task string, below bool, args ...string) error {
		p, err := s.start(ctx, task, below, args...)
		*list = append(*list, p)
		return err
	}
	var errs []error
	for _, way := range []struct {
		from, to      string
		udp, connects int
	}{
		{"client1", "server2", s.o.udp / 4, s.o.connects / 2},
		{"client2", "server1", s.o.udp / 4, 0},
		{"client1", "server1", s.o.udp / 40, s.o.connects / 20},
	} {
		for _, addr := range s.tasks[way.to].Addrs() {
			s.flow++
			at := netip.AddrPortFrom(addr, 9001).String()
			errs = append(errs, add(&l.senders, way.from, true, "send", "-flow", fmt.Sprint(s.flow), "-rate", fmt.Sprint(way.udp), addr.String()))
			if way.connects > 0 {
				errs = append(errs, add(&l.connectors, way.from, true, "connect", "-rate", fmt.Sprint(way.connects), at),
					add(&l.holders, way.from, true, "hold", at))
			}
		}
	}
	for task, below := range map[string]bool{"client1": true, "outside1": false} {
		errs = append(errs, add(&l.connectors, task, below, "connect", "-rate", fmt.Sprint(s.o.connects/10), s.vip.String()),
			add(&l.holders, task, below, "hold", s.vip.String()))
	}
	return l, errors.Join(errs...)
}

// stop ends the traffic and collects what it counted.
func (s *stage) stop(l *load, o *outcome) error {
	for _, p := range l.senders {
		var r sent
		if err := p.Finish(&r); err != nil {
			return fmt.Errorf("sender: %w", err)
		}
		o.sent = append(o.sent, r)
	}
	for _, p := range l.connectors {
		var r connects
		if err := p.Finish(&r); err != nil {
			return fmt.Errorf("connects: %w", err)
		}
		o.connects = append(o.connects, r)
	}
	for _, p := range l.holders {
		var r held
		if err := errors.Join(p.Ask(&r), p.End()); err != nil {
			return fmt.Errorf("held connection: %w", err)
		}
		o.held = append(o.held, r)
	}
	return s.arrived(o)
}

// arrived asks the servers until nothing more comes.
func (s *stage) arrived(o *outcome) error {
	for last := -1; ; time.Sleep(100 * time.Millisecond) {
		o.arrivals, o.overrun = nil, 0
		sum := 0
		for _, p := range s.servers {
			var r received
			if err := p.Ask(&r); err != nil {
				return fmt.Errorf("server: %w", err)
			}
			o.overrun += r.Overrun
			for _, a := range r.Flows {
				if slices.ContainsFunc(o.sent, func(s sent) bool { return s.Flow == a.Flow }) {
					o.arrivals = append(o.arrivals, a)
					sum += a.Received
				}
			}
		}
		if sum == last {
			return nil
		}
		last = sum
	}
}

// warm is how long traffic flows before something happens to it, and after.
func (s *stage) warm() { time.Sleep(s.span(500*time.Millisecond, 2*time.Second)) }

// during lets one thing happen under traffic.
func (s *stage) during(ctx context.Context, e event) (outcome, error) {
	o := outcome{name: e.name, costs: e.costs}
	before, err := s.machine(ctx)
	if err != nil {
		return o, err
	}
	l, err := s.begin(ctx)
	if err != nil {
		return o, err
	}
	overrun := s.overrunNow()
	s.warm()
	began := time.Now()
	happened := e.do(ctx, s)
	o.took = time.Since(began)
	s.warm()
	if err := s.stop(l, &o); err != nil {
		return o, errors.Join(happened, err)
	}
	o.overrun -= overrun
	if happened != nil {
		return o, fmt.Errorf("%w\n%s", happened, script.Tails(s.lab))
	}
	after, err := s.machine(ctx)
	o.drops = after.since(before)
	return o, err
}

func (s *stage) overrunNow() (sum int) {
	for _, p := range s.servers {
		var r received
		if p.Ask(&r) == nil {
			sum += r.Overrun
		}
	}
	return sum
}

// drops counts packets that did not go on, by where and why.
type drops map[string]int

func (d drops) since(before drops) drops {
	now := make(drops)
	for why, n := range d {
		if n > before[why] {
			now[why] = n - before[why]
		}
	}
	return now
}

// machine reads what the kernel's queues and Weft's programs dropped.
func (s *stage) machine(ctx context.Context) (drops, error) {
	d := make(drops)
	queues, err := os.ReadFile("/proc/net/softnet_stat")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(queues)) {
		if f := strings.Fields(line); len(f) > 1 {
			n, _ := strconv.ParseInt(f[1], 16, 64)
			d["kernel/queue full"] += int(n)
		}
	}
	for _, host := range []string{"h1", "h2"} {
		page, err := s.host(host).Command(ctx, s.traffic, "get", "http://127.0.0.1:7780/metrics").Output()
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(page) {
			reason, rest, ok := strings.Cut(strings.TrimPrefix(line, `weft_packets_total{reason="`), `"} `)
			if !ok || !strings.HasPrefix(line, "weft_packets_total") {
				continue
			}
			n, _ := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			d[host+"/"+reason] = int(n)
		}
	}
	return d, nil
}
