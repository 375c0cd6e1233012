// SPDX-License-Identifier: Apache-2.0

package apply

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"weft/bpf/row"
	"weft/bpf/table"
	"weft/overlay"
	"weft/overlay/compile"
)

// watched is a table that is looked at after every write.
type watched[K, V comparable] struct {
	table.Memory[K, V]
	look func()
}

func (w *watched[K, V]) Put(k K, v V) error {
	defer w.look()
	return w.Memory.Put(k, v)
}

func (w *watched[K, V]) Delete(k K) error {
	defer w.look()
	return w.Memory.Delete(k)
}

// policy is the tables that verdicts are found by.
type policy struct {
	clauses  watched[row.ClausesKey, row.Clauses]
	verdicts watched[row.VerdictKey, row.Verdict]
	sources  watched[row.SourceKey, row.Source]
}

func (p *policy) tables() Tables {
	return Tables{
		Verdicts: &p.verdicts, Clauses: &p.clauses, Sources: &p.sources, Endpoints: new(table.Memory[row.EndpointKey, row.Endpoint]),
		Workloads: new(table.Memory[uint32, row.Workload]), Spaces: new(table.Memory[uint64, row.Space]),
		Blocks: new(table.Memory[row.BlockKey, row.Block]), Prefixes: new(table.Memory[row.PrefixKey, row.Prefix]),
		VTEPs: new(table.Memory[row.Addr, row.VTEP]), Openings: new(table.Memory[row.OpeningKey, row.Opening]),
	}
}

func (p *policy) watch(look func()) {
	p.clauses.look, p.verdicts.look, p.sources.look = look, look, look
}

func (p *policy) fail(bad func(string) bool) {
	refuse := func(key any) error {
		if bad != nil && bad(fmt.Sprint(key)) {
			return errors.New("no room")
		}
		return nil
	}
	p.clauses.Fail = func(k row.ClausesKey) error { return refuse(k) }
	p.verdicts.Fail = func(k row.VerdictKey) error { return refuse(k) }
	p.sources.Fail = func(k row.SourceKey) error { return refuse(k) }
}

// outcome is what the packet path makes of one pair and service: the action, by the rows there are.
func (p *policy) outcome(src, dst uint32, port uint16) uint8 {
	v, ok, _ := p.verdicts.Get(row.VerdictKey{VNI: 7, Src: src, Dst: dst})
	switch {
	case !ok:
		return row.VerdictNone
	case v.Clauses == 0:
		return v.Action
	}
	get := func(k row.ClausesKey) (row.Clauses, bool) { c, ok, _ := p.clauses.Get(k); return c, ok }
	if c, ok := row.FindClause(get, v.Clauses, 6, port); ok {
		return c.Action()
	}
	return row.VerdictNone
}

var groups = []string{"a", "b", "c"}

// drawFacts draws a network of three sets of groups with tasks here and rules between them.
func drawFacts(t *rapid.T, name string) compile.Facts {
	n := overlay.Network{Name: "prod", VNI: 7, Subnet4: netip.MustParsePrefix("9.0.0.0/16")}
	f := compile.Facts{Node: "n1", Networks: []overlay.Network{n}}
	for i, g := range groups {
		s := overlay.GroupSet{Network: "prod", Groups: []string{g}, Identity: overlay.Identity(row.IdentityFirst + i)}
		f.Sets = append(f.Sets, s)
		f.Tasks = append(f.Tasks, compile.Task{Ifindex: uint32(i + 1), Endpoint: overlay.Endpoint{
			Attachment: overlay.Attachment{ID: g, Network: "prod", Groups: s.Groups}, VNI: 7, Identity: s.Identity,
		}})
	}
	for i := range rapid.IntRange(0, 5).Draw(t, name+" rules") {
		r := overlay.Rule{
			ID: overlay.RuleID(i + 1), Network: "prod", From: rapid.SampledFrom(groups).Draw(t, "from"), To: rapid.SampledFrom(groups).Draw(t, "to"),
			Action: rapid.SampledFrom([]overlay.Action{overlay.Allow, overlay.Deny}).Draw(t, "action"),
		}
		if rapid.Bool().Draw(t, "ports") {
			r.Protocol, r.Ports = "tcp", []overlay.PortRange{{First: 1, Last: rapid.Uint16Range(1, 3).Draw(t, "last")}}
		}
		f.Rules = append(f.Rules, r)
	}
	return f
}

