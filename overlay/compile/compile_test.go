// SPDX-License-Identifier: Apache-2.0

package compile_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft/bpf/row"
	"weft/discovery"
	"weft/overlay"
	"weft/overlay/compile"
)

type failer interface {
	Helper()
	Fatalf(format string, args ...any)
}

func equal[T any](t failer, got, want T) {
	t.Helper()
	opts := cmp.Options{
		cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
		cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
		cmp.Comparer(func(a, b row.Workload) bool { return a == b }),
		cmp.Comparer(func(a, b row.EndpointKey) bool { return a == b }),
		cmp.Comparer(func(a, b row.Endpoint) bool { return a == b }),
		cmp.Comparer(func(a, b row.Block) bool { return a == b }),
		cmp.Comparer(func(a, b row.Prefix) bool { return a == b }),
		cmp.Comparer(func(a, b row.VTEP) bool { return a == b }),
		cmp.Comparer(func(a, b row.Verdict) bool { return a == b }),
		cmp.Comparer(func(a, b row.Space) bool { return a == b }),
	}
	if diff := cmp.Diff(want, got, opts); diff != "" {
		t.Fatalf("-want +got\n%s", diff)
	}
}

func network(name string, vni overlay.VNI) overlay.Network {
	return overlay.Network{
		Name: name, VNI: vni, Subnet4: netip.MustParsePrefix("9.0.0.0/16"), Subnet6: netip.MustParsePrefix("fd01:b::/64"),
	}.Normal()
}

func task(id string, n overlay.Network, ifindex uint32, addr string, set overlay.GroupSet) compile.Task {
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

func addr(s string) row.Addr { return row.AddrOf(netip.MustParseAddr(s)) }

// small is two nodes, two networks and two tasks.
func small() compile.Facts {
	prod, dev := network("prod", 7), network("dev", 8)
	dev.Subnet4, dev.Subnet6, dev.Block6 = netip.MustParsePrefix("9.1.0.0/16"), netip.Prefix{}, 0
	web := task("web-1", prod, 11, "9.0.0.1", overlay.GroupSet{Groups: []string{"web"}, Identity: 16})
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
		Tasks: []compile.Task{web, task("lone", dev, 12, "9.1.5.1", overlay.GroupSet{Identity: row.IdentityUngrouped})},
	}
}

// giveAddresses gives nodes addresses towards the networks, by their numbers.
func giveAddresses(f compile.Facts) {
	for i := range f.Nodes {
		f.Nodes[i].Host4, f.Nodes[i].Host6 = overlay.NodeAddrs(uint32(i) + 1)
	}
}

// TestNodesHavePartInNetworks: each node's address is a block of one, and this node is there as a task is.
func TestNodesHavePartInNetworks(t *testing.T) {
	t.Parallel()
	f := small()
	before := compile.Compile(f)
	giveAddresses(f)
	f.Nodes[2].Host4 = netip.Prefix{} // they have run out
	f.Host = compile.Host{Ifindex: 5, Cookie: 99}
	got := compile.Compile(f)
	mac := compile.HostMAC()
	before.Workloads[5] = row.Workload{Identity: row.IdentityOtherNode, MTU: 1450, MAC: mac, Addr4: addr("44.128.0.1"), Addr6: addr("fd01:a::1")}
	before.Spaces[99] = row.Space{Identity: row.IdentityNode}
	before.Prefixes[row.PrefixKey{Len: 116, Addr: addr("44.128.0.0")}] = row.Prefix{Block: 128}
	before.Prefixes[row.PrefixKey{Len: 64, Addr: addr("fd01:a::")}] = row.Prefix{Block: 128}
	for _, a := range []string{"44.128.0.1", "fd01:a::1"} {
		before.Endpoints[row.EndpointKey{Addr: addr(a)}] = row.Endpoint{Ifindex: 5, Identity: row.IdentityNode, MAC: mac}
	}
	for a, b := range map[string]row.Block{
		"44.128.0.1": {VTEP: addr("10.0.0.1"), MTU: 1450, Flags: row.BlockLocal}, "fd01:a::1": {VTEP: addr("10.0.0.1"), MTU: 1450, Flags: row.BlockLocal},
		"44.128.0.2": {VTEP: addr("10.0.0.2"), MTU: 1350}, "fd01:a::2": {VTEP: addr("10.0.0.2"), MTU: 1350},
		"fd01:a::3": {VTEP: addr("10.0.0.3"), MTU: 1450},
	} {
		before.Blocks[row.BlockKey{Addr: addr(a)}] = b
	}
	equal(t, got, before)
}

