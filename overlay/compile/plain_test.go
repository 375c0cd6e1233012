// SPDX-License-Identifier: Apache-2.0

package compile_test

import (
	"net/netip"
	"strings"
	"testing"

	"weft/bpf/row"
	"weft/overlay"
	"weft/overlay/compile"
)

// withPlain is the small cluster with a plain node in group db of network prod.
func withPlain() compile.Facts {
	f := small()
	f.Plain = []overlay.PlainNode{{
		Node: "old", VTEP: netip.MustParseAddr("10.0.0.9"), Network: "prod", Groups: []string{"db"}, Identity: 30, MAC: "02:00:00:00:00:09", MTU: 1400,
		Blocks: []netip.Prefix{netip.MustParsePrefix("9.0.9.0/24")},
	}}
	f.Sets = append(f.Sets, overlay.GroupSet{Network: "prod", Groups: []string{"db"}, Identity: 30})
	f.Blocks = append(f.Blocks, overlay.Block{Network: "prod", Node: "old", Prefix: netip.MustParsePrefix("9.0.9.0/24")})
	return f
}

func TestAPlainNodeIsOneEndpointThatIsJudgedHere(t *testing.T) {
	t.Parallel()
	f := withPlain()
	r := compile.Compile(f)
	vtep := addr("10.0.0.9")
	want := row.VTEP{
		Flags: row.VTEPPlain, VNI: 7, As: row.Endpoint{Identity: 30, MAC: [6]byte{2, 0, 0, 0, 0, 9}}, OwnMAC: [6]byte{0x0a, 0x58, 10, 0, 0, 1},
		Block4: 24, Block6: 112,
	}
	equal(t, r.VTEPs[vtep], want)
	equal(t, r.Blocks[row.BlockKey{VNI: 7, Addr: addr("9.0.9.0")}], row.Block{VTEP: vtep, MTU: 1350, Flags: row.BlockPlain})
	web, old := uint32(16), uint32(30)
	for _, key := range []row.VerdictKey{{VNI: 7, Src: web, Dst: old}, {VNI: 7, Src: old, Dst: web}} {
		if v, ok := r.Verdicts[key]; ok {
			t.Errorf("verdict %+v is %+v: no group in common and no rule", key, v)
		}
	}
	f.Rules = []overlay.Rule{{ID: 4, Network: "prod", From: "web", To: "db", Action: overlay.Allow}}
	f.OwnMAC = [6]byte{0x70, 0xb3, 0xd5, 1, 2, 3}
	r = compile.Compile(f)
	if v := r.Verdicts[row.VerdictKey{VNI: 7, Src: web, Dst: old}]; v.Action != row.VerdictAllow || v.Rule != 4 {
		t.Errorf("verdict towards the plain node is %+v, want rule 4", v)
	}
	want.Flags, want.OwnMAC = row.VTEPPlain|row.VTEPDirected, f.OwnMAC
	equal(t, r.VTEPs[vtep], want)
	f.Plain = nil
	r = compile.Compile(f)
	if len(r.VTEPs) != 2 {
		t.Errorf("VTEPs are %v, want those of nodes alone", r.VTEPs)
	}
	if _, ok := r.Blocks[row.BlockKey{VNI: 7, Addr: addr("9.0.9.0")}]; ok {
		t.Error("a block of nobody is there")
	}
}

// TestAPlainNodeIsOfItsNetworkAlone leaves out what an odd row says.
func TestAPlainNodeIsOfItsNetworkAlone(t *testing.T) {
	t.Parallel()
	f := withPlain()
	f.Blocks = append(f.Blocks, overlay.Block{Network: "dev", Node: "old", Prefix: netip.MustParsePrefix("9.1.9.0/24")})
	if b, ok := compile.Compile(f).Blocks[row.BlockKey{VNI: 8, Addr: addr("9.1.9.0")}]; ok {
		t.Errorf("block of another network: %+v", b)
	}
	f.Plain[0].VTEP = netip.MustParseAddr("10.0.0.2") // a node's
	if v := compile.Compile(f).VTEPs[addr("10.0.0.2")]; v != (row.VTEP{}) {
		t.Errorf("a node of Weft counts as plain: %+v", v)
	}
	f.Plain[0].VTEP = netip.MustParseAddr("fd00::9")
	if r := compile.Compile(f); len(r.VTEPs) != 2 {
		t.Errorf("a VTEP of the other family is accepted: %v", r.VTEPs)
	}
}

func TestWhyKnowsPlainNodes(t *testing.T) {
	t.Parallel()
	f := withPlain()
	f.Rules = []overlay.Rule{{ID: 4, Network: "prod", From: "web", To: "db", Protocol: "tcp", Ports: []overlay.PortRange{{First: 80, Last: 80}}, Action: overlay.Allow}}
	for _, tt := range []struct{ src, dst, reason, says string }{
		{"web-1", "old", "delivered", "rule 4 (allow web to db tcp/80) lets web-1 (9.0.0.1) reach old (9.0.9.1)"},
		{"web-1", "9.0.9.77", "delivered", "reach old (9.0.9.77)"},
		{"9.0.9.77", "web-1", "no_common_group", "old (9.0.9.77) is in group db, web-1 (9.0.0.1) in group web"},
	} {
		v, err := compile.Explain(f, compile.World{}, overlay.Question{Source: tt.src, Destination: tt.dst, Protocol: "tcp", Port: 80})
		if err != nil || v.Reason != tt.reason || !strings.Contains(v.Text, tt.says) {
			t.Errorf("%s to %s: got %s: %s (%v), want %s: %s", tt.src, tt.dst, v.Reason, v.Text, err, tt.reason, tt.says)
		}
	}
}

func TestUngroupedHasOneNumber(t *testing.T) {
	t.Parallel()
	if overlay.IdentityUngrouped != row.IdentityUngrouped {
		t.Errorf("got %d, want %d as in task.h", overlay.IdentityUngrouped, row.IdentityUngrouped)
	}
}
