// SPDX-License-Identifier: Apache-2.0

package decision

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"weft/control/decision/free"
	"weft/discovery"
	"weft/overlay"
)

// An identity is freed in steps, so that its number never means two sets of groups at once:
//
//	in use --no task and no want for it--> retired --every node's release, and quarantine--> free
//	   ^------------a want for it-------------'
//
// A node does not begin to use a retired set before it has asked for it, and tells, with the moment of the
// retirement, that it does not use it. A node that is away tells nothing: its numbers wait for it, or for
// `weft node remove`.
const (
	// Quarantine is how long after its retirement a number is not used anew at least: frames that carry it
	// have left every queue by then (VXLAN frames live as long as IP packets, RFC 791: 255 s at most).
	Quarantine = 5 * time.Minute
	// retireFrom is how many sets a network has when the first are retired: three quarters of all. Before that
	// they stay, so that tasks of known groups start without a master.
	retireFrom = (free.LastIdentity - free.FirstIdentity + 1) * 3 / 4
	// retiredMost bounds how many of a network are retired at once: each is a line in a row of every node.
	retiredMost = 512
)

func (p *planner) grantIdentity(w wantClaim) {
	groups := slices.Compact(slices.Sorted(slices.Values(w.Groups)))
	if len(groups) == 0 {
		return
	}
	if p.identities[w.Network] == nil {
		p.identities[w.Network] = p.s.freeIdentities(w.Network)
	}
	set, isNew, reason := p.s.numbered(p.identities[w.Network], w.Network, groups)
	switch {
	case reason != "":
		p.refuse(w.node, discovery.KindWant, w.key, "%s", reason)
	case isNew:
		p.d.set(discovery.KindIdentity, fmt.Sprintf("%s/%d", w.Network, set.Identity), set)
	}
}

// freeIdentities are those of a network.
func (s *Snapshot) freeIdentities(network string) *free.Identities {
	i := free.NewIdentities()
	for _, key := range s.identities.below(network) {
		i.Take(s.identities[key])
	}
	return i
}

// numbered returns the set of groups, sorted, with its number, whether that is news, or why there can be none.
func (s *Snapshot) numbered(identities *free.Identities, network string, groups []string) (set overlay.GroupSet, isNew bool, reason string) {
	all := strings.Join(groups, ",")
	if set, known := identities.Set(groups); known {
		isNew = set.Retired != 0
		set.Retired = 0
		return set, isNew, ""
	}
	for _, g := range groups {
		if !s.isGroup(network, g) {
			return set, false, missing("group of network "+network, g, s.groupsOf(network))
		}
	}
	if n := s.ranges(network, groups); n > overlay.MaxPortRanges {
		return set, false, fmt.Sprintf("rules of network %s name %d ranges of ports towards tasks in %s together: %d are the limit",
			network, n, all, overlay.MaxPortRanges)
	}
	identity, ok := identities.Next(groups)
	if !ok {
		return set, false, fmt.Sprintf("network %s has no identity left for groups %s: all %d are taken by other sets of groups; "+
			"let tasks share sets of groups, or use several networks", network, all, identities.Given())
	}
	return overlay.GroupSet{Network: network, Groups: groups, Identity: identity}, true, ""
}

// retire looks after the numbers that nobody uses, in networks where they run short.
func (p *planner) retire(c Claims) {
	if c.scarce == 0 {
		return
	}
	for _, network := range p.s.networks.keys() {
		keys := p.s.identities.below(network)
		if len(keys) >= c.scarce || p.retired(keys) > 0 {
			p.retireIn(network, keys, c)
		}
	}
}

func (p *planner) retireIn(network string, keys []string, c Claims) {
	used := p.usedSets(network, c)
	room := 0 // for more that are retired
	if len(keys) >= c.scarce {
		room = retiredMost - p.retired(keys)
	}
	for _, key := range keys {
		set := p.s.identities[key]
		switch {
		case p.d.full():
			return
		case used[set.Identity] && set.Retired != 0: // begun before the retirement was known there
			set.Retired = 0
			p.d.set(discovery.KindIdentity, key, set)
		case used[set.Identity]:
		case set.Retired != 0 && p.isFree(set, c):
			p.d.drop(discovery.KindIdentity, key)
		case set.Retired == 0 && room > 0:
			room--
			set.Retired = c.now.UnixMilli()
			p.d.set(discovery.KindIdentity, key, set)
		}
	}
}

func (p *planner) retired(keys []string) (n int) {
	for _, key := range keys {
		if p.s.identities[key].Retired != 0 {
			n++
		}
	}
	return n
}

// usedSets returns the identities of a network that tasks have or nodes ask for.
func (p *planner) usedSets(network string, c Claims) map[overlay.Identity]bool {
	used := make(map[overlay.Identity]bool)
	for _, e := range c.endpoints() {
		if e.Network == network {
			used[e.Identity] = true
		}
	}
	for _, n := range p.s.plain {
		if n.Network == network {
			used[n.Identity] = true
		}
	}
	byGroups := make(map[string]overlay.Identity)
	for _, key := range p.s.identities.below(network) {
		set := p.s.identities[key]
		byGroups[strings.Join(set.Groups, ",")] = set.Identity
	}
	for _, w := range c.wants {
		groups := slices.Compact(slices.Sorted(slices.Values(w.Groups)))
		if id, ok := byGroups[strings.Join(groups, ",")]; ok && w.Network == network {
			used[id] = true
		}
	}
	return used
}

// isFree reports whether a retired number may be used anew: the quarantine is over and every admitted node
// has released it.
func (p *planner) isFree(set overlay.GroupSet, c Claims) bool {
	if c.now.Sub(time.UnixMilli(set.Retired)) < Quarantine {
		return false
	}
	released := make(map[discovery.NodeID]bool)
	for _, w := range c.wants {
		if w.Network == set.Network && slices.Contains(w.Released, overlay.Release{Identity: set.Identity, Retired: set.Retired}) {
			released[w.node] = true
		}
	}
	for node := range p.admitted {
		if !released[node] {
			return false
		}
	}
	return true
}
