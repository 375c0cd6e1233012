// SPDX-License-Identifier: Apache-2.0

package decision

import (
	"fmt"
	"net/netip"
	"slices"

	"weft/control/decision/free"
	"weft/discovery"
	"weft/lb"
	"weft/overlay"
)

// Plan decides what nodes ask for. It is pure: the same snapshot and claims give the same decision,
// whoever leads. The stages, one after the other:
//
//  1. admit nodes
//  2. take blocks of addresses back, and give others to those admitted (blocks.go)
//  3. number sets of groups, and free numbers that nobody uses where they run short (identities.go)
//  4. pin named VIPs to addresses
//  5. say what was refused, and withdraw what is refused no more
//
// A decision that gets too large for one change is cut: the next round goes on.
func Plan(s *Snapshot, c Claims) *Decision {
	p := &planner{
		s: s, d: &Decision{}, admitted: map[discovery.NodeID]uint64{}, vteps: map[netip.Addr]discovery.NodeID{}, hosts: map[netip.Prefix]bool{},
		refused: map[string]discovery.Refusal{}, blocks: map[string]*free.Blocks{}, identities: map[string]*free.Identities{},
	}
	for _, stage := range []func(Claims){p.admit, p.grant, p.retire, p.pin} {
		if stage(c); p.d.full() {
			return p.d
		}
	}
	for _, r := range c.broken {
		p.note(r)
	}
	p.say()
	return p.d
}

type planner struct {
	s          *Snapshot
	d          *Decision
	wants      []wantClaim
	admitted   map[discovery.NodeID]uint64 // -> incarnations up to this are void
	vteps      map[netip.Addr]discovery.NodeID
	hosts      map[netip.Prefix]bool        // addresses of nodes towards the networks that are given
	numbered   uint32                       // those of nodes up to this number are
	refused    map[string]discovery.Refusal // by key of the ledger
	blocks     map[string]*free.Blocks      // by network/family
	identities map[string]*free.Identities  // by network
}

func (p *planner) refuse(node discovery.NodeID, kind discovery.Kind, key, format string, args ...any) {
	p.note(discovery.Refusal{Node: node, Kind: kind, Key: key, Reason: fmt.Sprintf(format, args...)})
}

// note is refuse with what else is to be said of it.
func (p *planner) note(r discovery.Refusal) {
	p.refused[fmt.Sprintf("%s/%s/%s", r.Node, r.Kind, r.Key)] = r
}

// admit takes every node that says who and where it is. Whoever may write rows has shown the
// cluster's secret, if there is one, to the stream that they came by.
func (p *planner) admit(c Claims) {
	for _, id := range p.s.admissions.keys() {
		if a := p.s.admissions[id]; a.VTEP.IsValid() {
			p.admitted[a.Node] = a.Gone
			p.vteps[a.VTEP] = a.Node
			p.hosts[a.Host6] = true
		}
	}
	for _, id := range p.s.plain.keys() {
		p.vteps[p.s.plain[id].VTEP] = discovery.NodeID(id)
	}
	for _, n := range c.nodes {
		if p.d.full() {
			return
		}
		if _, plain := p.s.plain[string(n.ID)]; plain {
			p.refuse(n.ID, discovery.KindNode, string(n.ID), "%s is the name of a plain node: give this one another id, or weft node remove %s", n.ID, n.ID)
			continue
		}
		a := p.s.admissions[string(n.ID)]
		if n.incarnation <= a.Gone {
			continue
		}
		vtep, reason := p.vtep(n, a)
		if reason != "" {
			p.refuse(n.ID, discovery.KindNode, string(n.ID), "%s", reason)
			continue
		}
		p.admitted[n.ID] = a.Gone
		now := discovery.Admission{
			Node: n.ID, VTEP: vtep, Former: a.Former, Host4: a.Host4, Host6: a.Host6, Incarnation: n.incarnation, Gone: a.Gone,
		}
		if !now.Host6.IsValid() {
			now.Host4, now.Host6 = p.number()
		}
		if a.VTEP != vtep {
			now.Former = a.VTEP
		}
		if a == now {
			continue
		}
		p.vteps[vtep] = n.ID
		p.d.set(discovery.KindAdmission, string(n.ID), now)
	}
}

