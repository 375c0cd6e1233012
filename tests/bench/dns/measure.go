// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"

	"weft/tests/bench/dns/generator"
	"weft/tests/bench/ends"
	"weft/tests/bench/report"
)

// window is how many questions are open at once where cost is measured.
const window = 32

// sample is one server asked for a span. Times are nanoseconds.
type sample struct {
	Round   int     `json:"round"`
	Measure string  `json:"measure"`
	Server  string  `json:"server"`
	Cost    float64 `json:"cost"` // CPU time per answer: client, server, and the kernel's threads
	Rate    float64 `json:"rate"` // answers a second
	P50     float64 `json:"p50"`
	P999    float64 `json:"p999"`
	Lost    int64   `json:"lost"`
}

// measure is one kind of questions.
type measure struct {
	name      string
	questions string // file
	window    int
	servers   []string
}

// measureZone starts every server with a zone of so many names and asks them in turns.
func measureZone(ctx context.Context, out io.Writer, o options, dir string, names int) (_ []sample, err error) {
	large := names > o.few
	z := makeZone
	if large {
		z = makeLarge
	}
	dir = filepath.Join(dir, strconv.Itoa(names))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	f, err := writeFiles(dir, z(names), o.few)
	if err != nil {
		return nil, err
	}
	debug.FreeOSMemory()
	st, err := newStage(ctx)
	defer func() { err = errors.Join(err, st.close()) }()
	if err != nil {
		return nil, err
	}
	servers := map[string]*server{}
	defer func() {
		for _, s := range servers {
			err = errors.Join(err, s.stop())
		}
	}()
	if !large && (o.has(weftMesos) || o.has(mesosDNS)) {
		m, err := startMaster(names)
		if err != nil {
			return nil, err
		}
		defer m.Close()
	}
	list := measures(o, f, large)
	for _, name := range serverNames(o, large) {
		s, err := startServer(ctx, o, dir, f, name, st.link(name), names)
		if err != nil {
			return nil, err
		}
		servers[name] = s
	}
	for name, s := range servers {
		if err := s.ready(st.asker(name), warm(list, f, name, large)...); err != nil {
			return nil, err
		}
	}
	return rounds(ctx, out, o, st, servers, list)
}

// warm is what a server is asked before anything is measured; not all of a large zone.
func warm(list []measure, f files, name string, large bool) []string {
	var files []string
	for _, m := range list {
		if slices.Contains(m.servers, name) && (!large || m.questions != f.a) {
			files = append(files, m.questions)
		}
	}
	slices.Sort(files)
	return slices.Compact(files)
}

func (s *stage) asker(server string) *asker {
	switch server {
	case kernel:
		return s.task
	case mirror:
		return s.mirror
	}
	return s.host
}

// measures of a zone. In the large one the names in use are a few; that all of them are, one like the
// other, is measured too.
func measures(o options, f files, large bool) []measure {
	if large {
		return []measure{
			{"a_large", f.few, window, serverNames(o, true)},
			{"a_large_uniform", f.a, window, serverNames(o, true)},
		}
	}
	services := slices.DeleteFunc(serverNames(o, false), func(name string) bool { // who knows only addresses has none
		return slices.Contains([]string{plain, unbound, hosts}, name)
	})
	return []measure{
		{"a", f.a, window, serverNames(o, false)},
		{"srv", f.srv, window, services},
		{"latency", f.a, 1, serverNames(o, false)},
	}
}

// rounds measures in random order, the servers of a measure one after another, so that a ratio is of
// neighbours in time.
func rounds(ctx context.Context, out io.Writer, o options, st *stage, servers map[string]*server, list []measure) ([]sample, error) {
	threads, err := ends.Softirq()
	if err != nil {
		return nil, err
	}
	var samples []sample
	for round := range o.rounds {
		rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		for _, m := range list {
			order := slices.Clone(m.servers)
			rand.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
			for _, name := range order {
				if ctx.Err() != nil {
					return nil, ctx.Err()
				}
				s, err := converse(st.asker(name), servers[name], m, o, round%runtime.NumCPU(), threads)
				if err != nil {
					return nil, fmt.Errorf("%s by %s: %w", m.name, name, err)
				}
				if s.Cost == 0 { // a busy machine let it wait for the whole span
					fmt.Fprintf(out, "round %d: no answer of %s to %s\n", round+1, name, m.name)
					continue
				}
				s.Round, s.Measure, s.Server = round, m.name, name
				samples = append(samples, s)
			}
		}
		fmt.Fprintf(out, "round %d of %d, load %s\n", round+1, o.rounds, report.Load())
	}
	return samples, nil
}

// converse has a server asked for a span.
func converse(a *asker, s *server, m measure, o options, cpu int, threads ends.Threads) (sample, error) {
	served, err1 := s.cpu()
	softirq, err2 := threads.Time()
	r, err3 := a.ask(generator.Order{Questions: s.questions(m.questions), Addr: s.addr, CPU: cpu, Span: o.span, Window: m.window})
	after, err4 := threads.Time()
	end, err5 := s.cpu()
	if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
		return sample{}, err
	}
	if r.Answers == 0 {
		return sample{Lost: r.Lost}, nil
	}
	cost := float64(r.CPU+end-served+after-softirq) / float64(r.Answers)
	return sample{
		Cost: cost, Rate: float64(r.Answers) / float64(r.Span) * 1e9, P50: float64(r.P50), P999: float64(r.P999), Lost: r.Lost,
	}, nil
}

// measureHeld measures what a zone of 20,000 tasks takes, in processes of their own.
func measureHeld(ctx context.Context, o options) ([]report.Line, error) {
	runs, tasks := 3, "20000"
	if o.short {
		runs, tasks = 1, "2000"
	}
	var resident, live, process, change []float64
	for range runs {
		out, err := exec.CommandContext(ctx, "/proc/self/exe", "-role", "zone", "-tasks", tasks).Output()
		if err != nil {
			return nil, fmt.Errorf("hold a zone: %w", err)
		}
		var h held
		if err := json.Unmarshal(out, &h); err != nil {
			return nil, err
		}
		resident, live = append(resident, float64(h.Resident)/1e6), append(live, float64(h.Live)/1e6)
		process, change = append(process, float64(h.Process)/1e6), append(change, float64(h.Change)/1e6)
	}
	return []report.Line{
		report.NewLine("zone_20000_tasks_resident_mb", "the process without it", resident, report.Bar{Most: 60}),
		report.NewLine("zone_20000_tasks_live_mb", "-", live, report.Bar{}),
		report.NewLine("zone_20000_tasks_process_mb", "-", process, report.Bar{}),
		report.NewLine("zone_20000_tasks_change_cpu_ms", "-", change, report.Bar{Most: 1}),
	}, nil
}
