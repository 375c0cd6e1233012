// SPDX-License-Identifier: Apache-2.0

package bpftest

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

// Offsets in struct __sk_buff and struct bpf_tunnel_key.
const (
	cbOffset     = 48
	remoteOffset = 4
)

// GiveTunnelKey makes a program read the tunnel's metadata from the control block that a test run
// may set (Meta.Tunnel), for the kernel gives none to test runs: calls of two helpers become calls of small
// functions; all other instructions stay as they are. See TunnelMeta.
func GiveTunnelKey(p *ebpf.ProgramSpec) error {
	fakes := map[asm.BuiltinFunc]string{
		asm.FnSkbGetTunnelKey: "given_tunnel_key",
		asm.FnSkbGetTunnelOpt: "given_tunnel_opt",
	}
	replaced := make(map[string]bool)
	for i := range p.Instructions {
		ins := &p.Instructions[i]
		name, ok := fakes[asm.BuiltinFunc(ins.Constant)]
		if !ok || !ins.IsBuiltinCall() {
			continue
		}
		call := asm.Call.Label(name).WithSource(ins.Source())
		p.Instructions[i] = call
		replaced[name] = true
	}
	if len(replaced) != len(fakes) {
		return fmt.Errorf("program %s calls %d of %d tunnel helpers", p.Name, len(replaced), len(fakes))
	}
	source := p.Instructions[0].Source()
	p.Instructions = append(p.Instructions, function("given_tunnel_key", source,
		asm.LoadMem(asm.R0, asm.R1, cbOffset+12, asm.Word),
		asm.JNE.Imm(asm.R0, 0, "no_key"),
		asm.LoadMem(asm.R3, asm.R1, cbOffset, asm.Word),
		asm.StoreMem(asm.R2, remoteOffset, asm.R3, asm.Word),
		asm.LoadMem(asm.R3, asm.R1, cbOffset+4, asm.Word),
		asm.StoreMem(asm.R2, 0, asm.R3, asm.Word),
		asm.Mov.Imm(asm.R0, 0),
		asm.Return(),
		asm.Mov.Imm(asm.R0, -1).WithSymbol("no_key"),
		asm.Return(),
	)...)
	p.Instructions = append(p.Instructions, function("given_tunnel_opt", source,
		asm.LoadMem(asm.R3, asm.R1, cbOffset+8, asm.Word),
		asm.StoreMem(asm.R2, 0, asm.R3, asm.Word),
		asm.Mov.Imm(asm.R0, 4),
		asm.Return(),
	)...)
	return nil
}

// function names instructions as a function of the program, with the type information that the
// kernel asks of each.
func function(name string, source fmt.Stringer, body ...asm.Instruction) []asm.Instruction {
	integer := &btf.Int{Name: "int", Size: 4, Encoding: btf.Signed}
	pointer := &btf.Pointer{Target: &btf.Void{}}
	body[0] = btf.WithFuncMetadata(body[0].WithSymbol(name).WithSource(source), &btf.Func{
		Name: name, Linkage: btf.StaticFunc,
		Type: &btf.FuncProto{Return: integer, Params: []btf.FuncParam{
			{Name: "skb", Type: pointer}, {Name: "to", Type: pointer},
		}},
	})
	return body
}

// TunnelMeta is what the kernel's device took off a frame: who sent it, of which network, by which
// identity. An address that is not IPv4 gives the program no key at all, as the kernel does.
type TunnelMeta struct {
	VTEP     netip.Addr
	VNI      uint32
	Identity uint16
}

func (m TunnelMeta) controlBlock() [5]uint32 {
	if !m.VTEP.Is4() {
		return [5]uint32{3: 1}
	}
	addr := m.VTEP.As4()
	return [5]uint32{binary.BigEndian.Uint32(addr[:]), m.VNI, uint32(m.Identity)}
}
