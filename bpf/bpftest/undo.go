// SPDX-License-Identifier: Apache-2.0

package bpftest

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

// A test run with repetitions gives the program the packet as its last run left it: a program that
// encapsulates would see its own tunnel from the second run on. So it runs inside a wrapper:
//
//	change the source address, if asked     a flood never shows the same twice
//	call the program                        a tail call from a subprogram comes back
//	sent: take its room off the head        adjust_head, as the program did, the other way
//	else: adjust_head by nothing            so that both ways cost a call
//
// What is inside of the tunnel is the packet as it was, but for the MACs, which the edge does not read.

const (
	offsetData, offsetEnd = 0, 4 // of struct xdp_md
	sourceAddress         = 26   // in an IPv4 frame
)

// Undone is an XDP program in that wrapper, and the wrapper around nothing, to take off its time.
type Undone struct{ full, empty *ebpf.Program }

// Undo wraps a program of a set that puts room bytes in front of what it sends. With scramble no two
// runs have the same IPv4 source address.
func (s *Set) Undo(program string, room int32, scramble bool) (*Undone, error) {
	target, ok := s.Programs[program]
	if !ok {
		return nil, fmt.Errorf("no program %s", program)
	}
	full, err := wrap(target, room, scramble)
	if err != nil {
		return nil, err
	}
	empty, err := wrap(nil, room, scramble)
	if err != nil {
		return nil, errors.Join(err, full.Close())
	}
	return &Undone{full: full, empty: empty}, nil
}

// Close unloads it.
func (u *Undone) Close() {
	_ = u.full.Close() // nothing is lost with a handle of a test
	_ = u.empty.Close()
}

// Run runs the program once: what it says, and the frame that the next run would meet.
func (u *Undone) Run(frame []byte) (XDP, []byte, error) {
	action, left, err := u.full.Test(frame)
	return XDP(action), left, err
}

// Full runs the program n times over a frame and returns nanoseconds per run, wrapper and all.
func (u *Undone) Full(frame []byte, n int) (float64, error) { return benchmark(u.full, frame, n) }

// Empty does the same with the wrapper around nothing.
func (u *Undone) Empty(frame []byte, n int) (float64, error) { return benchmark(u.empty, frame, n) }

func benchmark(prog *ebpf.Program, frame []byte, n int) (float64, error) {
	_, each, err := prog.Benchmark(frame, n, nil)
	return float64(each.Nanoseconds()), err
}

// wrap returns the wrapper around a program, or around nothing.
func wrap(target *ebpf.Program, room int32, scramble bool) (*ebpf.Program, error) {
	if target == nil {
		nothing, err := ebpf.NewProgram(&ebpf.ProgramSpec{
			Name: "nothing", Type: ebpf.XDP, AttachType: ebpf.AttachXDP, License: "Dual BSD/GPL",
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()},
		})
		if err != nil {
			return nil, fmt.Errorf("load the program that does nothing: %w", err)
		}
		defer func() { _ = nothing.Close() }() // the map below holds it
		target = nothing
	}
	targets, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.ProgramArray, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		return nil, fmt.Errorf("make map of targets: %w", err)
	}
	// Not closed: with the last handle the kernel would empty it.
	if err := targets.Put(uint32(0), uint32(target.FD())); err != nil {
		return nil, fmt.Errorf("put target: %w", err)
	}
	code := asm.Instructions{begin(asm.Mov.Reg(asm.R6, asm.R1), "wrapper")}
	if scramble {
		code = append(code, scrambleSource()...)
	}
	code = append(code,
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Call.Label("target"),
		asm.Mov.Reg(asm.R7, asm.R0),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Imm(asm.R2, room),
		asm.JEq.Imm(asm.R7, int32(XDPTX), "undo"),
		asm.Mov.Imm(asm.R2, 0),
		asm.FnXdpAdjustHead.Call().WithSymbol("undo"),
		asm.Mov.Reg(asm.R0, asm.R7),
		asm.Return(),
		begin(asm.LoadMapPtr(asm.R2, targets.FD()), "target"),
		asm.Mov.Imm(asm.R3, 0),
		asm.FnTailCall.Call(),
		asm.Mov.Imm(asm.R0, 0),
		asm.Return(),
	)
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "wrapper", Type: ebpf.XDP, AttachType: ebpf.AttachXDP, License: "Dual BSD/GPL", Instructions: code})
	if err != nil {
		return nil, fmt.Errorf("load wrapper: %w", err)
	}
	return prog, nil
}

// begin makes an instruction the first of a function; the kernel wants to know what one returns that
// makes a tail call.
func begin(i asm.Instruction, name string) asm.Instruction {
	number := &btf.Int{Name: "int", Size: 4, Encoding: btf.Signed}
	ctx := btf.FuncParam{Name: "ctx", Type: &btf.Pointer{Target: &btf.Void{}}}
	proto := &btf.FuncProto{Return: number, Params: []btf.FuncParam{ctx}}
	return btf.WithFuncMetadata(i.WithSymbol(name), &btf.Func{Name: name, Type: proto, Linkage: btf.StaticFunc})
}

// scrambleSource writes a random IPv4 source address.
func scrambleSource() asm.Instructions {
	return asm.Instructions{
		asm.FnGetPrandomU32.Call(),
		asm.LoadMem(asm.R2, asm.R6, offsetData, asm.Word),
		asm.LoadMem(asm.R3, asm.R6, offsetEnd, asm.Word),
		asm.Mov.Reg(asm.R4, asm.R2),
		asm.Add.Imm(asm.R4, sourceAddress+4),
		asm.JGT.Reg(asm.R4, asm.R3, "short"),
		asm.StoreMem(asm.R2, sourceAddress, asm.R0, asm.Word),
		asm.Mov.Imm(asm.R0, 0).WithSymbol("short"),
	}
}
