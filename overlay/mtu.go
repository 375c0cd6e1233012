// SPDX-License-Identifier: Apache-2.0

package overlay

import (
	"math"
	"net/netip"
)

// Overhead is what a tunnel adds to an inner packet over an IPv4 underlay, in bytes: outer IPv4 20, UDP
// 8, VXLAN 8, inner Ethernet 14. Over IPv6 it is Overhead6.
const (
	Overhead  = 50
	Overhead6 = 70
)

// usualMTU stands where a node has not told its own yet, bytes.
const usualMTU = 1500

// TaskMTU returns the largest inner IP packet that fits an underlay of that MTU in a tunnel from vtep, bytes. 0: the
// underlay's is not known, it is taken to be usual.
func TaskMTU(vtep netip.Addr, underlay int) int {
	if underlay <= 0 {
		underlay = usualMTU
	}
	overhead := Overhead
	if vtep.Is6() {
		overhead = Overhead6
	}
	return min(max(underlay-overhead, 0), math.MaxUint16)
}
