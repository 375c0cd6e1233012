// SPDX-License-Identifier: Apache-2.0

package bpftest

import (
	"encoding/binary"

	"weft/bpf/row"
)

// The model knows no answers: a question of a form that the kernel half reads (lib/question.h) is a miss.
func (p packet) question(meta Meta) Outcome {
	head := 20
	if !p.v4 {
		head = 40
	}
	udp := p.frame[p.l4:]
	size := int(binary.BigEndian.Uint16(udp[4:]))
	bare := p.fragment == 0 && meta.GSOSize == 0 && p.l3 == 14 && p.head == head && size >= 8 && size <= len(udp)
	if !bare || !p.v4 && udp[6] == 0 && udp[7] == 0 || !isQuestion(udp[8:size]) {
		return end(row.ReasonDNSUnread)
	}
	return end(row.ReasonDNSMiss)
}

// isQuestion tells a plain query: one name without pointers, class IN, and at most an OPT record of version 0 behind it.
func isQuestion(m []byte) bool {
	if len(m) < 12 || len(m) > 512 || m[2]&0xfa != 0 || binary.BigEndian.Uint16(m[4:]) != 1 ||
		binary.BigEndian.Uint32(m[6:]) != 0 || binary.BigEndian.Uint16(m[10:]) > 1 {
		return false
	}
	name := m[12:]
	for len(name) > 0 && name[0] != 0 {
		if name[0] > 63 || len(name) <= int(name[0]) {
			return false
		}
		name = name[1+name[0]:]
	}
	if len(name) < 5 || len(m)-len(name)-12 > 254 || binary.BigEndian.Uint16(name[3:]) != 1 {
		return false
	}
	opt := name[5:]
	if m[11] == 0 {
		return len(opt) == 0
	}
	return len(opt) >= 11 && opt[0] == 0 && binary.BigEndian.Uint16(opt[1:]) == 41 && opt[6] == 0 &&
		11+int(binary.BigEndian.Uint16(opt[9:])) == len(opt)
}
