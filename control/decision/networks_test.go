// SPDX-License-Identifier: Apache-2.0

package decision

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft/control"
	"weft/discovery"
	"weft/overlay"
)

// inUse is network prod of 9.0.0.0/22 with blocks of n1 (the first) and n2 (the second), and a task on n2.
func inUse(t *testing.T) (*world, []overlay.Endpoint) {
	t.Helper()
	w, f := newWorld(), &facts{}
	w.network(t, "prod", "9.0.0.0/22", "", 24)
	w.network(t, "dev", "9.8.0.0/16", "", 24)
	f.node("n1", "10.0.0.1")
	f.node("n2", "10.0.0.2")
	f.say("n1", discovery.KindWant, "blocks/prod", overlay.Want{Network: "prod", Blocks4: 1})
	f.say("n2", discovery.KindWant, "blocks/prod", overlay.Want{Network: "prod", Blocks4: 1})
	w.settle(t, f)
	return w, []overlay.Endpoint{{
		Attachment: overlay.Attachment{ID: "web-1", Network: "prod"}, Node: "n2", Addr4: netip.MustParseAddr("9.0.1.1"),
	}}
}

func TestANetworkInUseGrowsAndChanges(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*overlay.Network)
		want   string
	}{
		"larger":         {func(n *overlay.Network) { n.Subnet4 = netip.MustParsePrefix("9.0.0.0/16") }, "vni 1, subnet 9.0.0.0/16 in blocks of /24, ungrouped own"},
		"smaller":        {func(n *overlay.Network) { n.Subnet4 = netip.MustParsePrefix("9.0.0.0/23") }, "vni 1, subnet 9.0.0.0/23 in blocks of /24, ungrouped own"},
		"open":           {func(n *overlay.Network) { n.Ungrouped = overlay.UngroupedOpen }, "vni 1, subnet 9.0.0.0/22 in blocks of /24, ungrouped open"},
		"another family": {func(n *overlay.Network) { n.Subnet6 = netip.MustParsePrefix("fd01:b::/64") }, "vni 1, subnet 9.0.0.0/22 in blocks of /24, subnet fd01:b::/64 in blocks of /112, ungrouped own"},
		"the same":       {func(n *overlay.Network) { n.VNI, n.Block4 = 0, 0 }, "vni 1, subnet 9.0.0.0/22 in blocks of /24, ungrouped own"},
	} {
		t.Run(name, func(t *testing.T) {
			w, endpoints := inUse(t)
			n := w.s.networks["prod"]
			before := w.blocks()
			tt.change(&n)
			made, d, err := SetNetwork(w.s, n, endpoints)
			if err != nil {
				t.Fatal(err)
			}
			w.make(t, d)
			if got := w.s.networks["prod"].Form(); got != tt.want || made.Form() != tt.want {
				t.Errorf("got %s (%s), want %s", got, made.Form(), tt.want)
			}
			if diff := cmp.Diff(w.blocks(), before); diff != "" {
				t.Errorf("blocks (-got +want):\n%s", diff)
			}
		})
	}
}

func TestAChangeOfANetworkThatSomethingIsInTheWayOfSaysWhat(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*overlay.Network)
		as     error
		want   string
	}{
		"shrunk under a block": {
			func(n *overlay.Network) { n.Subnet4 = netip.MustParsePrefix("9.0.0.0/24") },
			control.ErrInUse, "that has no place for blocks 9.0.1.0/24 of node n2 (tasks: 1); a node gives",
		},
		"moved": {
			func(n *overlay.Network) { n.Subnet4 = netip.MustParsePrefix("9.4.0.0/22") },
			control.ErrInUse, "9.0.0.0/24 of node n1 (tasks: 0), 9.0.1.0/24 of node n2 (tasks: 1)",
		},
		"family removed": {
			func(n *overlay.Network) {
				n.Subnet4, n.Block4, n.Subnet6 = netip.Prefix{}, 0, netip.MustParsePrefix("fd01:b::/64")
			},
			control.ErrInUse, "9.0.1.0/24 of node n2 (tasks: 1)",
		},
		"block length": {
			func(n *overlay.Network) { n.Block4 = 25 },
			control.ErrInUse, "the length of network prod's blocks can't change while nodes have some: 9.0.0.0/24 of node n1",
		},
		"vni":           {func(n *overlay.Network) { n.VNI = 9 }, control.ErrInUse, "network prod has vni 1 for as long as it lives, not 9"},
		"over another":  {func(n *overlay.Network) { n.Subnet4 = netip.MustParsePrefix("9.0.0.0/12") }, control.ErrExists, `subnet 9.0.0.0/12 overlaps 9.8.0.0/16 of network "dev"`},
		"over VIPs":     {func(n *overlay.Network) { n.Subnet4 = netip.MustParsePrefix("8.0.0.0/6") }, control.ErrInvalid, "11.0.0.0/8 (virtual addresses of VIPs)"},
		"over the node": {func(n *overlay.Network) { n.Subnet4 = netip.MustParsePrefix("10.0.0.0/16") }, control.ErrExists, "10.0.0.1/32 of node n1 in the underlay"},
		"unknown":       {func(n *overlay.Network) { n.Name = "prdo" }, control.ErrNotFound, `no network "prdo"; there are dev, prod`},
		"ungrouped":     {func(n *overlay.Network) { n.Ungrouped = "all" }, control.ErrInvalid, `ungrouped "all" is unknown`},
	} {
		t.Run(name, func(t *testing.T) {
			w, endpoints := inUse(t)
			n := w.s.networks["prod"]
			tt.change(&n)
			_, _, err := SetNetwork(w.s, n, endpoints)
			if err = AsControl(err); !errors.Is(err, tt.as) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %v with %q", err, tt.as, tt.want)
			}
		})
	}
}

