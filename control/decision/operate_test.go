// SPDX-License-Identifier: Apache-2.0

package decision

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft/control"
	"weft/discovery"
	"weft/overlay"
)

func overlayPrefix(network string) netip.Prefix {
	return map[string]netip.Prefix{
		"a": netip.MustParsePrefix("9.1.0.0/16"), "b": netip.MustParsePrefix("9.2.0.0/16"), "ab": netip.MustParsePrefix("9.3.0.0/16"),
	}[network]
}

// cluster is a world with a network, two groups, a rule and a node.
func cluster(t *testing.T) *world {
	t.Helper()
	w, f := newWorld(), &facts{}
	w.network(t, "prod", "9.0.0.0/16", "", 0)
	for _, g := range []string{"web", "db"} {
		d, err := AddGroup(w.s, overlay.Group{Network: "prod", Name: g})
		if err != nil {
			t.Fatal(err)
		}
		w.make(t, d)
	}
	_, d, err := AddRule(w.s, overlay.Rule{Network: "prod", From: "web", To: "db", Protocol: "tcp", Ports: []overlay.PortRange{{First: 5432, Last: 5432}}})
	if err != nil {
		t.Fatal(err)
	}
	w.make(t, d)
	f.node("n1", "10.0.0.1")
	w.settle(t, f)
	return w
}

func TestRequestsThatCanNotBeGrantedSayWhy(t *testing.T) {
	w := cluster(t)
	network := func(name, subnet string, change func(*overlay.Network)) func() error {
		n := overlay.Network{Name: name, Subnet4: netip.MustParsePrefix(subnet)}
		if change != nil {
			change(&n)
		}
		return func() error { _, _, err := AddNetwork(w.s, n); return err }
	}
	group := func(network, name string) func() error {
		return func() error { _, err := AddGroup(w.s, overlay.Group{Network: network, Name: name}); return err }
	}
	rule := func(r overlay.Rule) func() error {
		return func() error { _, _, err := AddRule(w.s, r); return err }
	}
	drop := func(remove func() (*Decision, error)) func() error {
		return func() error { _, err := remove(); return err }
	}
	endpoints := []overlay.Endpoint{{Attachment: overlay.Attachment{Task: "web-1", Network: "prod", Groups: []string{"web"}}}}
	for name, tt := range map[string]struct {
		request func() error
		as      error
		want    string
	}{
		"overlap":         {network("bad", "9.0.128.0/17", nil), control.ErrExists, `subnet 9.0.128.0/17 overlaps 9.0.0.0/16 of network "prod"`},
		"underlay":        {network("bad", "10.0.0.0/16", nil), control.ErrExists, "subnet 10.0.0.0/16 overlaps 10.0.0.1/32 of node n1 in the underlay"},
		"other form":      {network("prod", "9.1.0.0/16", nil), control.ErrExists, `network "prod" is there in another form (vni 1, subnet 9.0.0.0/16 in blocks of /24, ungrouped own); weft network set changes it`},
		"taken vni":       {network("bad", "9.1.0.0/16", func(n *overlay.Network) { n.VNI = 1 }), control.ErrExists, `vni 1 is network "prod"'s`},
		"malformed":       {network("Bad", "9.1.0.1/16", nil), control.ErrInvalid, `name "Bad" is no DNS label`},
		"runtime's name":  {network("host", "9.1.0.0/16", nil), control.ErrInvalid, "every name but bridge, default, host, none is allowed"},
		"no network":      {group("test", "web"), control.ErrNotFound, `no network "test"; there are prod`},
		"reserved group":  {group("prod", "world"), control.ErrInvalid, `name "world" is reserved`},
		"unknown group":   {rule(overlay.Rule{Network: "prod", From: "web", To: "cache"}), control.ErrNotFound, `no group of network prod "cache"; there are db, web`},
		"rule's network":  {rule(overlay.Rule{Network: "test", From: "web", To: "db"}), control.ErrNotFound, `no network "test"`},
		"ports":           {rule(overlay.Rule{Network: "prod", From: "web", To: "db", Ports: []overlay.PortRange{{First: 1, Last: 2}}}), control.ErrInvalid, "ports need protocol"},
		"no such network": {drop(func() (*Decision, error) { return RemoveNetwork(w.s, "prdo") }), control.ErrNotFound, `no network "prdo"; there are prod`},
		"no such group":   {drop(func() (*Decision, error) { return RemoveGroup(w.s, overlay.Group{Network: "prod", Name: "x"}, nil) }), control.ErrNotFound, `"x"; there are db, web`},
		"ruled group":     {drop(func() (*Decision, error) { return RemoveGroup(w.s, overlay.Group{Network: "prod", Name: "db"}, nil) }), control.ErrInUse, "weft rule remove prod 1 first"},
		"no such rule":    {drop(func() (*Decision, error) { return RemoveRule(w.s, "prod", 7) }), control.ErrNotFound, `no rule of network prod "7"; there are 1`},
		"no such node":    {drop(func() (*Decision, error) { d, _, err := RemoveNode(w.s, "n7", 1); return d, err }), control.ErrNotFound, `no admitted node "n7"; there are n1`},
		"group with tasks": {drop(func() (*Decision, error) {
			d, err := RemoveRule(w.s, "prod", 1)
			if err != nil {
				return nil, err
			}
			w.make(t, d)
			return RemoveGroup(w.s, overlay.Group{Network: "prod", Name: "web"}, endpoints)
		}), control.ErrInUse, `tasks web-1 are in group "web"`},
	} {
		t.Run(name, func(t *testing.T) {
			before := w.s
			w = cluster(t)
			defer func() { w.s = before }()
			err := AsControl(tt.request())
			if !errors.Is(err, tt.as) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %v with %q", err, tt.as, tt.want)
			}
		})
	}
}

