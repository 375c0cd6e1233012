// SPDX-License-Identifier: Apache-2.0

package decision

import (
	"math"
	"math/bits"
	"net/netip"
	"slices"
	"strings"

	"weft/discovery"
	"weft/overlay"
)

// firstIdentity and lastIdentity bound the identities of sets of groups. The VXLAN group policy field
// has 16 bits; what is below is reserved (bpf/src/shared/task.h, IDENTITY_FIRST).
const firstIdentity, lastIdentity = 16, math.MaxUint16

// blockCursor walks the free blocks of one family of a network, lowest first.
type blockCursor struct {
	subnet netip.Prefix
	bits   int // length of a block
	taken  map[netip.Prefix]discovery.NodeID
	held   map[discovery.NodeID]int
	given  int
	at     netip.Addr // everything before it is taken; not valid: past the end
}

func newBlockCursor(s *Snapshot, network string, subnet netip.Prefix, length int) *blockCursor {
	c := &blockCursor{
		subnet: subnet, bits: length, taken: map[netip.Prefix]discovery.NodeID{}, held: map[discovery.NodeID]int{}, at: subnet.Addr(),
	}
	for _, key := range s.blocks.below(network) {
		b := s.blocks[key]
		if b.Prefix.Addr().Is4() != subnet.Addr().Is4() {
			continue
		}
		c.take(b.Prefix, b.Node)
	}
	return c
}

func (c *blockCursor) take(block netip.Prefix, node discovery.NodeID) {
	c.taken[block] = node
	c.held[node]++
	c.given++
}

// next returns the lowest free block that is not among those left out; false when there is none.
func (c *blockCursor) next(leaveOut []netip.Prefix) (netip.Prefix, bool) {
	for at := c.at; at.IsValid() && c.subnet.Contains(at); {
		p := netip.PrefixFrom(at, c.bits)
		_, taken := c.taken[p]
		if !taken && !slices.Contains(leaveOut, p) {
			return p, true
		}
		if taken && at == c.at {
			c.at = after(p)
		}
		at = after(p)
	}
	return netip.Prefix{}, false
}

// free is how many blocks are left, at most 2^31-1.
func (c *blockCursor) free() int {
	if c.bits-c.subnet.Bits() >= 32 {
		return math.MaxInt32
	}
	return min(1<<(c.bits-c.subnet.Bits())-c.given, math.MaxInt32)
}

// after returns the first address behind p, not valid behind the last of all.
func after(p netip.Prefix) netip.Addr {
	if p.Addr().Is4() {
		b := p.Addr().As4()
		v := uint64(b[0])<<24 | uint64(b[1])<<16 | uint64(b[2])<<8 | uint64(b[3])
		if v += 1 << (32 - p.Bits()); v > math.MaxUint32 {
			return netip.Addr{}
		}
		return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
	}
	b := p.Addr().As16()
	var high, low, carry uint64
	for i := range 8 {
		high, low = high<<8|uint64(b[i]), low<<8|uint64(b[8+i])
	}
	if shift := 128 - p.Bits(); shift < 64 {
		low, carry = bits.Add64(low, 1<<shift, 0)
		high, carry = bits.Add64(high, 0, carry)
	} else {
		high, carry = bits.Add64(high, 1<<(shift-64), 0)
	}
	if carry != 0 {
		return netip.Addr{}
	}
	for i := range 8 {
		b[i], b[8+i] = byte(high>>(56-8*i)), byte(low>>(56-8*i))
	}
	return netip.AddrFrom16(b)
}

// identityCursor walks the free identities of a network, lowest first.
type identityCursor struct {
	known map[string]overlay.GroupSet // sets that have one, by groups joined with commas
	used  map[overlay.Identity]bool
	at    int
}

func newIdentityCursor(s *Snapshot, network string) *identityCursor {
	c := &identityCursor{known: map[string]overlay.GroupSet{}, used: map[overlay.Identity]bool{}, at: firstIdentity}
	for _, key := range s.identities.below(network) {
		set := s.identities[key]
		c.known[strings.Join(set.Groups, ",")] = set
		c.used[set.Identity] = true
	}
	return c
}

// next returns the lowest free identity and gives it to the set; false when there is none.
func (c *identityCursor) next(groups []string) (overlay.Identity, bool) {
	for ; c.at <= lastIdentity; c.at++ {
		if id := overlay.Identity(c.at); !c.used[id] {
			c.used[id] = true
			c.known[strings.Join(groups, ",")] = overlay.GroupSet{Groups: groups, Identity: id}
			return id, true
		}
	}
	return 0, false
}
