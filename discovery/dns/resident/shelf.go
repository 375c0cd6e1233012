// SPDX-License-Identifier: Apache-2.0

package resident

import (
	"container/list"
	"hash/maphash"
	"sync/atomic"
)

// shelf has the answers of one kind, known or missing, in the order in which they were learnt. It is full when the one that was
// learnt first has to go for another.
//
// While it is, an answer comes in at the second question for it only. The first one leaves a mark. There are as many places
// for marks as for answers, so a mark stays for about as many first questions of others. What is asked for more seldom would have
// gone, too, before it was asked for again: to learn it is work for nothing.
type shelf struct {
	order *list.List // of *entry, oldest first; guarded by Answers.mu
	most  int
	full  atomic.Bool
	asked *marks
}

func newShelf(most int) *shelf { return &shelf{order: list.New(), most: most, asked: newMarks(most)} }

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

// leave leaves a mark and tells whether it was there.
func (m *marks) leave(key []byte) bool {
	place, mark := m.of(key)
	return place.Swap(mark) == mark
}

func (m *marks) has(key []byte) bool {
	place, mark := m.of(key)
	return place.Load() == mark
}

func (s *shelf) push(r *entry) {
	r.place = s.order.PushBack(r)
	s.full.Store(s.order.Len() >= s.most)
}

func (s *shelf) remove(r *entry) {
	s.order.Remove(r.place)
	s.full.Store(s.order.Len() >= s.most)
}

// shelfOf is where answers go that are missing, or known.
func (l *Answers) shelfOf(missing bool) *shelf {
	if missing {
		return l.missing
	}
	return l.known
}

// Wants tells whether an answer should be learnt now, where it is not too seldom asked for: one that is resident already has no
// need to prove that again.
func (l *Answers) Wants(p *Lesson) bool {
	s := l.shelfOf(p.missing)
	return !s.full.Load() || l.memory.get(p.key) != nil || s.asked.leave(p.key)
}
