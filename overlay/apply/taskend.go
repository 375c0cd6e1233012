// SPDX-License-Identifier: Apache-2.0

package apply

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// setUpTaskEnd makes the interface of a task work, on a thread inside its namespace: loopback, link
// address, addresses, routes.
func setUpTaskEnd(s Spec) error {
	lo, err := linkByName("lo")
	if err != nil || lo == nil {
		return errors.Join(err, errors.New("there is no loopback device"))
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	link, err := linkByName(s.Interface)
	if err != nil || link == nil {
		return errors.Join(err, unix.ENODEV)
	}
	if err := shape(link, s); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set up: %w", err)
	}
	for _, a := range []netip.Addr{s.Addr4, s.Addr6} {
		if !a.IsValid() {
			continue
		}
		if err := addAddress(link, a, netlink.SCOPE_UNIVERSE); err != nil {
			return err
		}
		if err := addRoutes(link, a, s.Subnets); err != nil {
			return err
		}
	}
	return nil
}

// shape gives an interface its link address, MTU and settings. Its offloads stay as the kernel made
// them: segmentation by the task's own device is what large packets live by.
func shape(link netlink.Link, s Spec) error {
	if a := link.Attrs(); a.HardwareAddr.String() != net.HardwareAddr(s.MAC[:]).String() {
		if err := netlink.LinkSetHardwareAddr(link, s.MAC[:]); err != nil {
			return fmt.Errorf("set link address: %w", err)
		}
	}
	if err := netlink.LinkSetMTU(link, s.MTU); err != nil {
		return fmt.Errorf("set MTU %d: %w", s.MTU, err)
	}
	conf := "net/ipv6/conf/" + s.Interface
	set := []string{conf + "/accept_dad=0", conf + "/accept_ra=0", conf + "/router_solicitations=0"}
	if s.Addr6.IsValid() {
		set = append(set, conf+"/disable_ipv6=0")
	}
	for _, one := range set {
		if err := quiet(one); err != nil {
			return err
		}
	}
	return nil
}

// addRoutes leads a family's traffic to the gateway. Every interface has the routes of its network; the
// first one by name (eth0, then eth1) has the default route, whichever comes first. What a task answers
// from the address of another one leaves by that: the first link would not take it for its own.
func addRoutes(link netlink.Link, a netip.Addr, subnets []netip.Prefix) error {
	family, all := netlink.FAMILY_V4, netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	if a.Is6() {
		family, all = netlink.FAMILY_V6, netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	for _, p := range subnets {
		if p.Addr().Is4() != a.Is4() {
			continue
		}
		if err := addRoute(link, a, p, unix.RT_TABLE_MAIN); err != nil {
			return err
		}
	}
	other, err := defaultOf(family, link.Attrs().Index)
	switch {
	case err != nil:
		return err
	case other == nil:
		return addRoute(link, a, all, unix.RT_TABLE_MAIN)
	case !precedes(link.Attrs().Name, other.Attrs().Name):
		return leaveBy(link, a)
	}
	theirs, err := addrsOf(other)
	if err != nil {
		return err
	}
	for _, t := range theirs {
		if t.Is4() != a.Is4() || t.IsLinkLocalUnicast() {
			continue
		}
		if err := leaveBy(other, t); err != nil {
			return err
		}
	}
	return addRoute(link, a, all, unix.RT_TABLE_MAIN)
}

// precedes orders interfaces as people count them: eth2 before eth10.
func precedes(a, b string) bool {
	return len(a) < len(b) || len(a) == len(b) && a < b
}

// leaveBy lets what comes from an address leave by its own link.
func leaveBy(link netlink.Link, a netip.Addr) error {
	family, all := netlink.FAMILY_V4, netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	if a.Is6() {
		family, all = netlink.FAMILY_V6, netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	table := ownTables + link.Attrs().Index
	if err := addRoute(link, a, all, table); err != nil {
		return err
	}
	return routeFrom(family, a, table)
}

func addRoute(link netlink.Link, a netip.Addr, to netip.Prefix, table int) error {
	gateway := Gateway4
	if a.Is6() {
		gateway = Gateway6
	}
	route := &netlink.Route{
		LinkIndex: link.Attrs().Index, Dst: ipNet(to), Gw: net.ParseIP(gateway), Table: table,
		Flags: int(netlink.FLAG_ONLINK), Src: a.AsSlice(),
	}
	if err := netlink.RouteReplace(route); err != nil {
		return fmt.Errorf("set route %s: %w", to, err)
	}
	return nil
}

// Tables of routes for the addresses of further interfaces begin at ownTables, one for each interface;
// the rules that lead there have one priority, before the main table's.
const ownTables, ownPriority = 7700, 7700

// routeFrom makes a table decide about what comes from an address. Rules outlive the interface that they
// were for, so those for addresses that the namespace has no more go.
func routeFrom(family int, a netip.Addr, table int) error {
	rules, err := retryDump(func() ([]netlink.Rule, error) {
		return netlink.RuleList(family) //nolint:forbidigo // this is the retrying reader
	})
	if err != nil {
		return fmt.Errorf("list routing rules: %w", err)
	}
	addrs, err := addrsOf(nil)
	if err != nil {
		return err
	}
	there := false
	for _, r := range rules {
		if r.Priority != ownPriority || r.Src == nil {
			continue
		}
		from, _ := netip.AddrFromSlice(r.Src.IP)
		switch from = from.Unmap(); {
		case from == a && r.Table == table:
			there = true
		case from == a || !slices.Contains(addrs, from):
			if err := netlink.RuleDel(&r); err != nil {
				return fmt.Errorf("remove routing rule %s: %w", r, err)
			}
		}
	}
	if there {
		return nil
	}
	rule := netlink.NewRule()
	rule.Family, rule.Src, rule.Table, rule.Priority = family, ipNet(single(a)), table, ownPriority
	if err := netlink.RuleAdd(rule); err != nil {
		return fmt.Errorf("add routing rule from %s: %w", a, err)
	}
	return nil
}

// defaultOf returns the link of the namespace's default route when it is another one than index.
func defaultOf(family, index int) (netlink.Link, error) {
	routes, err := routesOf(family)
	if err != nil {
		return nil, err
	}
	links, err := allLinks()
	if err != nil {
		return nil, err
	}
	for _, r := range routes {
		i := slices.IndexFunc(links, func(l netlink.Link) bool { return l.Attrs().Index == r.LinkIndex })
		if i >= 0 && isDefault(r) && r.LinkIndex != index {
			return links[i], nil
		}
	}
	return nil, nil //nolint:nilnil // none is an answer
}

func isDefault(r netlink.Route) bool {
	if r.Dst == nil {
		return true
	}
	ones, _ := r.Dst.Mask.Size()
	return ones == 0
}

// routesOf returns the main table of the calling thread's namespace.
func routesOf(family int) ([]netlink.Route, error) {
	routes, err := retryDump(func() ([]netlink.Route, error) {
		return netlink.RouteList(nil, family) //nolint:forbidigo // this is the retrying reader
	})
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	return routes, nil
}

// quiet writes one NAME=VALUE below /proc/sys where it exists: a kernel without IPv6 has none of it.
func quiet(setting string) error {
	name, value, _ := strings.Cut(setting, "=")
	return ignoreMissing(writeSysctl(name, value))
}
