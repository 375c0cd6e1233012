// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"hash/maphash"
)

// Types of messages, the first byte of each, and what is before them in a packet (hashicorp/memberlist v0.7.0, net.go and
// util.go; protocol 2 to 5 without encryption or compression).
const (
	suspectType  = 3
	aliveType    = 4
	deadType     = 5
	compoundType = 7 // one byte how many, two for the length of each, then the messages
	userType     = 8 // of serf
	checkedType  = 12
	checkedBytes = 5 // with the type; what follows is checked by it
)

// rumours are what a member was told of others. Each is told to each some thirty times, by as many, and means nothing
// from the second time on: each is about one incarnation. A member with a machine of
// its own reads it all the same; a thousand on two processors do nothing else, and take each other for dead.
type rumours struct {
	seed  maphash.Seed
	heard map[uint64]struct{}
	lives uint64 // of those heard: who lives, is suspected or is dead
}

func newRumours() rumours {
	return rumours{seed: maphash.MakeSeed(), heard: make(map[uint64]struct{})}
}

// news returns what of a packet was not heard before, nil if that is nothing.
func (r *rumours) news(packet []byte) []byte {
	if len(packet) > checkedBytes && packet[0] == checkedType {
		packet = packet[checkedBytes:]
	}
	if len(packet) < 2 || packet[0] != compoundType {
		if r.isOld(packet) {
			return nil
		}
		return packet
	}
	count := int(packet[1])
	lengths := packet[2:]
	if len(lengths) < 2*count {
		return packet
	}
	messages := lengths[2*count:]
	fresh := []byte{compoundType, 0}
	var kept [][]byte
	for i := range count {
		n := int(binary.BigEndian.Uint16(lengths[2*i:]))
		if n > len(messages) {
			return packet
		}
		m := messages[:n]
		messages = messages[n:]
		if !r.isOld(m) {
			kept = append(kept, m)
			fresh = binary.BigEndian.AppendUint16(fresh, uint16(n))
		}
	}
	if len(kept) == 0 {
		return nil
	}
	fresh[1] = byte(len(kept))
	for _, m := range kept {
		fresh = append(fresh, m...)
	}
	return fresh
}

// isOld tells whether a message is a rumour that was heard before.
func (r *rumours) isOld(m []byte) bool {
	if len(m) == 0 {
		return false
	}
	switch m[0] {
	case suspectType, aliveType, deadType, userType:
	default:
		return false
	}
	h := maphash.Bytes(r.seed, m)
	_, old := r.heard[h]
	r.heard[h] = struct{}{}
	if !old && m[0] != userType {
		r.lives++
	}
	return old
}
