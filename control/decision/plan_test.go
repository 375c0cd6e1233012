// SPDX-License-Identifier: Apache-2.0

package decision

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"weft/control/decision/free"
	"weft/control/ledger"
	"weft/discovery"
	"weft/lb"
	"weft/overlay"
)

var equal = []cmp.Option{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
}

// facts are rows in memory.
type facts struct{ list []discovery.Row }

func (f *facts) Rows(kind discovery.Kind) []discovery.Row {
	var list []discovery.Row
	for _, r := range f.list {
		if r.Kind == kind {
			list = append(list, r)
		}
	}
	return list
}

func (f *facts) Changed(...discovery.Kind) <-chan struct{} { return nil }

func (f *facts) say(node string, kind discovery.Kind, key string, v any) {
	value, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	f.list = append(f.list, discovery.Row{Writer: node, Kind: kind, Key: key, Incarnation: 7, Seq: 1, Value: value})
}

func (f *facts) node(id, addr string) {
	f.say(id, discovery.KindNode, id, discovery.Node{ID: discovery.NodeID(id), Addrs: []netip.Addr{netip.MustParseAddr(addr)}})
}

// world is a ledger in memory: it holds what decisions leave.
type world struct {
	s   *Snapshot
	raw map[string]ledger.Entry
}

func newWorld() *world { return &world{&Snapshot{}, map[string]ledger.Entry{}} }

// everything is the update that a master gets that starts now.
func (w *world) everything() ledger.Update {
	u := ledger.Update{Revision: w.s.revision, Version: w.s.version, Reset: true}
	for _, key := range slices.Sorted(maps.Keys(w.raw)) {
		u.Entries = append(u.Entries, w.raw[key])
	}
	return u
}

// make carries out a decision, as the ledger would, and returns the rows of it.
func (w *world) make(t failer, d *Decision) []discovery.Row {
	if d == nil || d.Empty() {
		return nil
	}
	change := d.Change(w.s, 1)
	if change.Size() > ledger.MaxChanges {
		t.Fatalf("a change of %d: at most %d are allowed", change.Size(), ledger.MaxChanges)
	}
	u := ledger.Update{Revision: w.s.revision + 1, Version: w.s.revision + 1}
	for key, value := range change.Put {
		u.Entries = append(u.Entries, ledger.Entry{Key: key, Value: value, Modified: u.Revision})
	}
	for _, key := range change.Delete {
		u.Entries = append(u.Entries, ledger.Entry{Key: key, Modified: u.Revision, Deleted: true})
	}
	for _, prefix := range change.DeleteAll {
		kind, network := split(strings.TrimSuffix(prefix, "/"))
		for _, key := range w.keys(kind, network) {
			u.Entries = append(u.Entries, ledger.Entry{Key: string(kind) + "/" + key, Modified: u.Revision, Deleted: true})
		}
	}
	for _, e := range u.Entries {
		if w.raw[e.Key] = e; e.Deleted {
			delete(w.raw, e.Key)
		}
	}
	next, err := w.s.Apply(u)
	if err != nil {
		t.Fatalf("apply: %v", err)
	}
	list, err := next.Rows(u)
	if err != nil {
		t.Fatalf("rows: %v", err)
	}
	w.s = next
	return list
}

func (w *world) keys(kind discovery.Kind, network string) []string {
	switch kind {
	case discovery.KindGroup:
		return w.s.groups.below(network)
	case discovery.KindRule:
		return w.s.rules.below(network)
	case discovery.KindBlock:
		return w.s.blocks.below(network)
	default:
		return w.s.identities.below(network)
	}
}

type failer interface {
	Fatalf(format string, args ...any)
}

// settle lets the leader decide until nothing is left to decide.
func (w *world) settle(t failer, f Facts) {
	for range 1000 {
		d := Plan(w.s, ReadClaims(f, time.Time{}))
		if d.Empty() {
			return
		}
		w.make(t, d)
	}
	t.Fatalf("the leader never ends deciding")
}

func (w *world) network(t failer, name, subnet4, subnet6 string, block4 int) {
	n := overlay.Network{Name: name, Block4: block4}
	if subnet4 != "" {
		n.Subnet4 = netip.MustParsePrefix(subnet4)
	}
	if subnet6 != "" {
		n.Subnet6 = netip.MustParsePrefix(subnet6)
	}
	_, d, err := AddNetwork(w.s, n)
	if err != nil {
		t.Fatalf("%v", err)
	}
	w.make(t, d)
}

