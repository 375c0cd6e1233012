// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"slices"

	"weft/bpf/row"
	"weft/lb/maglev"
)

// spread returns which clients of a VIP are whose, nil where its policy asks for no such table: near backends alone are
// in it, where the VIP prefers some. Slots differ from node to node, but every node leads a client to the same backend,
// for their addresses decide. Of more backends than the table has room for none is made: they are drawn.
func spread(vip row.VIP, slots []row.Backend, old held) *row.Maglev {
	if vip.Policy != row.VIPMaglev {
		return nil
	}
	if old.table != nil && old.VIP == vip && slices.Equal(old.slots, slots) {
		return old.table
	}
	open := slots[:cmp.Or(vip.Near, vip.Backends-vip.Draining)]
	backends := make([]maglev.Backend, len(open))
	for i, b := range open {
		backends[i] = maglev.Backend{Key: peerOf(b).String(), ID: uint32(i), Weight: b.Weight}
	}
	filled, err := maglev.Build(row.MaglevSlots, backends)
	if err != nil || filled == nil {
		return nil
	}
	table := new(row.Maglev)
	for i, slot := range filled {
		table.Slots[i] = uint16(slot)
	}
	return table
}
