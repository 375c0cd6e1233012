// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"

	"weft/tests/bench/report"
)

// What replaces Mesos-DNS beside it. Both read the tasks from a Mesos master, which is played here.
const (
	weftMesos = "weft-mesos-dns"
	mesosDNS  = "mesos-dns"
)

// masterAddr is where the played master answers.
const masterAddr = "127.0.0.1:5050"

// Seconds between two readings of its state: as Mesos-DNS has it by default, and the least that it takes.
const (
	refreshUsual = 60
	refreshLeast = 1
)

// mesosConfig is read by both.
func mesosConfig(port uint16, refresh int) string {
	text, _ := json.Marshal(map[string]any{ // of strings and numbers
		"masters": []string{masterAddr}, "refreshSeconds": refresh, "ttl": 5, "domain": "mesos", "port": port,
		"listener": wireNode.Addr().String(), "dnson": true, "httpon": false, "externalon": false, "resolvers": []string{},
		"timeout": 5, "IPSources": []string{"netinfo"},
	})
	return string(text)
}

// master plays a Mesos master of so many tasks. Each time its state is read another task has another address.
type master struct {
	http.Server
	tasks  int
	pieces [][]byte // of the document, one for each task
	read   atomic.Int64
}

// startMaster listens in the calling thread's network namespace.
func startMaster(tasks int) (*master, error) {
	m := &master{tasks: tasks, pieces: make([][]byte, tasks)}
	for i := range m.pieces {
		m.pieces[i] = mesosTask(i, 0)
	}
	mux := http.NewServeMux()
	for _, path := range []string{"/state", "/state.json", "/master/state", "/master/state.json"} {
		mux.HandleFunc(path, m.state)
	}
	m.Handler = mux
	listener, err := net.Listen("tcp", masterAddr)
	if err != nil {
		return nil, err
	}
	go func() { _ = m.Serve(listener) }() // ends by Close
	return m, nil
}

func (m *master) state(w http.ResponseWriter, _ *http.Request) {
	n := int(m.read.Add(1))
	i := n * 7 % m.tasks
	var doc bytes.Buffer
	fmt.Fprintf(&doc, `{"leader":"master@%s","slaves":[`, masterAddr)
	for a := range min(agents, m.tasks) {
		fmt.Fprintf(&doc, `%s{"id":"host-%d","hostname":"10.1.%d.%d","pid":"slave(1)@10.1.%[3]d.%[4]d:5051"}`, comma(a), a, a>>8, a&0xff)
	}
	fmt.Fprintf(&doc, `],"frameworks":[{"id":"f","name":%q,"hostname":"10.1.0.0","active":true,"tasks":[`, framework)
	for j, piece := range m.pieces {
		doc.WriteString(comma(j))
		if j == i {
			piece = mesosTask(i, n)
		}
		doc.Write(piece)
	}
	doc.WriteString(`]}]}`)
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(doc.Bytes()) // who went away reads nothing
}

func comma(i int) string {
	if i == 0 {
		return ""
	}
	return ","
}

// mesosTask is task i of makeZone as a master tells of it.
func mesosTask(i, generation int) []byte {
	return fmt.Appendf(nil, `{"id":"task-%07d.5b0a7a1c","name":%[2]q,"framework_id":"f","slave_id":"host-%[3]d","state":"TASK_RUNNING",`+
		`"resources":{"cpus":0.1,"disk":0,"mem":32,"ports":"[8080-8080]"},"statuses":[{"state":"TASK_RUNNING","timestamp":1448000000.5,`+
		`"container_status":{"network_infos":[{"ip_addresses":[{"ip_address":"9.%[4]d.%[5]d.%[6]d"}]}]}}],`+
		`"discovery":{"visibility":"FRAMEWORK","name":%[2]q,"ports":{"ports":[{"number":8080,"name":"http","protocol":"tcp"}]}}}`,
		i, label(i), i%agents, 1+(i>>16+generation)%200, i>>8&0xff, i&0xff)
}

// measureReads measures what both take to read a state of 20,000 tasks, of which one is another each time, and to serve it.
func measureReads(ctx context.Context, o options, dir string) (lines []report.Line, err error) {
	tasks, reads := 20000, 10
	if o.short {
		tasks, reads = 200, 2
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return nil, err
	}
	if err := give(lo, netip.PrefixFrom(wireNode.Addr(), 32)); err != nil { // the stage that had it is gone
		return nil, err
	}
	m, err := startMaster(tasks)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	for _, name := range []string{weftMesos, mesosDNS} {
		if !o.has(name) {
			continue
		}
		cpu, memory, err := readState(ctx, o, filepath.Join(dir, "reads"), name, m, reads)
		if err != nil {
			return nil, fmt.Errorf("%s reads %d tasks: %w", name, tasks, err)
		}
		lines = append(lines,
			report.NewLine("state_of_20000_tasks_cpu_ms", name, cpu, report.Bar{}),
			report.NewLine("state_of_20000_tasks_resident_mb", name, []float64{memory}, report.Bar{}))
	}
	return lines, nil
}

// readState returns the processor time of each reading, ms, and the most that the process took, MB.
func readState(ctx context.Context, o options, dir, name string, m *master, reads int) (cpu []float64, memory float64, err error) {
	s, err := startServer(ctx, o, dir, files{refresh: refreshLeast}, name, 0, m.tasks)
	if err != nil {
		return nil, 0, err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	began, spent := int64(0), int64(0)
	for len(cpu) < reads {
		// Whoever asks for the next is done with the last one.
		for now := m.read.Load(); m.read.Load() == now; {
			if s.ended() {
				text, _ := os.ReadFile(s.log)
				return nil, 0, fmt.Errorf("it ended: %s", strings.TrimSpace(string(text)))
			}
			select {
			case <-ctx.Done():
				return nil, 0, ctx.Err()
			case <-time.After(time.Millisecond):
			}
		}
		now, err := s.cpu()
		if err != nil {
			return nil, 0, err
		}
		if began++; began > 2 { // the first readings are also the start
			cpu = append(cpu, float64(now-spent)/1e6)
		}
		spent = now
	}
	return cpu, s.peak(), nil
}

// peak is the most memory that a server's process ever took, MB.
func (s *server) peak() float64 {
	file, err := os.Open(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), "VmHWM:"); ok {
			kb, _ := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 64)
			return kb / 1e3
		}
	}
	return 0
}
