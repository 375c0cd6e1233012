// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"weft/bpf"
	"weft/bpf/bpftest"
	"weft/discovery"
	"weft/lb"
	"weft/lb/edge"
	"weft/lb/maglev"
	"weft/tests/bench/report"
)

// What flows live through: two edge nodes, each with the real program, maps and plan (lb/edge), and TCP flows of
// random clients whose packets have to reach, at whichever node they come in, the task that had their SYN.
const (
	barSurvive = 0.9999 // of flows (issue 4)
	barMoved   = 0.01   // of slots, beyond those of the backend that leaves
)

var (
	flowVIP = lb.Key{Network: "prod", Name: "web.weft", Port: 80, Protocol: lb.TCP}
	flowAt  = lb.Publication{Addr: vip4, Port: 80, VIP: flowVIP}
)

// edgeNode is a node of the edge.
type edgeNode struct {
	set  *bpftest.Set
	plan edge.Plan
	have edge.Rows
}

func newEdgeNode() (*edgeNode, error) {
	specs, err := bpf.Specs()
	if err != nil {
		return nil, err
	}
	spec := specs["edge"]
	if err := bpf.Configure(spec, bpf.Config{NodeAddr: node, Underlay: 1, TunnelPort: 4789, EdgeSeed: 0x5eed}); err != nil {
		return nil, err
	}
	set, err := bpftest.LoadWhole(spec)
	if err != nil {
		return nil, err
	}
	return &edgeNode{set: set}, nil
}

// world is the backends at a time.
type world struct {
	now      time.Duration
	backends map[int]lb.BackendStatus
}

func (w *world) add(i int) {
	w.backends[i] = lb.BackendStatus{In: true, Backend: lb.Backend{
		Task: fmt.Sprint(i), Node: discovery.NodeID(fmt.Sprint(i)), Port: 8080, Weight: 1, Addrs: []netip.Addr{netip.AddrFrom4([4]byte{9, 1, 0, byte(i)})},
	}}
}

// drain is what a backend does before it leaves.
func (w *world) drain(i int) {
	b := w.backends[i]
	b.In, b.Weight = false, 0
	w.backends[i] = b
}

// follow brings an edge node's maps up to the world.
func (n *edgeNode) follow(w *world) error {
	f := edge.Facts{
		Publications: []lb.Publication{flowAt}, Networks: map[string]uint32{"prod": 7}, Nodes: make(map[discovery.NodeID]edge.Node), Now: w.now,
	}
	var status lb.VIPStatus
	for i, b := range w.backends {
		status.Backends = append(status.Backends, b)
		f.Nodes[b.Node] = edge.Node{Addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(10 + i)}), MTU: 1450, Alive: true}
	}
	f.VIPs = map[lb.Key]lb.VIPStatus{flowVIP: status}
	rows, _, err := n.plan.Compile(f)
	if err != nil {
		return err
	}
	for index, b := range rows.Backends {
		if err := bpftest.KnowHop(n.set, b.VTEP, [12]uint8{2}); err != nil { // so that the program sends at once
			return err
		}
		if err := n.set.Maps["edge_backends"].Put(index, b); err != nil {
			return err
		}
	}
	for first, slots := range rows.Slots {
		for i, s := range slots {
			if have := n.have.Slots[first]; i < len(have) && have[i] == s {
				continue
			}
			if err := n.set.Maps["edge_slots"].Put(first+uint32(i), s); err != nil {
				return err
			}
		}
	}
	for key, vip := range rows.VIPs {
		if err := n.set.Maps["edge_vips"].Put(key, vip); err != nil {
			return err
		}
	}
	n.have = rows
	return nil
}

// flow is a client's connection and the task that has it.
type flow struct {
	client netip.AddrPort
	task   uint32 // last bytes of its address
}

// send gives a packet of a flow to a node and returns the task that it goes to.
func (n *edgeNode) send(f flow, flags uint8) (uint32, error) {
	p := bpftest.Packet{
		DstMAC: bpftest.MAC{2, 1}, SrcMAC: bpftest.MAC{2, 2}, Src: f.client.Addr(), Dst: vip4, Frag: bpftest.DontFragment,
		Proto: bpftest.TCP, SPort: f.client.Port(), DPort: 80, Flags: flags,
	}
	got, err := n.set.RunXDP("edge", p.Bytes())
	if err != nil {
		return 0, err
	}
	if got.Action != bpftest.XDPTX {
		return 0, fmt.Errorf("the edge says %s of a packet to a VIP", got.Action)
	}
	return binary.BigEndian.Uint32(got.Out[tunnelRoom+2:]), nil // behind 0a:58 of the inner frame
}

