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
	"weft/overlay/compile/compiletest"
)

// from is where packets of the world come from in these tests.
var from = []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.200"), netip.MustParseAddr("198.51.100.1")}

// model answers from the nouns alone, rule by rule: the rules with the narrowest service decide, deny
// before allow; groups in common count as the widest rule; rules in audit mode count for nothing.
func model(
	n overlay.Network, rules []overlay.Rule, src overlay.GroupSet, addr netip.Addr, dst overlay.GroupSet, proto string, port uint16,
) (pass bool) {
	in := func(s overlay.GroupSet, g string) bool {
		if g == overlay.World {
			return compiletest.Outside(s)
		}
		if p, err := netip.ParsePrefix(g); err == nil {
			return compiletest.Outside(s) && p.Contains(addr)
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
	if compiletest.Outside(src) || src.Identity == row.IdentityNone {
		return src.Identity == row.IdentityOtherNode && dst.Identity == row.IdentityUngrouped
	}
	common := slices.ContainsFunc(src.Groups, func(g string) bool { return in(dst, g) })
	bareSrc, bareDst := src.Identity == row.IdentityUngrouped, dst.Identity == row.IdentityUngrouped
	return common || bareSrc && bareDst || n.Ungrouped == overlay.UngroupedOpen && (bareSrc || bareDst)
}

func TestVerdictsSayWhatTheRulesSay(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := compiletest.DrawPolicy(t)
		f := p.Facts()
		rows := compile.Compile(f)
		strict := slices.Clone(p.Rules)
		for i := range strict {
			strict[i].Audit = false
		}
		for _, dst := range p.All[:len(p.Sets)+1] {
			for _, src := range p.All {
				for proto, number := range map[string]uint8{"tcp": 6, "udp": 17, "icmp": 1, "gre": 47} {
					for _, port := range []uint16{1, 79, 80, 82, 84, 85, 1000, 2000, 2001, 65535} {
						if number != 6 && number != 17 {
							port = 0
						}
						addr := rapid.SampledFrom(from).Draw(t, "addr")
						v, ok := compiletest.Look(rows, src, addr, dst.Identity, compile.Service{Proto: number, Port: port})
						pass := ok && v.Action() != row.VerdictDeny
						if want := model(p.N, p.Rules, src, addr, dst, proto, port); pass != want {
							t.Fatalf("%v (%s) to %v %s/%d: got %v, want %v; %+v", src, addr, dst, proto, port, v, want, p)
						}
						report := ok && v.Action() == row.VerdictAudit
						// Reported is what passes and would not if every audit were in earnest.
						if want := pass && !model(p.N, strict, src, addr, dst, proto, port); report != want {
							t.Fatalf("%v (%s) to %v %s/%d: reported %v, want %v; %+v", src, addr, dst, proto, port, report, want, p)
						}
					}
				}
			}
		}
	})
}

func TestAThousandGroupsAreKeptApart(t *testing.T) {
	t.Parallel()
	n := compiletest.Network("prod", 7)
	f := compile.Facts{Node: "n1", VTEP: netip.MustParseAddr("10.0.0.1"), Networks: []overlay.Network{n}}
	for i := range 1000 {
		set := overlay.GroupSet{Network: "prod", Groups: []string{fmt.Sprint("g", i)}, Identity: overlay.Identity(row.IdentityFirst + i)}
		f.Sets = append(f.Sets, set)
		f.Tasks = append(f.Tasks, compiletest.Task(fmt.Sprint("t", i), n, uint32(i+1), fmt.Sprintf("9.0.%d.%d", i/250, i%250+1), set))
	}
	verdicts := compile.Compile(f).Verdicts
	for key, v := range verdicts {
		if key.Src != key.Dst || v != (row.Verdict{Action: row.VerdictAllow}) {
			t.Errorf("%+v: %+v", key, v)
		}
	}
	if len(verdicts) != len(f.Sets) {
		t.Errorf("got %d verdicts, want one for each group", len(verdicts))
	}
}

func TestVerdictsDoNotDependOnOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		f := compiletest.DrawPolicy(t).Facts()
		one := compile.Compile(f)
		f.Rules, f.Sets, f.Tasks = rapid.Permutation(f.Rules).Draw(t, "rules"), rapid.Permutation(f.Sets).Draw(t, "sets"),
			rapid.Permutation(f.Tasks).Draw(t, "tasks")
		equal(t, compile.Compile(f), one)
	})
}
