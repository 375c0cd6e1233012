// SPDX-License-Identifier: Apache-2.0

package bpftest

import (
	"encoding/binary"
	"net/netip"

	"weft/bpf/row"
)

// MaglevSlot returns the slot of a Maglev table (struct maglev) that a client's connections go by: that of its address
// and port, 0 where the address alone counts.
func MaglevSlot(client netip.Addr, port uint16) int { return maglevSlot(maglevHash(client, port)) }

func maglevSlot(hash uint32) int { return int(uint64(hash) * row.MaglevSlots >> 32) }

func maglevHash(client netip.Addr, port uint16) uint32 {
	b := client.As16()
	word := func(i int) uint64 { return uint64(binary.NativeEndian.Uint32(b[4*i:])) }
	h := (word(0)<<32 | word(1)) * 0xbf58476d1ce4e5b9
	h ^= h >> 29
	h = (h ^ (word(2)<<32 | word(3))) * 0x94d049bb133111eb
	h ^= h >> 31
	h = (h ^ uint64(row.Port(port))) * 0xff51afd7ed558ccd
	h ^= h >> 32
	return uint32(h * 0xc4ceb9fe1a85ec53 >> 32)
}
