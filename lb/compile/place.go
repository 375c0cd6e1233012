// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"bytes"
	"cmp"
	"maps"
	"math"
	"net/netip"
	"slices"

	"weft/bpf/row"
)

// place gives every VIP an id and every backend an id and a slot. What is in have stays where it is.
//
//	slots there are   A B C D E     B is gone, F is new:   A F C D E
//	                                B is gone:             A E C D
func place(wanted map[row.VIPKey]weights, have Rows) Rows {
	want := Rows{
		VIPs:     make(map[row.VIPKey]row.VIP, len(wanted)),
		Backends: make(map[row.BackendKey]row.Backend, len(have.Backends)),
	}
	vips, backends := usedIDs(have)
	keys := make([]row.VIPKey, 0, len(wanted))
	for key := range wanted {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, compareVIPs)
	given := make(map[uint32]bool, len(wanted))
	for _, key := range keys {
		old, known := have.VIPs[key]
		if !known || old.ID == 0 || given[old.ID] {
			old = row.VIP{ID: vips.next()}
		}
		given[old.ID] = true
		slots := placeSlots(wanted[key], oldSlots(have, old), backends)
		want.VIPs[key] = row.VIP{ID: old.ID, Backends: uint16(len(slots)), Policy: row.VIPRandom}
		for i, b := range slots {
			want.Backends[row.BackendKey{VIP: old.ID, Slot: uint16(i)}] = b
		}
	}
	return want
}

// oldSlots returns what the slots of a VIP hold; one that should be there and is not is zero.
func oldSlots(have Rows, vip row.VIP) []row.Backend {
	slots := make([]row.Backend, vip.Backends)
	for i := range slots {
		slots[i] = have.Backends[row.BackendKey{VIP: vip.ID, Slot: uint16(i)}]
	}
	return slots
}

// placeSlots puts the backends of one VIP into slots 0 to len(in)-1: first those that can stay in
// their slot, then those whose slot is beyond the end, then the new ones, into what is left.
func placeSlots(in weights, old []row.Backend, next *ids) []row.Backend {
	slots := make([]row.Backend, len(in))
	rest := maps.Clone(in)
	var moved []row.Backend
	for i, b := range old {
		peer := netip.AddrPortFrom(b.Addr.Netip(), row.Port(b.Port))
		weight, wanted := rest[peer]
		if !wanted || b.ID == 0 {
			continue
		}
		delete(rest, peer)
		b.Weight = weight
		if i < len(slots) {
			slots[i] = b
		} else {
			moved = append(moved, b)
		}
	}
	fresh := make([]netip.AddrPort, 0, len(rest))
	for peer := range rest {
		fresh = append(fresh, peer)
	}
	slices.SortFunc(fresh, netip.AddrPort.Compare)
	for i := range slots {
		switch {
		case slots[i].ID != 0:
		case len(moved) > 0:
			slots[i], moved = moved[0], moved[1:]
		default:
			p := fresh[0]
			fresh = fresh[1:]
			slots[i] = row.Backend{Addr: row.AddrOf(p.Addr()), Port: row.Port(p.Port()), Weight: rest[p], ID: next.next()}
		}
	}
	return slots
}

// ids gives numbers that nothing in the tables has. It counts on from the greatest one, so that
// what is remembered of a backend that went is not taken for its successor's.
type ids struct {
	used map[uint32]bool
	last uint32
}

func usedIDs(have Rows) (vips, backends *ids) {
	vips = &ids{used: make(map[uint32]bool, len(have.VIPs))}
	backends = &ids{used: make(map[uint32]bool, len(have.Backends))}
	for _, v := range have.VIPs {
		vips.use(v.ID)
	}
	for k, b := range have.Backends {
		vips.use(k.VIP) // left behind by a write that was cut short
		backends.use(b.ID)
	}
	return vips, backends
}

func (n *ids) use(id uint32) {
	n.used[id] = true
	n.last = max(n.last, id)
}

func (n *ids) next() uint32 {
	for {
		if n.last == math.MaxUint32 {
			n.last = 0
		}
		n.last++
		if !n.used[n.last] {
			n.used[n.last] = true
			return n.last
		}
	}
}

func compareVIPs(a, b row.VIPKey) int {
	return cmp.Or(
		cmp.Compare(a.VNI, b.VNI),
		bytes.Compare(a.Addr.Bytes[:], b.Addr.Bytes[:]),
		cmp.Compare(row.Port(a.Port), row.Port(b.Port)),
		cmp.Compare(a.Proto, b.Proto),
	)
}
