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

// dcos-net's overlay suite (net-tests 4.4): of four nodes each knows the three others, by a block of each family, and nothing
// of one that was deleted.
func TestEachOfFourNodesKnowsTheOtherThree(t *testing.T) {
	t.Parallel()
	var nodes []compile.Node
	var blocks []overlay.Block
	for i := range 4 {
		id := discovery.NodeID(fmt.Sprint("n", i+1))
		nodes = append(nodes, compile.Node{ID: id, VTEP: netip.MustParseAddr(fmt.Sprintf("10.0.0.%d", i+1)), MTU: 1500})
		for _, block := range []string{fmt.Sprintf("9.0.%d.0/24", i), fmt.Sprintf("fd01:b::%x:0/112", i)} {
			blocks = append(blocks, overlay.Block{Network: "prod", Node: id, Prefix: netip.MustParsePrefix(block)})
		}
	}
	for there := len(nodes); there >= 3; there-- {
		for _, self := range nodes[:there] {
			rows := compile.Compile(compile.Facts{
				Node: self.ID, VTEP: self.VTEP, MTU: self.MTU, Nodes: nodes[:there], Networks: []overlay.Network{compiletest.Network("prod", 7)}, Blocks: blocks,
			})
			got := make(map[row.Addr]int)
			for _, b := range rows.Blocks {
				if b.Flags&row.BlockLocal == 0 {
					got[b.VTEP]++
				}
			}
			want, peers := make(map[row.Addr]int), make(map[row.Addr]row.VTEP)
			for _, n := range nodes[:there] {
				if n.ID != self.ID {
					want[row.AddrOf(n.VTEP)], peers[row.AddrOf(n.VTEP)] = 2, row.VTEP{}
				}
			}
			equal(t, got, want)
			equal(t, rows.VTEPs, peers)
		}
	}
}
