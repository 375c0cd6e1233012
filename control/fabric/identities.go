// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"fmt"
	"slices"
	"strings"
	"time"

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
	// quarantine is how long after its retirement a number is not used anew at least: frames that carry it
	// have left every queue by then (VXLAN frames live as long as IP packets, RFC 791: 255 s at most).
	quarantine = 5 * time.Minute
	// retireFrom is how many sets a network has when the first are retired: three quarters of all. Before that
	// they stay, so that tasks of known groups start without a master.
	retireFrom = (lastIdentity - firstIdentity + 1) * 3 / 4
	// retiredMost bounds how many of a network are retired at once: each is a line in a row of every node.
	retiredMost = 512
)

func (p *planner) grantIdentity(w wantClaim) {
	groups := slices.Compact(slices.Sorted(slices.Values(w.Groups)))
	if len(groups) == 0 {
		return
	}
	if p.sets[w.Network] == nil {
		p.sets[w.Network] = newIdentityCursor(p.s, w.Network)
	}
	cursor := p.sets[w.Network]
	if set, known := cursor.known[strings.Join(groups, ",")]; known {
		if set.Retired != 0 {
			set.Retired = 0
			p.d.set(discovery.KindIdentity, fmt.Sprintf("%s/%d", w.Network, set.Identity), set)
		}
		return
	}
	for _, g := range groups {
		if !p.s.isGroup(w.Network, g) {
			p.refuse(w.node, discovery.KindWant, w.key, "%s", missing("group of network "+w.Network, g, p.s.groupsOf(w.Network)))
			return
		}
	}
	if n := p.s.ranges(w.Network, groups); n > overlay.MaxPortRanges {
		p.refuse(w.node, discovery.KindWant, w.key, "rules of network %s name %d ranges of ports towards tasks in %s together: %d are the limit",
			w.Network, n, strings.Join(groups, ","), overlay.MaxPortRanges)
		return
	}
	identity, ok := cursor.next(groups)
	if !ok {
		p.refuse(w.node, discovery.KindWant, w.key, "network %s has no identity left for groups %s: all %d are taken by other sets of groups; "+
			"let tasks share sets of groups, or use several networks", w.Network, strings.Join(groups, ","), len(cursor.used))
		return
	}
	p.d.set(discovery.KindIdentity, fmt.Sprintf("%s/%d", w.Network, identity),
		overlay.GroupSet{Network: w.Network, Groups: groups, Identity: identity})
}

// retire looks after the numbers that nobody uses, in networks where they run short.
func (p *planner) retire(c claims) {
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

func (p *planner) retireIn(network string, keys []string, c claims) {
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
func (p *planner) usedSets(network string, c claims) map[overlay.Identity]bool {
	used := make(map[overlay.Identity]bool)
	for _, e := range c.endpoints() {
		if e.Network == network {
			used[e.Identity] = true
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
func (p *planner) isFree(set overlay.GroupSet, c claims) bool {
	if c.now.Sub(time.UnixMilli(set.Retired)) < quarantine {
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
