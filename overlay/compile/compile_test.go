// SPDX-License-Identifier: Apache-2.0

package compile_test

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft/bpf/row"
	"weft/discovery"
	"weft/overlay"
	"weft/overlay/compile"
	"weft/overlay/compile/compiletest"
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

func addr(s string) row.Addr { return row.AddrOf(netip.MustParseAddr(s)) }

// TestNodesHavePartInNetworks: each node's address is a block of one, and this node is there as a task is.
func TestNodesHavePartInNetworks(t *testing.T) {
	t.Parallel()
	f := compiletest.Small()
	before := compile.Compile(f)
	compiletest.GiveAddresses(f)
	f.Nodes[2].Host4 = netip.Prefix{} // they have run out
	f.Host = compile.Host{Ifindex: 5, Cookie: 99}
	got := compile.Compile(f)
	mac := compile.HostMAC()
	before.Workloads[5] = row.Workload{Identity: row.IdentityOtherNode, MTU: 1450, MAC: mac, Addr4: addr("44.128.0.1"), Addr6: addr("fd01:a::1")}
	before.Spaces[99] = row.Space{Identity: row.IdentityNode, Addr4: addr("44.128.0.1"), Addr6: addr("fd01:a::1")}
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
	before.VTEPs[addr("10.0.0.2")] = row.VTEP{Host: row.Word(netip.MustParseAddr("44.128.0.2"))} // the third has none
	equal(t, got, before)
}

func TestCompile(t *testing.T) {
	t.Parallel()
	got := compile.Compile(compiletest.Small())
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
		Clauses: map[row.ClausesKey]row.Clauses{},
		Sources: map[row.SourceKey]row.Source{},
		Spaces: map[uint64]row.Space{
			1011: {VNI: 7, Identity: 16, Addr4: addr("9.0.0.1"), Addr6: addr("fd01:b::1")}, 1012: {VNI: 8, Identity: 3, Addr4: addr("9.1.5.1")},
		},
		Openings: map[row.OpeningKey]row.Opening{},
	})
}

func TestRulesAndPublicMakeWorkloadsDirected(t *testing.T) {
	t.Parallel()
	f := compiletest.Small()
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
	f := compiletest.Small()
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
