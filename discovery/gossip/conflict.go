// SPDX-License-Identifier: Apache-2.0

package gossip

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/serf/serf"

	"weft/discovery"
)

// A second member with our id is often ourselves, restarted at another address, for as long as the
// others believe in the old one. Only who stays is a conflict, and the one who came last gives way.
const (
	newcomer = 10 * time.Second // after start or first contact: who meets the other by then came last
	patience = 6 * time.Second  // more than a death takes to be seen
	recent   = 2 * time.Second  // between two meetings: who joins again makes them faster
	settle   = 5 * time.Second  // after the last one: the others suspect, bury, and give the id back
)

// conflict watches for other members with our id. It is serf's merge delegate: it sees every claim
// to be alive before memberlist decides about it, and refuses none.
type conflict struct {
	name string // serf's, of this member
	self netip.AddrPort

	mu     sync.Mutex
	joined time.Time // when the first other member was met
	other  netip.AddrPort
	first  time.Time // of an unbroken row of meetings
	last   time.Time
	count  uint64
}

// NotifyMerge is called with all members that a joining one knows, dead ones too, and with each
// single member that claims to live; only the latter counts.
func (c *conflict) NotifyMerge(members []*serf.Member) error {
	if len(members) != 1 || members[0].Name != c.name {
		return nil
	}
	addr, _ := netip.AddrFromSlice(members[0].Addr)
	other := netip.AddrPortFrom(addr.Unmap(), members[0].Port)
	if other == c.self {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if now.Sub(c.last) > recent {
		c.first = now
	}
	c.other, c.last = other, now
	c.count++
	return nil
}

func (c *conflict) total() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.count
}

// verdict is what is known of another member with our id.
type verdict struct {
	claimed  bool  // there is or was one, so who of us is believed in must be asked
	err      error // it stays
	newcomer bool  // we came last
}

func (c *conflict) verdict(started, now time.Time) verdict {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last.IsZero() || now.Sub(c.last) > settle {
		return verdict{}
	}
	v := verdict{claimed: true, newcomer: c.first.Sub(started) < newcomer || c.first.Sub(c.joined) < newcomer}
	if now.Sub(c.first) >= patience && now.Sub(c.last) <= recent {
		v.err = fmt.Errorf("id %q is used by two members, %s (this one) and %s: give one of them another id: %w",
			strings.TrimSuffix(c.name, masterSuffix), c.self, c.other, discovery.ErrConflict)
	}
	return v
}

// join notes that another member was met, for the first time.
func (c *conflict) join(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.joined.IsZero() {
		c.joined = now
	}
}