func TestTheSameAgainChangesNothing(t *testing.T) {
	w := cluster(t)
	n, d, err := AddNetwork(w.s, overlay.Network{Name: "prod", Subnet4: netip.MustParsePrefix("9.0.0.0/16"), Block4: 24})
	if err != nil || d != nil || n.VNI != 1 {
		t.Errorf("network: %+v, %v, %v, want the one that is there", n, d, err)
	}
	if d, err := AddGroup(w.s, overlay.Group{Network: "prod", Name: "web"}); err != nil || d != nil {
		t.Errorf("group: %v, %v", d, err)
	}
	r, d, err := AddRule(w.s, overlay.Rule{Network: "prod", From: "web", To: "db", Protocol: "tcp", Action: overlay.Allow, Ports: []overlay.PortRange{{First: 5432, Last: 5432}, {First: 5432, Last: 5432}}})
	if err != nil || d != nil || r.ID != 1 {
		t.Errorf("rule: %+v, %v, %v, want the one that is there", r, d, err)
	}
}

func TestRuleIDsAreNeverUsedAgain(t *testing.T) {
	w := cluster(t)
	d, err := RemoveRule(w.s, "prod", 1)
	if err != nil {
		t.Fatal(err)
	}
	w.make(t, d)
	r, _, err := AddRule(w.s, overlay.Rule{Network: "prod", From: "web", To: "db"})
	if err != nil || r.ID != 2 {
		t.Errorf("rule %d, %v, want 2", r.ID, err)
	}
}

func TestChosenVNIsStepRoundGivenOnes(t *testing.T) {
	w := newWorld()
	for i, tt := range []struct{ give, want overlay.VNI }{{2, 2}, {0, 1}, {0, 3}, {1000, 1000}, {0, 4}} {
		n := overlay.Network{Name: string(rune('a' + i)), VNI: tt.give, Subnet4: netip.PrefixFrom(netip.AddrFrom4([4]byte{9, byte(i), 0, 0}), 16)}
		got, d, err := AddNetwork(w.s, n)
		if err != nil || got.VNI != tt.want {
			t.Fatalf("network %d: vni %d, %v, want %d", i, got.VNI, err, tt.want)
		}
		w.make(t, d)
	}
}

func TestRemovingANodeWithManyBlocksTakesManyChanges(t *testing.T) {
	w, f := newWorld(), &facts{}
	w.network(t, "prod", "9.0.0.0/16", "", 0)
	f.node("n1", "10.0.0.1")
	f.say("n1", discovery.KindWant, "prod", overlay.Want{Network: "prod", Blocks4: maxBlocks})
	w.settle(t, f)
	if len(w.s.blocks) != maxBlocks {
		t.Fatalf("%d blocks, want %d", len(w.s.blocks), maxBlocks)
	}
	changes := 0
	for left := true; left; changes++ {
		var d *Decision
		var err error
		d, left, err = RemoveNode(w.s, "n1", 7)
		if err != nil {
			t.Fatal(err)
		}
		w.make(t, d)
		if d := Plan(w.s, ReadClaims(f, time.Time{})); !d.Empty() {
			t.Fatalf("a node that is being removed is given %v", d.put)
		}
	}
	if len(w.s.blocks) != 0 || changes != 3 {
		t.Errorf("%d blocks are left after %d changes, want none after 3", len(w.s.blocks), changes)
	}
	if diff := cmp.Diff(table[discovery.Admission]{"n1": {Node: "n1", Gone: 7}}, w.s.admissions, equal...); diff != "" {
		t.Error(diff)
	}
}
