// SPDX-License-Identifier: Apache-2.0

package overlay

import (
	"encoding/binary"
	"fmt"
	"math"
	"net/netip"
	"strings"
)

// MaxVNI is the largest VXLAN network identifier: 24 bits (RFC 7348 section 5).
const MaxVNI VNI = 1<<24 - 1

// Prefix lengths of a node's block where a network names none.
const (
	DefaultBlock4 = 24
	DefaultBlock6 = 112
)

// Limits of a block. The longest leaves usable addresses when the first (and for IPv4 the last) is
// skipped; the shortest keeps 1,000 nodes within an ordinary network.
const (
	minBlock4, maxBlock4 = 8, 30
	minBlock6, maxBlock6 = 32, 126
)

// ForVIPs is what Reserved calls the ranges of virtual addresses.
const ForVIPs = "virtual addresses of VIPs"

// forNodes is what Reserved calls where nodes' addresses are of.
const forNodes = "nodes' own addresses towards the networks"

// NodeSubnets returns where the addresses of nodes towards the networks are of: DC/OS' vtep_subnet and vtep_subnet6.
func NodeSubnets() (four, six netip.Prefix) {
	return netip.MustParsePrefix("44.128.0.0/20"), netip.MustParsePrefix("fd01:a::/64")
}

// NodeAddrs returns the addresses of node number n, from 1, with the lengths of their subnets: the n-th of each. The
// IPv4 one is not valid beyond 4,094, the last being for broadcast.
func NodeAddrs(n uint32) (four, six netip.Prefix) {
	subnet4, subnet6 := NodeSubnets()
	b := subnet6.Addr().As16()
	binary.BigEndian.PutUint32(b[12:], n)
	six = netip.PrefixFrom(netip.AddrFrom16(b), subnet6.Bits())
	if n >= 1<<(32-subnet4.Bits())-1 {
		return four, six
	}
	a := subnet4.Addr().As4()
	binary.BigEndian.PutUint32(a[:], binary.BigEndian.Uint32(a[:])+n)
	return netip.PrefixFrom(netip.AddrFrom4(a), subnet4.Bits()), six
}

// Reserved lists what no network may overlap: the VIP ranges, the nodes' and name servers' addresses, and the
// addresses that IP itself reserves. Values are what each is for.
func Reserved() map[netip.Prefix]string {
	return map[netip.Prefix]string{
		netip.MustParsePrefix("11.0.0.0/8"):      ForVIPs,
		netip.MustParsePrefix("fd01:c::/64"):     ForVIPs,
		netip.MustParsePrefix("44.128.0.0/20"):   forNodes,
		netip.MustParsePrefix("fd01:a::/64"):     forNodes,
		netip.MustParsePrefix("198.51.100.0/24"): "name servers of the nodes",
		netip.MustParsePrefix("fd01:d::/64"):     "name servers of the nodes",
		netip.MustParsePrefix("0.0.0.0/8"):       "this network (RFC 1122)",
		netip.MustParsePrefix("127.0.0.0/8"):     "loopback",
		netip.MustParsePrefix("169.254.0.0/16"):  "link-local",
		netip.MustParsePrefix("224.0.0.0/3"):     "multicast and class E",
		netip.MustParsePrefix("::/96"):           "loopback and unspecified",
		netip.MustParsePrefix("::ffff:0:0/96"):   "IPv4-mapped addresses",
		netip.MustParsePrefix("fe80::/10"):       "link-local",
		netip.MustParsePrefix("ff00::/8"):        "multicast",
	}
}

// Normal returns the network with defaults filled in: block lengths and Ungrouped.
func (n Network) Normal() Network {
	if n.Subnet4.IsValid() && n.Block4 == 0 {
		n.Block4 = min(max(DefaultBlock4, n.Subnet4.Bits()), maxBlock4)
	}
	if n.Subnet6.IsValid() && n.Block6 == 0 {
		n.Block6 = min(max(DefaultBlock6, n.Subnet6.Bits()), maxBlock6)
	}
	if n.Ungrouped == "" {
		n.Ungrouped = UngroupedOwn
	}
	return n
}

// Form describes the network for people: all but its name.
func (n Network) Form() string {
	parts := []string{fmt.Sprintf("vni %d", n.VNI)}
	for _, subnet := range n.Subnets() {
		parts = append(parts, fmt.Sprintf("subnet %s in blocks of /%d", subnet, n.BlockBits(subnet.Addr())))
	}
	return strings.Join(append(parts, "ungrouped "+string(n.Ungrouped)), ", ")
}