func TestCompile(t *testing.T) {
	t.Parallel()
	got := compile.Compile(small())
	webMAC, loneMAC := [6]byte{0x0a, 0x58, 9, 0, 0, 1}, [6]byte{0x0a, 0x58, 9, 1, 5, 1}
	allow := row.Verdict{Action: row.VerdictAllow}
	equal(t, got, compile.Rows{
		Workloads: map[uint32]row.Workload{
			11: {VNI: 7, Identity: 16, MTU: 1450, MAC: webMAC, Block4: 24, Block6: 112, Addr4: addr("9.0.0.1"), Addr6: addr("fd01:b::1")},
			12: {VNI: 8, Identity: 3, MTU: 1450, MAC: loneMAC, Block4: 24, Addr4: addr("9.1.5.1")},
		},
		Endpoints: map[row.EndpointKey]row.Endpoint{
			{VNI: 7, Addr: addr("9.0.0.1")}:   {Ifindex: 11, Identity: 16, MAC: webMAC},
			{VNI: 7, Addr: addr("fd01:b::1")}: {Ifindex: 11, Identity: 16, MAC: webMAC},
			{VNI: 8, Addr: addr("9.1.5.1")}:   {Ifindex: 12, Identity: 3, MAC: loneMAC},
		},
		Blocks: map[row.BlockKey]row.Block{
			{VNI: 7, Addr: addr("9.0.0.0")}:  {VTEP: addr("10.0.0.1"), MTU: 1450, Flags: row.BlockLocal},
			{VNI: 7, Addr: addr("fd01:b::")}: {VTEP: addr("10.0.0.1"), MTU: 1450, Flags: row.BlockLocal},
			{VNI: 7, Addr: addr("9.0.1.0")}:  {VTEP: addr("10.0.0.2"), MTU: 1350},
			{VNI: 8, Addr: addr("9.1.0.0")}:  {VTEP: addr("10.0.0.3"), MTU: 1450},
		},
		Prefixes: map[row.PrefixKey]row.Prefix{
			{Len: 112, Addr: addr("9.0.0.0")}: {VNI: 7, Block: 120},
			{Len: 64, Addr: addr("fd01:b::")}: {VNI: 7, Block: 112},
			{Len: 112, Addr: addr("9.1.0.0")}: {VNI: 8, Block: 120},
		},
		VTEPs: map[row.Addr]row.VTEP{addr("10.0.0.2"): {}, addr("10.0.0.3"): {}},
		Verdicts: map[row.VerdictKey]row.Verdict{
			{VNI: 7, Src: 16, Dst: 16}: allow,
			{VNI: 7, Src: 17, Dst: 16}: allow,
			{VNI: 8, Src: 3, Dst: 3}:   allow,
			{VNI: 8, Src: 4, Dst: 3}:   allow, // processes of nodes reach tasks without groups
		},
		Clauses:  map[row.ClausesKey]row.Clauses{},
		Sources:  map[row.SourceKey]row.Source{},
		Spaces:   map[uint64]row.Space{1011: {VNI: 7, Identity: 16}, 1012: {VNI: 8, Identity: 3}},
		Openings: map[row.OpeningKey]row.Opening{},
	})
}