// number returns the addresses towards the networks of the next node, the lowest that are free.
func (p *planner) number() (four, six netip.Prefix) {
	for {
		p.numbered++
		if four, six = overlay.NodeAddrs(p.numbered); !p.hosts[six] {
			p.hosts[six] = true
			return four, six
		}
	}
}

// vtep returns the address that a node's frames come from, or why it can't be that.
func (p *planner) vtep(n nodeClaim, a discovery.Admission) (netip.Addr, string) {
	if len(n.Addrs) == 0 || !n.Addrs[0].IsValid() {
		return netip.Addr{}, "the node tells no underlay address"
	}
	vtep := n.Addrs[0].Unmap().WithZone("")
	if a.VTEP == vtep {
		return vtep, ""
	}
	if a.VTEP.IsValid() && a.Incarnation != n.incarnation {
		return vtep, fmt.Sprintf("node %s was admitted with address %s and now says %s: give one of two nodes another id, "+
			"or, if the node lost its disk and moved, weft node remove %s", n.ID, a.VTEP, vtep, n.ID)
	}
	if other, taken := p.vteps[vtep]; taken && other != n.ID {
		return vtep, fmt.Sprintf("address %s is node %s's", vtep, other)
	}
	four, six := overlay.NodeSubnets()
	if four.Contains(vtep) || six.Contains(vtep) {
		return vtep, fmt.Sprintf("address %s lies in %s or %s, which nodes have addresses towards the networks from", vtep, four, six)
	}
	return vtep, p.s.inNetwork(vtep)
}

// grant answers wishes for blocks and identities.
func (p *planner) grant(c Claims) {
	p.wants = c.wants
	for _, w := range c.wants {
		if p.d.full() {
			return
		}
		if gone, ok := p.admitted[w.node]; !ok || w.incarnation <= gone {
			continue
		}
		n, ok := p.s.networks[w.Network]
		if !ok {
			p.refuse(w.node, discovery.KindWant, w.key, "%s", missing("network", w.Network, p.s.networks.keys()))
			continue
		}
		p.takeBack(w)
		p.grantAddrs(w, n)
		p.grantBlocks(w, n, n.Subnet4, w.Blocks4)
		p.grantBlocks(w, n, n.Subnet6, w.Blocks6)
		p.grantIdentity(w)
	}
}

// pin gives every named VIP its addresses, in the order of the names.
func (p *planner) pin(c Claims) {
	var pins []lb.Pin
	for _, name := range p.s.pins.keys() {
		pins = append(pins, p.s.pins[name])
	}
	literals := slices.Clone(c.literals)
	slices.SortFunc(literals, netip.Addr.Compare)
	for _, b := range c.backends {
		if p.d.full() {
			return
		}
		if _, ok := p.admitted[b.node]; !ok {
			continue
		}
		if _, ok := p.s.pins[b.name]; ok {
			continue
		}
		if _, ok := p.d.put[string(discovery.KindPin)+"/"+b.name]; ok {
			continue
		}
		pin, err := lb.Assign(pins, b.name, literals...)
		if err != nil {
			p.refuse(b.node, discovery.KindBackend, b.key, "%v", err)
			continue
		}
		pins = append(pins, pin)
		p.d.set(discovery.KindPin, pin.Name, pin)
	}
}

// say makes the refusals of the ledger those found now.
func (p *planner) say() {
	for _, key := range p.s.refusals.keys() {
		if p.d.full() {
			return
		}
		if _, ok := p.refused[key]; !ok {
			p.d.drop(discovery.KindRefusal, key)
		}
	}
	for _, key := range table[discovery.Refusal](p.refused).keys() {
		if p.d.full() {
			return
		}
		if p.s.refusals[key] != p.refused[key] {
			p.d.set(discovery.KindRefusal, key, p.refused[key])
		}
	}
}