// survive sends a packet of each flow and returns the share of those that meet their task, and how many do not.
func (n *edgeNode) survive(flows []flow) (share float64, cut int, err error) {
	for _, f := range flows {
		task, err := n.send(f, bpftest.ACK)
		if err != nil {
			return 0, 0, err
		}
		if task != f.task {
			cut++
		}
	}
	return 1 - float64(cut)/float64(len(flows)), cut, nil
}

// measureFlows returns the lines about flows; count of them.
func measureFlows(count int) (lines []report.Line, err error) {
	a, err := newEdgeNode()
	if err != nil {
		return nil, err
	}
	defer a.set.Close()
	b, err := newEdgeNode()
	if err != nil {
		return nil, err
	}
	defer b.set.Close()
	w := &world{now: time.Hour, backends: make(map[int]lb.BackendStatus)}
	for i := range backends {
		w.add(i)
	}
	if err := a.follow(w); err != nil {
		return nil, err
	}
	flows := make([]flow, count)
	random := rand.New(rand.NewPCG(1, 2))
	for i := range flows {
		f := flow{client: netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, byte(random.IntN(256)), byte(random.IntN(256))}), uint16(1024+random.IntN(60000)))}
		if f.task, err = a.send(f, bpftest.SYN); err != nil {
			return nil, err
		}
		flows[i] = f
	}
	total := 0
	ask := func(measure string, n *edgeNode) error {
		share, cut, err := n.survive(flows)
		total += cut
		lines = append(lines, report.NewLine(measure, "", []float64{share}, report.Bar{Least: barSurvive}))
		return err
	}
	// b was there before, with other backends, so that its indexes are others; or it starts now.
	if err := b.follow(&world{now: w.now, backends: map[int]lb.BackendStatus{7: w.backends[7], 3: w.backends[3]}}); err != nil {
		return nil, err
	}
	w.now += edge.Settle
	settle := func() error {
		w.now += edge.Settle
		return b.follow(w)
	}
	for _, step := range []struct {
		measure string
		before  func() error
	}{
		{"edge_flows_survive_edge_node_added_or_killed", func() error {
			if err := b.follow(w); err != nil {
				return err
			}
			return settle()
		}},
		{"edge_flows_survive_backend_added", func() error { w.add(backends); return b.follow(w) }},
		{"edge_flows_survive_backend_added_settled", settle},
		{"edge_flows_survive_backend_drains", func() error { w.drain(5); return b.follow(w) }},
		{"edge_flows_survive_backend_drains_settled", settle},
	} {
		if err := step.before(); err != nil {
			return nil, err
		}
		if err := ask(step.measure, b); err != nil {
			return nil, err
		}
	}
	none := 0.0
	noCut := total == 0
	lines = append(lines, report.Line{Measure: "edge_flows_cut", Value: float64(total), Bar: &none, Holds: &noCut, Runs: 1})
	moved, err := movedBeyond(edge.Slots)
	if err != nil {
		return nil, err
	}
	return append(lines, report.NewLine("edge_slots_moved_beyond_one_of_100_leaving", "", []float64{moved}, report.Bar{Most: barMoved})), nil
}

// movedBeyond lets each of 100 backends leave a table, and returns the mean share of slots of others that moved.
func movedBeyond(size int) (float64, error) {
	var all []maglev.Backend
	for i := range uint32(backends) {
		all = append(all, maglev.Backend{Key: fmt.Sprintf("7/9.1.0.%d", i), ID: i + 1, Weight: 1})
	}
	before, err := maglev.Build(size, all)
	if err != nil {
		return 0, err
	}
	moved := 0
	for leaver := range all {
		rest := append(append([]maglev.Backend(nil), all[:leaver]...), all[leaver+1:]...)
		after, err := maglev.Build(size, rest)
		if err != nil {
			return 0, err
		}
		for i, id := range before {
			if id != all[leaver].ID && after[i] != id {
				moved++
			}
		}
	}
	return float64(moved) / float64(size*len(all)), nil
}