func (w *world) blocks() map[string]string {
	held := map[string]string{}
	for _, b := range w.s.blocks {
		held[b.Prefix.String()] = string(b.Node)
	}
	return held
}

func (w *world) reasons() []string {
	reasons := []string{}
	for _, key := range w.s.refusals.keys() {
		reasons = append(reasons, key+": "+w.s.refusals[key].Reason)
	}
	return reasons
}

func TestBlocksAreGivenLowestFirst(t *testing.T) {
	w, f := newWorld(), &facts{}
	w.network(t, "prod", "9.0.0.0/16", "fd01:b::/64", 0)
	f.node("n2", "10.0.0.2")
	f.node("n1", "10.0.0.1")
	f.say("n2", discovery.KindWant, "prod", overlay.Want{Network: "prod", Blocks4: 1, Blocks6: 1})
	w.settle(t, f)
	f.say("n1", discovery.KindWant, "prod", overlay.Want{Network: "prod", Blocks4: 2, Blocks6: 1})
	w.settle(t, f)
	want := map[string]string{
		"9.0.0.0/24": "n2", "9.0.1.0/24": "n1", "9.0.2.0/24": "n1",
		"fd01:b::/112": "n2", "fd01:b::1:0/112": "n1",
	}
	if diff := cmp.Diff(want, w.blocks()); diff != "" {
		t.Error(diff)
	}
	// What a lost node had stays its own; what a removed one had is given anew, lowest first.
	f.list = slices.DeleteFunc(f.list, func(r discovery.Row) bool { return r.Writer == "n2" })
	w.settle(t, f)
	if diff := cmp.Diff(want, w.blocks()); diff != "" {
		t.Error(diff)
	}
	d, _, err := RemoveNode(w.s, "n2", 7)
	if err != nil {
		t.Fatal(err)
	}
	w.make(t, d)
	f.say("n1", discovery.KindWant, "more", overlay.Want{Network: "prod", Blocks4: 4})
	w.settle(t, f)
	want = map[string]string{
		"9.0.0.0/24": "n1", "9.0.1.0/24": "n1", "9.0.2.0/24": "n1", "9.0.3.0/24": "n1", "fd01:b::1:0/112": "n1",
	}
	if diff := cmp.Diff(want, w.blocks()); diff != "" {
		t.Error(diff)
	}
}

func TestAFullNetworkIsSaid(t *testing.T) {
	w, f := newWorld(), &facts{}
	w.network(t, "small", "9.9.0.0/24", "", 25)
	f.node("n1", "10.0.0.1")
	f.say("n1", discovery.KindWant, "small", overlay.Want{Network: "small", Blocks4: 3})
	w.settle(t, f)
	want := []string{"n1/want/small: network small has no free block left: all 2 of 9.9.0.0/24 (each a /25) are given"}
	if diff := cmp.Diff(want, w.reasons()); diff != "" {
		t.Error(diff)
	}
	node := w.s.Nodes(ReadClaims(f, time.Time{}), nil)[0]
	reason := strings.TrimPrefix(want[0], "n1/want/small: ")
	if diff := cmp.Diff([]string{reason}, node.Refusals); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]string{"small": reason}, node.Blockless); diff != "" {
		t.Errorf("for programs: %s", diff)
	}
	f.list = f.list[:1]
	f.say("n1", discovery.KindWant, "small", overlay.Want{Network: "small", Blocks4: 2})
	w.settle(t, f)
	if diff := cmp.Diff([]string{}, w.reasons()); diff != "" {
		t.Errorf("a refusal outlives the wish: %s", diff)
	}
}

