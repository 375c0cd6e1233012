// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"iter"
	"math"
	"net/netip"
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

// Protocol returns the number of a protocol as rules and port mappings spell it; 0 for "", which is all of them. False:
// it is none of these.
func Protocol(name string) (number uint8, known bool) {
	switch name {
	case "":
		return 0, true
	case "icmp":
		return ICMP, true
	case "tcp":
		return TCP, true
	case "udp":
		return UDP, true
	}
	return 0, false
}

// Service is what a packet asks for, in host order; Port 0 is the protocol without ports.
type Service struct {
	Proto uint8 // IP protocol
	Port  uint16
}

// Party is one side of a pair, as verdicts tell sides apart.
type Party struct {
	Identity uint32       // how a verdict's key names it: a task's, or one of row's for who is none
	Groups   []string     // sorted
	prefix   netip.Prefix // of the world; not valid: the rest of it, or no world at all
}

// InWorld reports whether it is outside of every network: other nodes' processes are, by addresses of their own.
func (p Party) InWorld() bool {
	return p.Identity == row.IdentityWorld || p.Identity == row.IdentityOtherNode || p.prefix.IsValid()
}

func (p Party) in(group string) bool { return slices.Contains(p.Groups, group) }

// rule is a rule with its words read.
type rule struct {
	overlay.Rule
	prefix netip.Prefix // that From is; not valid: a group or the world
	proto  uint8
}

// newRule reads a rule; nil when it is none that this build understands.
func newRule(r overlay.Rule) *rule {
	proto, known := Protocol(r.Protocol)
	if !known || len(r.Ports) > 0 && proto != TCP && proto != UDP {
		return nil
	}
	prefix, isPrefix := r.Prefix()
	if isPrefix && r.ID > overlay.MaxRuleID {
		return nil // sources could not name it
	}
	if slices.ContainsFunc(r.Ports, func(p overlay.PortRange) bool { return p.First <= 1 && p.Last == math.MaxUint16 }) {
		r.Ports = nil
	}
	return &rule{Rule: r, prefix: prefix, proto: proto}
}

// from reports whether the rule is about what a party sends.
func (r *rule) from(p Party) bool {
	switch {
	case r.prefix.IsValid():
		return p.prefix.IsValid() && r.prefix.Bits() <= p.prefix.Bits() && r.prefix.Contains(p.prefix.Addr())
	case r.From == overlay.World:
		return p.InWorld()
	}
	return p.in(r.From)
}

// widths, narrowest first: the narrowest of which anything is said decides.
const (
	widthPorts = iota
	widthProtocol
	widthAny
	widths
)

// width tells how narrow the rule is about a service; false: it says nothing about it.
func (r *rule) width(s Service) (int, bool) {
	switch {
	case r.proto == 0:
		return widthAny, true
	case r.proto != s.Proto:
		return 0, false
	case len(r.Ports) == 0:
		return widthProtocol, true
	}
	return widthPorts, slices.ContainsFunc(r.Ports, func(p overlay.PortRange) bool {
		return max(p.First, 1) <= s.Port && s.Port <= p.Last
	})
}

// isAbout reports whether the rule says anything of a service.
func (r *rule) isAbout(s Service) bool {
	_, ok := r.width(s)
	return ok
}

// said is what the rules say of exactly one width: the lowest rule of each sort, nil for none.
type said struct{ deny, audit, allow *rule }

