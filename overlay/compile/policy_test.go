// SPDX-License-Identifier: Apache-2.0

package compile_test

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"weft/overlay"
	"weft/overlay/compile"
	"weft/overlay/compile/compiletest"
)

func merge[K comparable, V any](rows map[K]V, d compile.Delta[K, V]) {
	maps.Copy(rows, d.Put)
	for key := range d.Gone {
		delete(rows, key)
	}
}

// Whatever changes in whatever order, a Policy comes to what compiling everything comes to, and its
// changes, one after the other, come to it as well.
func TestChangesComeToWhatCompilingAllComesTo(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := compile.NewPolicy()
		sum := compile.Compile(compile.Facts{})
		var last compile.Facts
		for step := range rapid.IntRange(1, 8).Draw(t, "steps") {
			f := compiletest.DrawPolicy(t).Facts()
			// Some kinds of facts stay as they were, as the same lists.
			for i, keep := range rapid.SliceOfN(rapid.Bool(), 3, 3).Draw(t, "keep") {
				switch {
				case !keep || step == 0:
				case i == 0:
					f.Sets = last.Sets
				case i == 1:
					f.Rules = last.Rules
				default:
					f.Networks = last.Networks
				}
			}
			f.Tasks = slices.DeleteFunc(f.Tasks, func(compile.Task) bool { return rapid.IntRange(0, 3).Draw(t, "leaves") == 0 })
			// A task's groups are those of its identity, where the masters say what these are.
			for i, task := range f.Tasks {
				for _, s := range f.Sets {
					if s.Identity == task.Identity {
						f.Tasks[i].Groups = s.Groups
					}
				}
			}
			c := p.Update(f)
			merge(sum.Verdicts, c.Verdicts)
			merge(sum.Clauses, c.Clauses)
			merge(sum.Sources, c.Sources)
			want := compile.Compile(f)
			equal(t, p.All(p.Places(f)), want)
			for what, diff := range map[string]string{
				"verdicts": cmp.Diff(want.Verdicts, sum.Verdicts), "clauses": cmp.Diff(want.Clauses, sum.Clauses),
				"sources": cmp.Diff(want.Sources, sum.Sources),
			} {
				if diff != "" {
					t.Fatalf("step %d: the changes of %s do not come to the rows (-want +got):\n%s", step, what, diff)
				}
			}
			last = f
		}
	})
}

// vast is a network of 60,000 identities, each of a group of its own and of one of 60, with 16 of them
// here: a million verdicts.
func vast() compile.Facts {
	n := compiletest.Network("prod", 7)
	f := compile.Facts{Node: "n0", VTEP: netip.MustParseAddr("10.0.0.0"), MTU: 1500, Networks: []overlay.Network{n}}
	for i := range 60000 {
		f.Sets = append(f.Sets, overlay.GroupSet{
			Network: "prod", Groups: []string{"all", fmt.Sprint("g", i), fmt.Sprint("h", i%60)}, Identity: overlay.Identity(16 + i),
		})
	}
	for i := range 16 {
		f.Tasks = append(f.Tasks, compiletest.Task(fmt.Sprint("t", i), n, uint32(i+1), fmt.Sprintf("9.0.0.%d", i+1), f.Sets[i]))
	}
	return f
}

// One rule between two groups, of which one has 1,000 identities, comes and goes; and one identity.
func BenchmarkOneChangeAmong60000Identities(b *testing.B) {
	f := vast()
	p := compile.NewPolicy()
	p.Update(f)
	b.ReportMetric(float64(len(p.All(p.Places(f)).Verdicts)), "verdicts")
	rule := []overlay.Rule{{
		ID: 1, Network: "prod", From: "h7", To: "g3", Protocol: "tcp", Ports: []overlay.PortRange{{First: 80, Last: 8080}}, Action: overlay.Deny,
	}}
	b.Run("rule", func(b *testing.B) {
		on := f
		on.Rules = rule
		for i := 0; b.Loop(); i++ {
			if i%2 == 0 {
				p.Update(on)
			} else {
				p.Update(f)
			}
		}
	})
	b.Run("group", func(b *testing.B) {
		less := f
		less.Sets = slices.Clone(f.Sets[:len(f.Sets)-1])
		for i := 0; b.Loop(); i++ {
			if i%2 == 0 {
				p.Update(less)
			} else {
				p.Update(f)
			}
		}
	})
}
