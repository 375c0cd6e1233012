// SPDX-License-Identifier: Apache-2.0

// Package decision makes of everything decided so far, and of what nodes or an operator ask for, the next decision:
// networks, groups, rules, blocks of addresses, identities, addresses of VIPs, who belongs to the cluster. It is pure:
// the same snapshot and claims give the same decision, whichever master leads.
package decision

import (
	"encoding/json"
	"fmt"

	"weft/control/ledger"
	"weft/discovery"
)

// roomy leaves what a decision's own bookkeeping takes of a change: tombstones and the incarnation.
const roomy = ledger.MaxChanges - 4

// Decision is what a pure function makes of a snapshot: the keys to write and to remove. Removed rows
// leave one record together, so that a master that reads the ledger later still tells of them.
type Decision struct {
	put     map[string][]byte
	remove  []string
	below   []string
	removed []tombstone
}

// full reports whether the rest has to be decided in a change of its own.
func (d *Decision) full() bool { return len(d.put)+len(d.remove)+len(d.below) >= roomy }

// Empty reports whether there is nothing to decide.
func (d *Decision) Empty() bool { return len(d.put)+len(d.remove)+len(d.below) == 0 }

func (d *Decision) set(kind discovery.Kind, key string, v any) {
	value, err := json.Marshal(v)
	if err != nil {
		// Nouns hold strings, numbers and addresses only: all of them can be written.
		panic(fmt.Sprintf("write %s %s: %v", kind, key, err))
	}
	if d.put == nil {
		d.put = map[string][]byte{}
	}
	d.put[string(kind)+"/"+key] = value
}

func (d *Decision) drop(kind discovery.Kind, key string) {
	d.remove = append(d.remove, string(kind)+"/"+key)
	d.removed = append(d.removed, tombstone{kind, rowKey(kind, key)})
}

// dropBelow removes all keys of a kind below network, which are the ones given.
func (d *Decision) dropBelow(kind discovery.Kind, network string, keys []string) {
	if len(keys) == 0 {
		return
	}
	d.below = append(d.below, string(kind)+"/"+network+"/")
	for _, key := range keys {
		d.removed = append(d.removed, tombstone{kind, rowKey(kind, key)})
	}
}

// Change makes the decision one for the ledger. started is the incarnation if s has none yet.
func (d *Decision) Change(s *Snapshot, started uint64) ledger.Change {
	if len(d.removed) > 0 {
		// The base is unique: a second change on it is a conflict. Twenty digits keep the order.
		d.set(kindGone, fmt.Sprintf("%020d", s.version), d.removed)
	}
	if s.numbers[numberIncarnation] == 0 {
		d.set(kindNumber, numberIncarnation, started)
	}
	return ledger.Change{Base: s.version, Put: d.put, Delete: d.remove, DeleteAll: d.below}
}

// Introduce makes a master known to the others; nil where it is.
func Introduce(s *Snapshot, self discovery.Master) *Decision {
	if s.masters[self.ID] == self {
		return nil
	}
	d := &Decision{}
	d.set(discovery.KindMaster, self.ID, self)
	return d
}

// Lead adds that a master leads.
func (d *Decision) Lead(s *Snapshot, self discovery.Master) {
	if s.leader[leaderKey] != self {
		d.set(discovery.KindLeader, leaderKey, self)
	}
}
