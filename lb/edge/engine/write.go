// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"time"

	"weft/bpf"
	"weft/bpf/row"
	"weft/bpf/table"
	"weft/lb/edge"
)

// read returns what the tables hold, as far as VIPs lead to it.
func read(t *bpf.EdgeTables) (edge.Rows, error) {
	have := edge.Rows{Slots: make(map[uint32][]row.EdgeSlot), Backends: make(map[uint32]row.EdgeBackend)}
	var err error
	if have.VIPs, err = t.VIPs.All(); err != nil {
		return have, fmt.Errorf("read edge_vips: %w", err)
	}
	if have.Connections, err = t.Connections.All(); err != nil {
		return have, fmt.Errorf("read edge_connections: %w", err)
	}
	backends, err := t.Backends.All()
	if err != nil {
		return have, fmt.Errorf("read edge_backends: %w", err)
	}
	for index, b := range backends {
		if b != (row.EdgeBackend{}) {
			have.Backends[index] = b
		}
	}
	for _, vip := range have.VIPs {
		if vip.Slots == 0 {
			continue
		}
		slots := make([]row.EdgeSlot, vip.Slots)
		for i := range slots {
			if slots[i], _, err = t.Slots.Get(vip.First + uint32(i)); err != nil {
				return have, fmt.Errorf("read edge_slots: %w", err)
			}
		}
		have.Slots[vip.First] = slots
	}
	return have, nil
}

// write makes the tables, which hold have, hold want, in an order in which no packet meets a slot or a backend that is
// not there:
//
//  1. backends that are new or changed
//  2. slots
//  3. names of QUIC connections, and VIPs: those that are new or changed, then those that are gone
//  4. backends that are gone: zero, for they are an array
//
// It stops at the first stage that fails: the tables are to be read again then.
func write(t *bpf.EdgeTables, have, want edge.Rows) error {
	if err := put(t.Backends, have.Backends, want.Backends); err != nil {
		return fmt.Errorf("write edge_backends: %w", err)
	}
	for first, slots := range want.Slots {
		if err := putSlots(t.Slots, first, have.Slots[first], slots); err != nil {
			return fmt.Errorf("write edge_slots: %w", err)
		}
	}
	if err := errors.Join(
		put(t.Connections, have.Connections, want.Connections), remove(t.Connections, have.Connections, want.Connections),
	); err != nil {
		return fmt.Errorf("write edge_connections: %w", err)
	}
	if differ(have.VIPs, want.VIPs) {
		err := errors.Join(put(t.VIPs, have.VIPs, want.VIPs), remove(t.VIPs, have.VIPs, want.VIPs))
		if err := errors.Join(err, raise(t)); err != nil {
			return fmt.Errorf("write edge_vips: %w", err)
		}
	}
	for index := range have.Backends {
		if _, ok := want.Backends[index]; ok {
			continue
		}
		if err := t.Backends.Put(index, row.EdgeBackend{}); err != nil {
			return fmt.Errorf("clear edge_backends: %w", err)
		}
	}
	return nil
}

// raise makes void what programs keep of VIPs that they found.
func raise(t *bpf.EdgeTables) error {
	generation, _, err := t.Generation.Get(0)
	if err != nil {
		return err
	}
	return t.Generation.Put(0, cmp.Or(generation+1, 1))
}

func put[K, V comparable](t table.Table[K, V], have, want map[K]V) error {
	rows := make(map[K]V)
	for key, value := range want {
		if old, ok := have[key]; !ok || old != value {
			rows[key] = value
		}
	}
	_, err := table.PutAll(t, rows)
	return err
}

func remove[K, V comparable](t table.Table[K, V], have, want map[K]V) error {
	rows := make(map[K]struct{})
	for key := range have {
		if _, ok := want[key]; !ok {
			rows[key] = struct{}{}
		}
	}
	_, err := table.DeleteAll(t, rows)
	return err
}

func differ[K, V comparable](have, want map[K]V) bool {
	for key, value := range want {
		if old, ok := have[key]; !ok || old != value {
			return true
		}
	}
	return len(have) != len(want)
}

func putSlots(t table.Table[uint32, row.EdgeSlot], first uint32, have, want []row.EdgeSlot) error {
	rows := make(map[uint32]row.EdgeSlot)
	for i, slot := range want {
		if i >= len(have) || have[i] != slot {
			rows[first+uint32(i)] = slot
		}
	}
	_, err := table.PutAll(t, rows)
	return err
}

// servedRows is what tasks of this node serve. What is withdrawn stays for as long as the edge may send to it.
type servedRows struct {
	have     map[row.EdgeServedKey]row.EdgeServed // nil: to be read
	unwanted map[row.EdgeServedKey]time.Duration
}

// relayed tells whether answers of some task go by edge nodes.
func (s *servedRows) relayed() bool {
	for _, r := range s.have {
		if r.Flags&row.EdgeServedRelayed != 0 {
			return true
		}
	}
	return false
}

// sync writes what is wanted and removes what was not for long; due is when the next one is, 0: none is.
func (s *servedRows) sync(
	t table.Table[row.EdgeServedKey, row.EdgeServed], want map[row.EdgeServedKey]row.EdgeServed, now time.Duration,
) (due time.Duration, err error) {
	if s.have == nil {
		if s.have, err = t.All(); err != nil {
			return 0, fmt.Errorf("read served: %w", err)
		}
		s.unwanted = make(map[row.EdgeServedKey]time.Duration)
	}
	next := make(map[row.EdgeServedKey]row.EdgeServed, len(want))
	for key, peer := range s.have {
		if _, ok := want[key]; ok {
			delete(s.unwanted, key)
			continue
		}
		since, ok := s.unwanted[key]
		if !ok {
			since = now
			s.unwanted[key] = now
		}
		if end := since + edge.Linger; end > now {
			next[key] = peer
			if due == 0 || end < due {
				due = end
			}
		} else {
			delete(s.unwanted, key)
		}
	}
	maps.Copy(next, want)
	if err := errors.Join(put(t, s.have, next), remove(t, s.have, next)); err != nil {
		s.have = nil
		return 0, fmt.Errorf("write served: %w", err)
	}
	s.have = next
	return due, nil
}
