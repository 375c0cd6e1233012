// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"weft/bpf/row"
	"weft/bpf/table"
	"weft/discovery"
	"weft/discovery/state"
	"weft/overlay"
	"weft/overlay/apply"
	"weft/overlay/compile"
	"weft/overlay/engine"
	"weft/tests/lab/owned"
)

// Measures, and what they are of.
const (
	memoryPerTask  = "memory_bytes_per_remote_task endpoints"
	memoryNamed    = "memory_bytes_per_remote_task endpoints and a name each"
	memoryPerNode  = "memory_bytes_per_node addresses of its own processes"
	bootToServing  = "boot_to_serving_s_100000_endpoints endpoints"
	bootNamed      = "boot_to_serving_s_100000_endpoints endpoints and a name each"
	applyOneChange = "apply_one_change_ms_100000_tasks a block of another node"
)

// measure makes the cluster's rows, gives a node what a master would, and boots the node.
func measure(ctx context.Context, s size) (map[string]float64, error) {
	dir, err := owned.Folder(os.TempDir(), "weft-scale.", os.RemoveAll)
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	alone, err := boot(ctx, filepath.Join(dir, "alone"), size{nodes: 1, tasks: s.tasks, groups: s.groups}, false)
	if err != nil {
		return nil, err
	}
	plain, err := boot(ctx, filepath.Join(dir, "plain"), s, false)
	if err != nil {
		return nil, err
	}
	named, err := boot(ctx, filepath.Join(dir, "named"), s, true)
	if err != nil {
		return nil, err
	}
	s.own = true
	own, err := boot(ctx, filepath.Join(dir, "own"), s, false)
	if err != nil {
		return nil, err
	}
	remote := float64((s.nodes - 1) * s.tasks)
	return map[string]float64{
		memoryPerTask: (plain.heap - alone.heap) / remote, memoryNamed: (named.heap - alone.heap) / remote,
		memoryPerNode: (own.heap - plain.heap) / float64(s.nodes),
		bootToServing: plain.boot.Seconds(), bootNamed: named.boot.Seconds(),
		applyOneChange: float64(plain.change.Microseconds()) / 1000,
	}, nil
}

// booted is what one node took.
type booted struct {
	heap   float64 // bytes that the node holds
	boot   time.Duration
	change time.Duration
}

// boot fills the disk of a node of the cluster, boots it, and applies changes.
func boot(ctx context.Context, dir string, s size, named bool) (b booted, err error) {
	if err := s.fill(dir, named); err != nil {
		return b, err
	}
	before := heap()
	began := time.Now()
	store, err := state.Open(state.Options{Self: nodeID(0), Dir: dir})
	if err != nil {
		return b, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	tables := newTables()
	blocks := &blockTable{Table: tables.Blocks, written: make(chan row.BlockKey, changes)} // nobody waits for a reader
	tables.Blocks = blocks
	o := engine.Options{
		Node: discovery.NodeID(nodeID(0)), Underlay: apply.Underlay{Addr: vtep(0), MTU: 1500}, Rows: store, Tables: tables,
		Attacher: links{}, Links: links{s.tasks},
	}
	if s.own {
		o.Self = compile.Host{Ifindex: 5, Cookie: 5}
	}
	e, err := engine.New(o)
	if err != nil {
		return b, err
	}
	ctx, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	defer func() { stop(); err = errors.Join(err, <-ended) }()
	list, err := e.Endpoints(ctx)
	if err != nil {
		return b, err
	}
	b.boot = time.Since(began)
	if len(list) != s.tasks {
		return b, fmt.Errorf("%d of %d tasks are served", len(list), s.tasks)
	}
	b.heap = heap() - before
	if s.nodes == 1 {
		return b, nil // there is no other node
	}
	blocks.watched.Store(true)
	b.change, err = change(ctx, store, blocks.written)
	return b, err
}

// changes is how many are applied one after the other; their median counts.
const changes = 21

// change gives the node one more block of another node, again and again, and waits each time until the table has it.
func change(ctx context.Context, store *state.Store, written <-chan row.BlockKey) (time.Duration, error) {
	took := make([]time.Duration, changes)
	for i := range took {
		block := netip.PrefixFrom(netip.AddrFrom4([4]byte{9, 255, byte(i), 0}), 24)
		r := ledgerRow(discovery.KindBlock, block.String(), overlay.Block{Network: "prod", Node: discovery.NodeID(nodeID(1)), Prefix: block})
		r.Seq = 1<<40 + uint64(i)
		began := time.Now()
		if _, err := store.Apply([]discovery.Row{r}); err != nil {
			return 0, err
		}
		select {
		case key := <-written:
			if key != (row.BlockKey{VNI: 1, Addr: row.AddrOf(block.Addr())}) {
				return 0, fmt.Errorf("block %+v was written, want %s", key, block)
			}
		case <-time.After(10 * time.Second):
			return 0, errors.New("a new block did not come to the table within 10 s")
		case <-ctx.Done():
			return 0, ctx.Err()
		}
		took[i] = time.Since(began)
	}
	slices.Sort(took)
	return took[changes/2], nil
}

// blockTable tells of each row that is written once it is watched.
type blockTable struct {
	table.Table[row.BlockKey, row.Block]

	watched atomic.Bool
	written chan row.BlockKey
}

// Put implements table.Table.
func (b *blockTable) Put(key row.BlockKey, value row.Block) error {
	err := b.Table.Put(key, value)
	if b.watched.Load() {
		b.written <- key
	}
	return err
}

// heap is what is in use now, in bytes.
func heap() float64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

func newTables() apply.Tables {
	return apply.Tables{
		Workloads: &table.Memory[uint32, row.Workload]{}, Endpoints: &table.Memory[row.EndpointKey, row.Endpoint]{},
		Blocks: &table.Memory[row.BlockKey, row.Block]{}, Prefixes: &table.Memory[row.PrefixKey, row.Prefix]{},
		VTEPs: &table.Memory[row.Addr, row.VTEP]{}, Verdicts: &table.Memory[row.VerdictKey, row.Verdict]{},
		Clauses: &table.Memory[row.ClausesKey, row.Clauses]{}, Sources: &table.Memory[row.SourceKey, row.Source]{},
		Spaces: &table.Memory[uint64, row.Space]{}, Openings: &table.Memory[row.OpeningKey, row.Opening]{},
	}
}

// links are those of the node's own tasks, which were there before the boot.
type links struct{ tasks int }

// List implements engine.Links, as do the others.
func (l links) List(context.Context) ([]apply.Link, error) {
	var list []apply.Link
	for i := range l.tasks {
		list = append(list, apply.Link{Name: apply.LinkName(taskID(0, i)), Ifindex: uint32(i + 10), Up: true})
	}
	return list, nil
}

func (links) Ensure(context.Context, apply.Spec) (apply.Link, error) { return apply.Link{}, nil }
func (links) Up(context.Context, apply.Spec) error                   { return nil }
func (links) Remove(context.Context, string) error                   { return nil }
func (links) AttachWorkload(uint32) error                            { return nil }
func (links) DetachWorkload(uint32) error                            { return nil }

func (links) Watch(ctx context.Context) (<-chan struct{}, error) {
	gone := make(chan struct{})
	context.AfterFunc(ctx, func() { close(gone) })
	return gone, nil
}
