// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"weft/bpf"
	"weft/bpf/bpftest"
	"weft/bpf/row"
	"weft/bpf/table"
	"weft/overlay"
	"weft/overlay/apply"
	"weft/overlay/compile"
	"weft/tests/bench/report"
)

// measurePolicy times one change of a rule and of a set of groups on a node that knows 60,000 identities
// and has tasks of 16: from the moment its row is there to the last of its verdicts in the kernel.
func measurePolicy(o options) ([]report.Line, error) {
	if !o.wants("rule_change") {
		return nil, nil
	}
	tables, set, err := openTables()
	if err != nil {
		return nil, err
	}
	defer set.Close()
	n := manyIdentities
	if o.short {
		n = 600
	}
	facts := clusterOf(n)
	policy := compile.NewPolicy()
	policy.Update(facts)
	last := policy.Places(facts)
	if _, err := tables.Sync(policy.All(last)); err != nil {
		return nil, err
	}
	apply := func(f compile.Facts) (float64, error) {
		began := time.Now()
		change := policy.Update(f)
		places := policy.Places(f)
		_, err := tables.Update(last, places, change)
		last = places
		return float64(time.Since(began).Microseconds()) / 1000, err
	}
	ruled, fewer := facts, facts
	ruled.Rules = []overlay.Rule{{
		ID: 1, Network: "prod", From: "h7", To: "g3", Protocol: "tcp", Ports: []overlay.PortRange{{First: 80, Last: 8080}}, Action: overlay.Deny,
	}}
	fewer.Sets = slices.Clone(facts.Sets[:n-1])
	var rules, groups []float64
	for range 3 * o.rounds {
		for _, change := range []struct {
			to   compile.Facts
			took *[]float64
		}{{ruled, &rules}, {facts, &rules}, {fewer, &groups}, {facts, &groups}} {
			ms, err := apply(change.to)
			if err != nil {
				return nil, err
			}
			*change.took = append(*change.took, ms)
		}
	}
	// What was written is what compiling everything would have written.
	if d, err := tables.Sync(compile.Compile(facts)); err != nil || d != (table.Diff{}) {
		return nil, errors.Join(fmt.Errorf("after the changes the tables differ by %s", d), err)
	}
	if o.short {
		return nil, nil
	}
	return []report.Line{
		report.NewLine("rule_change_ms_60000_identities", "bar", rules, report.Bar{Most: 10}),
		report.NewLine("group_change_ms_60000_identities", "bar", groups, report.Bar{Most: 10}),
	}, nil
}

// openTables makes the kernel's maps in the size that nodes have.
func openTables() (t apply.Tables, set *bpftest.Set, err error) {
	specs, err := bpf.Specs()
	if err != nil {
		return t, nil, err
	}
	if set, err = bpftest.LoadWhole(specs["workload"]); err != nil {
		return t, nil, err
	}
	err = errors.Join(
		open(set, "workloads", &t.Workloads), open(set, "endpoints", &t.Endpoints), open(set, "blocks", &t.Blocks),
		open(set, "prefixes", &t.Prefixes), open(set, "vteps", &t.VTEPs), open(set, "verdicts", &t.Verdicts),
		open(set, "clauses", &t.Clauses), open(set, "sources", &t.Sources), open(set, "spaces", &t.Spaces),
		open(set, "openings", &t.Openings),
	)
	if err != nil {
		set.Close()
		return t, nil, err
	}
	return t, set, nil
}

func open[K, V comparable](set *bpftest.Set, name string, to *table.Table[K, V]) error {
	k, err := table.NewKernel[K, V](set.Maps[name], name)
	*to = k
	return err
}

// clusterOf has n sets of groups, all of them with one group in common, each with one of 60 and one of its
// own; 16 are here. With 60,000 sets that is 960,000 verdicts.
func clusterOf(n int) compile.Facts {
	network := overlay.Network{Name: "prod", VNI: vni, Subnet4: netip.MustParsePrefix("10.1.0.0/16")}
	f := compile.Facts{Node: "n0", VTEP: netip.MustParseAddr("192.0.2.1"), MTU: 1500, Networks: []overlay.Network{network}}
	for i := range n {
		f.Sets = append(f.Sets, overlay.GroupSet{
			Network: "prod", Groups: []string{"all", fmt.Sprint("g", i), fmt.Sprint("h", i%60)}, Identity: overlay.Identity(row.IdentityFirst + i),
		})
	}
	for i := range 16 {
		f.Tasks = append(f.Tasks, compile.Task{Ifindex: uint32(i + 1), Endpoint: overlay.Endpoint{
			Attachment: overlay.Attachment{ID: fmt.Sprint("t", i), Network: "prod", Groups: f.Sets[i].Groups},
			VNI:        vni, Identity: f.Sets[i].Identity, Addr4: netip.AddrFrom4([4]byte{10, 1, 1, byte(i + 1)}),
		}})
	}
	return f
}
