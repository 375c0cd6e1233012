// SPDX-License-Identifier: Apache-2.0

package compile_test

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"weft/bpf/row"
	"weft/overlay"
	"weft/overlay/compile"
)

// outside tells who is of the world: processes of other nodes are.
func outside(s overlay.GroupSet) bool {
	return s.Identity == row.IdentityWorld || s.Identity == row.IdentityOtherNode
}

// look does what the packet path does: a packet of the world goes by the longest prefix that is named.
func look(r compile.Rows, src overlay.GroupSet, from netip.Addr, dst overlay.Identity, proto uint8, port uint16) (row.Clause, bool) {
	key, longest := row.VerdictKey{VNI: 7, Src: uint32(src.Identity), Dst: uint32(dst)}, uint32(0)
	prefixed := slices.ContainsFunc(slices.Collect(maps.Values(r.Endpoints)), func(e row.Endpoint) bool {
		return e.Identity == uint16(dst) && e.Flags&row.EndpointPrefixed != 0
	})
	for k, s := range r.Sources {
		p := netip.PrefixFrom(k.Addr.Netip(), int(k.Len)-128)
		if outside(src) && prefixed && p.Contains(from) && k.Len > longest {
			key.Src, longest = s.Src, k.Len
		}
	}
	v, ok := r.Verdicts[key]
	if !ok || v.Clauses == 0 {
		return row.ClauseOf(0, 0, v.Action, v.Rule), ok
	}
	c, ok := row.FindClause(func(k row.ClausesKey) (row.Clauses, bool) { c, ok := r.Clauses[k]; return c, ok }, v.Clauses, proto, port)
	return c, ok && c.Action() != row.VerdictNone
}

// from is where packets of the world come from in these tests.
var from = []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.200"), netip.MustParseAddr("198.51.100.1")}

// model answers from the nouns alone, rule by rule: the rules with the narrowest service decide, deny
// before allow; groups in common count as the widest rule; rules in audit mode count for nothing.
func model(
	n overlay.Network, rules []overlay.Rule, src overlay.GroupSet, addr netip.Addr, dst overlay.GroupSet, proto string, port uint16,
) (pass bool) {
	in := func(s overlay.GroupSet, g string) bool {
		if g == overlay.World {
			return outside(s)
		}
		if p, err := netip.ParsePrefix(g); err == nil {
			return outside(s) && p.Contains(addr)
		}
		return slices.Contains(s.Groups, g)
	}
	best, deny := -1, false
	for _, r := range rules {
		if r.Network != n.Name || r.Audit || !in(src, r.From) || !in(dst, r.To) {
			continue
		}
		width := 0
		if r.Protocol != "" {
			if r.Protocol != proto {
				continue
			}
			width = 1
		}
		if len(r.Ports) > 0 {
			if !slices.ContainsFunc(r.Ports, func(p overlay.PortRange) bool { return p.First <= port && port <= p.Last }) {
				continue
			}
			width = 2
		}
		if width > best {
			best, deny = width, false
		}
		if width == best {
			deny = deny || r.Action == overlay.Deny
		}
	}
	if best > 0 || best == 0 && deny {
		return !deny
	}
	if best == 0 || in(dst, overlay.GroupPublic) {
		return true
	}
	if outside(src) || src.Identity == row.IdentityNone {
		return src.Identity == row.IdentityOtherNode && dst.Identity == row.IdentityUngrouped
	}
	common := slices.ContainsFunc(src.Groups, func(g string) bool { return in(dst, g) })
	bareSrc, bareDst := src.Identity == row.IdentityUngrouped, dst.Identity == row.IdentityUngrouped
	return common || bareSrc && bareDst || n.Ungrouped == overlay.UngroupedOpen && (bareSrc || bareDst)
}

// policy is a drawn network with rules and group sets.
type policy struct {
	n     overlay.Network
	rules []overlay.Rule
	sets  []overlay.GroupSet
	all   []overlay.GroupSet // sets, the ungrouped, the world and senders that are not ours
}

func drawPolicy(t *rapid.T) policy {
	names := []string{"web", "db", "client", overlay.GroupPublic}
	p := policy{n: network("prod", 7)}
	p.n.Ungrouped = rapid.SampledFrom([]overlay.Ungrouped{overlay.UngroupedOwn, overlay.UngroupedOpen}).Draw(t, "ungrouped")
	for i, groups := range rapid.SliceOfNDistinct(rapid.SliceOfNDistinct(rapid.SampledFrom(names), 1, 3, rapid.ID[string]), 0, 5,
		func(s []string) string { return fmt.Sprint(slices.Sorted(slices.Values(s))) }).Draw(t, "sets") {
		p.sets = append(p.sets, overlay.GroupSet{
			Network: "prod", Groups: slices.Sorted(slices.Values(groups)), Identity: overlay.Identity(row.IdentityFirst + i),
		})
	}
	p.all = append(slices.Clone(p.sets), overlay.GroupSet{Identity: row.IdentityUngrouped}, overlay.GroupSet{Identity: row.IdentityWorld},
		overlay.GroupSet{Identity: row.IdentityNone}, overlay.GroupSet{Identity: row.IdentityOtherNode})
	for i := range rapid.IntRange(0, 6).Draw(t, "rules") {
		r := overlay.Rule{
			ID: overlay.RuleID(i + 1), Network: rapid.SampledFrom([]string{"prod", "prod", "prod", "dev"}).Draw(t, "network"),
			From:     rapid.SampledFrom(append([]string{overlay.World, "192.0.2.0/24", "192.0.2.128/25", "0.0.0.0/0"}, names...)).Draw(t, "from"),
			To:       rapid.SampledFrom(names).Draw(t, "to"),
			Protocol: rapid.SampledFrom([]string{"", "tcp", "udp", "icmp"}).Draw(t, "protocol"),
			Action:   rapid.SampledFrom([]overlay.Action{overlay.Allow, overlay.Deny}).Draw(t, "action"),
		}
		r.Audit = r.Action == overlay.Deny && rapid.Bool().Draw(t, "audit")
		if (r.Protocol == "tcp" || r.Protocol == "udp") && rapid.Bool().Draw(t, "ports") {
			for range rapid.IntRange(1, 3).Draw(t, "ranges") {
				first := rapid.SampledFrom([]uint16{1, 80, 81, 82, 83, 1000, 65535}).Draw(t, "first")
				last := rapid.SampledFrom([]uint16{first, max(first, 84), max(first, 2000), 65535}).Draw(t, "last")
				if first == 1 && last == 65535 {
					continue // the same as no ports
				}
				r.Ports = append(r.Ports, overlay.PortRange{First: first, Last: last})
			}
		}
		p.rules = append(p.rules, r)
	}
	return p
}

