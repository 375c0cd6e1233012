// SPDX-License-Identifier: Apache-2.0

package compile_test

import (
	"net/netip"
	"testing"

	"weft/bpf/row"
	"weft/overlay"
	"weft/overlay/compile"
	"weft/overlay/compile/compiletest"
)

func TestAPlainNodeIsOneEndpointThatIsJudgedHere(t *testing.T) {
	t.Parallel()
	f := compiletest.WithPlain()
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
	f := compiletest.WithPlain()
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

func TestUngroupedHasOneNumber(t *testing.T) {
	t.Parallel()
	if overlay.IdentityUngrouped != row.IdentityUngrouped {
		t.Errorf("got %d, want %d as in task.h", overlay.IdentityUngrouped, row.IdentityUngrouped)
	}
}
