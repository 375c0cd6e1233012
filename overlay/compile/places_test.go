// SPDX-License-Identifier: Apache-2.0

package compile_test

import (
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"weft/bpf/row"
	"weft/overlay"
	"weft/overlay/compile"
	"weft/overlay/compile/compiletest"
)

// TestAChangeMakesItsTablesAnewAlone wants tables of facts that did not change to be the same maps, and all to be what
// they would be at the first time.
func TestAChangeMakesItsTablesAnewAlone(t *testing.T) {
	t.Parallel()
	type tables = map[string]any
	of := func(r compile.Rows) tables {
		return tables{
			"workloads": r.Workloads, "endpoints": r.Endpoints, "spaces": r.Spaces, "openings": r.Openings, "blocks": r.Blocks,
			"prefixes": r.Prefixes, "vteps": r.VTEPs,
		}
	}
	f := compiletest.WithPlain()
	p := compile.NewPolicy()
	p.Update(f)
	before := of(p.Places(f))
	for _, tt := range []struct {
		name   string
		change func()
		anew   []string
	}{
		{"nothing", func() {}, nil},
		{"a block", func() {
			f.Blocks = append(slices.Clone(f.Blocks), overlay.Block{Network: "prod", Node: "n2", Prefix: netip.MustParsePrefix("9.0.7.0/24")})
		}, []string{"blocks"}},
		{"a path", func() {
			f.Paths = map[netip.Addr]compile.Path{netip.MustParseAddr("10.0.0.2"): {MTU: 1300, Second: true}}
		}, []string{"blocks"}},
		{"a node", func() {
			f.Nodes = append(slices.Clone(f.Nodes), compile.Node{ID: "n7", VTEP: netip.MustParseAddr("10.0.0.7")})
		}, []string{"blocks", "vteps"}},
		{"a task", func() { f.Tasks = slices.Clone(f.Tasks)[:1] }, []string{"endpoints", "openings", "spaces", "workloads"}},
		{"the first rule of a network", func() {
			f.Rules = []overlay.Rule{{ID: 4, Network: "prod", From: "db", To: "web", Protocol: "tcp", Action: overlay.Allow}}
		}, []string{"endpoints", "spaces", "vteps", "workloads"}},
		{"a rule more", func() {
			f.Rules = append(slices.Clone(f.Rules), overlay.Rule{ID: 5, Network: "prod", From: "web", To: "db", Protocol: "tcp", Action: overlay.Allow})
		}, nil},
		{"a source that counts", func() {
			f.Rules = append(slices.Clone(f.Rules), overlay.Rule{ID: 6, Network: "prod", From: "192.0.2.0/24", To: "web", Protocol: "tcp", Action: overlay.Allow})
		}, []string{"endpoints", "spaces", "workloads"}},
		{"a plain node less", func() { f.Plain = nil }, []string{"blocks", "vteps"}},
		{"a network", func() { f.Networks = slices.Clone(f.Networks)[:1] }, []string{"blocks", "endpoints", "openings", "prefixes", "spaces", "vteps", "workloads"}},
	} {
		tt.change()
		p.Update(f)
		r := p.Places(f)
		now := of(r)
		var anew []string
		for name, m := range now {
			if reflect.ValueOf(m).Pointer() != reflect.ValueOf(before[name]).Pointer() {
				anew = append(anew, name)
			}
		}
		if slices.Sort(anew); tt.name != "a network" && !slices.Equal(anew, tt.anew) {
			t.Errorf("%s: got %v anew, want %v", tt.name, anew, tt.anew)
		}
		equal(t, of(r), of(compile.Compile(f)))
		before = now
	}
	if blocks := p.Places(f).Blocks; blocks[row.BlockKey{VNI: 7, Addr: addr("9.0.1.0")}].Flags != row.BlockSecondPort {
		t.Error("a block behind the second port does not say so")
	}
}
