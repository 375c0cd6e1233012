// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
)

// Offsets in a frame with an IPv4 datagram, and in the kernel's struct __sk_buff.
const (
	ethSize     = 14
	ipSource    = ethSize + 12
	udpPorts    = ethSize + 20
	udpEnd      = udpPorts + 8
	ctxIfindex  = 40
	ctxData     = 76
	ctxDataEnd  = 80
	ethTypeIPv4 = 0x0800
	protoUDP    = 17
)

// serveMirror sends each datagram on a link back as it came, by the way that a program has which answers at once. What
// is asked are answers, so a client takes them for that: no server and no program can take less than this.
func serveMirror(ctx context.Context, o options) error {
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "mirror", Type: ebpf.SchedCLS, License: "Dual BSD/GPL", Instructions: mirrored()})
	if err != nil {
		return fmt.Errorf("load the mirror: %w", err)
	}
	at, err := link.AttachTCX(link.TCXOptions{Interface: o.ifindex, Program: program, Attach: ebpf.AttachTCXIngress})
	if err != nil {
		return errors.Join(fmt.Errorf("attach the mirror: %w", err), program.Close())
	}
	<-ctx.Done()
	return errors.Join(at.Close(), program.Close())
}

// mirrored exchanges MACs, addresses and ports, whose order no checksum sees.
func mirrored() asm.Instructions {
	const next = -1 // TCX_NEXT
	frame, end := asm.R7, asm.R8
	is := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMem(frame, asm.R6, ctxData, asm.Word),
		asm.LoadMem(end, asm.R6, ctxDataEnd, asm.Word),
		asm.Mov.Reg(asm.R1, frame),
		asm.Add.Imm(asm.R1, udpEnd),
		asm.JGT.Reg(asm.R1, end, "pass"),
		asm.LoadMem(asm.R1, frame, ethSize-2, asm.Half),
		asm.HostTo(asm.BE, asm.R1, asm.Half),
		asm.JNE.Imm(asm.R1, ethTypeIPv4, "pass"),
		asm.LoadMem(asm.R1, frame, ethSize+9, asm.Byte),
		asm.JNE.Imm(asm.R1, protoUDP, "pass"),
	}
	for _, pair := range []struct {
		a, b int16
		size asm.Size
	}{
		{0, 6, asm.Word}, {4, 10, asm.Half}, {ipSource, ipSource + 4, asm.Word}, {udpPorts, udpPorts + 2, asm.Half},
	} {
		is = append(is,
			asm.LoadMem(asm.R1, frame, pair.a, pair.size), asm.LoadMem(asm.R2, frame, pair.b, pair.size),
			asm.StoreMem(frame, pair.a, asm.R2, pair.size), asm.StoreMem(frame, pair.b, asm.R1, pair.size))
	}
	return append(is,
		asm.LoadMem(asm.R1, asm.R6, ctxIfindex, asm.Word),
		asm.Mov.Imm(asm.R2, 0),
		asm.FnRedirectPeer.Call(),
		asm.Return(),
		asm.Mov.Imm(asm.R0, next).WithSymbol("pass"),
		asm.Return(),
	)
}
