// SPDX-License-Identifier: Apache-2.0

package decision

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"

	"weft/control/ledger"
	"weft/discovery"
)

// isRow tells the kinds of ledger keys that become rows.
func isRow(kind discovery.Kind) bool {
	switch kind {
	case discovery.KindNetwork, discovery.KindGroup, discovery.KindRule, discovery.KindBlock, discovery.KindIdentity,
		discovery.KindPin, discovery.KindPublication, discovery.KindAdmission, discovery.KindPlain, discovery.KindRefusal, discovery.KindMaster, discovery.KindLeader:
		return true
	default:
		return false
	}
}

// Rows makes an update, which s has, the rows of the writer discovery.Ledger, by Seq. The same update gives the same
// Rows on every master: Seq is the revision that wrote the key, and removed keys come from the records
// of their removal, not from the moment that this master heard of it.
func (s *Snapshot) Rows(u ledger.Update) ([]discovery.Row, error) {
	incarnation := s.numbers[numberIncarnation]
	var list []discovery.Row
	at := map[tombstone]int{}
	add := func(id tombstone, seq uint64, value []byte) {
		r := discovery.Row{
			Writer: discovery.Ledger, Kind: id.Kind, Key: id.Key, Incarnation: incarnation, Seq: seq,
			Deleted: value == nil, Value: value,
		}
		i, twice := at[id]
		switch {
		case !twice:
			at[id] = len(list)
			list = append(list, r)
		case list[i].Seq < seq:
			list[i] = r
		}
	}
	for _, e := range u.Entries {
		kind, rest := split(e.Key)
		switch {
		case e.Deleted:
			// Its tombstone came in the same revision.
		case isRow(kind):
			add(tombstone{kind, rowKey(kind, rest)}, e.Modified, e.Value)
		case kind == kindGone:
			var removed []tombstone
			if err := json.Unmarshal(e.Value, &removed); err != nil {
				return nil, fmt.Errorf("read key %s of the ledger: %w", e.Key, err)
			}
			for _, id := range removed {
				add(id, e.Modified, nil)
			}
		}
	}
	slices.SortFunc(list, func(a, b discovery.Row) int {
		return cmp.Or(cmp.Compare(a.Seq, b.Seq), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Key, b.Key))
	})
	return list, nil
}