func TestANodeThatIsNotAdmittedGetsNothing(t *testing.T) {
	for name, tt := range map[string]struct {
		say  func(*facts)
		want string
	}{
		"no node row": {func(*facts) {}, ""},
		"no address": {
			func(f *facts) { f.say("n9", discovery.KindNode, "n9", discovery.Node{ID: "n9"}) },
			"n9/node/n9: the node tells no underlay address",
		},
		"another's address": {
			func(f *facts) { f.node("n9", "10.0.0.1") },
			"n9/node/n9: address 10.0.0.1 is node n1's",
		},
		"inside a network": {
			func(f *facts) { f.node("n9", "9.0.0.5") },
			"n9/node/n9: address 9.0.0.5 lies in 9.0.0.0/16 of network prod: the underlay may not be part of a network",
		},
		"broken": {
			func(f *facts) {
				f.list = append(f.list, discovery.Row{Writer: "n9", Kind: discovery.KindNode, Key: "n9", Incarnation: 1, Value: []byte("{")})
			},
			"n9/node/n9: the row can't be read: unexpected end of JSON input",
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, f := newWorld(), &facts{}
			w.network(t, "prod", "9.0.0.0/16", "", 0)
			f.node("n1", "10.0.0.1")
			tt.say(f)
			f.say("n9", discovery.KindWant, "prod", overlay.Want{Network: "prod", Blocks4: 1, Groups: []string{"public"}})
			f.say("n9", discovery.KindBackend, "web", lb.Backend{VIP: lb.Key{Name: "web.weft", Port: 80, Protocol: "tcp"}})
			w.settle(t, f)
			if len(w.s.blocks)+len(w.s.identities)+len(w.s.pins) != 0 {
				t.Errorf("blocks %v, identities %v, pins %v, want none", w.s.blocks, w.s.identities, w.s.pins)
			}
			want := []string{}
			if tt.want != "" {
				want = append(want, tt.want)
			}
			if diff := cmp.Diff(want, w.reasons()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestASecondNodeOfTheSameIDIsRefused(t *testing.T) {
	w, f := newWorld(), &facts{}
	f.node("n1", "10.0.0.1")
	w.settle(t, f)
	f.list = nil
	f.node("n1", "10.0.0.66")
	f.list[0].Incarnation++
	w.settle(t, f)
	if got := w.s.admissions["n1"].VTEP; got != netip.MustParseAddr("10.0.0.1") {
		t.Errorf("admitted with %s, want 10.0.0.1 as before", got)
	}
	if got := w.reasons(); len(got) != 1 || !strings.Contains(got[0], "weft node remove n1") {
		t.Errorf("refusals %q, want what to do", got)
	}
}

// TestANodeMoves: the same life with another address is admitted there, and the one before is remembered.
func TestANodeMoves(t *testing.T) {
	w, f := newWorld(), &facts{}
	f.node("n1", "10.0.0.1")
	f.node("n2", "10.0.0.2")
	w.settle(t, f)
	f.list = nil
	f.node("n1", "10.0.0.66")
	f.node("n2", "10.0.0.2")
	w.settle(t, f)
	want := discovery.Admission{
		Node: "n1", VTEP: netip.MustParseAddr("10.0.0.66"), Former: netip.MustParseAddr("10.0.0.1"),
		Host4: netip.MustParsePrefix("44.128.0.1/20"), Host6: netip.MustParsePrefix("fd01:a::1/64"), Incarnation: w.s.admissions["n2"].Incarnation,
	}
	if diff := cmp.Diff(want, w.s.admissions["n1"], equal...); diff != "" {
		t.Error(diff)
	}
	f.list = nil
	f.node("n1", "10.0.0.2")
	f.node("n2", "10.0.0.2")
	w.settle(t, f)
	if got := w.s.admissions["n1"].VTEP; got != netip.MustParseAddr("10.0.0.66") {
		t.Errorf("moved to %s, want 10.0.0.66: the other is node n2's", got)
	}
	if got := w.reasons(); len(got) != 1 || !strings.Contains(got[0], "node n2's") {
		t.Errorf("refusals %q, want one that names n2", got)
	}
}

func TestARemovedNodeComesBackWithANewLifeOnly(t *testing.T) {
	w, f := newWorld(), &facts{}
	f.node("n1", "10.0.0.1")
	w.settle(t, f)
	d, _, err := RemoveNode(w.s, "n1", 7)
	if err != nil {
		t.Fatal(err)
	}
	w.make(t, d)
	w.settle(t, f) // the row of the removed life may still be here
	if a := w.s.admissions["n1"]; a.VTEP.IsValid() || a.Gone != 7 {
		t.Errorf("after removal: %+v, want it gone up to 7", a)
	}
	f.list[0].Incarnation = 8
	w.settle(t, f)
	want := discovery.Admission{
		Node: "n1", VTEP: netip.MustParseAddr("10.0.0.1"), Incarnation: 8, Gone: 7,
		Host4: netip.MustParsePrefix("44.128.0.1/20"), Host6: netip.MustParsePrefix("fd01:a::1/64"),
	}
	if diff := cmp.Diff(want, w.s.admissions["n1"], equal...); diff != "" {
		t.Error(diff)
	}
}

// TestNodesAreNumbered: each node has the lowest addresses that no other has, and keeps them until it is removed.
func TestNodesAreNumbered(t *testing.T) {
	w, f := newWorld(), &facts{}
	f.node("b", "10.0.0.2")
	f.node("c", "10.0.0.3")
	w.settle(t, f)
	f.node("a", "10.0.0.1")
	w.settle(t, f)
	want := map[string]string{"b": "44.128.0.1/20 fd01:a::1/64", "c": "44.128.0.2/20 fd01:a::2/64", "a": "44.128.0.3/20 fd01:a::3/64"}
	numbers := func() map[string]string {
		got := map[string]string{}
		for id, a := range w.s.admissions {
			if a.VTEP.IsValid() {
				got[id] = a.Host4.String() + " " + a.Host6.String()
			}
		}
		return got
	}
	if diff := cmp.Diff(want, numbers()); diff != "" {
		t.Error(diff)
	}
	d, _, err := RemoveNode(w.s, "b", 1<<40)
	if err != nil {
		t.Fatal(err)
	}
	w.make(t, d)
	f.node("d", "10.0.0.4")
	w.settle(t, f)
	delete(want, "b")
	want["d"] = "44.128.0.1/20 fd01:a::1/64"
	if diff := cmp.Diff(want, numbers()); diff != "" {
		t.Error(diff)
	}
}

func TestASetOfGroupsHasOneIdentity(t *testing.T) {
	w, f := newWorld(), &facts{}
	w.network(t, "prod", "9.0.0.0/16", "", 0)
	for _, g := range []string{"web", "db"} {
		d, err := AddGroup(w.s, overlay.Group{Network: "prod", Name: g})
		if err != nil {
			t.Fatal(err)
		}
		w.make(t, d)
	}
	f.node("n1", "10.0.0.1")
	f.node("n2", "10.0.0.2")
	f.say("n1", discovery.KindWant, "a", overlay.Want{Network: "prod", Groups: []string{"db", "web"}})
	f.say("n2", discovery.KindWant, "a", overlay.Want{Network: "prod", Groups: []string{"web", "db", "web"}})
	f.say("n2", discovery.KindWant, "b", overlay.Want{Network: "prod", Groups: []string{"public"}})
	f.say("n2", discovery.KindWant, "c", overlay.Want{Network: "prod", Groups: []string{"cache"}})
	f.say("n2", discovery.KindWant, "d", overlay.Want{Network: "test", Groups: []string{"web"}})
	w.settle(t, f)
	want := table[overlay.GroupSet]{
		"prod/16": {Network: "prod", Groups: []string{"db", "web"}, Identity: 16},
		"prod/17": {Network: "prod", Groups: []string{"public"}, Identity: 17},
	}
	if diff := cmp.Diff(want, w.s.identities); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{
		`n2/want/c: no group of network prod "cache"; there are db, web`,
		`n2/want/d: no network "test"; there are prod`,
	}, w.reasons()); diff != "" {
		t.Error(diff)
	}
}

func TestIdentitiesRunOutWithAWord(t *testing.T) {
	w, f := newWorld(), &facts{}
	w.network(t, "prod", "9.0.0.0/16", "", 0)
	next := *w.s
	next.identities = table[overlay.GroupSet]{}
	for id := free.FirstIdentity; id <= free.LastIdentity; id++ {
		next.identities[fmt.Sprintf("prod/%d", id)] = overlay.GroupSet{Network: "prod", Groups: []string{fmt.Sprint("g", id)}, Identity: overlay.Identity(id)}
	}
	w.s = &next
	f.node("n1", "10.0.0.1")
	f.say("n1", discovery.KindWant, "a", overlay.Want{Network: "prod", Groups: []string{"public"}})
	w.settle(t, f)
	want := []string{"n1/want/a: network prod has no identity left for groups public: all 65520 are taken by other sets of groups; let tasks share sets of groups, or use several networks"}
	if diff := cmp.Diff(want, w.reasons()); diff != "" {
		t.Error(diff)
	}
}

func TestNamedVIPsArePinnedOnce(t *testing.T) {
	w, f := newWorld(), &facts{}
	f.node("n1", "10.0.0.1")
	f.node("n2", "10.0.0.2")
	for _, node := range []string{"n1", "n2"} {
		f.say(node, discovery.KindBackend, "tcp", lb.Backend{VIP: lb.Key{Network: "prod", Name: "web.weft", Port: 80, Protocol: "tcp"}})
		f.say(node, discovery.KindBackend, "udp", lb.Backend{VIP: lb.Key{Network: "prod", Name: "web.weft", Port: 80, Protocol: "udp"}})
	}
	f.say("n1", discovery.KindBackend, "literal", lb.Backend{VIP: lb.Key{Addr: lb.HashAddr4("web.weft"), Port: 80, Protocol: "udp"}})
	w.settle(t, f)
	want := table[lb.Pin]{"web.weft": {
		Name: "web.weft", Addr4: lb.HashAddr4("web.weft").Next(), Addr6: lb.HashAddr6("web.weft"),
	}}
	if diff := cmp.Diff(want, w.s.pins, equal...); diff != "" {
		t.Error(diff)
	}
	// A pin stays when its last backend goes: the service comes back to its address.
	f.list = f.list[:2]
	w.settle(t, f)
	if diff := cmp.Diff(want, w.s.pins, equal...); diff != "" {
		t.Error(diff)
	}
}

func TestWhateverNodesWantNothingIsGivenTwice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w, f := newWorld(), &facts{}
		w.network(t, "prod", "9.0.0.0/16", "fd01:b::/100", rapid.IntRange(18, 24).Draw(t, "block"))
		w.network(t, "dev", "9.1.0.0/20", "", 24)
		nodes := rapid.IntRange(1, 40).Draw(t, "nodes")
		for n := range nodes {
			f.node(fmt.Sprint("n", n), fmt.Sprintf("10.0.0.%d", n+1))
		}
		// Several rounds of growing wishes, in which nodes are removed as well.
		for range rapid.IntRange(1, 4).Draw(t, "rounds") {
			for range rapid.IntRange(0, 20).Draw(t, "wishes") {
				node := fmt.Sprint("n", rapid.IntRange(0, nodes-1).Draw(t, "node"))
				network := rapid.SampledFrom([]string{"prod", "dev"}).Draw(t, "network")
				f.say(node, discovery.KindWant, fmt.Sprint(len(f.list)), overlay.Want{
					Network: network, Blocks4: rapid.IntRange(0, 30).Draw(t, "blocks4"), Blocks6: rapid.IntRange(0, 30).Draw(t, "blocks6"),
					Groups: []string{"public"},
				})
			}
			before := w.blocks()
			// The order in which rows were heard is of no account.
			other := &world{w.s, maps.Clone(w.raw)}
			heard := &facts{slices.Clone(f.list)}
			rand.Shuffle(len(heard.list), func(i, j int) { heard.list[i], heard.list[j] = heard.list[j], heard.list[i] })
			w.settle(t, f)
			other.settle(t, heard)
			if diff := cmp.Diff(w.blocks(), other.blocks()); diff != "" {
				t.Fatalf("another order gives other blocks: %s", diff)
			}
			for prefix, node := range before {
				if w.blocks()[prefix] != node {
					t.Fatalf("block %s of %s is now %q's", prefix, node, w.blocks()[prefix])
				}
			}
			checkBlocks(t, w.s)
		}
	})
}

