// SPDX-License-Identifier: Apache-2.0

package compile_test

import (
	"encoding/json"
	"testing"

	"weft/bpf/row"
	"weft/overlay"
	"weft/overlay/compile"
	"weft/overlay/compile/compiletest"
)

// FuzzCompile takes what other nodes and masters may have written: nothing in it makes a row that the
// packet path could not tell from another network's, and nothing panics.
func FuzzCompile(f *testing.F) {
	seed := func(facts compile.Facts) {
		data, err := json.Marshal(facts)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	whole := compiletest.WithPlain()
	compiletest.GiveAddresses(whole)
	seed(whole)
	seed(compile.Facts{Networks: []overlay.Network{{Name: "x", VNI: 1}}, Tasks: []compile.Task{{Ifindex: 1}}})
	f.Fuzz(func(t *testing.T, data []byte) {
		var facts compile.Facts
		if json.Unmarshal(data, &facts) != nil {
			return
		}
		rows := compile.Compile(facts)
		known, hosts := map[uint32]bool{}, map[row.Addr]bool{}
		for _, n := range facts.Nodes {
			hosts[row.AddrOf(n.Host4.Addr())], hosts[row.AddrOf(n.Host6.Addr())] = true, true
		}
		for _, n := range facts.Networks {
			known[uint32(n.VNI)] = true
		}
		isNode := func(vni uint32, a row.Addr) bool { return vni == row.VNINodes && hosts[a] }
		for key := range rows.Endpoints {
			if !known[key.VNI] && !isNode(key.VNI, key.Addr) || key.Addr == (row.Addr{}) {
				t.Errorf("endpoint %+v", key)
			}
		}
		for key := range rows.Blocks {
			if !known[key.VNI] && !isNode(key.VNI, key.Addr) {
				t.Errorf("block %+v", key)
			}
		}
		for key, v := range rows.Verdicts {
			if key.VNI == 0 || !known[key.VNI] || v.Action > row.VerdictAudit || v.Clauses != 0 && rows.Clauses[row.ClausesKey{ID: v.Clauses}].Count == 0 {
				t.Errorf("verdict %+v %+v", key, v)
			}
		}
	})
}
