// SPDX-License-Identifier: Apache-2.0

// Package compiletest has facts for tests of what is made of them: a small cluster to name things of, and drawn networks with
// the look-up that the packet path does.
package compiletest

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"pgregory.net/rapid"

	"weft/bpf/row"
	"weft/overlay"
	"weft/overlay/compile"
)

// Network is a network of both families.
func Network(name string, vni overlay.VNI) overlay.Network {
	return overlay.Network{
		Name: name, VNI: vni, Subnet4: netip.MustParsePrefix("9.0.0.0/16"), Subnet6: netip.MustParsePrefix("fd01:b::/64"),
	}.Normal()
}

// Task is a task of node n1.
func Task(id string, n overlay.Network, ifindex uint32, addr string, set overlay.GroupSet) compile.Task {
	e := overlay.Endpoint{
		Attachment: overlay.Attachment{ID: id, Task: id, Name: id, Network: n.Name, Groups: set.Groups},
		Node:       "n1", VNI: n.VNI, Identity: set.Identity, MTU: 1450, Cookie: uint64(ifindex) + 1000,
	}
	if a := netip.MustParseAddr(addr); a.Is4() {
		e.Addr4 = a
	} else {
		e.Addr6 = a
	}
	return compile.Task{Endpoint: e, Ifindex: ifindex}
}

// Small is two nodes, two networks and two tasks.
func Small() compile.Facts {
	prod, dev := Network("prod", 7), Network("dev", 8)
	dev.Subnet4, dev.Subnet6, dev.Block6 = netip.MustParsePrefix("9.1.0.0/16"), netip.Prefix{}, 0
	web := Task("web-1", prod, 11, "9.0.0.1", overlay.GroupSet{Groups: []string{"web"}, Identity: 16})
	web.Addr6 = netip.MustParseAddr("fd01:b::1")
	return compile.Facts{
		Node: "n1", VTEP: netip.MustParseAddr("10.0.0.1"), MTU: 1500,
		Nodes: []compile.Node{
			{ID: "n1", VTEP: netip.MustParseAddr("10.0.0.1"), MTU: 1500},
			{ID: "n2", VTEP: netip.MustParseAddr("10.0.0.2"), MTU: 1400},
			{ID: "n3", VTEP: netip.MustParseAddr("10.0.0.3"), MTU: 9000},
		},
		Networks: []overlay.Network{prod, dev},
		Blocks: []overlay.Block{
			{Network: "prod", Node: "n1", Prefix: netip.MustParsePrefix("9.0.0.0/24")},
			{Network: "prod", Node: "n1", Prefix: netip.MustParsePrefix("fd01:b::/112")},
			{Network: "prod", Node: "n2", Prefix: netip.MustParsePrefix("9.0.1.0/24")},
			{Network: "dev", Node: "n3", Prefix: netip.MustParsePrefix("9.1.0.0/24")},
			{Network: "prod", Node: "stranger", Prefix: netip.MustParsePrefix("9.0.2.0/24")},
			{Network: "gone", Node: "n2", Prefix: netip.MustParsePrefix("9.7.0.0/24")},
			{Network: "prod", Node: "n2", Prefix: netip.MustParsePrefix("9.0.4.0/25")},
			{Network: "prod", Node: "n2", Prefix: netip.MustParsePrefix("9.3.4.0/24")},
		},
		Sets: []overlay.GroupSet{
			{Network: "prod", Groups: []string{"web"}, Identity: 16},
			{Network: "prod", Groups: []string{"db", "web"}, Identity: 17},
			{Network: "dev", Groups: []string{"web"}, Identity: 16},
		},
		Tasks: []compile.Task{web, Task("lone", dev, 12, "9.1.5.1", overlay.GroupSet{Identity: row.IdentityUngrouped})},
	}
}

// GiveAddresses gives nodes addresses towards the networks, by their numbers.
func GiveAddresses(f compile.Facts) {
	for i := range f.Nodes {
		f.Nodes[i].Host4, f.Nodes[i].Host6 = overlay.NodeAddrs(uint32(i) + 1)
	}
}