// checkBlocks fails if blocks overlap, lie outside of their network, have the wrong length, or leave
// a gap (nothing was freed, so the lowest are given).
func checkBlocks(t failer, s *Snapshot) {
	highest := map[string]overlay.Block{}
	count := map[string]int{}
	for _, key := range s.blocks.keys() {
		b := s.blocks[key]
		n := s.networks[b.Network]
		subnet := n.Subnet4
		if b.Prefix.Addr().Is6() {
			subnet = n.Subnet6
		}
		if !subnet.Overlaps(b.Prefix) || b.Prefix.Bits() != n.BlockBits(b.Prefix.Addr()) || b.Prefix != b.Prefix.Masked() {
			t.Fatalf("block %s does not fit network %s", b.Prefix, n.Form())
		}
		id := fmt.Sprint(b.Network, b.Prefix.Addr().Is4())
		if h, ok := highest[id]; !ok || h.Prefix.Addr().Less(b.Prefix.Addr()) {
			highest[id] = b
		}
		count[id]++
	}
	for id, b := range highest {
		n := s.networks[b.Network]
		subnet := n.Subnet4
		if b.Prefix.Addr().Is6() {
			subnet = n.Subnet6
		}
		walk := free.NewBlocks(subnet, b.Prefix.Bits())
		for range count[id] - 1 {
			nextOf(walk)
		}
		if last, _ := nextOf(walk); last != b.Prefix {
			t.Fatalf("the highest of %d blocks is %s, want %s: the lowest are given first, each once", count[id], b.Prefix, last)
		}
	}
}

// nextOf takes the lowest free block.
func nextOf(b *free.Blocks) (netip.Prefix, bool) {
	p, ok := b.Next(nil)
	if ok {
		b.Take(p, "n")
	}
	return p, ok
}
