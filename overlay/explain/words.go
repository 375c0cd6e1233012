// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"weft/bpf/row"
	"weft/overlay"
	"weft/overlay/compile"
)

// What a verdict says, in words.

// decided tells what a verdict comes to.
func (a asked) decided(n overlay.Network, v row.Clause) overlay.Verdict {
	var out overlay.Verdict
	switch v.Action() {
	case row.VerdictAllow:
		return a.allowed(n, v.Rule)
	case row.VerdictAudit:
		out = yes(row.ReasonAudited, "%s may reach %s on %s, but %s, in audit mode, would deny it",
			a.src, a.dst, a.wanted(), a.rule(v.Rule))
	default:
		out = no(row.ReasonDenied, "%s denies %s to reach %s on %s", a.rule(v.Rule), a.src, a.dst, a.wanted())
		out.Suggestion = fmt.Sprintf("weft rule remove %s %d", n.Name, v.Rule)
	}
	out.Rule = overlay.RuleID(v.Rule)
	return out
}

func (a asked) allowed(n overlay.Network, rule uint32) overlay.Verdict {
	reason := row.ReasonDelivered
	if !a.src.task && a.src.host.ID == "" {
		reason = row.ReasonFromHost
	}
	if rule != 0 {
		v := yes(reason, "%s lets %s reach %s on %s", a.rule(rule), a.src, a.dst, a.wanted())
		v.Rule = overlay.RuleID(rule)
		return v
	}
	switch ground, group := a.ruling(n).Ground(); ground {
	case compile.GroundPublic:
		return yes(reason, "%s is in group %s, which accepts from anywhere", a.dst, overlay.GroupPublic)
	case compile.GroundNode:
		return yes(reason, "%s is in no group: processes of every node reach it", a.dst)
	case compile.GroundUngrouped:
		return yes(reason, "neither %s nor %s is in a group", a.src, a.dst)
	case compile.GroundOpen:
		return yes(reason, "network %s lets tasks without groups talk to all (ungrouped = open)", n.Name)
	default:
		return yes(reason, "%s and %s are both in group %s", a.src, a.dst, group)
	}
}

// missing tells what is not there, and what would help.
func (a asked) missing(n overlay.Network) overlay.Verdict {
	reason := row.ReasonNoCommonGroup
	from, who := overlay.World, fmt.Sprint(a.src)
	outside := a.src.party().InWorld()
	switch {
	case outside:
		reason = row.ReasonNotPublic
		if a.src.host.ID != "" {
			from = netip.PrefixFrom(a.src.addr, a.src.addr.BitLen()).String()
		}
	case a.src.stranger:
		who, from = fmt.Sprintf("%s sends without groups, as no node of Weft does", a.src), ""
	case a.src.lost:
		who, from = fmt.Sprintf("%s sends with identity %d, whose groups no master names any more", a.src, a.src.Identity), ""
	default:
		who = fmt.Sprintf("%s is in %s", a.src, groups(a.src.Groups))
		from = strings.Join(a.src.Groups[:min(1, len(a.src.Groups))], "")
	}
	v := no(reason, "%s, %s in %s: they share none, and no rule lets %s reach %s on %s",
		who, a.dst, groups(a.dst.Groups), a.src.name(), a.dst.name(), a.wanted())
	if outside {
		v.Text = fmt.Sprintf("%s is in %s, not in group %s, and no rule lets %s reach it on %s",
			a.dst, groups(a.dst.Groups), overlay.GroupPublic, who, a.wanted())
	}
	if near := a.nearest(n); near != "" {
		v.Text += "; " + near
	}
	switch {
	case a.src.stranger:
		v.Suggestion = "let it send by a node of Weft, or put the receiver into group " + overlay.GroupPublic
	case a.src.lost:
		v.Suggestion = "start the sender anew; weft status tells whether its node hears of the masters"
	case len(a.dst.Groups) == 0 || from == "":
		v.Text += "; a rule needs a group on both sides"
		v.Suggestion = "start the task that has none with --group"
	default:
		v.Suggestion = fmt.Sprintf("weft rule add %s --from %s --to %s", n.Name, from, a.dst.Groups[0])
		if slices.Contains([]uint8{compile.ICMP, compile.TCP, compile.UDP}, a.service.Proto) {
			v.Suggestion += " --port " + a.wanted()
		}
	}
	return v
}

// nearest names the rule that comes closest to what is asked; empty: there is none.
func (a asked) nearest(n overlay.Network) string {
	id, near := a.ruling(n).Nearest(a.service)
	switch r := a.ruleOf(id); near {
	case compile.NearService:
		return fmt.Sprintf("rule %d lets it on%s only", id, about(r))
	case compile.NearSource:
		return fmt.Sprintf("rule %d lets %s reach it on%s", id, source(r), cmp.Or(about(r), " all"))
	case compile.NearDirection:
		return fmt.Sprintf("rule %d is about the other direction", id)
	default:
		return ""
	}
}

func source(r overlay.Rule) string {
	if r.From == overlay.World {
		return "the world"
	}
	if _, isPrefix := r.Prefix(); isPrefix {
		return r.From
	}
	return "group " + r.From
}

// ruleOf returns a rule by its id; zero: it is gone.
func (a asked) ruleOf(id overlay.RuleID) overlay.Rule {
	if i := slices.IndexFunc(a.f.Rules, func(r overlay.Rule) bool { return r.ID == id }); i >= 0 {
		return a.f.Rules[i]
	}
	return overlay.Rule{}
}

// rule names a rule with what it says.
func (a asked) rule(id uint32) string {
	r := a.ruleOf(overlay.RuleID(id))
	if r.ID == 0 {
		return fmt.Sprintf("rule %d", id)
	}
	return fmt.Sprintf("rule %d (%s %s to %s%s)", id, r.Action, r.From, r.To, about(r))
}

// about is what a rule is about, as it stands behind a word.
func about(r overlay.Rule) string {
	if s := r.Service(); s != "" {
		return " " + s
	}
	return ""
}

// wanted is the service in the form of the command line: tcp/80.
func (a asked) wanted() string {
	switch a.service.Proto {
	case compile.ICMP:
		return "icmp"
	case compile.TCP:
		return fmt.Sprintf("tcp/%d", a.service.Port)
	case compile.UDP:
		return fmt.Sprintf("udp/%d", a.service.Port)
	}
	return fmt.Sprintf("protocol %d", a.service.Proto)
}

func groups(list []string) string {
	switch len(list) {
	case 0:
		return "no group"
	case 1:
		return "group " + list[0]
	}
	return "groups " + strings.Join(list, " and ")
}

func yes(r row.Reason, format string, args ...any) overlay.Verdict {
	return overlay.Verdict{Allowed: true, Reason: r.String(), Text: fmt.Sprintf(format, args...)}
}

func no(r row.Reason, format string, args ...any) overlay.Verdict {
	return overlay.Verdict{Reason: r.String(), Text: fmt.Sprintf(format, args...)}
}