func TestRulesAndPublicMakeWorkloadsDirected(t *testing.T) {
	t.Parallel()
	f := small()
	f.Rules = []overlay.Rule{{ID: 4, Network: "prod", From: "db", To: "web", Protocol: "tcp", Action: overlay.Allow}}
	f.Sets = append(f.Sets, overlay.GroupSet{Network: "dev", Groups: []string{"public"}, Identity: 17})
	r := compile.Compile(f)
	for ifindex, w := range r.Workloads {
		if w.Flags != row.WorkloadDirected {
			t.Errorf("workload %d: got flags %d, want directed", ifindex, w.Flags)
		}
	}
	for key, e := range r.Endpoints {
		if e.Flags != 0 {
			t.Errorf("endpoint %+v: got flags %d, want none: no rule names addresses", key, e.Flags)
		}
	}
}

func TestANetworkThatIsGoneLeavesNoRow(t *testing.T) {
	t.Parallel()
	f := small()
	f.Networks = f.Networks[:1]
	r := compile.Compile(f)
	for key := range r.Endpoints {
		if key.VNI == 8 {
			t.Errorf("endpoint %+v is left", key)
		}
	}
	for key := range r.Blocks {
		if key.VNI == 8 {
			t.Errorf("block %+v is left", key)
		}
	}
	if _, ok := r.Workloads[12]; ok || len(r.Prefixes) != 2 || len(r.Spaces) != 1 || len(r.Verdicts) != 2 {
		t.Errorf("got %+v", r)
	}
}

func TestNodesAreAdmittedAndNotGone(t *testing.T) {
	t.Parallel()
	v := netip.MustParseAddr
	got := compile.Nodes([]discovery.Admission{
		{Node: "a", VTEP: v("10.0.0.1")},
		{Node: "b", VTEP: v("10.0.0.2"), Gone: 5},
		{Node: "c", VTEP: v("10.0.0.3"), Gone: 5},
		{Node: "d"},
		{Node: "e", VTEP: v("10.0.0.5")},
	}, []discovery.Node{{ID: "a", MTU: 1500}, {ID: "c", MTU: 0}, {ID: "d", MTU: 9000}, {ID: "f", MTU: 1500}})
	equal(t, got, []compile.Node{
		{ID: "a", VTEP: v("10.0.0.1"), MTU: 1500}, {ID: "c", VTEP: v("10.0.0.3")}, {ID: "e", VTEP: v("10.0.0.5")},
	})
}

// TestANodeThatMovesIsAcceptedFromBothAddresses, as long as it says that it has both.
func TestANodeThatMovesIsAcceptedFromBothAddresses(t *testing.T) {
	t.Parallel()
	old, now := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.66")
	for _, tt := range []struct {
		addrs []netip.Addr
		want  map[row.Addr]row.VTEP
	}{
		{[]netip.Addr{now, old}, map[row.Addr]row.VTEP{row.AddrOf(now): {}, row.AddrOf(old): {}}},
		{[]netip.Addr{now}, map[row.Addr]row.VTEP{row.AddrOf(now): {}}},
	} {
		f := compile.Facts{Node: "b", VTEP: netip.MustParseAddr("10.0.0.2"), Nodes: compile.Nodes(
			[]discovery.Admission{{Node: "a", VTEP: now, Former: old}}, []discovery.Node{{ID: "a", Addrs: tt.addrs, MTU: 1500}})}
		equal(t, compile.Compile(f).VTEPs, tt.want)
	}
}

func TestMAC(t *testing.T) {
	t.Parallel()
	if got, want := compile.MAC(netip.MustParseAddr("9.0.0.1"), netip.MustParseAddr("fd01::2")), [6]byte{10, 0x58, 9, 0, 0, 1}; got != want {
		t.Errorf("got %x, want %x", got, want)
	}
	if got, want := compile.MAC(netip.Addr{}, netip.MustParseAddr("fd01::2:3")), [6]byte{10, 0x58, 0, 2, 0, 3}; got != want {
		t.Errorf("got %x, want %x", got, want)
	}
}