func TestSharesCountAddressesOfNodes(t *testing.T) {
	w, endpoints := inUse(t)
	want := []control.Share{
		{Network: "prod", Node: "n1", Free4: 254},
		{Network: "prod", Node: "n2", Used4: 1, Free4: 253},
	}
	if diff := cmp.Diff(w.s.shares(endpoints), want); diff != "" {
		t.Errorf("shares (-got +want):\n%s", diff)
	}
}

func TestABlockGivenBackGoesToWhoWantsOneNext(t *testing.T) {
	w, _ := inUse(t)
	f := &facts{}
	for i, n := range []string{"n1", "n2", "n3"} {
		f.node(n, netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}).String())
	}
	first := netip.MustParsePrefix("9.0.0.0/24")
	// n1 gives its block back and wants another one: that is not the one it gives back.
	f.say("n1", discovery.KindWant, "blocks/prod", overlay.Want{Network: "prod", Blocks4: 1, Return: []netip.Prefix{first}})
	f.say("n2", discovery.KindWant, "blocks/prod", overlay.Want{Network: "prod", Blocks4: 1, Return: []netip.Prefix{first}})
	// Nor by an address of it.
	f.say("n1", discovery.KindWant, "address/prod/9.0.0.7", overlay.Want{Network: "prod", Addrs: []netip.Addr{netip.MustParseAddr("9.0.0.7")}})
	w.settle(t, f)
	if diff := cmp.Diff(w.blocks(), map[string]string{"9.0.1.0/24": "n2", "9.0.2.0/24": "n1"}); diff != "" {
		t.Errorf("blocks (-got +want):\n%s", diff)
	}
	f.say("n3", discovery.KindWant, "blocks/prod", overlay.Want{Network: "prod", Blocks4: 1})
	w.settle(t, f)
	if got := w.blocks()[first.String()]; got != "n3" {
		t.Errorf("%s went to %q, want n3", first, got)
	}
}

func TestAnAddressBringsItsBlock(t *testing.T) {
	w, _ := inUse(t)
	f := &facts{}
	f.node("n1", "10.0.0.1")
	f.node("n2", "10.0.0.2")
	for _, addr := range []string{"9.0.3.7", "9.0.0.9", "9.0.1.7", "9.9.0.1"} {
		f.say("n1", discovery.KindWant, "address/prod/"+addr, overlay.Want{Network: "prod", Addrs: []netip.Addr{netip.MustParseAddr(addr)}})
	}
	w.settle(t, f)
	if diff := cmp.Diff(w.blocks(), map[string]string{"9.0.0.0/24": "n1", "9.0.1.0/24": "n2", "9.0.3.0/24": "n1"}); diff != "" {
		t.Errorf("blocks (-got +want):\n%s", diff)
	}
	reasons := w.reasons()
	for _, want := range []string{
		"n1/want/address/prod/9.0.1.7: address 9.0.1.7 lies in block 9.0.1.0/24 of node n2: the task can have it there only",
		"n1/want/address/prod/9.9.0.1: address 9.9.0.1 is not part of network prod (vni 1, subnet 9.0.0.0/22 in blocks of /24, ungrouped own)",
	} {
		if !slices.Contains(reasons, want) {
			t.Errorf("refusals %q, want %q", reasons, want)
		}
	}
	if len(reasons) != 2 {
		t.Errorf("refusals %q, want two", reasons)
	}
}
