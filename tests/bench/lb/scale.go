// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"time"

	"github.com/cilium/ebpf"

	"weft/bpf/row"
	"weft/lb"
	"weft/lb/compile"
	"weft/tests/bench/report"
)

// Many VIPs: how much memory of the kernel a backend takes, and how long one change takes.
const (
	scaleVIPs     = 20000
	scaleBackends = 10
)

func (s *stage) scale(o options) ([]report.Line, error) {
	if err := s.write(compile.Rows{}); err != nil {
		return nil, err
	}
	empty, err := s.memory()
	if err != nil {
		return nil, err
	}
	facts := compile.Facts{Networks: map[string]uint32{"bench": vni}}
	for i := range scaleVIPs {
		vip := service(i)
		for j := range scaleBackends {
			facts.Backends = append(facts.Backends, lb.Backend{
				VIP:  lb.Key{Network: "bench", Addr: vip.Addr(), Port: vip.Port(), Protocol: lb.TCP},
				Task: fmt.Sprint(j), Addrs: []netip.Addr{netip.AddrFrom4([4]byte{9, byte(i >> 8), byte(i), byte(j)})}, Port: 80, Weight: 1,
			})
		}
	}
	rows, _ := compile.Compile(facts, s.rows)
	if err := s.write(rows); err != nil {
		return nil, err
	}
	full, err := s.memory()
	if err != nil {
		return nil, err
	}
	var took, wrote []float64
	for round := range o.rounds {
		facts.Backends[0].Port = uint16(81 + round)
		began := time.Now()
		rows, _ := compile.Compile(facts, s.rows)
		compiled := time.Now()
		if err := s.write(rows); err != nil {
			return nil, err
		}
		took = append(took, float64(time.Since(began))/1e6)
		wrote = append(wrote, float64(time.Since(compiled))/1e6)
	}
	return []report.Line{
		report.NewLine("bytes_per_backend", "20,000 VIPs x 10", []float64{float64(full-empty) / (scaleVIPs * scaleBackends)}, report.Bar{Most: 300}),
		report.NewLine("change_ms", "20,000 VIPs x 10", took, report.Bar{Most: 5}),
		report.NewLine("change_write_ms", "20,000 VIPs x 10", wrote, report.Bar{}),
	}, s.write(compile.Rows{})
}

// memory of the kernel that the tables take, bytes. Exact since Linux 6.4.
func (s *stage) memory() (uint64, error) {
	var sum uint64
	for _, name := range []string{"vips", "backends"} {
		m, err := ebpf.LoadPinnedMap(filepath.Join(s.pin, "bpf", fmt.Sprintf("v%d", row.LayoutVersion), name), nil)
		if err != nil {
			return 0, err
		}
		info, err := m.Info()
		if err := errors.Join(err, m.Close()); err != nil {
			return 0, err
		}
		bytes, ok := info.Memlock()
		if !ok {
			return 0, fmt.Errorf("map %s: the kernel does not tell its memory", name)
		}
		sum += bytes
	}
	return sum, nil
}