// explained is the cluster that questions are asked about: web-1 is here, the others are elsewhere.
func explained() (compile.Facts, compile.World) {
	f := small()
	giveAddresses(f)
	f.Sets = append(f.Sets, overlay.GroupSet{Network: "prod", Groups: []string{"db"}, Identity: 18})
	f.Rules = []overlay.Rule{
		{ID: 7, Network: "prod", From: "web", To: "db", Protocol: "tcp", Ports: []overlay.PortRange{{First: 5432, Last: 5433}}, Action: overlay.Allow},
		{ID: 8, Network: "prod", From: "web", To: "db", Protocol: "udp", Action: overlay.Deny},
		{ID: 9, Network: "prod", From: "web", To: "db", Protocol: "tcp", Ports: []overlay.PortRange{{First: 5433, Last: 5433}}, Action: overlay.Deny, Audit: true},
	}
	far := func(id, at string, groups []string, identity overlay.Identity) overlay.Endpoint {
		t := task(id, f.Networks[0], 0, at, overlay.GroupSet{Groups: groups, Identity: identity})
		t.Node, t.Name = "n2", strings.TrimRight(id, "-0123456789")
		return t.Endpoint
	}
	return f, compile.World{
		NodeAddrs: []netip.Addr{netip.MustParseAddr("10.0.0.1")},
		Remote: []overlay.Endpoint{
			far("db-1", "9.0.1.1", []string{"db"}, 18), far("both-1", "9.0.1.2", []string{"db", "web"}, 17),
			far("bare-1", "9.0.1.3", nil, row.IdentityUngrouped), far("six-1", "fd01:b::1:1", []string{"web"}, 16),
			far("open-1", "9.0.1.4", []string{"public"}, 19), far("x-1", "9.0.1.5", nil, 3), far("x-2", "9.0.1.6", []string{"db"}, 18),
		},
	}
}

