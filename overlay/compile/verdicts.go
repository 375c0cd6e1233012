// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"slices"

	"weft/bpf/row"
	"weft/overlay"
)

// IP protocol numbers (IANA). ICMPv6 is looked up as ICMP.
const (
	ICMP uint8 = 1
	TCP  uint8 = 6
	UDP  uint8 = 17
)

var protocols = map[string]uint8{"": 0, "icmp": ICMP, "tcp": TCP, "udp": UDP}

// service is what a packet asks for, in host order; zero stands for any. It is the part of a verdict
// key that rules decide about.
type service struct {
	proto uint8
	port  uint16
}

// wider returns s and the services that contain it, in the order the packet path looks them up.
func (s service) wider() []service {
	return slices.Compact([]service{s, {proto: s.proto}, {}})
}

// party is one side of a pair: an identity and what it stands for.
type party struct {
	identity overlay.Identity
	groups   []string // sorted
}

func (p party) in(group string) bool {
	if group == overlay.World {
		return p.identity == row.IdentityWorld
	}
	return slices.Contains(p.groups, group)
}

// verdicts returns the verdicts towards the identities of this node's tasks, from every identity of
// their networks and from the world.
func verdicts(f Facts, networks map[string]overlay.Network) map[row.VerdictKey]row.Verdict {
	rows := make(map[row.VerdictKey]row.Verdict)
	here := make(map[string]map[overlay.Identity]bool) // by network
	for _, t := range f.Tasks {
		if here[t.Network] == nil {
			here[t.Network] = make(map[overlay.Identity]bool)
		}
		here[t.Network][t.Identity] = true
	}
	for name, local := range here {
		n, known := networks[name]
		if !known {
			continue
		}
		parties := partiesOf(f, name)
		for identity := range local {
			towards(rows, n, f.Rules, parties, parties[identity])
		}
	}
	return rows
}

// partiesOf returns every identity of a network. What the tasks here were given counts also when the
// masters' row about it is not here (again) yet.
func partiesOf(f Facts, network string) map[overlay.Identity]party {
	parties := map[overlay.Identity]party{
		row.IdentityWorld:     {identity: row.IdentityWorld},
		row.IdentityUngrouped: {identity: row.IdentityUngrouped},
	}
	for _, t := range f.Tasks {
		if t.Network == network && t.Identity >= row.IdentityFirst {
			parties[t.Identity] = party{t.Identity, t.Groups}
		}
	}
	for _, s := range f.Sets {
		if s.Network == network && s.Identity >= row.IdentityFirst {
			parties[s.Identity] = party{s.Identity, s.Groups}
		}
	}
	return parties
}

// towards adds the verdicts of every source about one destination.
func towards(
	rows map[row.VerdictKey]row.Verdict, n overlay.Network, rules []overlay.Rule,
	sources map[overlay.Identity]party, dst party,
) {
	var about []overlay.Rule
	for _, r := range rules {
		if r.Network == n.Name && dst.in(r.To) {
			about = append(about, r)
		}
	}
	for _, src := range sources {
		_, common := commonGround(n, src, dst)
		for s, v := range pair(common, about, src) {
			rows[verdictKey(n.VNI, src.identity, dst.identity, s)] = v
		}
	}
}

func verdictKey(vni overlay.VNI, src, dst overlay.Identity, s service) row.VerdictKey {
	return row.VerdictKey{
		VNI: uint32(vni), Src: uint16(src), Dst: uint16(dst), Port: row.Port(s.port), Proto: s.proto,
	}
}

// commonGround reports whether src may talk to dst without any rule, and why.
func commonGround(n overlay.Network, src, dst party) (why string, ok bool) {
	if dst.in(overlay.GroupPublic) {
		return "public", true
	}
	if src.identity == row.IdentityWorld {
		return "", false
	}
	for _, g := range src.groups {
		if dst.in(g) {
			return g, true
		}
	}
	bare := 0
	for _, p := range []party{src, dst} {
		if p.identity == row.IdentityUngrouped {
			bare++
		}
	}
	switch {
	case bare == 2:
		return "no groups", true
	case bare == 1 && n.Ungrouped == overlay.UngroupedOpen:
		return "open", true
	}
	return "", false
}

// said is what the rules say of exactly one service: the lowest rule of each sort, nil for none.
type said struct{ deny, audit, allow *overlay.Rule }

func (s *said) add(r *overlay.Rule) {
	slot := &s.allow
	switch {
	case r.Action == overlay.Deny && r.Audit:
		slot = &s.audit
	case r.Action == overlay.Deny:
		slot = &s.deny
	}
	if *slot == nil || r.ID < (*slot).ID {
		*slot = r
	}
}

// pair returns the verdicts of one source about one destination. The narrowest service that anything
// is said of decides; of what is said there, deny is before allow, and rules are before common groups.
// A rule in audit mode changes no outcome: it turns those that it would deny into reports.
func pair(common bool, rules []overlay.Rule, src party) map[service]row.Verdict {
	words := make(map[service]*said)
	if common {
		words[service{}] = new(said)
	}
	for i := range rules {
		if !src.in(rules[i].From) {
			continue
		}
		for _, s := range services(rules[i]) {
			if words[s] == nil {
				words[s] = new(said)
			}
			words[s].add(&rules[i])
		}
	}
	rows := make(map[service]row.Verdict, len(words))
	for s := range words {
		if v, ok := decide(common, words, s); ok {
			rows[s] = v
		}
	}
	return rows
}

// decide walks from s to wider services, as a packet's look-up does.
func decide(common bool, words map[service]*said, s service) (row.Verdict, bool) {
	var audit *overlay.Rule
	for _, w := range s.wider() {
		is := words[w]
		if is == nil {
			continue
		}
		if audit == nil {
			audit = is.audit
		}
		var rule uint32
		switch {
		case is.deny != nil:
			return row.Verdict{Rule: uint32(is.deny.ID), Action: row.VerdictDeny}, true
		case common && w == service{}: // common groups allow, whatever rules say so too
		case is.allow != nil:
			rule = uint32(is.allow.ID)
		default:
			continue
		}
		if audit != nil {
			return row.Verdict{Rule: uint32(audit.ID), Action: row.VerdictAudit}, true
		}
		return row.Verdict{Rule: rule, Action: row.VerdictAllow}, true
	}
	return row.Verdict{}, false
}

// services returns what a rule is about, one entry for each key the packet path looks up.
func services(r overlay.Rule) []service {
	proto, known := protocols[r.Protocol]
	if !known {
		return nil
	}
	if len(r.Ports) == 0 {
		return []service{{proto: proto}}
	}
	if proto != TCP && proto != UDP {
		return nil // ports of what has none: Rule.Validate refuses it
	}
	var list []service
	for _, p := range r.Ports {
		if p.First <= 1 && p.Last == 65535 {
			list = append(list, service{proto: proto})
			continue
		}
		for port := uint32(max(p.First, 1)); port <= uint32(p.Last); port++ {
			list = append(list, service{proto, uint16(port)})
		}
	}
	return list
}
