// SPDX-License-Identifier: Apache-2.0

package compile_test

import (
	"fmt"
	"net/netip"
	"testing"

	"weft/bpf/row"
	"weft/discovery"
	"weft/overlay"
	"weft/overlay/compile"
	"weft/overlay/compile/compiletest"
)

// large is a cluster of 1,000 nodes and 300 sets of groups, with 200 tasks here and 500 rules.
func large() compile.Facts {
	n := compiletest.Network("prod", 7)
	n.Subnet4 = netip.MustParsePrefix("9.0.0.0/8")
	f := compile.Facts{Node: "n0", VTEP: netip.MustParseAddr("10.0.0.0"), MTU: 1500, Networks: []overlay.Network{n}}
	for i := range 1000 {
		id := discovery.NodeID(fmt.Sprint("n", i))
		f.Nodes = append(f.Nodes, compile.Node{ID: id, VTEP: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), MTU: 1500})
		f.Blocks = append(f.Blocks, overlay.Block{
			Network: "prod", Node: id, Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{9, byte(i >> 8), byte(i), 0}), 24),
		})
	}
	for i := range 300 {
		f.Sets = append(f.Sets, overlay.GroupSet{
			Network: "prod", Groups: []string{fmt.Sprint("g", i), fmt.Sprint("g", i/2)}, Identity: overlay.Identity(row.IdentityFirst + i),
		})
	}
	for i := range 500 {
		f.Rules = append(f.Rules, overlay.Rule{
			ID: overlay.RuleID(i + 1), Network: "prod", From: fmt.Sprint("g", i%300), To: fmt.Sprint("g", i%97), Protocol: "tcp",
			Ports: []overlay.PortRange{{First: 80, Last: 89}}, Action: overlay.Allow,
		})
	}
	for i := range 200 {
		f.Tasks = append(f.Tasks, compiletest.Task(fmt.Sprint("t", i), n, uint32(i+1), fmt.Sprintf("9.0.0.%d", i+1), f.Sets[i%60]))
	}
	return f
}

func BenchmarkCompile(b *testing.B) {
	f := large()
	r := compile.Compile(f)
	b.ReportMetric(float64(len(r.Verdicts)), "verdicts")
	for b.Loop() {
		compile.Compile(f)
	}
}
