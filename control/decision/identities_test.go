// SPDX-License-Identifier: Apache-2.0

package decision

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"weft/discovery"
	"weft/overlay"
)

// runner is a node that runs tasks by what it has heard of the ledger, as overlay/engine does.
type runner struct {
	id    string
	view  map[string]overlay.GroupSet // identities, as heard last
	tasks map[string]overlay.GroupSet // by task: what it was given
	waits map[string]bool             // groups that tasks wait for
	said  []func(*facts)              // as the masters heard it last
}

func (r *runner) find(groups string) (overlay.GroupSet, bool) {
	for _, s := range r.view {
		if strings.Join(s.Groups, ",") == groups && s.Retired == 0 {
			return s, true
		}
	}
	return overlay.GroupSet{}, false
}

// talk lets the node hear the ledger and the masters hear the node.
func (r *runner) talk(w *world) {
	r.view = maps.Clone(w.s.identities)
	for groups := range r.waits {
		if _, known := r.find(groups); known {
			delete(r.waits, groups)
		}
	}
	r.said = nil
	for task, set := range r.tasks {
		r.said = append(r.said, func(f *facts) {
			f.say(r.id, discovery.KindEndpoint, task, overlay.Endpoint{
				Attachment: overlay.Attachment{ID: task, Network: "prod", Groups: set.Groups}, Identity: set.Identity,
			})
		})
	}
	for groups := range maps.Clone(r.waits) {
		r.said = append(r.said, func(f *facts) {
			f.say(r.id, discovery.KindWant, "groups/"+groups, overlay.Want{Network: "prod", Groups: strings.Split(groups, ",")})
		})
	}
	var released []overlay.Release
	for _, s := range r.view {
		used := slices.ContainsFunc(slices.Collect(maps.Values(r.tasks)), func(t overlay.GroupSet) bool { return t.Identity == s.Identity })
		if s.Retired != 0 && !used {
			released = append(released, overlay.Release{Identity: s.Identity, Retired: s.Retired})
		}
	}
	if released != nil {
		r.said = append(r.said, func(f *facts) {
			f.say(r.id, discovery.KindWant, "released/prod", overlay.Want{Network: "prod", Released: released})
		})
	}
}

// Nodes start and end tasks, hear and are heard at any time or not for long; numbers are so short that they
// are used again all the time. None means two sets of groups at once, and none is lost for good.
func TestANumberNeverMeansTwoSetsOfGroups(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		w.network(t, "prod", "9.0.0.0/16", "", 24)
		names := []string{"a", "b", "c", "d", "e"}
		for _, g := range names {
			d, err := AddGroup(w.s, overlay.Group{Network: "prod", Name: g})
			if err != nil {
				t.Fatal(err)
			}
			w.make(t, d)
		}
		now := time.Unix(1_000_000, 0)
		var nodes []*runner
		for i := range 3 {
			nodes = append(nodes, &runner{id: fmt.Sprint("n", i), tasks: map[string]overlay.GroupSet{}, waits: map[string]bool{}})
		}
		lead := func() {
			f := &facts{}
			for i, n := range nodes {
				f.node(n.id, fmt.Sprintf("10.0.0.%d", i+1))
				for _, say := range n.said {
					say(f)
				}
			}
			for range 10 {
				c := ReadClaims(f, now)
				c.scarce = 2
				d := Plan(w.s, c)
				if d.Empty() {
					return
				}
				w.make(t, d)
			}
			t.Fatal("the leader never comes to rest")
		}
		check := func() {
			for _, n := range nodes {
				for task, set := range n.tasks {
					for _, m := range nodes {
						for other, s := range m.tasks {
							if s.Identity == set.Identity && !slices.Equal(s.Groups, set.Groups) {
								t.Fatalf("%s of %s and %s of %s: %v and %v", task, n.id, other, m.id, set, s)
							}
						}
					}
					if s, ok := w.s.identities[fmt.Sprintf("prod/%d", set.Identity)]; !ok || !slices.Equal(s.Groups, set.Groups) {
						t.Fatalf("%s of %s is in %v, the ledger says %v", task, n.id, set, s)
					}
				}
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"start": func(t *rapid.T) {
				n, g := rapid.SampledFrom(nodes).Draw(t, "node"), rapid.SampledFrom(names).Draw(t, "group")
				if set, known := n.find(g); known {
					n.tasks[fmt.Sprintf("%s-%s-%d", n.id, g, len(n.tasks))] = set
				} else {
					n.waits[g] = true
				}
			},
			"end": func(t *rapid.T) {
				n := rapid.SampledFrom(nodes).Draw(t, "node")
				for task := range n.tasks {
					delete(n.tasks, task)
					break
				}
			},
			"talk": func(t *rapid.T) { rapid.SampledFrom(nodes).Draw(t, "node").talk(w) },
			"lead": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(0, 400).Draw(t, "seconds")) * time.Second)
				lead()
			},
			"": func(*rapid.T) { check() },
		})
		// All tasks end, all are in touch: what is over the limit becomes free.
		for _, n := range nodes {
			clear(n.tasks)
			clear(n.waits)
		}
		for range 3 {
			for _, n := range nodes {
				n.talk(w)
			}
			now = now.Add(Quarantine)
			lead()
		}
		if n := len(w.s.identities); n >= 2 {
			t.Fatalf("%d numbers are left though nobody uses them", n)
		}
	})
}
