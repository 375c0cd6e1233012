// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"bytes"
	"cmp"
	"maps"
	"math"
	"net/netip"
	"slices"
	"time"

	"weft/bpf/row"
	"weft/lb"
)

// place gives a VIP an id and every backend of it an id and a slot. What is there stays where it is.
//
//	slots there are   A B C D E     B is gone, F is new:   A F C D E
//	                                B is gone:             A E C D
//	                                B drains:              A E C D B
//
// A backend that has an id elsewhere (shared) has that one.
func (c *Compiler) place(in service, old held, shared map[netip.AddrPort]uint32, now uint32) held {
	since := uint32(0)
	if old.Backends > old.Draining {
		since = max(1, now)
	}
	vip, slots := placeVIP(in, old.slots, since, numbers{shared, &c.backends})
	if vip.ID = old.ID; vip.ID == 0 {
		vip.ID = c.vips.next()
	}
	return held{vip, slots, spread(vip, slots, old)}
}

// policies are the kernel's numbers.
var policies = map[lb.Policy]uint8{
	"":                  row.VIPLeastLatency,
	lb.LeastLatency:     row.VIPLeastLatency,
	lb.LeastConnections: row.VIPLeastConnections,
	lb.RoundRobin:       row.VIPRoundRobin,
	lb.Random:           row.VIPRandom,
	lb.Maglev:           row.VIPMaglev,
}

// placeVIP returns the rows of one VIP, without its id. since is when newcomers came, 0: with it.
func placeVIP(in service, old []row.Backend, since uint32, ids numbers) (row.VIP, []row.Backend) {
	slots := placeSlots(in.backends, old, since, ids)
	vip := row.VIP{
		Backends: uint16(len(slots)), Affinity: uint16(in.balance.Affinity / time.Second),
		Policy: policies[in.balance.Policy], // of a later version: random
	}
	for _, s := range in.backends {
		switch s.class() {
		case classNear:
			vip.Near++
		case classDraining:
			vip.Draining++
		}
	}
	open := slots[:vip.Backends-vip.Draining]
	if int(vip.Near) == len(open) {
		vip.Near = 0
	}
	vip.Weight = 1
	if sum, differ := weigh(open); len(open) > 0 {
		vip.Weight = uint16(max(1, (sum+uint64(len(open))/2)/uint64(len(open))))
		if differ {
			vip.Flags = row.VIPWeighted
			share(open[:vip.Near], 0)
			share(open[vip.Near:], int(vip.Near))
		}
	}
	return vip, slots
}

// oldSlots returns what the slots of a VIP hold; one that should be there and is not is zero.
func oldSlots(have Rows, vip row.VIP) []row.Backend {
	slots := make([]row.Backend, vip.Backends)
	for i := range slots {
		slots[i] = have.Backends[row.BackendKey{VIP: vip.ID, Slot: uint16(i)}]
	}
	return slots
}

// The slots of a VIP by class, in this order (bpf/src/shared/vip.h).
const (
	classNear = iota
	classElsewhere
	classDraining
	classes
)

func (s standing) class() int {
	switch {
	case s.weight == 0:
		return classDraining
	case s.near:
		return classNear
	default:
		return classElsewhere
	}
}

// placeSlots puts the backends of one VIP into slots, class by class: first those that can stay in
// their slot, then those whose slot is another class's, then the new ones, into what is left.
func placeSlots(in map[netip.AddrPort]standing, old []row.Backend, since uint32, ids numbers) []row.Backend {
	slots := make([]row.Backend, len(in))
	var ends [classes]int
	for _, s := range in {
		ends[s.class()]++
	}
	for i := 1; i < classes; i++ {
		ends[i] += ends[i-1]
	}
	classAt := func(i int) int { return slices.IndexFunc(ends[:], func(end int) bool { return i < end }) }
	rest := maps.Clone(in)
	var queues [classes][]row.Backend
	for i, b := range old {
		peer := peerOf(b)
		s, wanted := rest[peer]
		if !wanted || b.ID == 0 {
			continue
		}
		delete(rest, peer)
		if b.Weight == 0 && s.weight > 0 {
			b.Since = since // it was out: a newcomer again
		}
		b.ID, b.Weight, b.Share, b.Other = ids.of(peer, b.ID), s.weight, 0, 0
		if classAt(i) == s.class() {
			slots[i] = b
		} else {
			queues[s.class()] = append(queues[s.class()], b)
		}
	}
	fresh := make([]netip.AddrPort, 0, len(rest))
	for peer := range rest {
		fresh = append(fresh, peer)
	}
	slices.SortFunc(fresh, netip.AddrPort.Compare)
	for _, p := range fresh {
		s := rest[p]
		queues[s.class()] = append(queues[s.class()], row.Backend{
			Addr: row.AddrOf(p.Addr()), Port: row.Port(p.Port()), Weight: s.weight, ID: ids.of(p, 0), Since: since,
		})
	}
	for i := range slots {
		if slots[i].ID == 0 {
			queue := &queues[classAt(i)]
			slots[i], *queue = (*queue)[0], (*queue)[1:]
		}
	}
	return slots
}

// numbers gives backends their ids.
type numbers struct {
	shared map[netip.AddrPort]uint32
	fresh  *ids
}

// of returns the id of a backend that has one here (0: it has none).
func (n numbers) of(peer netip.AddrPort, has uint32) uint32 {
	if id, known := n.shared[peer]; known {
		return id
	}
	if has == 0 {
		has = n.fresh.next()
	}
	return has
}

// ids gives numbers that nothing in the tables has. It counts on from the greatest one, so that
// what is remembered of a backend that went is not taken for its successor's.
type ids struct {
	last    uint32
	wrapped bool
	taken   func(uint32) bool // asked once numbers begin anew, after 4 billion
}

func (n *ids) use(id uint32) { n.last = max(n.last, id) }

func (n *ids) next() uint32 {
	for {
		if n.last == math.MaxUint32 {
			n.last, n.wrapped = 0, true
		}
		n.last++
		if !n.wrapped || !n.taken(n.last) {
			return n.last
		}
	}
}

func (c *Compiler) hasVIP(id uint32) bool {
	for _, h := range c.held {
		if h.ID == id {
			return true
		}
	}
	return false
}

func (c *Compiler) hasBackend(id uint32) bool {
	for _, h := range c.held {
		if slices.ContainsFunc(h.slots, func(b row.Backend) bool { return b.ID == id }) {
			return true
		}
	}
	return false
}

func hostFirst(a, b row.VIPKey) int {
	if (a.VNI == vniHost) != (b.VNI == vniHost) {
		return cmp.Compare(b.VNI, a.VNI)
	}
	return compareVIPs(a, b)
}

func compareVIPs(a, b row.VIPKey) int {
	return cmp.Or(
		cmp.Compare(a.VNI, b.VNI),
		bytes.Compare(a.Addr.Bytes[:], b.Addr.Bytes[:]),
		cmp.Compare(row.Port(a.Port), row.Port(b.Port)),
		cmp.Compare(a.Proto, b.Proto),
	)
}