// Subnets returns the network's subnets, IPv4 first.
func (n Network) Subnets() []netip.Prefix {
	var subnets []netip.Prefix
	for _, p := range []netip.Prefix{n.Subnet4, n.Subnet6} {
		if p.IsValid() {
			subnets = append(subnets, p)
		}
	}
	return subnets
}

// BlockBits returns the length of a node's block in the family of addr.
func (n Network) BlockBits(addr netip.Addr) int {
	if addr.Is4() {
		return n.Block4
	}
	return n.Block6
}

// Usable returns how many addresses of a block tasks can have, at most math.MaxInt. The first is never
// given (the subnet, or RFC 4291's router anycast), nor is the last of an IPv4 block (what hosts with
// another mask take for broadcast).
func Usable(block netip.Prefix) int {
	host := block.Addr().BitLen() - block.Bits()
	if host >= 62 {
		return math.MaxInt
	}
	n := 1<<host - 1
	if block.Addr().Is4() {
		n--
	}
	return max(n, 0)
}

// Validate reports everything that is wrong with the network by itself, defaults filled in. VNI 0
// passes: the master then chooses one.
func (n Network) Validate() error {
	n = n.Normal()
	p := problems{what: fmt.Sprintf("network %q", n.Name)}
	p.label("name", n.Name)
	if n.VNI > MaxVNI {
		p.addf("vni %d is out of range: allowed are 1 to %d, or 0 to have one chosen", n.VNI, MaxVNI)
	}
	if !n.Subnet4.IsValid() && !n.Subnet6.IsValid() {
		p.addf("subnet4 and subnet6 are both empty: at least one is needed, such as 9.0.0.0/16")
	}
	p.subnet("4", n.Subnet4, n.Block4, [2]int{minBlock4, maxBlock4})
	p.subnet("6", n.Subnet6, n.Block6, [2]int{minBlock6, maxBlock6})
	if n.Ungrouped != UngroupedOwn && n.Ungrouped != UngroupedOpen {
		p.addf("ungrouped %q is unknown: allowed are %q and %q", n.Ungrouped, UngroupedOwn, UngroupedOpen)
	}
	return p.err()
}

// subnet checks one family's subnet and block length; bounds are those of the block.
func (p *problems) subnet(family string, subnet netip.Prefix, block int, bounds [2]int) {
	field := "subnet" + family
	if !subnet.IsValid() {
		if block != 0 {
			p.addf("block%s %d needs a %s", family, block, field)
		}
		return
	}
	if subnet.Addr().Is4() != (family == "4") || subnet.Addr().Is4In6() {
		p.addf("%s %s is not IPv%s", field, subnet, family)
		return
	}
	if subnet != subnet.Masked() {
		p.addf("%s %s has bits set behind its length: write %s", field, subnet, subnet.Masked())
	}
	low := max(subnet.Bits(), bounds[0])
	switch {
	case low > bounds[1]:
		p.addf("%s %s is too small: its length may be %d at most", field, subnet, bounds[1])
	case block < low || block > bounds[1]:
		p.addf("block%s %d does not fit %s %s: allowed are %d to %d", family, block, field, subnet, low, bounds[1])
	}
	for _, r := range sortedPrefixes(Reserved()) {
		if r.Overlaps(subnet) {
			p.addf("%s %s overlaps %s (%s)", field, subnet, r, Reserved()[r])
		}
	}
}

// CheckOverlap reports every subnet of n that overlaps one of another network or an address of the
// underlay (the values say whose), and a VNI that another has. A network of the same name is n itself and
// is left out.
func CheckOverlap(n Network, others []Network, underlay map[netip.Prefix]string) error {
	var clashes []string
	for _, o := range others {
		if o.Name == n.Name {
			continue
		}
		for _, p := range o.Subnets() {
			clashes = append(clashes, overlaps(n, p, fmt.Sprintf("network %q", o.Name))...)
		}
		if o.VNI == n.VNI && n.VNI != 0 {
			clashes = append(clashes, fmt.Sprintf("vni %d is network %q's", n.VNI, o.Name))
		}
	}
	for _, p := range sortedPrefixes(underlay) {
		clashes = append(clashes, overlaps(n, p, underlay[p]+" in the underlay")...)
	}
	if clashes == nil {
		return nil
	}
	return fmt.Errorf("%w: network %q: %s", ErrConflict, n.Name, strings.Join(clashes, "; "))
}

func overlaps(n Network, theirs netip.Prefix, whose string) []string {
	var clashes []string
	for _, mine := range n.Subnets() {
		if mine.Overlaps(theirs) {
			clashes = append(clashes, fmt.Sprintf("subnet %s overlaps %s of %s", mine, theirs, whose))
		}
	}
	return clashes
}