// each calls f for every pair and port that the rules could tell apart.
func each(f func(src, dst uint32, port uint16)) {
	for src := range uint32(len(groups)) {
		for dst := range uint32(len(groups)) {
			for port := range uint16(5) {
				f(row.IdentityFirst+src, row.IdentityFirst+dst, port)
			}
		}
	}
}

func TestEveryStepOfAChangeIsTheOutcomeBeforeOrAfter(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		before, want := compile.Compile(drawFacts(t, "before")), compile.Compile(drawFacts(t, "want"))
		var p, old, next policy
		for _, q := range []*policy{&p, &old, &next} {
			q.watch(func() {})
		}
		tables := p.tables()
		sync := func(t Tables, r compile.Rows) error { _, err := t.Sync(r); return err }
		if err := errors.Join(sync(tables, before), sync(old.tables(), before), sync(next.tables(), want)); err != nil {
			t.Fatal(err)
		}
		bad := make(map[string]bool)
		chance := rapid.IntRange(0, 3).Draw(t, "failures")
		p.fail(func(key string) bool {
			if _, known := bad[key]; !known {
				bad[key] = rapid.IntRange(0, 9).Draw(t, "fails") < chance
			}
			return bad[key]
		})
		p.watch(func() {
			each(func(src, dst uint32, port uint16) {
				got := p.outcome(src, dst, port)
				if a, b := old.outcome(src, dst, port), next.outcome(src, dst, port); got != a && got != b {
					t.Fatalf("%d to %d port %d: got %d, want %d as before or %d as after", src, dst, port, got, a, b)
				}
			})
		})
		err := sync(tables, want)
		if now, _ := p.verdicts.All(); err == nil && !maps.Equal(now, want.Verdicts) {
			t.Fatalf("got %v, want %v", now, want.Verdicts)
		}
		p.fail(nil)
		if err := sync(tables, want); err != nil {
			t.Fatal(err)
		}
		verdicts, _ := p.verdicts.All()
		clauses, _ := p.clauses.All()
		if !maps.Equal(verdicts, want.Verdicts) || !maps.Equal(clauses, want.Clauses) {
			t.Fatalf("trying again: got %v, want %v", verdicts, want.Verdicts)
		}
	})
}

// TestWhatIsKnownIsNotRead changes one block of many without reading the table, and reads it when it is not known.
func TestWhatIsKnownIsNotRead(t *testing.T) {
	t.Parallel()
	asked := make(map[table.Op]int)
	blocks := &table.Faulty[row.BlockKey, row.Block]{Table: new(table.Memory[row.BlockKey, row.Block]), Fail: func(op table.Op, _ row.BlockKey) error {
		asked[op]++
		return nil
	}}
	tables := new(policy).tables()
	tables.Blocks = blocks
	last := compile.Rows{Blocks: make(map[row.BlockKey]row.Block)}
	for i := range uint32(100) {
		last.Blocks[row.BlockKey{VNI: i}] = row.Block{MTU: 1450}
	}
	if _, err := tables.Update(compile.Rows{}, last, compile.Change{}); err != nil || asked[table.OpAll] != 1 || asked[table.OpPut] != 100 {
		t.Fatalf("at first: %v, %v", asked, err)
	}
	want := last
	want.Blocks = maps.Clone(last.Blocks)
	want.Blocks[row.BlockKey{VNI: 7}] = row.Block{MTU: 1400}
	delete(want.Blocks, row.BlockKey{VNI: 8})
	clear(asked)
	d, err := tables.Update(last, want, compile.Change{})
	if err != nil || d != (table.Diff{Replaced: 1, Removed: 1}) || asked[table.OpAll] != 0 || asked[table.OpPut] != 1 || asked[table.OpDelete] != 1 {
		t.Errorf("a change: %v, asked %v, %v", d, asked, err)
	}
	if got, err := blocks.All(); err != nil || !maps.Equal(got, want.Blocks) {
		t.Errorf("the table is not what is wanted: %v", err)
	}
}
