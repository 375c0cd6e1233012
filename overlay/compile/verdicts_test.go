// SPDX-License-Identifier: Apache-2.0

package compile_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"weft/bpf/row"
	"weft/overlay"
	"weft/overlay/compile"
)

// look does what the packet path does with a table of verdicts.
func look(rows map[row.VerdictKey]row.Verdict, key row.VerdictKey) (row.Verdict, bool) {
	for _, k := range []row.VerdictKey{
		key,
		{VNI: key.VNI, Src: key.Src, Dst: key.Dst, Proto: key.Proto},
		{VNI: key.VNI, Src: key.Src, Dst: key.Dst},
	} {
		if v, ok := rows[k]; ok {
			return v, true
		}
	}
	return row.Verdict{}, false
}

// model answers from the nouns alone, rule by rule: the rules with the narrowest service decide, deny
// before allow; groups in common count as the widest rule; rules in audit mode count for nothing.
func model(n overlay.Network, rules []overlay.Rule, src, dst overlay.GroupSet, proto string, port uint16) (pass bool) {
	in := func(s overlay.GroupSet, g string) bool {
		if g == overlay.World {
			return s.Identity == row.IdentityWorld
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
	if src.Identity == row.IdentityWorld {
		return false
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
	all   []overlay.GroupSet // sets, the ungrouped and the world
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
	p.all = append(slices.Clone(p.sets), overlay.GroupSet{Identity: row.IdentityUngrouped}, overlay.GroupSet{Identity: row.IdentityWorld})
	for i := range rapid.IntRange(0, 6).Draw(t, "rules") {
		r := overlay.Rule{
			ID: overlay.RuleID(i + 1), Network: rapid.SampledFrom([]string{"prod", "prod", "prod", "dev"}).Draw(t, "network"),
			From:     rapid.SampledFrom(append([]string{overlay.World}, names...)).Draw(t, "from"),
			To:       rapid.SampledFrom(names).Draw(t, "to"),
			Protocol: rapid.SampledFrom([]string{"", "tcp", "udp", "icmp"}).Draw(t, "protocol"),
			Action:   rapid.SampledFrom([]overlay.Action{overlay.Allow, overlay.Deny}).Draw(t, "action"),
		}
		r.Audit = r.Action == overlay.Deny && rapid.Bool().Draw(t, "audit")
		if (r.Protocol == "tcp" || r.Protocol == "udp") && rapid.Bool().Draw(t, "ports") {
			first := rapid.Uint16Range(80, 83).Draw(t, "first")
			r.Ports = []overlay.PortRange{{First: first, Last: rapid.Uint16Range(first, 84).Draw(t, "last")}}
		}
		p.rules = append(p.rules, r)
	}
	return p
}

func (p policy) facts() compile.Facts {
	f := compile.Facts{Node: "n1", VTEP: netip.MustParseAddr("10.0.0.1"), Networks: []overlay.Network{p.n}, Sets: p.sets, Rules: p.rules}
	for i, s := range p.all {
		if s.Identity != row.IdentityWorld {
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
		for _, dst := range p.all[:len(p.all)-1] {
			for _, src := range p.all {
				for proto, number := range map[string]uint8{"tcp": 6, "udp": 17, "icmp": 1} {
					for _, port := range []uint16{79, 80, 82, 84, 85} {
						if proto == "icmp" {
							port = 0
						}
						v, ok := look(rows.Verdicts, row.VerdictKey{
							VNI: 7, Src: uint16(src.Identity), Dst: uint16(dst.Identity), Port: row.Port(port), Proto: number,
						})
						pass := ok && v.Action != row.VerdictDeny
						if want := model(p.n, p.rules, src, dst, proto, port); pass != want {
							t.Fatalf("%v to %v %s/%d: got %v, want %v; %+v", src, dst, proto, port, v, want, p)
						}
						report := ok && v.Action == row.VerdictAudit
						// Reported is what passes and would not if every audit were in earnest.
						if want := pass && !model(p.n, strict, src, dst, proto, port); report != want {
							t.Fatalf("%v to %v %s/%d: reported %v, want %v; %+v", src, dst, proto, port, report, want, p)
						}
					}
				}
			}
		}
		for key := range rows.Verdicts {
			for _, e := range rows.Endpoints {
				if e.Identity == key.Dst && key.Proto != 0 && e.Flags&row.EndpointRuled == 0 {
					t.Fatalf("%+v is never looked up: the endpoint is not ruled", key)
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
		w := compile.World{Verdict: func(k row.VerdictKey) (row.Verdict, bool) { v, ok := rows.Verdicts[k]; return v, ok }}
		src := rapid.SampledFrom(f.Tasks).Draw(t, "src")
		dst := rapid.SampledFrom(f.Tasks).Draw(t, "dst")
		port := rapid.SampledFrom([]uint16{79, 80, 82, 84, 85}).Draw(t, "port")
		q := overlay.Question{Source: src.ID, Destination: dst.ID, Protocol: "tcp", Port: port}
		here, err := compile.Explain(f, w, q)
		if err != nil {
			t.Fatal(err)
		}
		v, ok := look(rows.Verdicts, row.VerdictKey{
			VNI: 7, Src: uint16(src.Identity), Dst: uint16(dst.Identity), Port: row.Port(port), Proto: 6,
		})
		if pass := ok && v.Action != row.VerdictDeny; here.Allowed != pass || here.Rule != overlay.RuleID(v.Rule) {
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
