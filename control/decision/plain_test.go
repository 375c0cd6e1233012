// SPDX-License-Identifier: Apache-2.0

package decision

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft/control"
	"weft/control/decision/free"
	"weft/discovery"
	"weft/overlay"
)

func old1() overlay.PlainNode {
	return overlay.PlainNode{
		Node: "old-1", VTEP: netip.MustParseAddr("10.0.0.7"), Network: "prod", Groups: []string{"db"},
		Blocks: []netip.Prefix{netip.MustParsePrefix("9.0.9.0/24"), netip.MustParsePrefix("9.0.8.0/24")},
	}
}

// withPlain is a cluster that old1 is in.
func withPlain(t *testing.T) *world {
	t.Helper()
	w := cluster(t)
	n, d, err := AddPlainNode(w.s, old1())
	if err != nil {
		t.Fatal(err)
	}
	if n.Identity != free.FirstIdentity || n.MAC != "0a:58:0a:00:00:07" {
		t.Errorf("got %+v, want the first identity and a MAC by the VTEP", n)
	}
	w.make(t, d)
	return w
}

func TestAPlainNodeHoldsItsBlocksAndItsGroups(t *testing.T) {
	w := withPlain(t)
	if diff := cmp.Diff(w.blocks(), map[string]string{"9.0.8.0/24": "old-1", "9.0.9.0/24": "old-1"}); diff != "" {
		t.Errorf("blocks (-got +want):\n%s", diff)
	}
	if _, d, err := AddPlainNode(w.s, old1()); err != nil || d != nil {
		t.Errorf("the same again: %v, %v", d, err)
	}
	f := &facts{}
	f.node("n1", "10.0.0.1")
	f.node("old-1", "10.0.0.8") // a node that calls itself so
	f.node("n2", "10.0.0.7")    // one with its address
	f.say("n1", discovery.KindWant, "x", overlay.Want{Network: "prod", Blocks4: 1, Groups: []string{"web"}})
	w.settle(t, f)
	for key, want := range map[string]string{"old-1/node/old-1": "the name of a plain node", "n2/node/n2": "address 10.0.0.7 is node old-1's"} {
		if got := w.s.refusals[key].Reason; !strings.Contains(got, want) {
			t.Errorf("refusal of %s is %q, want %q", key, got, want)
		}
	}
	// A number that a plain node has is in use.
	p := &planner{s: w.s}
	if used := p.usedSets("prod", Claims{endpoints: func() []overlay.Endpoint { return nil }}); !used[free.FirstIdentity] {
		t.Errorf("identities in use are %v, want the plain node's among them", used)
	}
	if shares := w.s.shares(nil); len(shares) != 1 || shares[0].Node != "n1" {
		t.Errorf("shares are %+v, want n1's alone: nobody gives addresses of a plain node's blocks", shares)
	}
	d, left, err := RemoveNode(w.s, "old-1", 1)
	if err != nil || left {
		t.Fatal(left, err)
	}
	w.make(t, d)
	if len(w.s.plain) != 0 || len(w.blocks()) != 1 {
		t.Errorf("left of it: %v, %v", w.s.plain, w.blocks())
	}
}

func TestAPlainNodeThatCanNotBeSaysWhy(t *testing.T) {
	w := withPlain(t)
	other := func(change func(*overlay.PlainNode)) func() error {
		n := old1()
		n.Node, n.VTEP, n.Blocks = "old-2", netip.MustParseAddr("10.0.0.9"), []netip.Prefix{netip.MustParsePrefix("9.0.7.0/24")}
		change(&n)
		return func() error { _, _, err := AddPlainNode(w.s, n); return err }
	}
	block := func(text string) func() error {
		return other(func(n *overlay.PlainNode) { n.Blocks = []netip.Prefix{netip.MustParsePrefix(text)} })
	}
	for name, tt := range map[string]struct {
		request func() error
		as      error
		want    string
	}{
		"another form":   {other(func(n *overlay.PlainNode) { n.Node = "old-1" }), control.ErrExists, "weft node remove old-1 first"},
		"a node's name":  {other(func(n *overlay.PlainNode) { n.Node = "n1" }), control.ErrExists, "n1 is a node of Weft"},
		"a node's vtep":  {other(func(n *overlay.PlainNode) { n.VTEP = netip.MustParseAddr("10.0.0.1") }), control.ErrExists, "vtep 10.0.0.1 is node n1's"},
		"a taken vtep":   {other(func(n *overlay.PlainNode) { n.VTEP = old1().VTEP }), control.ErrExists, "a VTEP is in one network alone"},
		"vtep inside":    {other(func(n *overlay.PlainNode) { n.VTEP = netip.MustParseAddr("9.0.7.1") }), control.ErrInvalid, "lies in 9.0.0.0/16 of network prod"},
		"no network":     {other(func(n *overlay.PlainNode) { n.Network = "dev" }), control.ErrNotFound, `no network "dev"`},
		"no group":       {other(func(n *overlay.PlainNode) { n.Groups = []string{"cache"} }), control.ErrInvalid, `no group of network prod "cache"`},
		"taken block":    {block("9.0.9.0/24"), control.ErrExists, "block 9.0.9.0/24 of network prod is node old-1's"},
		"large block":    {block("9.0.0.0/22"), control.ErrInvalid, "blocks of network prod are /24"},
		"foreign block":  {block("9.9.0.0/24"), control.ErrInvalid, "is not part of network prod"},
		"no block":       {other(func(n *overlay.PlainNode) { n.Blocks = nil }), control.ErrInvalid, "blocks are 0"},
		"multicast mac":  {other(func(n *overlay.PlainNode) { n.MAC = "01:00:5e:00:00:01" }), control.ErrInvalid, "is none of an interface"},
		"network in use": {func() error { _, err := RemoveNetwork(w.s, "prod"); return err }, control.ErrInUse, "weft node remove old-1 first"},
		"subnet in use": {func() error {
			_, _, err := AddNetwork(w.s, overlay.Network{Name: "new", Subnet4: netip.MustParsePrefix("10.0.0.0/29")})
			return err
		}, control.ErrExists, "plain node old-1 in the underlay"},
		"group in use": {func() error {
			d, err := RemoveRule(w.s, "prod", 1)
			if err != nil {
				return err
			}
			w.make(t, d)
			_, err = RemoveGroup(w.s, overlay.Group{Network: "prod", Name: "db"}, nil)
			return err
		}, control.ErrInUse, "plain nodes old-1 are in group"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := AsControl(tt.request()); !errors.Is(err, tt.as) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %v with %q", err, tt.as, tt.want)
			}
		})
	}
}
