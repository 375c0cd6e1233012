// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"testing"

	"github.com/cilium/ebpf/asm"

	"weft/bpf"
)

// stackLimit is what all frames of a chain of calls may take, bytes; stackStep is what Linux 6.1 rounds each up to
// (newer kernels round to 16, so a program that loads here may not there).
const (
	stackLimit = 512
	stackStep  = 32
)

// TestStacksFitTheOldestKernel adds up the frames of the deepest chain of calls of each program, as the verifier of
// Linux 6.1 does.
func TestStacksFitTheOldestKernel(t *testing.T) {
	anyKernel(t)
	t.Parallel()
	specs, err := bpf.Specs()
	must(t, err)
	for object, spec := range specs {
		for name, p := range spec.Programs {
			frames, calls := framesOf(p.Instructions)
			depth, chain := deepest(name, frames, calls)
			if depth == 0 {
				t.Errorf("%s/%s: no frame was found", object, name)
			}
			if depth > stackLimit {
				t.Errorf("%s/%s: %v take %d bytes of stack, %d are allowed", object, name, chain, depth, stackLimit)
			}
		}
	}
}

// framesOf returns the frame of each function, and whom it calls.
func framesOf(ins asm.Instructions) (frames map[string]int, calls map[string][]string) {
	frames, calls = make(map[string]int), make(map[string][]string)
	var name string
	var frame map[asm.Register]bool // registers that hold the frame's end
	for i := range ins {
		in := &ins[i]
		if symbol := in.Symbol(); symbol != "" {
			if _, inside := calls[symbol]; !inside {
				name, frame = symbol, map[asm.Register]bool{asm.R10: true}
				calls[name] = nil
			}
		}
		reach := func(offset int) { frames[name] = max(frames[name], -offset) }
		op := in.OpCode
		switch class := op.Class(); {
		case in.IsFunctionCall():
			calls[name] = append(calls[name], in.Reference())
		case class == asm.StXClass || class == asm.StClass:
			if in.Dst == asm.R10 {
				reach(int(in.Offset))
			}
		case class == asm.LdXClass:
			if in.Src == asm.R10 {
				reach(int(in.Offset))
			}
			delete(frame, in.Dst)
		case class.IsALU():
			switch {
			case op.ALUOp() == asm.Mov && op.Source() == asm.RegSource:
				frame[in.Dst] = frame[in.Src]
			case op.ALUOp() == asm.Add && op.Source() == asm.ImmSource && frame[in.Dst]:
				reach(int(in.Constant))
				delete(frame, in.Dst)
			default:
				delete(frame, in.Dst)
			}
			frame[asm.R10] = true
		}
	}
	return frames, calls
}

func deepest(name string, frames map[string]int, calls map[string][]string) (depth int, chain []string) {
	for _, callee := range calls[name] {
		if d, c := deepest(callee, frames, calls); d > depth {
			depth, chain = d, c
		}
	}
	own := (max(frames[name], 1) + stackStep - 1) / stackStep * stackStep
	return own + depth, append([]string{name}, chain...)
}