func TestExplain(t *testing.T) {
	t.Parallel()
	f, w := explained()
	for name, row := range map[string]struct {
		src, dst, service string
		reason            string
		text, suggestion  string
	}{
		"common group":      {"web-1", "both", "tcp/80", "delivered", "web-1 (9.0.0.1) and both (9.0.1.2) are both in group web", ""},
		"rule":              {"web-1", "db", "tcp/5432", "delivered", "rule 7 (allow web to db tcp/5432-5433) lets web-1 (9.0.0.1) reach db (9.0.1.1) on tcp/5432", ""},
		"audit":             {"web-1", "db", "tcp/5433", "audited", "rule 9 (deny web to db tcp/5433)", "weft rule list prod"},
		"deny":              {"web-1", "db", "udp/53", "denied", "rule 8 (deny web to db udp) denies", "weft rule remove prod 8"},
		"other port":        {"web-1", "db", "tcp/80", "no_common_group", "no rule lets web-1 reach db on tcp/80; rule 7 lets it on tcp/5432-5433 only", "weft rule add prod --from web --to db --port tcp/80"},
		"ping":              {"web-1", "db", "icmp/0", "no_common_group", "is in group web, db (9.0.1.1) in group db: they share none", "weft rule add prod --from web --to db --port icmp"},
		"back":              {"db", "web-1", "tcp/80", "no_common_group", "share none", "weft rule add prod --from db --to web --port tcp/80"},
		"no group":          {"bare", "db", "tcp/80", "no_common_group", "is in no group", "start the task that has none with --group"},
		"public":            {"web-1", "open", "tcp/80", "delivered", "in group public", ""},
		"by address":        {"9.0.0.1", "9.0.1.2", "tcp/80", "delivered", "both in group web", ""},
		"IPv6":              {"web-1", "six", "tcp/80", "delivered", "web-1 (fd01:b::1) and six (fd01:b::1:1)", ""},
		"no family":         {"db", "six", "tcp/80", "no_endpoint", "no address family in common", "ask for a task by an address of the family that both have"},
		"other network":     {"web-1", "9.1.5.1", "tcp/80", "other_network", "networks never meet", "run both in one network: weft run --network dev"},
		"nobody there":      {"web-1", "9.0.1.77", "tcp/80", "no_endpoint", "no task has 9.0.1.77; its block 9.0.1.0/24 is node n2's", "ask for the name again (weft name show NAME): the task has ended or has another address"},
		"no block":          {"web-1", "9.0.9.1", "tcp/80", "no_block", "no node holds the block of 9.0.9.1", "ask for the name again (weft name show NAME); weft network list shows who holds blocks"},
		"to the world":      {"web-1", "8.8.8.8", "tcp/80", "to_host", "leaves by its node", ""},
		"from the world":    {"world", "web-1", "tcp/80", "not_public", "is in group web, not in group public", "weft rule add prod --from world --to web --port tcp/80"},
		"own node":          {"10.0.0.1", "web-1", "tcp/80", "from_host", "always talk", ""},
		"to own node":       {"web-1", "10.0.0.1", "tcp/80", "to_host", "always talk", ""},
		"own node's own":    {"44.128.0.1", "web-1", "tcp/80", "from_host", "always talk", ""},
		"node to its own":   {"n2", "db", "tcp/80", "from_host", "always talk", ""},
		"node elsewhere":    {"n1", "bare", "tcp/80", "delivered", "bare (9.0.1.3) is in no group: processes of every node reach it", ""},
		"node to a group":   {"n2", "web-1", "tcp/80", "not_public", "no rule lets node n2 (44.128.0.2) reach it", "weft rule add prod --from 44.128.0.2/32 --to web --port tcp/80"},
		"node, the other":   {"n2", "six", "tcp/80", "from_host", "always talk", ""},
		"to another node":   {"web-1", "n2", "tcp/80", "encapsulated", "node n2 (44.128.0.2) takes what tasks send it", ""},
		"to a node by IPv6": {"web-1", "fd01:a::2", "tcp/80", "encapsulated", "node n2 (fd01:a::2)", ""},
		"node to node":      {"n1", "n2", "tcp/80", "not_ours", "neither", ""},
		"strangers":         {"8.8.8.8", "10.0.0.1", "tcp/80", "not_ours", "neither", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v, err := compile.Explain(f, w, question(row.src, row.dst, row.service))
			if err != nil {
				t.Fatal(err)
			}
			if v.Reason != row.reason || v.Suggestion != row.suggestion || !strings.Contains(v.Text, row.text) {
				t.Errorf("got %s: %s [%s]\nwant %s: %s [%s]", v.Reason, v.Text, v.Suggestion, row.reason, row.text, row.suggestion)
			}
		})
	}
}

func question(src, dst, service string) overlay.Question {
	proto, port, _ := strings.Cut(service, "/")
	n := 0
	for _, c := range port {
		n = n*10 + int(c-'0')
	}
	return overlay.Question{Source: src, Destination: dst, Protocol: proto, Port: uint16(n)}
}

func TestExplainRefusesBadQuestions(t *testing.T) {
	t.Parallel()
	f, w := explained()
	for name, row := range map[string]struct {
		q    overlay.Question
		kind error
		text string
	}{
		"protocol":  {question("web-1", "db", "sctp/1"), overlay.ErrInvalid, "tcp, udp and icmp"},
		"port zero": {question("web-1", "db", "tcp/0"), overlay.ErrInvalid, "1 to 65535"},
		"nobody":    {question("web-1", "dbb", "tcp/1"), overlay.ErrNotFound, `destination: task "dbb" of network prod`},
		"a VIP":     {question("web-1", "11.1.2.3", "tcp/80"), overlay.ErrInvalid, "weft vip list"},
		"ambiguous": {question("web-1", "x", "tcp/1"), overlay.ErrConflict, "x-1 or x-2"},
	} {
		if _, err := compile.Explain(f, w, row.q); !errors.Is(err, row.kind) || !strings.Contains(err.Error(), row.text) {
			t.Errorf("%s: got %v, want %v: %s", name, err, row.kind, row.text)
		}
	}
}
