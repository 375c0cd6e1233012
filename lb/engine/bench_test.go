// SPDX-License-Identifier: Apache-2.0

package engine_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"testing"

	"weft/bpf/row"
	"weft/bpf/table"
	"weft/discovery"
	"weft/discovery/state"
	"weft/lb"
	"weft/lb/apply"
	"weft/lb/engine"
)

// BenchmarkChange is one backend row of another node going or coming, among 10,000 backends behind
// 1,000 VIPs, until the tables are equal again.
func BenchmarkChange(b *testing.B) {
	store, err := state.Open(state.Options{Self: "n1"})
	if err != nil {
		b.Fatal(err)
	}
	defer store.Close() //nolint:errcheck // it is in memory
	const nodes, vips, each = 100, 1000, 10
	rows := []discovery.Row{benchRow(b, discovery.Ledger, discovery.KindNetwork, "prod", 1, map[string]any{"name": "prod", "vni": 7})}
	for i := range nodes {
		id := discovery.NodeID(fmt.Sprintf("n%d", i+1))
		rows = append(rows, benchRow(b, discovery.Ledger, discovery.KindAdmission, string(id), 1, discovery.Admission{Node: id}))
	}
	var last lb.Backend
	for i := range vips {
		name := fmt.Sprintf("vip%d.weft", i)
		pin, err := lb.Assign(nil, name)
		if err != nil {
			b.Fatal(err)
		}
		rows = append(rows, benchRow(b, discovery.Ledger, discovery.KindPin, name, 1, pin))
		for j := range each {
			last = lb.Backend{
				VIP: lb.Key{Network: "prod", Name: name, Port: 80, Protocol: lb.TCP}, Task: fmt.Sprintf("t%d-%d", i, j),
				Addrs: []netip.Addr{netip.AddrFrom4([4]byte{9, byte(i >> 8), byte(i), byte(j)})}, Port: 8080, Weight: 1,
			}
			rows = append(rows, benchRow(b, fmt.Sprintf("n%d", 2+(i+j)%(nodes-1)), discovery.KindBackend, last.RowKey(), 1, last))
		}
	}
	if _, err := store.Apply(rows); err != nil {
		b.Fatal(err)
	}
	e, err := engine.New(engine.Options{
		Store: store, Members: &members{changed: make(chan struct{})}, Log: slog.New(slog.DiscardHandler),
		Tables: apply.Tables{VIPs: &table.Memory[row.VIPKey, row.VIP]{}, Backends: &table.Memory[row.BackendKey, row.Backend]{}, Maglevs: &table.Memory[uint32, row.Maglev]{}},
	})
	if err != nil {
		b.Fatal(err)
	}
	first := e.Changed()
	go e.Run(b.Context()) //nolint:errcheck // it ends with the benchmark
	<-first
	seq := uint64(1)
	for b.Loop() {
		changed := e.Changed()
		seq++
		last.Weight = uint16(seq % 2)
		if _, err := store.Apply([]discovery.Row{benchRow(b, "n2", discovery.KindBackend, "changing", seq, last)}); err != nil {
			b.Fatal(err)
		}
		<-changed
	}
}

func benchRow(b *testing.B, writer string, kind discovery.Kind, key string, seq uint64, v any) discovery.Row {
	b.Helper()
	value, err := json.Marshal(v)
	if err != nil {
		b.Fatal(err)
	}
	return discovery.Row{Writer: writer, Kind: kind, Key: key, Incarnation: 1, Seq: seq, Value: value}
}
