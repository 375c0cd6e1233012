// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"testing"

	"github.com/cilium/ebpf/asm"

	"weft/bpf"
)

// TestLoopsJumpBack: Linux 6.1 takes a loop only where it goes back by a jump. Where the compiler puts a loop's head
// behind its body, an instruction that is none leads back to it, and the program is refused (newer kernels take both).
func TestLoopsJumpBack(t *testing.T) {
	anyKernel(t)
	t.Parallel()
	specs, err := bpf.Specs()
	must(t, err)
	for object, spec := range specs {
		for name, p := range spec.Programs {
			for _, function := range functionsOf(p.Instructions) {
				if at := fallsBack(function); at >= 0 {
					t.Errorf("%s/%s: %s falls back into a loop's head: %v", object, name, function[0].Symbol(), function[at])
				}
			}
		}
	}
}

// functionsOf parts a program at its functions' beginnings.
func functionsOf(ins asm.Instructions) (list []asm.Instructions) {
	calls := map[string]bool{}
	for i := range ins {
		if ins[i].IsFunctionCall() {
			calls[ins[i].Reference()] = true
		}
	}
	for i := range ins {
		if i == 0 || calls[ins[i].Symbol()] {
			list = append(list, nil)
		}
		list[len(list)-1] = append(list[len(list)-1], ins[i])
	}
	return list
}

// fallsBack walks a function as the kernel does, in depth, and returns an instruction that is no jump and leads to one
// that the way to it came by; -1: there is none.
func fallsBack(ins asm.Instructions) int {
	next := successors(ins)
	const unseen, open, done = 0, 1, 2
	state := make([]int, len(ins))
	way, tried := []int{0}, make([]int, len(ins))
	state[0] = open
	for len(way) > 0 {
		at := way[len(way)-1]
		if tried[at] == len(next[at]) {
			state[at] = done
			way = way[:len(way)-1]
			continue
		}
		to := next[at][tried[at]]
		tried[at]++
		switch {
		case state[to] == open && !isJump(ins[at]):
			return at
		case state[to] == unseen:
			state[to] = open
			way = append(way, to)
		}
	}
	return -1
}

func isJump(in asm.Instruction) bool {
	op := in.OpCode.JumpOp()
	return in.OpCode.Class().IsJump() && op != asm.Call && op != asm.Exit
}

// successors returns where each instruction leads, by index. Jumps count instructions of 8 bytes, of which some here
// take two.
func successors(ins asm.Instructions) [][]int {
	starts, index := make([]int, len(ins)), make(map[int]int)
	at := 0
	for i := range ins {
		starts[i], index[at] = at, i
		at += int(ins[i].Size()) / asm.InstructionSize
	}
	next := make([][]int, len(ins))
	for i := range ins {
		in := &ins[i]
		if in.OpCode.Class().IsJump() && in.OpCode.JumpOp() == asm.Exit {
			continue
		}
		if !isJump(*in) || in.OpCode.JumpOp() != asm.Ja {
			next[i] = append(next[i], i+1)
		}
		if isJump(*in) {
			next[i] = append(next[i], index[starts[i]+1+int(in.Offset)])
		}
	}
	return next
}