// WithPlain is the small cluster with a plain node in group db of network prod.
func WithPlain() compile.Facts {
	f := Small()
	f.Plain = []overlay.PlainNode{{
		Node: "old", VTEP: netip.MustParseAddr("10.0.0.9"), Network: "prod", Groups: []string{"db"}, Identity: 30, MAC: "02:00:00:00:00:09", MTU: 1400,
		Blocks: []netip.Prefix{netip.MustParsePrefix("9.0.9.0/24")},
	}}
	f.Sets = append(f.Sets, overlay.GroupSet{Network: "prod", Groups: []string{"db"}, Identity: 30})
	f.Blocks = append(f.Blocks, overlay.Block{Network: "prod", Node: "old", Prefix: netip.MustParsePrefix("9.0.9.0/24")})
	return f
}

// Outside tells who is of the world: processes of other nodes are.
func Outside(s overlay.GroupSet) bool {
	return s.Identity == row.IdentityWorld || s.Identity == row.IdentityOtherNode
}

// Look does what the packet path does: a packet of the world goes by the longest prefix that is named.
func Look(r compile.Rows, src overlay.GroupSet, from netip.Addr, dst overlay.Identity, s compile.Service) (row.Clause, bool) {
	key, longest := row.VerdictKey{VNI: 7, Src: uint32(src.Identity), Dst: uint32(dst)}, uint32(0)
	prefixed := slices.ContainsFunc(slices.Collect(maps.Values(r.Endpoints)), func(e row.Endpoint) bool {
		return e.Identity == uint16(dst) && e.Flags&row.EndpointPrefixed != 0
	})
	for k, s := range r.Sources {
		p := netip.PrefixFrom(k.Addr.Netip(), int(k.Len)-128)
		if Outside(src) && prefixed && p.Contains(from) && k.Len > longest {
			key.Src, longest = s.Src, k.Len
		}
	}
	v, ok := r.Verdicts[key]
	if !ok || v.Clauses == 0 {
		return row.ClauseOf(0, 0, v.Action, v.Rule), ok
	}
	c, ok := row.FindClause(func(k row.ClausesKey) (row.Clauses, bool) { c, ok := r.Clauses[k]; return c, ok }, v.Clauses, s.Proto, s.Port)
	return c, ok && c.Action() != row.VerdictNone
}

// Policy is a drawn network with rules and group sets.
type Policy struct {
	N     overlay.Network
	Rules []overlay.Rule
	Sets  []overlay.GroupSet
	All   []overlay.GroupSet // Sets, the ungrouped, the world and senders that are not ours
}

// DrawPolicy draws a network of few groups, so that its rules meet.
func DrawPolicy(t *rapid.T) Policy {
	names := []string{"web", "db", "client", overlay.GroupPublic}
	p := Policy{N: Network("prod", 7)}
	p.N.Ungrouped = rapid.SampledFrom([]overlay.Ungrouped{overlay.UngroupedOwn, overlay.UngroupedOpen}).Draw(t, "ungrouped")
	for i, groups := range rapid.SliceOfNDistinct(rapid.SliceOfNDistinct(rapid.SampledFrom(names), 1, 3, rapid.ID[string]), 0, 5,
		func(s []string) string { return fmt.Sprint(slices.Sorted(slices.Values(s))) }).Draw(t, "sets") {
		p.Sets = append(p.Sets, overlay.GroupSet{
			Network: "prod", Groups: slices.Sorted(slices.Values(groups)), Identity: overlay.Identity(row.IdentityFirst + i),
		})
	}
	p.All = append(slices.Clone(p.Sets), overlay.GroupSet{Identity: row.IdentityUngrouped}, overlay.GroupSet{Identity: row.IdentityWorld},
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
		p.Rules = append(p.Rules, r)
	}
	return p
}

// Facts has a task of each set here.
func (p Policy) Facts() compile.Facts {
	f := compile.Facts{Node: "n1", VTEP: netip.MustParseAddr("10.0.0.1"), Networks: []overlay.Network{p.N}, Sets: p.Sets, Rules: p.Rules}
	for i, s := range p.All {
		if s.Identity >= row.IdentityUngrouped && s.Identity != row.IdentityOtherNode {
			f.Tasks = append(f.Tasks, Task(fmt.Sprint("t", i), p.N, uint32(100+i), fmt.Sprintf("9.0.0.%d", i+1), s))
		}
	}
	return f
}
