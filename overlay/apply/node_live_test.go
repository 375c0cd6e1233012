// SPDX-License-Identifier: Apache-2.0

package apply

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
)

// TestNodeHasItsAddressesAndRoutes: the node's device has what was said last, whatever it had before.
func TestNodeHasItsAddressesAndRoutes(t *testing.T) {
	inHost(t)
	host, err := NewHost(HostOptions{Underlay: Underlay{MTU: 1500}})
	must(t, err)
	self, err := host.EnsureNode(t.Context())
	must(t, err)
	if self.Ifindex == 0 || self.Cookie == 0 {
		t.Fatalf("got %+v", self)
	}
	if again, err := host.EnsureNode(t.Context()); err != nil || again != self {
		t.Errorf("got %+v, %v, want %+v", again, err, self)
	}
	prefixes := func(texts ...string) (list []netip.Prefix) {
		for _, text := range texts {
			list = append(list, netip.MustParsePrefix(text))
		}
		return list
	}
	for _, step := range []struct{ addrs, subnets, want []netip.Prefix }{
		{prefixes("44.128.0.1/20", "fd01:a::1/64"), prefixes("9.0.0.0/16", "fd01:b::/64"), prefixes("9.0.0.0/16", "fd01:b::/64")},
		{prefixes("44.128.0.2/20", "fd01:a::2/64"), prefixes("9.0.0.0/16", "9.1.0.0/16"), prefixes("9.0.0.0/16", "9.1.0.0/16")},
		{prefixes("fd01:a::2/64"), prefixes("9.0.0.0/16", "fd01:b::/64"), prefixes("fd01:b::/64")}, // no address to answer to
		{nil, prefixes("9.0.0.0/16"), nil},
	} {
		for range 2 {
			must(t, host.SetNode(t.Context(), step.addrs, step.subnets))
		}
		link, err := linkByName(NodeDevice)
		must(t, err)
		addrs, err := addrsOf(link)
		must(t, err)
		var want []netip.Addr
		for _, p := range step.addrs {
			want = append(want, p.Addr())
		}
		var got []netip.Prefix
		for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			routes, err := nodeRoutes(link, family)
			must(t, err)
			for p, r := range routes {
				got = append(got, p)
				if src, _ := netip.AddrFromSlice(r.Src); !slices.Contains(want, src.Unmap()) {
					t.Errorf("route to %s is from %s, want one of %v", p, src, want)
				}
			}
		}
		slices.SortFunc(got, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
		if diff := cmp.Diff(fmt.Sprint(want, step.want), fmt.Sprint(addrs, got)); diff != "" {
			t.Errorf("addresses and routes (-want +got):\n%s", diff)
		}
	}
	must(t, netlink.LinkDel(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: NodeDevice}}))
	must(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: NodeDevice}}))
	_, err = host.EnsureNode(t.Context())
	must(t, err)
	_, err = host.Remove(t.Context())
	must(t, err)
	if l, err := linkByName(NodeDevice); err != nil || l != nil {
		t.Errorf("it is left: %v, %v", l, err)
	}
}
