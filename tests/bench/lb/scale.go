// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"time"

	"github.com/cilium/ebpf"

	"weft/bpf/row"
	"weft/discovery"
	"weft/discovery/state"
	"weft/lb"
	"weft/lb/apply"
	"weft/lb/compile"
	"weft/lb/engine"
	"weft/tests/bench/report"
)

// Many VIPs: how much memory of the kernel a backend takes, and how long one change takes.
const (
	scaleVIPs     = 20000
	scaleBackends = 10
)

// scale runs the engine of a node that hears of all this from another one.
func (s *stage) scale(o options) (lines []report.Line, err error) {
	if err := s.write(compile.Rows{}); err != nil {
		return nil, err
	}
	empty, err := s.memory()
	if err != nil {
		return nil, err
	}
	other, err := newOther(s)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, other.close(), s.write(compile.Rows{})) }()
	var rows []discovery.Row
	for i := range scaleVIPs {
		for j := range scaleBackends {
			rows = append(rows, other.row(i, j, 80))
		}
	}
	if _, err := other.tell(rows); err != nil {
		return nil, err
	}
	full, err := s.memory()
	if err != nil {
		return nil, err
	}
	var took, passes []float64
	for round := range o.rounds {
		ms, err := other.tell([]discovery.Row{other.row(round, 0, 81)})
		if err != nil {
			return nil, err
		}
		took = append(took, ms)
		passes = append(passes, float64(other.engine.Snapshot().Stats.Took)/1e6)
	}
	return []report.Line{
		report.NewLine("bytes_per_backend", "20,000 VIPs x 10", []float64{float64(full-empty) / (scaleVIPs * scaleBackends)}, report.Bar{Most: 300}),
		report.NewLine("change_ms", "20,000 VIPs x 10", took, report.Bar{Most: 5}),
		report.NewLine("change_pass_ms", "20,000 VIPs x 10", passes, report.Bar{}),
	}, nil
}

// other is a node whose rows the stage's tables are made from, and the engine that makes them.
type other struct {
	store  *state.Store
	engine *engine.Engine
	stop   context.CancelFunc
	ended  chan error
	stage  *stage
	seq    uint64
}

const otherNode = "n2"

func newOther(s *stage) (*other, error) {
	store, err := state.Open(state.Options{Self: "n1"})
	if err != nil {
		return nil, err
	}
	t := s.plane.Tables()
	e, err := engine.New(engine.Options{Store: store, Members: everyone{}, Tables: apply.Tables{VIPs: t.VIPs, Backends: t.Backends, Maglevs: t.Maglevs}})
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	o := &other{store: store, engine: e, stop: stop, ended: make(chan error, 1), stage: s}
	go func() { o.ended <- e.Run(ctx) }()
	_, err = store.Apply([]discovery.Row{
		{Writer: discovery.Ledger, Kind: discovery.KindNetwork, Key: "bench", Incarnation: 1, Seq: 1, Value: fmt.Appendf(nil, `{"name":"bench","vni":%d}`, vni)},
		{Writer: discovery.Ledger, Kind: discovery.KindAdmission, Key: otherNode, Incarnation: 1, Seq: 1, Value: []byte(`{"node":"` + otherNode + `"}`)},
	})
	return o, err
}

// row is what the node says of a backend.
func (o *other) row(vip, task int, port uint16) discovery.Row {
	at := service(vip)
	b := lb.Backend{
		VIP:  lb.Key{Network: "bench", Addr: at.Addr(), Port: at.Port(), Protocol: lb.TCP},
		Task: fmt.Sprint(task), Addrs: []netip.Addr{netip.AddrFrom4([4]byte{9, byte(vip >> 8), byte(vip), byte(task)})}, Port: port, Weight: 1,
	}
	value, err := json.Marshal(b)
	if err != nil {
		panic(err) // the type is ours
	}
	o.seq++
	return discovery.Row{Writer: otherNode, Kind: discovery.KindBackend, Key: b.RowKey(), Incarnation: 1, Seq: o.seq, Value: value}
}

// tell has rows arrive, and returns after how many milliseconds they are in the kernel.
func (o *other) tell(rows []discovery.Row) (float64, error) {
	began := time.Now()
	if _, err := o.store.Apply(rows); err != nil {
		return 0, err
	}
	for {
		changed := o.engine.Changed()
		if snapshot := o.engine.Snapshot(); snapshot != nil && snapshot.Applied[discovery.Stream{Writer: otherNode}].Seq >= o.seq {
			return float64(time.Since(began)) / 1e6, snapshot.Err
		}
		<-changed
	}
}

// close ends the engine; its rows stay in the tables.
func (o *other) close() (err error) {
	o.stop()
	err = errors.Join(<-o.ended, o.store.Close())
	t := o.stage.plane.Tables()
	rows, readErr := apply.Tables{VIPs: t.VIPs, Backends: t.Backends, Maglevs: t.Maglevs}.Read()
	o.stage.rows = rows
	return errors.Join(err, readErr)
}

// everyone lives.
type everyone struct{}

// Alive implements engine.Members.
func (everyone) Alive(discovery.NodeID) bool { return true }

// Changed implements engine.Members.
func (everyone) Changed() <-chan struct{} { return nil }

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
