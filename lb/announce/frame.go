// SPDX-License-Identifier: Apache-2.0

package announce

import (
	"encoding/binary"
	"net/netip"
)

// Gratuitous returns the frame by which all neighbours of a link learn that an address is at mac: for IPv4 an ARP
// announcement (RFC 5227 3), for IPv6 an unsolicited neighbour advertisement to all nodes (RFC 4861 7.2.6).
func Gratuitous(addr netip.Addr, mac [6]byte) []byte {
	if addr.Is4() {
		return gratuitousARP(addr.As4(), mac)
	}
	return unsolicited(addr.As16(), mac)
}

func gratuitousARP(addr [4]byte, mac [6]byte) []byte {
	f := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac[:]...)
	f = append(f, 0x08, 0x06, 0, 1, 0x08, 0x00, 6, 4, 0, 1) // Ethernet, IPv4, request
	f = append(append(f, mac[:]...), addr[:]...)
	f = append(f, 0, 0, 0, 0, 0, 0)
	return append(f, addr[:]...)
}

const (
	icmpv6       = 58
	override     = 0x20
	advertLength = 32 // bytes of the message: header, target, link-layer address
)

// allNodes is ff02::1.
var allNodes = [16]byte{0: 0xff, 1: 0x02, 15: 1}

func unsolicited(addr [16]byte, mac [6]byte) []byte {
	f := append([]byte{0x33, 0x33, 0, 0, 0, 1}, mac[:]...)
	f = append(f, 0x86, 0xdd, 0x60, 0, 0, 0, 0, advertLength, icmpv6, 255)
	f = append(append(f, addr[:]...), allNodes[:]...)
	message := append([]byte{136, 0, 0, 0, override, 0, 0, 0}, addr[:]...)
	message = append(append(message, 2, 1), mac[:]...) // the address of the link it is at
	binary.BigEndian.PutUint16(message[2:], checksum(addr, message))
	return append(f, message...)
}

// checksum is RFC 8200 8.1's, of a message to all nodes.
func checksum(from [16]byte, message []byte) uint16 {
	sum := uint32(len(message)) + icmpv6
	for _, part := range [][]byte{from[:], allNodes[:], message} {
		for i := 0; i < len(part); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(part[i:]))
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
