// SPDX-License-Identifier: Apache-2.0

package decision

import (
	"cmp"
	"math"
	"slices"

	"weft/control"
	"weft/discovery"
	"weft/overlay"
)

// manyAddresses bounds what is counted of a share; beyond that it does not matter how many there are.
const manyAddresses = math.MaxInt32

// shares counts what nodes have of networks, by network and node: of all that hold a block.
func (s *Snapshot) shares(endpoints []overlay.Endpoint) []control.Share {
	type of struct {
		network string
		node    discovery.NodeID
	}
	held := make(map[of]*control.Share)
	for _, b := range s.blocks {
		if _, plain := s.plain[string(b.Node)]; plain {
			continue // nobody gives addresses of it
		}
		at := of{b.Network, b.Node}
		if held[at] == nil {
			held[at] = &control.Share{Network: b.Network, Node: b.Node}
		}
		free := &held[at].Free4
		if b.Prefix.Addr().Is6() {
			free = &held[at].Free6
		}
		*free += min(overlay.Usable(b.Prefix), manyAddresses)
	}
	for _, e := range endpoints {
		share := held[of{e.Network, e.Node}]
		if share == nil {
			continue
		}
		for _, a := range e.Addrs() {
			used, free := &share.Used4, &share.Free4
			if a.Is6() {
				used, free = &share.Used6, &share.Free6
			}
			*used++
			*free--
		}
	}
	list := make([]control.Share, 0, len(held))
	for _, share := range held {
		// Less than nothing: a block that was just taken away still has tasks.
		share.Free4, share.Free6 = min(max(share.Free4, 0), manyAddresses), min(max(share.Free6, 0), manyAddresses)
		list = append(list, *share)
	}
	slices.SortFunc(list, func(a, b control.Share) int {
		return cmp.Or(cmp.Compare(a.Network, b.Network), cmp.Compare(a.Node, b.Node))
	})
	return list
}
