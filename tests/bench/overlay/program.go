// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"

	"weft/bpf"
	"weft/bpf/bpftest"
	"weft/bpf/row"
	"weft/bpf/table"
	"weft/tests/bench/report"
)

// What the program's tables hold when they are full.
const (
	manyIdentities = 60000
	manyVerdicts   = 1000000
	vni            = 0x101
	repeat         = 200000 // packets of one run
)

var (
	sender   = netip.MustParseAddr("10.1.1.10")
	receiver = netip.MustParseAddr("10.1.1.30")
)

// measurePrograms runs from_workload on one packet to a task of the same node, by turns with 2
// identities and with as many as a network may have. Both are loaded at once, with maps of one size.
func measurePrograms(o options) ([]report.Line, error) {
	if !o.wants("from_workload") {
		return nil, nil
	}
	small, err := loadProgram(row.IdentityFirst+1, 1)
	if err != nil {
		return nil, err
	}
	defer small.Close()
	full := manyVerdicts
	if o.short {
		full = 10000
	}
	large, err := loadProgram(manyIdentities, full)
	if err != nil {
		return nil, err
	}
	defer large.Close()
	frame := bpftest.Packet{
		Src: sender, Dst: receiver, Proto: bpftest.TCP, SPort: 40000, DPort: 80, SrcMAC: bpftest.Gateway, DstMAC: bpftest.Gateway,
	}.Bytes()
	for name, set := range map[string]*bpftest.Set{"few": small, "many": large} {
		r, err := set.RunExpecting("from_workload", frame, bpftest.Meta{}, row.ReasonDelivered)
		if err != nil || r.Reason != row.ReasonDelivered {
			return nil, fmt.Errorf("with %s identities the packet is not delivered: %s, %w", name, r.Reason, err)
		}
	}
	if o.short {
		return nil, nil
	}
	var ratios, few, many []float64
	for range 3 * o.rounds {
		a, err := nanoseconds(small, frame)
		if err != nil {
			return nil, err
		}
		b, err := nanoseconds(large, frame)
		if err != nil {
			return nil, err
		}
		ratios, few, many = append(ratios, b/a), append(few, a), append(many, b)
	}
	return []report.Line{
		report.NewLine("from_workload_60000_identities_1000000_verdicts", "2_identities", ratios, report.Bar{Most: 1.05}),
		report.NewLine("from_workload_ns", "2_identities", few, report.Bar{}),
		report.NewLine("from_workload_ns", "60000_identities", many, report.Bar{}),
	}, nil
}

func nanoseconds(set *bpftest.Set, frame []byte) (float64, error) {
	_, each, err := set.Programs["from_workload"].Benchmark(frame, repeat, nil)
	return float64(each.Nanoseconds()), err
}

// loadProgram loads from_workload with two tasks, of which the sender has the highest identity, and n
// verdicts about others besides the one that lets it through.
func loadProgram(highest uint16, n int) (*bpftest.Set, error) {
	specs, err := bpf.Specs()
	if err != nil {
		return nil, err
	}
	spec := specs["workload"]
	node := netip.MustParseAddr("192.0.2.1")
	if err := bpf.Configure(spec, bpf.Config{NodeAddr: node, Underlay: 1, Tunnel: 1, TunnelPort: 4789, EventsPerSecond: 100}); err != nil {
		return nil, err
	}
	set, err := bpftest.LoadWhole(spec)
	if err != nil {
		return nil, err
	}
	tables := bpftest.Tables{
		Workloads: map[uint32]row.Workload{1: {
			VNI: vni, Identity: highest, MTU: 1450, MAC: bpftest.Gateway, Block4: 24, Addr4: row.AddrOf(sender),
		}},
		// What is delivered has the gateway's MAC for both, so that every repetition meets the same packet.
		Endpoints: map[row.EndpointKey]row.Endpoint{
			{VNI: vni, Addr: row.AddrOf(receiver)}: {Ifindex: 7, Identity: row.IdentityFirst, MAC: bpftest.Gateway},
		},
		Blocks: map[row.BlockKey]row.Block{
			{VNI: vni, Addr: row.AddrOf(netip.MustParseAddr("10.1.1.0"))}: {VTEP: row.AddrOf(node), MTU: 1450, Flags: row.BlockLocal},
		},
		Verdicts: map[row.VerdictKey]row.Verdict{
			{VNI: vni, Src: uint32(highest), Dst: row.IdentityFirst}: {Action: row.VerdictAllow},
		},
	}
	if err := tables.Fill(set); err != nil {
		set.Close()
		return nil, err
	}
	return set, fillVerdicts(set, highest, n-1)
}

// fillVerdicts adds n verdicts: each identity below the highest may talk to some others of this node.
func fillVerdicts(set *bpftest.Set, highest uint16, n int) error {
	verdicts, err := table.NewKernel[row.VerdictKey, row.Verdict](set.Maps["verdicts"], "verdicts")
	if err != nil {
		return err
	}
	src, dst := uint32(row.IdentityFirst), uint32(row.IdentityFirst)
	for range n {
		key := row.VerdictKey{VNI: vni, Src: src, Dst: dst + 1}
		if err := verdicts.Put(key, row.Verdict{Action: row.VerdictAllow}); err != nil {
			return err
		}
		if src++; src >= uint32(highest) {
			src, dst = row.IdentityFirst, dst+1
		}
	}
	return nil
}
