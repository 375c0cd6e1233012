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

	"weft/overlay"
)

// Underlay is the link that tunnels run over.
type Underlay struct {
	Name    string
	Ifindex uint32
	Addr    netip.Addr   // the node's VTEP: one of the two below
	Addr4   netip.Addr   // not valid: there is none
	Addr6   netip.Addr   // a global one
	Others  []netip.Addr // further addresses of Addr's family: what the node had before it moves, or will have
	Prefix  netip.Prefix // of Addr's network
	MTU     int          // bytes
}

// Overhead is what a tunnel adds to an inner packet over this underlay, bytes.
func (u Underlay) Overhead() int {
	if u.Addr.Is6() {
		return overlay.Overhead6
	}
	return overlay.Overhead
}

// Errors of FindUnderlay; the text says what there is. An ErrNoAddress is an ErrUnderlay that may mend itself: the
// interface is there.
var (
	ErrUnderlay  = errors.New("no underlay")
	ErrNoAddress = fmt.Errorf("%w", ErrUnderlay)
)

// FindUnderlay looks at the interface of that name, or, when it is empty, of the IPv4 default route
// with the lowest metric (without one, of the IPv6 default route). Tunnels run over its IPv4 address, and
// over its IPv6 address where it has no other or over6 asks for it. Of several the first counts that is not
// deprecated (ip-address(8)): this is how an operator tells which of two is the one to come.
func FindUnderlay(name string, over6 bool) (Underlay, error) {
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
	var four, six []netip.Prefix
	for _, addr := range addrs {
		ip, ok := netip.AddrFromSlice(addr.IP)
		if !ok || addr.Scope != unix.RT_SCOPE_UNIVERSE {
			continue
		}
		ones, _ := addr.Mask.Size()
		if ip = ip.Unmap(); ip.Is4() {
			four = append(four, netip.PrefixFrom(ip, ones))
		} else {
			six = append(six, netip.PrefixFrom(ip, ones))
		}
	}
	return u.at(four, six, over6)
}

// at is the underlay with the node's addresses: of each family the first, one of the two for its VTEP.
func (u Underlay) at(four, six []netip.Prefix, over6 bool) (Underlay, error) {
	if len(four) > 0 {
		u.Addr4 = four[0].Addr()
	}
	if len(six) > 0 {
		u.Addr6 = six[0].Addr()
	}
	own := four
	if over6 || len(four) == 0 {
		own = six
	}
	if len(own) == 0 {
		want := "no IPv4 and no global IPv6 address"
		if over6 {
			want = "no global IPv6 address"
		}
		return Underlay{}, fmt.Errorf("%w: interface %s has %s: give it one, or name another with --underlay", ErrNoAddress, u.Name, want)
	}
	u.Addr, u.Prefix = own[0].Addr(), own[0].Masked()
	for _, p := range own[1:] {
		u.Others = append(u.Others, p.Addr())
	}
	return u, nil
}

func chooseUnderlay(links []netlink.Link, name string) (netlink.Link, error) {
	index := 0
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		if name != "" || index != 0 {
			break
		}
		var err error
		if index, err = defaultLink(family); err != nil {
			return nil, err
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
	return nil, fmt.Errorf("%w: there is no default route: name the interface with --underlay; %s", ErrUnderlay, has)
}

// defaultLink returns the index of the interface of a family's default route with the lowest metric, 0 when
// there is none.
func defaultLink(family int) (int, error) {
	routes, err := routesOf(family)
	if err != nil {
		return 0, err
	}
	index, best := 0, math.MaxInt
	for _, r := range routes {
		if isDefault(r) && r.LinkIndex != 0 && r.Priority < best {
			index, best = r.LinkIndex, r.Priority
		}
	}
	return index, nil
}
