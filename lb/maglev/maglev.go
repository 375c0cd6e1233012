// SPDX-License-Identifier: Apache-2.0

// Package maglev spreads the slots of a table over weighted backends, such that every node that knows
// the same backends makes the same table, and a backend that comes or goes moves little else. It knows
// neither VIPs nor the kernel: what a slot leads to, and when generations merge, is the caller's.
//
// A table is made in these stages (after Eisenbud et al., Maglev, NSDI 2016, 3.4, with quotas):
//
//  1. entries: backends with weight, in the order of their keys' hashes
//  2. quotas:  how many slots each gets, to the slot; what rounding leaves goes by largest remainder
//  3. fill:    in rounds, each takes the next free slot of its own permutation, until its quota is full
package maglev

import (
	"cmp"
	"errors"
	"fmt"
	"math/bits"
	"slices"
)

// DefaultSize is the slots of a table where memory does not matter: 655 for each of 100 backends.
const DefaultSize = 65537

// sizes that Size chooses from, all prime: a permutation by steps has to reach every slot.
var sizes = [...]int{1021, 4093, 16381, DefaultSize, 262139, 1048573, 8388593}

// slotsPerBackend of a table that Size chooses: a share is off by at most one slot, so below 1 %.
const slotsPerBackend = 102

// ErrInvalid says that a table can't be made of what was given.
var ErrInvalid = errors.New("invalid")

// Backend is one that slots may lead to.
type Backend struct {
	// Key names it wherever tables are made: the same key gets the same slots on every node.
	Key string
	// ID is what slots hold; it may differ from node to node.
	ID uint32
	// Weight is its share, relative to the others'. 0: none.
	Weight uint16
}

// Table holds the ID of a backend in each slot.
type Table []uint32

// Size returns the slots that n backends of like weight need for shares that are within 1 %.
func Size(n int) int {
	for _, size := range sizes {
		if size >= n*slotsPerBackend {
			return size
		}
	}
	return sizes[len(sizes)-1]
}

// Build returns the table of size slots, a prime, for the backends in any order. Without a backend
// that has weight it is nil.
func Build(size int, backends []Backend) (Table, error) {
	entries, err := entriesOf(size, backends)
	if err != nil || len(entries) == 0 {
		return nil, err
	}
	share(size, entries)
	return fill(size, entries), nil
}

// entry is a backend while a table is filled.
type entry struct {
	Backend
	order uint64 // of turns, and between equal remainders
	at    uint32 // the slot that it wants next
	step  uint32 // from there to the one after
	quota int    // slots it gets in all
	turns int    // of a fraction of rounds: see fill
}

func entriesOf(size int, backends []Backend) ([]entry, error) {
	if !isPrime(size) {
		return nil, fmt.Errorf("size %d: %w: must be a prime", size, ErrInvalid)
	}
	entries := make([]entry, 0, len(backends))
	for _, b := range backends {
		if b.Weight == 0 {
			continue
		}
		order := hash(b.Key)
		entries = append(entries, entry{
			Backend: b, order: order,
			at:   uint32(mix(order^1) % uint64(size)),
			step: uint32(mix(order^2)%uint64(size-1)) + 1,
		})
	}
	if len(entries) > size {
		return nil, fmt.Errorf("size %d: %w: there are %d backends, more than slots", size, ErrInvalid, len(entries))
	}
	slices.SortFunc(entries, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.order, b.order), cmp.Compare(a.Key, b.Key))
	})
	for i := 1; i < len(entries); i++ {
		if entries[i].Key == entries[i-1].Key {
			return nil, fmt.Errorf("backend %s: %w: is given twice", entries[i].Key, ErrInvalid)
		}
	}
	return entries, nil
}

// share sets quotas: size slots in all, by weight, at least one each.
func share(size int, entries []entry) {
	var weight uint64
	for _, e := range entries {
		weight += uint64(e.Weight)
	}
	left := size
	rest := make([]uint64, len(entries)) // of the division, in 1/weight of a slot
	ranked := make([]int, len(entries))
	for i := range entries {
		e := &entries[i]
		whole := uint64(size) * uint64(e.Weight)
		e.quota = int(whole / weight)
		rest[i], ranked[i] = whole%weight, i
		if e.quota == 0 {
			e.quota, rest[i] = 1, 0
		}
		left -= e.quota
	}
	slices.SortFunc(ranked, func(a, b int) int { return cmp.Or(cmp.Compare(rest[b], rest[a]), cmp.Compare(a, b)) })
	for i := 0; left > 0; i, left = (i+1)%len(ranked), left-1 {
		entries[ranked[i]].quota++
	}
	// Only where some got a slot that their weight is not worth: from whoever has most.
	for ; left < 0; left++ {
		most := slices.MaxFunc(ranked, func(a, b int) int { return cmp.Compare(entries[a].quota, entries[b].quota) })
		entries[most].quota--
	}
}

// fill lets all take turns. In as many rounds as the largest quota has slots, each has as many turns
// as its own quota, evenly spread: so that a light backend meets free slots as a heavy one does.
func fill(size int, entries []entry) Table {
	table := make(Table, size)
	taken := make([]bool, size)
	rounds := 0
	for _, e := range entries {
		rounds = max(rounds, e.quota)
	}
	for left := size; left > 0; {
		for i := range entries {
			e := &entries[i]
			e.turns += e.quota
			if e.turns < rounds {
				continue
			}
			e.turns -= rounds
			for taken[e.at] {
				e.advance(uint32(size))
			}
			taken[e.at], table[e.at] = true, e.ID
			left--
		}
	}
	return table
}

func (e *entry) advance(size uint32) {
	e.at += e.step
	if e.at >= size {
		e.at -= size
	}
}

// hash is FNV-1a with a finish that spreads it over all bits. It is part of what nodes agree on.
func hash(key string) uint64 {
	h := uint64(0xcbf29ce484222325)
	for i := range len(key) {
		h = (h ^ uint64(key[i])) * 0x100000001b3
	}
	return mix(h)
}

// mix is a bijection in which every bit of x moves about half of the result's (SplitMix64).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// isPrime is by Miller and Rabin, with bases that decide for all 32 bits. Below 2^31, so that a slot
// and a step fit.
func isPrime(n int) bool {
	if n < 2 || n > 1<<31-1 {
		return false
	}
	for _, p := range []int{2, 3, 5, 7} {
		if n%p == 0 {
			return n == p
		}
	}
	odd := n - 1
	twos := bits.TrailingZeros(uint(odd))
	odd >>= twos
	for _, base := range []uint64{2, 3, 5, 7} {
		if !strongProbable(uint64(n), base, uint64(odd), twos) {
			return false
		}
	}
	return true
}

func strongProbable(n, base, odd uint64, twos int) bool {
	x := uint64(1)
	for ; odd > 0; odd >>= 1 {
		if odd&1 == 1 {
			x = x * base % n
		}
		base = base * base % n
	}
	if x == 1 || x == n-1 {
		return true
	}
	for range twos - 1 {
		if x = x * x % n; x == n-1 {
			return true
		}
	}
	return false
}
