// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"maps"
	"slices"

	"weft/bpf/row"
	"weft/overlay"
)

// ruling looks up what decides, or compiles it as the node of the destination would.
func (a asked) ruling(n overlay.Network) row.Clause {
	rules := rulesOf(a.f.Rules, n.Name)
	src, dst := a.sender(rules), a.dst.party()
	if a.dst.Node != a.f.Node || a.w.Verdict == nil {
		about := slices.DeleteFunc(slices.Collect(maps.Values(rules)), func(r *rule) bool { return !dst.in(r.To) || !r.from(src) })
		_, common := commonGround(n, src, dst)
		return a.service.find(clausesOf(common, about))
	}
	v, ok := a.w.Verdict(verdictKey(n.VNI, src.src, a.dst.Identity))
	switch {
	case !ok:
		return row.ClauseOf(0, 0, row.VerdictNone, 0)
	case v.Clauses == 0:
		return row.ClauseOf(0, 0, v.Action, v.Rule)
	}
	if c, ok := row.FindClause(a.w.Clauses, v.Clauses, a.service.proto, a.service.port); ok {
		return c
	}
	return row.ClauseOf(0, 0, row.VerdictNone, 0)
}

func rulesOf(all []overlay.Rule, network string) map[overlay.RuleID]*rule {
	rules := make(map[overlay.RuleID]*rule)
	for _, r := range all {
		if read := newRule(r); r.Network == network && read != nil {
			rules[r.ID] = read
		}
	}
	return rules
}

// sender is the source's party: of the world, the longest prefix that the rules name where rules
// towards the destination name any.
func (a asked) sender(rules map[overlay.RuleID]*rule) party {
	src, dst := a.src.party(), a.dst.party()
	counts := false
	for _, r := range rules {
		counts = counts || r.prefix.IsValid() && dst.in(r.To)
	}
	if a.src.task || !counts {
		return src
	}
	for prefix, number := range prefixesOf(rules) {
		if a.src.addr.IsValid() && prefix.Contains(a.src.addr) && (!src.prefix.IsValid() || prefix.Bits() > src.prefix.Bits()) {
			src = party{src: number, prefix: prefix}
		}
	}
	return src
}
