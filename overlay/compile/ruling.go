// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"net/netip"
	"slices"

	"weft/bpf/row"
	"weft/overlay"
)

// Ruling is what groups and rules of a network say of one side that sends to another: what decides, and what comes
// closest to letting through what is not let through.
type Ruling struct {
	network  overlay.Network
	src, dst Party
	rules    []*rule // of the network, by id
}

// Ruling returns what is said of src that sends to dst, a task of the network. from is where a source of the world is;
// not valid: nowhere in particular, and no rule from addresses is about it.
func (f Facts) Ruling(n overlay.Network, src, dst Party, from netip.Addr) Ruling {
	r := Ruling{network: n, src: src, dst: dst}
	prefixed := false
	for _, said := range f.Rules {
		if read := newRule(said); said.Network == n.Name && read != nil {
			r.rules = append(r.rules, read)
			prefixed = prefixed || read.prefix.IsValid() && dst.in(read.To)
		}
	}
	slices.SortFunc(r.rules, sortRules)
	if !prefixed || !src.InWorld() {
		return r
	}
	for prefix, number := range prefixesOf(slices.Values(r.rules)) { // the longest one is looked up, as by the packet path
		if prefix.Contains(from) && (!r.src.prefix.IsValid() || prefix.Bits() > r.src.prefix.Bits()) {
			r.src = Party{Identity: number, prefix: prefix}
		}
	}
	return r
}

// Key returns the key of the pair's row in the packet path of the receiver's node.
func (r Ruling) Key() row.VerdictKey {
	return verdictKey(r.network.VNI, r.src.Identity, overlay.Identity(r.dst.Identity))
}

// Decide returns what the receiver's node comes to about a service.
func (r Ruling) Decide(s Service) row.Clause {
	about := slices.DeleteFunc(slices.Clone(r.rules), func(said *rule) bool { return !r.dst.in(said.To) || !said.from(r.src) })
	ground, _ := r.Ground()
	return s.find(clausesOf(ground != GroundNone, about))
}

// Ground returns why src may talk to dst without any rule, and the group that they share where that is why.
func (r Ruling) Ground() (ground Ground, group string) { return commonGround(r.network, r.src, r.dst) }

// Nearness tells how close a rule that allows comes to what it does not allow.
type Nearness uint8

// Values of Nearness.
const (
	NearNothing   Nearness = iota
	NearService            // both sides are those of the rule, the service is another
	NearSource             // receiver and service are, the source is another
	NearDirection          // it is about dst that sends to src
)

// Nearest returns the rule that comes closest to letting the service through. The lowest one counts, and NearService
// before the other two.
func (r Ruling) Nearest(s Service) (id overlay.RuleID, near Nearness) {
	for _, said := range r.rules {
		from, to := said.from(r.src), r.dst.in(said.To)
		switch {
		case said.Action != overlay.Allow:
		case from && to:
			return said.ID, NearService
		case near != NearNothing:
		case to && said.isAbout(s):
			id, near = said.ID, NearSource
		case said.from(r.dst) && r.src.in(said.To):
			id, near = said.ID, NearDirection
		}
	}
	return id, near
}
