// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"weft/bpf/row"
)

// Feedbacks returns what this node's connections to backends come to, by backend id: what choices go
// by. Only backends that a task of this node was given have one.
func (p *Plane) Feedbacks() (map[uint32]row.Feedback, error) {
	all := make(map[uint32]row.Feedback)
	var id uint32
	var f row.Feedback
	entries := p.maps["feedbacks"].Iterate()
	for entries.Next(&id, &f) {
		all[id] = f
	}
	return all, walked("feedbacks", entries.Err())
}

// Tallies returns what happened to backends, by id, over all CPUs, since each was first chosen.
func (p *Plane) Tallies() (map[uint32]row.Tally, error) {
	all := make(map[uint32]row.Tally)
	var id uint32
	var perCPU []row.Tally
	entries := p.maps["tallies"].Iterate()
	for entries.Next(&id, &perCPU) {
		var sum row.Tally
		for _, t := range perCPU {
			addTally(&sum, t)
		}
		all[id] = sum
	}
	return all, walked("tallies", entries.Err())
}

func addTally(sum *row.Tally, t row.Tally) {
	sum.Chosen += t.Chosen
	sum.Refused += t.Refused
	sum.Timeouts += t.Timeouts
	sum.Resets += t.Resets
	sum.Ejections += t.Ejections
	sum.LatencySum += t.LatencySum
	for i, n := range t.Latency {
		sum.Latency[i] += n
	}
}

// walked tells whether a walk came to its end. The programs write meanwhile: entries that come or go
// may be missed, and when many do the walk gives up; what it found is good.
func walked(name string, err error) error {
	if err == nil || errors.Is(err, ebpf.ErrIterationAborted) {
		return nil
	}
	return fmt.Errorf("read %s: %w", name, err)
}

// Forget drops what is known of backends and VIPs that are not in use any more.
func (p *Plane) Forget(used func(backend uint32) bool, known func(vip uint32) bool) error {
	return errors.Join(
		p.forgetIDs("feedbacks", used), p.forgetIDs("tallies", used), p.forgetIDs("loads", known),
	)
}

func (p *Plane) forgetIDs(name string, keep func(uint32) bool) error {
	m := p.maps[name]
	var gone []uint32
	var id uint32
	var err error
	// The walk begins anew when the key it stands at is taken away meanwhile: bounded by the map's size.
	for range m.MaxEntries() {
		var last any
		if id != 0 { // ids begin at 1
			last = id
		}
		if err = m.NextKey(last, &id); err != nil {
			break
		}
		if !keep(id) {
			gone = append(gone, id)
		}
	}
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		err = nil
	}
	errs := []error{err}
	for _, id := range gone {
		if err := m.Delete(id); !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("forget %s: %w", name, err)
	}
	return nil
}
