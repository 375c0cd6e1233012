// SPDX-License-Identifier: Apache-2.0

package decision

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"weft/control"
	"weft/discovery"
	"weft/overlay"
)

// runtimeNames are Docker's own networks and Mesos' word for none, which DC/OS refuses too. One that is there stays.
var runtimeNames = []string{"bridge", "default", "host", "none"}

// AddNetwork chooses a VNI where none is given: the one after that given last, so that none comes back
// while a frame of the removed network may still be on its way.
func AddNetwork(s *Snapshot, n overlay.Network) (overlay.Network, *Decision, error) {
	n = n.Normal()
	if err := n.Validate(); err != nil {
		return n, nil, err
	}
	if old, ok := s.networks[n.Name]; ok {
		if n.VNI == 0 {
			n.VNI = old.VNI
		}
		if n == old {
			return old, nil, nil
		}
		return n, nil, fmt.Errorf("%w: network %q is there in another form (%s); weft network set changes it", control.ErrExists, n.Name, old.Form())
	}
	if slices.Contains(runtimeNames, n.Name) {
		return n, nil, fmt.Errorf("%w: name %q: container runtimes mean another thing by it; every name but %s is allowed",
			control.ErrInvalid, n.Name, strings.Join(runtimeNames, ", "))
	}
	if err := overlay.CheckOverlap(n, s.allNetworks(), s.underlay()); err != nil {
		return n, nil, err
	}
	d := &Decision{}
	if n.VNI == 0 {
		vni, err := s.nextVNI()
		if err != nil {
			return n, nil, err
		}
		n.VNI = vni
		d.set(kindNumber, numberVNI, vni)
	}
	d.set(discovery.KindNetwork, n.Name, n)
	return n, d, nil
}

func (s *Snapshot) allNetworks() []overlay.Network {
	var all []overlay.Network
	for _, name := range s.networks.keys() {
		all = append(all, s.networks[name])
	}
	return all
}

// underlay returns what is known of it: the addresses of nodes and masters, and whose they are.
func (s *Snapshot) underlay() map[netip.Prefix]string {
	hosts := make(map[netip.Prefix]string)
	for _, a := range s.admissions {
		if a.VTEP.IsValid() {
			hosts[netip.PrefixFrom(a.VTEP, a.VTEP.BitLen())] = "node " + string(a.Node)
		}
	}
	for _, p := range s.plain {
		hosts[netip.PrefixFrom(p.VTEP, p.VTEP.BitLen())] = "plain node " + string(p.Node)
	}
	for _, m := range s.masters {
		if m.Addr.IsValid() && !m.Addr.IsUnspecified() && !m.Addr.IsLoopback() {
			hosts[netip.PrefixFrom(m.Addr.Unmap(), m.Addr.Unmap().BitLen())] = "master " + m.ID
		}
	}
	return hosts
}

func (s *Snapshot) nextVNI() (overlay.VNI, error) {
	taken := map[overlay.VNI]bool{}
	for _, n := range s.networks {
		taken[n.VNI] = true
	}
	vni := overlay.VNI(s.numbers[numberVNI])
	for range len(taken) + 1 {
		if vni++; vni > overlay.MaxVNI {
			vni = 1
		}
		if !taken[vni] {
			return vni, nil
		}
	}
	return 0, fmt.Errorf("%w: every vni up to %d is taken", overlay.ErrExhausted, overlay.MaxVNI)
}

// SetNetwork changes a network that is in use. What nodes and tasks have of it stays as it is, or the change
// is refused. A VNI or block length of 0 stays what it is.
func SetNetwork(s *Snapshot, n overlay.Network, endpoints []overlay.Endpoint) (overlay.Network, *Decision, error) {
	if err := s.has(n.Name); err != nil {
		return n, nil, err
	}
	old := s.networks[n.Name]
	n.VNI = cmp.Or(n.VNI, old.VNI)
	if n.Subnet4.IsValid() {
		n.Block4 = cmp.Or(n.Block4, old.Block4)
	}
	if n.Subnet6.IsValid() {
		n.Block6 = cmp.Or(n.Block6, old.Block6)
	}
	n = n.Normal()
	if err := n.Validate(); err != nil {
		return n, nil, err
	}
	switch {
	case n == old:
		return old, nil, nil
	case n.VNI != old.VNI:
		return n, nil, fmt.Errorf("%w: network %s has vni %d for as long as it lives, not %d: packets and tasks carry it",
			control.ErrInUse, n.Name, old.VNI, n.VNI)
	}
	if err := overlay.CheckOverlap(n, s.allNetworks(), s.underlay()); err != nil {
		return n, nil, err
	}
	if err := s.inTheWay(old, n, endpoints); err != nil {
		return n, nil, err
	}
	d := &Decision{}
	d.set(discovery.KindNetwork, n.Name, n)
	return n, d, nil
}

// inTheWay tells which blocks, with how many tasks, a network would no longer hold in its new form. The
// packet path finds a block by its exact length, so that is as fixed as its place while a node has one.
func (s *Snapshot) inTheWay(old, now overlay.Network, endpoints []overlay.Endpoint) error {
	var outside, otherLength []string
	for _, key := range s.blocks.below(now.Name) {
		b := s.blocks[key]
		addr, tasks := b.Prefix.Addr(), 0
		for _, e := range endpoints {
			if e.Network == now.Name && slices.ContainsFunc(e.Addrs(), b.Prefix.Contains) {
				tasks++
			}
		}
		text := fmt.Sprintf("%s of node %s (tasks: %d)", b.Prefix, b.Node, tasks)
		switch {
		case !slices.ContainsFunc(now.Subnets(), func(p netip.Prefix) bool { return p.Contains(addr) && p.Bits() <= b.Prefix.Bits() }):
			outside = append(outside, text)
		case now.BlockBits(addr) != old.BlockBits(addr):
			otherLength = append(otherLength, text)
		}
	}
	const until = "; a node gives a block back when no task had an address of it for ten minutes"
	if len(outside) > 0 {
		return fmt.Errorf("%w: network %s can't become (%s): that has no place for blocks %s%s",
			control.ErrInUse, now.Name, now.Form(), shorten(outside), until)
	}
	if len(otherLength) > 0 {
		return fmt.Errorf("%w: the length of network %s's blocks can't change while nodes have some: %s%s",
			control.ErrInUse, now.Name, shorten(otherLength), until)
	}
	return nil
}

// RemoveNetwork removes a network and all that is of it, which tasks in it lose. Plain nodes are in the way.
func RemoveNetwork(s *Snapshot, name string) (*Decision, error) {
	if err := s.has(name); err != nil {
		return nil, err
	}
	if plain := s.plainIn(name, ""); len(plain) > 0 {
		return nil, fmt.Errorf("%w: plain nodes %s are in network %s; weft node remove %s first",
			control.ErrInUse, shorten(plain), name, plain[0])
	}
	d := &Decision{}
	d.drop(discovery.KindNetwork, name)
	d.dropBelow(discovery.KindGroup, name, s.groups.below(name))
	d.dropBelow(discovery.KindRule, name, s.rules.below(name))
	d.dropBelow(discovery.KindBlock, name, s.blocks.below(name))
	d.dropBelow(discovery.KindIdentity, name, s.identities.below(name))
	for _, p := range s.Publications(name) {
		d.drop(discovery.KindPublication, p.Name())
	}
	return d, nil
}
