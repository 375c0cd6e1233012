// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"weft/bpf/row"
	"weft/bpf/table"
	"weft/discovery"
	"weft/discovery/state"
	"weft/overlay"
	"weft/overlay/compile"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const self = discovery.NodeID("n1")

// node is a Watcher of a node whose programs report what a test says.
type node struct {
	*Watcher
	store  *state.Store
	facts  compile.Facts
	events source
	table  table.Memory[row.TraceKey, row.Trace]
	sent   func(frame []byte) // what a task sends

	mu sync.Mutex // guards on
	on bool       // programs look into table
}

// start runs a node of network prod with tasks, the groups of each given.
func start(t *testing.T, finder Finder, tasks map[string][]string) *node {
	t.Helper()
	store, err := state.Open(state.Options{Self: string(self), Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	n := &node{store: store, events: make(source)}
	n.facts = compile.Facts{
		Node: self, VTEP: netip.MustParseAddr("10.9.0.1"),
		Networks: []overlay.Network{{Name: "prod", VNI: 7, Subnet4: netip.MustParsePrefix("9.0.0.0/16")}},
	}
	for id, groups := range tasks {
		e := overlay.Endpoint{
			Attachment: overlay.Attachment{ID: id, Task: id, Name: id, Network: "prod", Groups: groups}, Node: self, VNI: 7,
			Identity: row.IdentityUngrouped, Addr4: netip.AddrFrom4([4]byte{9, 0, 0, byte(len(n.facts.Tasks) + 1)}),
		}
		if groups != nil {
			e.Identity = overlay.Identity(row.IdentityFirst + len(n.facts.Tasks))
			n.facts.Sets = append(n.facts.Sets, overlay.GroupSet{Network: "prod", Groups: groups, Identity: e.Identity})
		}
		n.facts.Tasks = append(n.facts.Tasks, compile.Task{Endpoint: e, Ifindex: uint32(len(n.facts.Tasks) + 1)})
	}
	n.Watcher = New(Options{
		Node: self, Now: func() compile.Facts { return n.facts }, Rows: store, Source: n.events, Finder: finder,
		Verdicts: new(table.Memory[row.VerdictKey, row.Verdict]), Clauses: new(table.Memory[row.ClausesKey, row.Clauses]),
		Tracer: &Tracer{
			Table: &n.table,
			Switch: func(on bool) error {
				n.mu.Lock()
				defer n.mu.Unlock()
				n.on = on
				return nil
			},
			Send: func(_ overlay.Endpoint, frame []byte) error { n.sent(frame); return nil },
		},
		Log: slog.New(slog.DiscardHandler),
	})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = n.Run(ctx) }) // ends with ctx
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		if err := store.Close(); err != nil {
			t.Errorf("close store: %v", err)
		}
	})
	return n
}

// source is where programs report.
type source chan row.Event

// Events implements Source.
func (s source) Events(ctx context.Context, emit func(row.Event) error) error {
	for {
		select {
		case ev := <-s:
			if err := emit(ev); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (n *node) endpoint(t *testing.T, id string) overlay.Endpoint {
	t.Helper()
	for _, task := range n.facts.Tasks {
		if task.ID == id {
			return task.Endpoint
		}
	}
	t.Fatalf("no task %s", id)
	return overlay.Endpoint{}
}

func (n *node) tracing() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.on
}

// meet reports a packet as a program does that looked into the table.
func (n *node) meet(t *testing.T, from, to netip.AddrPort, program uint8, reason row.Reason) {
	t.Helper()
	select {
	case n.events <- row.Event{
		VNI: 7, Src: row.AddrOf(from.Addr()), Dst: row.AddrOf(to.Addr()), Sport: row.Port(from.Port()), Dport: row.Port(to.Port()),
		Proto: compile.TCP, Reason: uint8(reason), Program: program, Traced: 1,
	}:
	case <-t.Context().Done():
	}
}
