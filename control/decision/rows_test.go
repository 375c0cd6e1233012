// SPDX-License-Identifier: Apache-2.0

package decision

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"weft/discovery"
	"weft/overlay"
)

// store is what a node makes of rows: the greatest Seq wins.
type store map[tombstone]discovery.Row

func (s store) take(list []discovery.Row) {
	for _, r := range list {
		id := tombstone{r.Kind, r.Key}
		if old, ok := s[id]; !ok || old.Seq < r.Seq {
			s[id] = r
		}
	}
}

func (s store) live() map[tombstone]string {
	live := map[tombstone]string{}
	for id, r := range s {
		if !r.Deleted {
			live[id] = string(r.Value)
		}
	}
	return live
}

// step makes one random request of an operator or a round of the leader.
func step(t *rapid.T, w *world, f *facts) []discovery.Row {
	network := rapid.SampledFrom([]string{"a", "b", "ab"}).Draw(t, "network")
	group := overlay.Group{Network: network, Name: rapid.SampledFrom([]string{"web", "db"}).Draw(t, "group")}
	var d *Decision
	var err error
	switch rapid.IntRange(0, 7).Draw(t, "request") {
	case 0:
		n := overlay.Network{Name: network, Subnet4: overlayPrefix(network)}
		_, d, err = AddNetwork(w.s, n)
	case 1:
		d, err = RemoveNetwork(w.s, network)
	case 2:
		d, err = AddGroup(w.s, group)
	case 3:
		d, err = RemoveGroup(w.s, group, nil)
	case 4:
		_, d, err = AddRule(w.s, overlay.Rule{Network: network, From: "web", To: "db"})
	case 5:
		if ids := w.s.rules.below(network); len(ids) > 0 {
			d, err = RemoveRule(w.s, network, w.s.rules[ids[0]].ID)
		}
	case 6:
		d, _, err = RemoveNode(w.s, "n1", f.list[0].Incarnation)
		f.list[0].Incarnation++
		for i := range f.list {
			f.list[i].Incarnation = f.list[0].Incarnation
		}
	case 7:
		d = Plan(w.s, ReadClaims(f, time.Time{}))
	}
	if err != nil {
		return nil // refused: nothing changes
	}
	return w.make(t, d)
}

func TestRowsOfChangesAndRowsOfEverythingComeToTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w, f := newWorld(), &facts{}
		f.node("n1", "10.0.0.1")
		for _, network := range []string{"a", "b", "ab"} {
			f.say("n1", discovery.KindWant, network, overlay.Want{Network: network, Blocks4: 2, Groups: []string{"web"}})
		}
		steady := store{} // heard every change
		away := store{}   // heard the first ones, then a new master's everything
		last := uint64(0)
		for i := range rapid.IntRange(1, 30).Draw(t, "steps") {
			list := step(t, w, f)
			for _, r := range list {
				if r.Seq <= last {
					t.Fatalf("row %s %s of revision %d after one of %d", r.Kind, r.Key, r.Seq, last)
				}
			}
			last = w.s.revision
			steady.take(list)
			if i < 8 {
				away.take(list)
			}
		}
		everything, err := w.s.Rows(w.everything())
		if err != nil {
			t.Fatal(err)
		}
		if !slices.IsSortedFunc(everything, func(a, b discovery.Row) int { return int(a.Seq) - int(b.Seq) }) {
			t.Fatal("not in the order of revisions")
		}
		away.take(everything)
		if diff := cmp.Diff(steady.live(), away.live()); diff != "" {
			t.Fatalf("who was away believes otherwise: %s", diff)
		}
		fresh := store{}
		fresh.take(everything)
		if diff := cmp.Diff(steady.live(), fresh.live()); diff != "" {
			t.Fatalf("who is new believes otherwise: %s", diff)
		}
		again, err := (&Snapshot{}).Apply(w.everything())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(maps.Collect(maps.All(w.s.blocks)), maps.Collect(maps.All(again.blocks)), equal...); diff != "" {
			t.Fatalf("a new master has other blocks: %s", diff)
		}
	})
}

func TestANetworkGoesWithAllThatIsOfIt(t *testing.T) {
	w, f := newWorld(), &facts{}
	w.network(t, "prod", "9.0.0.0/16", "", 0)
	w.network(t, "prod-2", "9.1.0.0/16", "", 0)
	f.node("n1", "10.0.0.1")
	for _, network := range []string{"prod", "prod-2"} {
		d, err := AddGroup(w.s, overlay.Group{Network: network, Name: "web"})
		if err != nil {
			t.Fatal(err)
		}
		w.make(t, d)
		_, d, err = AddRule(w.s, overlay.Rule{Network: network, From: "world", To: "web", Protocol: "tcp"})
		if err != nil {
			t.Fatal(err)
		}
		w.make(t, d)
		f.say("n1", discovery.KindWant, network, overlay.Want{Network: network, Blocks4: 1, Groups: []string{"web"}})
	}
	w.settle(t, f)
	d, err := RemoveNetwork(w.s, "prod")
	if err != nil {
		t.Fatal(err)
	}
	var gone []string
	for _, r := range w.make(t, d) {
		if r.Deleted {
			gone = append(gone, fmt.Sprint(r.Kind, " ", r.Key))
		} else {
			t.Errorf("row %s %s lives", r.Kind, r.Key)
		}
	}
	slices.Sort(gone)
	want := []string{"block 9.0.0.0/24", "group prod/web", "identity prod/16", "network prod", "rule prod/1"}
	if diff := cmp.Diff(want, gone); diff != "" {
		t.Error(diff)
	}
	if len(w.s.groups) != 1 || len(w.s.rules) != 1 || len(w.s.blocks) != 1 || len(w.s.identities) != 1 {
		t.Errorf("of prod-2 are left: %v %v %v %v", w.s.groups, w.s.rules, w.s.blocks, w.s.identities)
	}
	// The same name again is another network.
	w.network(t, "prod", "9.0.0.0/16", "", 0)
	if got := w.s.networks["prod"].VNI; got != 3 {
		t.Errorf("vni %d, want 3: 1 may still be on the wire", got)
	}
}

func TestAHandWrittenKeyHarmsNobody(t *testing.T) {
	w := newWorld()
	w.network(t, "prod", "9.0.0.0/16", "", 0)
	u := w.everything()
	u.Entries[0].Value = []byte("{")
	s, err := (&Snapshot{}).Apply(u)
	if err == nil || !strings.Contains(err.Error(), "read key network/prod of the ledger") {
		t.Errorf("got %v, want the key's name", err)
	}
	if s.numbers[numberVNI] != 1 {
		t.Errorf("the other keys are lost: %v", s.numbers)
	}
}
