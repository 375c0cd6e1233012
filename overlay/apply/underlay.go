// SPDX-License-Identifier: Apache-2.0

package apply

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Underlay is the link that tunnels run over.
type Underlay struct {
	Name    string
	Ifindex uint32
	Addr    netip.Addr   // IPv4: the node's VTEP
	Addr6   netip.Addr   // a global one, invalid without
	Others  []netip.Addr // further IPv4 addresses of it: what the node had before it moves, or will have
	Prefix  netip.Prefix
	MTU     int // bytes
}

// Errors of FindUnderlay; the text says what there is. An ErrNoAddress is an ErrUnderlay that may mend itself: the
// interface is there.
var (
	ErrUnderlay  = errors.New("no underlay")
	ErrNoAddress = fmt.Errorf("%w", ErrUnderlay)
)

// FindUnderlay looks at the interface of that name, or, when it is empty, of the IPv4 default route
// with the lowest metric. Of its addresses the first counts that is not deprecated (ip-address(8)): this is how
// an operator tells which of two is the one to come.
func FindUnderlay(name string) (Underlay, error) {
	links, err := allLinks()
	if err != nil {
		return Underlay{}, err
	}
	link, err := chooseUnderlay(links, name)
	if err != nil {
		return Underlay{}, err
	}
	a := link.Attrs()
	u := Underlay{Name: a.Name, Ifindex: uint32(a.Index), MTU: a.MTU}
	addrs, err := retryDump(func() ([]netlink.Addr, error) {
		return netlink.AddrList(link, netlink.FAMILY_ALL) //nolint:forbidigo // this is the retrying reader
	})
	if err != nil {
		return Underlay{}, fmt.Errorf("list addresses of %s: %w", a.Name, err)
	}
	slices.SortStableFunc(addrs, func(a, b netlink.Addr) int {
		return (a.Flags & unix.IFA_F_DEPRECATED) - (b.Flags & unix.IFA_F_DEPRECATED)
	})
	for _, addr := range addrs {
		ip, ok := netip.AddrFromSlice(addr.IP)
		if !ok || addr.Scope != unix.RT_SCOPE_UNIVERSE {
			continue
		}
		ones, _ := addr.Mask.Size()
		switch ip = ip.Unmap(); {
		case ip.Is4() && !u.Addr.IsValid():
			u.Addr, u.Prefix = ip, netip.PrefixFrom(ip, ones).Masked()
		case ip.Is4():
			u.Others = append(u.Others, ip)
		case ip.Is6() && !u.Addr6.IsValid():
			u.Addr6 = ip
		}
	}
	if !u.Addr.IsValid() {
		return Underlay{}, fmt.Errorf("%w: interface %s has no IPv4 address: give it one, or name another with --underlay",
			ErrNoAddress, u.Name)
	}
	return u, nil
}

func chooseUnderlay(links []netlink.Link, name string) (netlink.Link, error) {
	index, best := 0, math.MaxInt
	if name == "" {
		routes, err := routesOf(netlink.FAMILY_V4)
		if err != nil {
			return nil, err
		}
		for _, r := range routes {
			if isDefault(r) && r.LinkIndex != 0 && r.Priority < best {
				index, best = r.LinkIndex, r.Priority
			}
		}
	}
	var there []string
	for _, l := range links {
		a := l.Attrs()
		if name != "" && a.Name == name || index != 0 && a.Index == index {
			return l, nil
		}
		if a.Name != "lo" && !strings.HasPrefix(a.Name, linkPrefix) {
			there = append(there, a.Name)
		}
	}
	has := "there are " + strings.Join(there, ", ")
	if there == nil {
		has = "there is none but lo"
	}
	if name != "" {
		return nil, fmt.Errorf("%w: there is no interface %q: %s", ErrUnderlay, name, has)
	}
	return nil, fmt.Errorf("%w: there is no IPv4 default route: name the interface with --underlay; %s", ErrUnderlay, has)
}
