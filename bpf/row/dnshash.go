// SPDX-License-Identifier: Apache-2.0

package row

import (
	"encoding/binary"
	"math/bits"
)

// The hash of names: its C twin is dns_hash in bpf/src/lib/question.h, and bpf's tests hold the two
// together. Both halves take the name 8 bytes at a time, in lower case, the last word filled with
// zeros; they differ in seed, multiplier and mix, so that a pair of names that collides in one half
// does so in the other by chance only.
const (
	dnsSeed0 = 0x9e3779b97f4a7c15
	dnsSeed1 = 0xc2b2ae3d27d4eb4f
	dnsMul0  = 0xff51afd7ed558ccd
	dnsMul1  = 0xd6e8feb86659fd93
)

// DNSHash returns both hashes of a name in wire form (length bytes, labels, the root's zero byte).
// Case does not matter.
func DNSHash(qname []byte) [2]uint64 {
	h0 := dnsSeed0 ^ uint64(len(qname))
	h1 := dnsSeed1 + uint64(len(qname))
	for len(qname) > 0 {
		var word [8]byte
		qname = qname[copy(word[:], qname):]
		w := lower(binary.LittleEndian.Uint64(word[:]))
		h0 = (h0 ^ w) * dnsMul0
		h0 ^= h0 >> 32
		h1 = (bits.RotateLeft64(h1, 23) ^ w) * dnsMul1
		h1 ^= h1 >> 29
	}
	return [2]uint64{h0, h1}
}

// lower turns the ASCII capitals among 8 bytes into small letters. Length bytes of labels are below
// 64 and so below 'A': the whole wire name may be fed.
func lower(w uint64) uint64 {
	const ones = 0x0101010101010101
	low := w & (0x7f * ones)
	fromA := low + (0x80-'A')*ones   // top bit set in bytes >= 'A'
	aboveZ := low + (0x7f-'Z')*ones  // top bit set in bytes > 'Z'
	capital := ^w & (fromA ^ aboveZ) // bytes from 0x80 on are no letters
	return w | capital&(0x80*ones)>>2
}

// DNSKeyOf returns the key of a question in the view of vni (0: the host's).
func DNSKeyOf(vni uint32, qname []byte, qtype uint16) DNSKey {
	return DNSKey{Hash: DNSHash(qname), VNI: vni, Qtype: qtype, Len: uint16(len(qname))}
}

// Seal writes into a the marks by which the kernel half sees that an answer belongs to key and that
// it read the whole of it; mark is to be another one each time. An answer without them is never given.
func (a *DNSAnswer) Seal(key DNSKey, mark uint16) { a.Mark, a.Stamp = mark, key.stamp(mark) }

// Seal does for a long answer what it does for others.
func (a *DNSLong) Seal(key DNSKey, mark uint16) { a.Mark, a.Stamp = mark, key.stamp(mark) }

func (k DNSKey) stamp(mark uint16) uint32 { return uint32(k.Hash[0]) ^ uint32(mark)*0x9e3779b1 }
