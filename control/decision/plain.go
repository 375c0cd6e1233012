// SPDX-License-Identifier: Apache-2.0

package decision

import (
	"fmt"
	"net/netip"
	"slices"

	"weft/control"
	"weft/discovery"
	"weft/overlay"
)

// AddPlainNode takes a plain node into its network: its blocks are its own from now on, and its groups have a
// number. The same again changes nothing.
func AddPlainNode(s *Snapshot, n overlay.PlainNode) (overlay.PlainNode, *Decision, error) {
	n = n.Normal()
	if err := n.Validate(); err != nil {
		return n, nil, err
	}
	if err := s.has(n.Network); err != nil {
		return n, nil, err
	}
	id := string(n.Node)
	if old, ok := s.plain[id]; ok {
		if old.Same(n) {
			return old, nil, nil
		}
		return n, nil, fmt.Errorf("%w: plain node %s is there in another form (vtep %s, network %s); weft node remove %s first",
			control.ErrExists, id, old.VTEP, old.Network, id)
	}
	if s.admissions[id].VTEP.IsValid() {
		return n, nil, fmt.Errorf("%w: %s is a node of Weft (vtep %s): give the plain one another name", control.ErrExists, id, s.admissions[id].VTEP)
	}
	if err := s.placeFor(n.VTEP); err != nil {
		return n, nil, err
	}
	network := s.networks[n.Network]
	for _, b := range n.Blocks {
		if err := s.isFreeBlock(network, b); err != nil {
			return n, nil, err
		}
	}
	d := &Decision{}
	n.Identity = overlay.IdentityUngrouped
	if len(n.Groups) > 0 {
		set, isNew, reason := s.numbered(s.freeIdentities(n.Network), n.Network, n.Groups)
		if reason != "" {
			return n, nil, fmt.Errorf("%w: %s", control.ErrInvalid, reason)
		}
		if isNew {
			d.set(discovery.KindIdentity, fmt.Sprintf("%s/%d", n.Network, set.Identity), set)
		}
		n.Identity = set.Identity
	}
	d.set(discovery.KindPlain, id, n)
	for _, b := range n.Blocks {
		d.set(discovery.KindBlock, n.Network+"/"+b.String(), overlay.Block{Network: n.Network, Node: n.Node, Prefix: b})
	}
	return n, d, nil
}

// placeFor refuses a VTEP that somebody else has, or that lies in a network.
func (s *Snapshot) placeFor(vtep netip.Addr) error {
	for _, a := range s.admissions {
		if a.VTEP == vtep || a.Former == vtep && a.VTEP.IsValid() {
			return fmt.Errorf("%w: vtep %s is node %s's", control.ErrExists, vtep, a.Node)
		}
	}
	for _, p := range s.plain {
		if p.VTEP == vtep {
			return fmt.Errorf("%w: vtep %s is plain node %s's, which is in network %s: a VTEP is in one network alone",
				control.ErrExists, vtep, p.Node, p.Network)
		}
	}
	if reason := s.inNetwork(vtep); reason != "" {
		return fmt.Errorf("%w: vtep: %s", control.ErrInvalid, reason)
	}
	return nil
}

// inNetwork tells which network an address of the underlay lies in; empty: none.
func (s *Snapshot) inNetwork(vtep netip.Addr) string {
	for _, name := range s.networks.keys() {
		for _, subnet := range s.networks[name].Subnets() {
			if subnet.Contains(vtep) {
				return fmt.Sprintf("address %s lies in %s of network %s: the underlay may not be part of a network", vtep, subnet, name)
			}
		}
	}
	return ""
}

// isFreeBlock refuses what is no block of the network, or another node's.
func (s *Snapshot) isFreeBlock(n overlay.Network, b netip.Prefix) error {
	inside := slices.ContainsFunc(n.Subnets(), func(p netip.Prefix) bool { return p.Contains(b.Addr()) && p.Bits() <= b.Bits() })
	switch bits := n.BlockBits(b.Addr()); {
	case !inside:
		return fmt.Errorf("%w: block %s is not part of network %s (%s)", control.ErrInvalid, b, n.Name, n.Form())
	case b.Bits() != bits:
		return fmt.Errorf("%w: block %s: blocks of network %s are /%d there; name several for more", control.ErrInvalid, b, n.Name, bits)
	}
	if holder, taken := s.blocks[n.Name+"/"+b.String()]; taken {
		return fmt.Errorf("%w: block %s of network %s is node %s's; weft network show %s lists who has which",
			control.ErrExists, b, n.Name, holder.Node, n.Name)
	}
	return nil
}

// plainIn returns the plain nodes that are in a network and, where one is named, in a group.
func (s *Snapshot) plainIn(network, group string) []string {
	var ids []string
	for _, id := range s.plain.keys() {
		if p := s.plain[id]; p.Network == network && (group == "" || slices.Contains(p.Groups, group)) {
			ids = append(ids, id)
		}
	}
	return ids
}

// removePlainNode takes a plain node out of its network.
func removePlainNode(s *Snapshot, id discovery.NodeID) *Decision {
	d := &Decision{}
	d.drop(discovery.KindPlain, string(id))
	for _, key := range s.blocks.keys() {
		if s.blocks[key].Node == id {
			d.drop(discovery.KindBlock, key)
		}
	}
	return d
}
