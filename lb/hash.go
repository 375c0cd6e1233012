// SPDX-License-Identifier: Apache-2.0

package lb

import (
	"crypto/sha1" //nolint:gosec // the address of a name is defined by SHA-1; nothing is secured by it
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// The ranges that named VIPs get their addresses from; DC/OS uses the same.
const (
	first4 = 11 << 24              // 11.0.0.0
	span4  = 1<<24 - 1             // to 11.255.255.255: the modulus of the hash, and the last offset
	first6 = 0xfd01_000c << 32     // fd01:c::, upper half
	span6  = 0xffff_ffff_ffff_ffff // to fd01:c::ffff:ffff:ffff:ffff
)

// HashAddr4 returns the IPv4 address that name (web.weft) has when nobody else has it: 11.0.0.0 plus
// Erlang's phash2 of the name, so that VIPs keep the addresses that they had in DC/OS.
func HashAddr4(name string) netip.Addr { return addr4(phash2(name) % span4) }

// HashAddr6 returns the IPv6 address that name has when nobody else has it: fd01:c:: plus the
// name's SHA-1.
func HashAddr6(name string) netip.Addr {
	sum := sha1.Sum([]byte(name)) //nolint:gosec // see the import
	var rest uint64
	rest = bits.Rem64(rest, uint64(binary.BigEndian.Uint32(sum[0:])), span6)
	rest = bits.Rem64(rest, binary.BigEndian.Uint64(sum[4:]), span6)
	rest = bits.Rem64(rest, binary.BigEndian.Uint64(sum[12:]), span6)
	return addr6(rest)
}

func addr4(offset uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], first4+offset)
	return netip.AddrFrom4(b)
}

func addr6(offset uint64) netip.Addr {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], first6)
	binary.BigEndian.PutUint64(b[8:], offset)
	return netip.AddrFrom16(b)
}

// phash2 is Erlang's hash of a binary over the whole 32-bit range: Bob Jenkins' 1996 hash with
// 12-byte little-endian blocks. In the last block, c keeps its low byte for the length.
func phash2(name string) uint32 {
	const golden = 0x9e3779b9
	a, b, c := uint32(golden), uint32(golden), uint32(13*golden&0xffffffff)
	if name == "" {
		return c
	}
	data := []byte(name)
	for len(data) >= 12 {
		a += binary.LittleEndian.Uint32(data[0:])
		b += binary.LittleEndian.Uint32(data[4:])
		c += binary.LittleEndian.Uint32(data[8:])
		a, b, c = mix(a, b, c)
		data = data[12:]
	}
	var tail [12]byte
	copy(tail[:], data)
	a += binary.LittleEndian.Uint32(tail[0:])
	b += binary.LittleEndian.Uint32(tail[4:])
	c += binary.LittleEndian.Uint32(tail[8:])<<8 + uint32(len(name))
	_, _, c = mix(a, b, c)
	return c
}

func mix(a, b, c uint32) (x, y, z uint32) {
	a = (a - b - c) ^ (c >> 13)
	b = (b - c - a) ^ (a << 8)
	c = (c - a - b) ^ (b >> 13)
	a = (a - b - c) ^ (c >> 12)
	b = (b - c - a) ^ (a << 16)
	c = (c - a - b) ^ (b >> 5)
	a = (a - b - c) ^ (c >> 3)
	b = (b - c - a) ^ (a << 10)
	c = (c - a - b) ^ (b >> 15)
	return a, b, c
}
