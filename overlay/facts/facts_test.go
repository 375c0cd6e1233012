// SPDX-License-Identifier: Apache-2.0

package facts_test

import (
	"encoding/json"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"weft/discovery"
	"weft/discovery/state"
	"weft/overlay"
	"weft/overlay/facts"
)

// said is rows that writers say, each new.
type said struct {
	*state.Store
	t   *testing.T
	seq uint64
}

func (s *said) say(writer string, kind discovery.Kind, key string, v any) {
	s.t.Helper()
	value, err := json.Marshal(v)
	if err != nil {
		s.t.Fatal(err)
	}
	s.seq++
	if _, err := s.Apply([]discovery.Row{{Writer: writer, Kind: kind, Key: key, Incarnation: 1, Seq: s.seq, Value: value}}); err != nil {
		s.t.Fatal(err)
	}
}

func open(t *testing.T) (*said, *facts.Facts, *strings.Builder) {
	t.Helper()
	store, err := state.Open(state.Options{Self: "n1", Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	log := new(strings.Builder)
	return &said{Store: store, t: t}, facts.New(store, slog.New(slog.NewTextHandler(log, nil))), log
}

func TestOnlyItsWriterSaysAFact(t *testing.T) {
	t.Parallel()
	s, f, _ := open(t)
	prod := overlay.Network{Name: "prod", VNI: 7, Subnet4: netip.MustParsePrefix("9.0.0.0/16")}
	s.say("n2", discovery.KindNetwork, "forged", prod)
	s.say("n2", discovery.KindNode, "n3", discovery.Node{ID: "n3", MTU: 9000})
	s.say("n2", discovery.KindNode, "n2", discovery.Node{ID: "n2", MTU: 1400})
	for _, n := range []discovery.NodeID{"n2", "n3"} {
		s.say(discovery.Ledger, discovery.KindAdmission, string(n), discovery.Admission{Node: n, VTEP: netip.MustParseAddr("10.0.0.2")})
	}
	if list := f.Networks(); len(list) != 0 {
		t.Errorf("a node's word of a network counts: %v", list)
	}
	for _, n := range f.Admitted() {
		if want := map[discovery.NodeID]int{"n2": 1400, "n3": 0}[n.ID]; n.MTU != want {
			t.Errorf("%s has MTU %d, want %d: others do not say it", n.ID, n.MTU, want)
		}
	}
	s.say(discovery.Ledger, discovery.KindNetwork, "prod", prod)
	if n, ok := f.Network("prod"); !ok || n.Block4 == 0 {
		t.Errorf("got %+v, %v, want the masters' network with its defaults", n, ok)
	}
}

func TestWhatCanNotBeReadIsLeftOutAndSaid(t *testing.T) {
	t.Parallel()
	s, f, log := open(t)
	s.say(discovery.Ledger, discovery.KindNetwork, "odd", "no network")
	s.say(discovery.Ledger, discovery.KindRule, "prod/1", overlay.Rule{ID: 1, Network: "prod", Action: "maybe"})
	s.say(discovery.Ledger, discovery.KindBlock, "9.0.0.0/24", overlay.Block{Network: "prod", Node: "n1", Prefix: netip.MustParsePrefix("9.0.0.0/24")})
	if n, r := f.Networks(), f.Rules(); len(n) != 0 || len(r) != 0 {
		t.Errorf("got %v and %v", n, r)
	}
	if b, ok := f.Block(netip.MustParsePrefix("9.0.0.0/24")); !ok || b.Node != "n1" {
		t.Errorf("got %+v, %v beside them", b, ok)
	}
	for _, want := range []string{"not readable", "key=odd", "not usable", "key=prod/1"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log lacks %q: %s", want, log)
		}
	}
}

// TestAListIsTheSameUntilItChanges: what compiles it tells by that whether there is anything to do.
func TestAListIsTheSameUntilItChanges(t *testing.T) {
	t.Parallel()
	s, f, _ := open(t)
	set := func(groups string, n overlay.Identity) {
		s.say(discovery.Ledger, discovery.KindIdentity, "prod/"+groups, overlay.GroupSet{Network: "prod", Groups: []string{groups}, Identity: n})
	}
	set("web", 16)
	one := f.Sets()
	s.say(discovery.Ledger, discovery.KindGroup, "prod/web", overlay.Group{Network: "prod", Name: "web"}) // of another kind
	if again := f.Sets(); &again[0] != &one[0] {
		t.Error("nothing changed, and the list is another")
	}
	set("db", 17)
	if now := f.Sets(); len(now) != 2 || &now[0] == &one[0] || len(one) != 1 {
		t.Errorf("got %v after a change, the old list is %v", now, one)
	}
}
