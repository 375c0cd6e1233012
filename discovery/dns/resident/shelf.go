// SPDX-License-Identifier: Apache-2.0

package resident

import (
	"container/list"
	"hash/maphash"
	"sync/atomic"
)

// shelf has the answers of one kind, known or missing, in the order in which they were learnt.
type shelf struct {
	order *list.List // of *entry, oldest first; guarded by Answers.mu
	most  int
}

func newShelf(most int) *shelf { return &shelf{order: list.New(), most: most} }

// marks remember questions, in 4 bytes each. A new one may take the place of another, by its hash.
type marks struct {
	seed   maphash.Seed
	places []atomic.Uint32
}

func newMarks(n int) *marks { return &marks{maphash.MakeSeed(), make([]atomic.Uint32, n)} }

// of returns a question's mark, and where that is. Of questions with one place two in four thousand million have one mark.
func (m *marks) of(key []byte) (*atomic.Uint32, uint32) {
	hash := maphash.Bytes(m.seed, key)
	return &m.places[hash%uint64(len(m.places))], uint32(hash>>32) | 1 // an empty place has 0
}

func (m *marks) leave(key []byte) {
	place, mark := m.of(key)
	place.Store(mark)
}

func (m *marks) has(key []byte) bool {
	place, mark := m.of(key)
	return place.Load() == mark
}

func (s *shelf) push(r *entry) { r.place = s.order.PushBack(r) }

func (s *shelf) remove(r *entry) { s.order.Remove(r.place) }

// shelfOf is where answers go that are missing, or known.
func (l *Answers) shelfOf(missing bool) *shelf {
	if missing {
		return l.missing
	}
	return l.known
}