func (p policy) facts() compile.Facts {
	f := compile.Facts{Node: "n1", VTEP: netip.MustParseAddr("10.0.0.1"), Networks: []overlay.Network{p.n}, Sets: p.sets, Rules: p.rules}
	for i, s := range p.all {
		if s.Identity >= row.IdentityUngrouped && s.Identity != row.IdentityOtherNode {
			f.Tasks = append(f.Tasks, task(fmt.Sprint("t", i), p.n, uint32(100+i), fmt.Sprintf("9.0.0.%d", i+1), s))
		}
	}
	return f
}

func TestVerdictsSayWhatTheRulesSay(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := drawPolicy(t)
		f := p.facts()
		rows := compile.Compile(f)
		strict := slices.Clone(p.rules)
		for i := range strict {
			strict[i].Audit = false
		}
		for _, dst := range p.all[:len(p.sets)+1] {
			for _, src := range p.all {
				for proto, number := range map[string]uint8{"tcp": 6, "udp": 17, "icmp": 1, "gre": 47} {
					for _, port := range []uint16{1, 79, 80, 82, 84, 85, 1000, 2000, 2001, 65535} {
						if number != 6 && number != 17 {
							port = 0
						}
						addr := rapid.SampledFrom(from).Draw(t, "addr")
						v, ok := look(rows, src, addr, dst.Identity, number, port)
						pass := ok && v.Action() != row.VerdictDeny
						if want := model(p.n, p.rules, src, addr, dst, proto, port); pass != want {
							t.Fatalf("%v (%s) to %v %s/%d: got %v, want %v; %+v", src, addr, dst, proto, port, v, want, p)
						}
						report := ok && v.Action() == row.VerdictAudit
						// Reported is what passes and would not if every audit were in earnest.
						if want := pass && !model(p.n, strict, src, addr, dst, proto, port); report != want {
							t.Fatalf("%v (%s) to %v %s/%d: reported %v, want %v; %+v", src, addr, dst, proto, port, report, want, p)
						}
					}
				}
			}
		}
	})
}

func TestVerdictsDoNotDependOnOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		f := drawPolicy(t).facts()
		one := compile.Compile(f)
		f.Rules, f.Sets, f.Tasks = rapid.Permutation(f.Rules).Draw(t, "rules"), rapid.Permutation(f.Sets).Draw(t, "sets"),
			rapid.Permutation(f.Tasks).Draw(t, "tasks")
		equal(t, compile.Compile(f), one)
	})
}

// Explain and the packet path read the same rows: they can't disagree.
func TestExplainSaysWhatTheRowsSay(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := drawPolicy(t)
		f := p.facts()
		rows := compile.Compile(f)
		w := compile.World{
			Verdict: func(k row.VerdictKey) (row.Verdict, bool) { v, ok := rows.Verdicts[k]; return v, ok },
			Clauses: func(k row.ClausesKey) (row.Clauses, bool) { c, ok := rows.Clauses[k]; return c, ok },
		}
		src := rapid.SampledFrom(f.Tasks).Draw(t, "src")
		dst := rapid.SampledFrom(f.Tasks).Draw(t, "dst")
		port := rapid.SampledFrom([]uint16{79, 80, 82, 84, 85}).Draw(t, "port")
		q := overlay.Question{Source: src.ID, Destination: dst.ID, Protocol: "tcp", Port: port}
		here, err := compile.Explain(f, w, q)
		if err != nil {
			t.Fatal(err)
		}
		v, ok := look(rows, overlay.GroupSet{Identity: src.Identity}, netip.Addr{}, dst.Identity, 6, port)
		if pass := ok && v.Action() != row.VerdictDeny; here.Allowed != pass || here.Rule != overlay.RuleID(v.Rule) {
			t.Fatalf("got %+v, the table says %v %v", here, v, ok)
		}
		if !here.Allowed && here.Reason == "no_common_group" && here.Suggestion == "" && len(src.Groups) > 0 && len(dst.Groups) > 0 {
			t.Fatalf("got no suggestion: %+v", here)
		}
		// Asked on another node, it compiles what this one has in its table.
		f.Tasks, w.Remote, f.Node = nil, nil, "n2"
		for _, task := range p.facts().Tasks {
			w.Remote = append(w.Remote, task.Endpoint)
		}
		there, err := compile.Explain(f, w, q)
		if err != nil {
			t.Fatal(err)
		}
		equal(t, there, here)
	})
}