func (s *said) add(r *rule) {
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

// decide says what comes of a service by rules that are about the pair. The narrowest width of which
// anything is said decides; of what is said there, deny is before allow, and rules are before common
// groups. A rule in audit mode changes no outcome: it turns those that it would deny into reports.
func decide(common bool, rules []*rule, s Service) (action uint8, by uint32) {
	var words [widths]said
	for _, r := range rules {
		if w, ok := r.width(s); ok {
			words[w].add(r)
		}
	}
	var audit *rule
	for w, is := range words {
		audit = cmp.Or(audit, is.audit)
		switch {
		case is.deny != nil:
			return row.VerdictDeny, uint32(is.deny.ID)
		case common && w == widthAny: // common groups allow, whatever rules say so too
		case is.allow != nil:
			by = uint32(is.allow.ID)
		default:
			continue
		}
		if audit != nil {
			return row.VerdictAudit, uint32(audit.ID)
		}
		return row.VerdictAllow, by
	}
	return row.VerdictNone, 0
}

// clausesOf returns what a pair comes to, from the first service to the last: a clause wherever it
// changes.
func clausesOf(common bool, rules []*rule) []row.Clause {
	starts := []uint32{0} // protocol << 16 | port
	at := func(proto uint8, port int) { starts = append(starts, uint32(proto)<<16+uint32(port)) }
	for _, r := range rules {
		if r.proto == 0 {
			continue
		}
		at(r.proto, 0)
		at(r.proto, math.MaxUint16+1)
		for _, p := range r.Ports {
			at(r.proto, int(max(p.First, 1)))
			at(r.proto, int(p.Last)+1)
		}
	}
	slices.Sort(starts)
	var list []row.Clause
	for _, start := range slices.Compact(starts) {
		proto, port := uint8(start>>16), uint16(start)
		action, by := decide(common, rules, Service{proto, port})
		if n := len(list); n == 0 || list[n-1].Action() != action || list[n-1].Rule != by {
			list = append(list, row.ClauseOf(proto, port, action, by))
		}
	}
	return list
}

// find returns what clauses say of a service.
func (s Service) find(list []row.Clause) (found row.Clause) {
	for _, c := range list {
		if c.Holds(s.Proto, s.Port) {
			found = c
		}
	}
	return found
}

func verdictKey(vni overlay.VNI, src uint32, dst overlay.Identity) row.VerdictKey {
	return row.VerdictKey{VNI: uint32(vni), Src: src, Dst: uint32(dst)}
}

// Ground is why one side may talk to another without any rule.
type Ground uint8

// Values of Ground.
const (
	GroundNone      Ground = iota // it may not
	GroundPublic                  // the receiver is in group public
	GroundNode                    // a process of a node, to a task in no group
	GroundGroup                   // both are in one group
	GroundUngrouped               // neither is in any
	GroundOpen                    // one is in none, and the network lets those talk to all
)

// commonGround returns why src may talk to dst without any rule, and the group that they share where that is why.
func commonGround(n overlay.Network, src, dst Party) (ground Ground, group string) {
	if dst.in(overlay.GroupPublic) {
		return GroundPublic, ""
	}
	if src.Identity == row.IdentityOtherNode && dst.Identity == row.IdentityUngrouped {
		return GroundNode, ""
	}
	if src.InWorld() || src.Identity == row.IdentityNone {
		return GroundNone, ""
	}
	for _, g := range src.Groups {
		if dst.in(g) {
			return GroundGroup, g
		}
	}
	bare := 0
	for _, p := range []Party{src, dst} {
		if p.Identity == row.IdentityUngrouped {
			bare++
		}
	}
	switch {
	case bare == 2:
		return GroundUngrouped, ""
	case bare == 1 && n.Ungrouped == overlay.UngroupedOpen:
		return GroundOpen, ""
	}
	return GroundNone, ""
}

// prefixesOf numbers the prefixes that rules of one network name: the lowest rule stands for each.
func prefixesOf(rules iter.Seq[*rule]) map[netip.Prefix]uint32 {
	prefixes := make(map[netip.Prefix]uint32)
	for r := range rules {
		if !r.prefix.IsValid() {
			continue
		}
		number := row.VerdictPrefix | uint32(r.ID)
		if old, named := prefixes[r.prefix]; !named || number < old {
			prefixes[r.prefix] = number
		}
	}
	return prefixes
}
