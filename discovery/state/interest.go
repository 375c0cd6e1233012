// SPDX-License-Identifier: Apache-2.0

package state

import (
	"maps"
	"slices"

	"weft/discovery"
	"weft/discovery/state/operation"
)

// interest is which topics of others are taken, and when each was. It is never changed.
type interest struct {
	topics  map[discovery.Topic]uint64 // the version that began it
	version uint64                     // grows with each change
}

func (i *interest) has(t discovery.Topic) bool {
	if _, ok := i.topics[t]; ok {
		return true
	}
	_, ok := i.topics[discovery.Topic{Kind: t.Kind, Of: discovery.Every}]
	return ok
}

func (i *interest) list() []discovery.Topic {
	return slices.SortedFunc(maps.Keys(i.topics), discovery.Topic.Compare)
}

// Take begins to hold topics of others and returns the version of the interest in which all of them are: who
// has told that they sent what there is for it has sent all of these.
func (s *Store) Take(topics ...discovery.Topic) (version uint64) {
	old := s.now().interest
	if version = old.since(topics); version > 0 || len(topics) == 0 {
		return version
	}
	_ = s.commit(false, func(t *tx) error { // of a closed store nothing is asked any more
		now := t.mem.interest
		next := &interest{topics: maps.Clone(now.topics), version: now.version + 1}
		if next.topics == nil {
			next.topics = make(map[discovery.Topic]uint64)
		}
		for _, topic := range topics {
			if _, there := next.topics[topic]; !there {
				next.topics[topic] = next.version
			}
		}
		if len(next.topics) > len(now.topics) {
			t.mem.interest, t.turned = next, true
		}
		version = t.mem.interest.since(topics)
		return nil
	})
	return version
}

// since is the version in which all topics are taken, 0 if one is not.
func (i *interest) since(topics []discovery.Topic) (version uint64) {
	for _, topic := range topics {
		v := i.topics[topic]
		if v == 0 {
			return 0
		}
		version = max(version, v)
	}
	return version
}

// Leave ends the interest in topics and forgets the rows that only it asked for. No cursor tells of that: what
// was known did not become untrue.
func (s *Store) Leave(topics ...discovery.Topic) {
	_ = s.commit(false, func(t *tx) error { // of a closed store nothing is held
		next := &interest{topics: maps.Clone(t.mem.interest.topics), version: t.mem.interest.version + 1}
		for _, topic := range topics {
			delete(next.topics, topic)
		}
		if len(next.topics) == len(t.mem.interest.topics) {
			return nil
		}
		t.mem.interest, t.turned = next, true
		for _, topic := range topics {
			t.leave(topic)
		}
		return nil
	})
}

// leave forgets the streams of a topic that are not taken any more.
func (t *tx) leave(topic discovery.Topic) {
	var left []discovery.Stream
	t.mem.eachOn(topic, func(of discovery.Stream) {
		if !t.takes(of) {
			left = append(left, of)
		}
	})
	for _, of := range left {
		st := t.mem.stream(of)
		t.clear(&st)
		t.forget(of)
	}
}

// forget drops what is known of a stream without rows.
func (t *tx) forget(of discovery.Stream) {
	if t.mem.dropStream(of) {
		t.streams--
	}
	t.ops = operation.AppendForget(t.ops, of)
}

// Interest returns the topics of others that are taken, and the version of that.
func (s *Store) Interest() (topics []discovery.Topic, version uint64) {
	i := s.now().interest
	return i.list(), i.version
}

// InterestVersion is the version of the interest.
func (s *Store) InterestVersion() uint64 { return s.now().interest.version }

// InterestChanged returns a channel that is closed at the next change of the interest. Take it before Interest.
func (s *Store) InterestChanged() <-chan struct{} { return *s.turned.Load() }

// Holds tells whether a stream is held here, if there is one.
func (s *Store) Holds(of discovery.Stream) bool {
	t := tx{s: s, mem: s.now()}
	return t.takes(of)
}

// takes tells whether a stream is held here.
func (t *tx) takes(of discovery.Stream) bool {
	return of.Topic.IsZero() || t.s.whole || of.Writer == t.s.self || t.mem.interest.has(of.Topic)
}

// resume takes the topics that the disk has rows of.
func (t *tx) resume() {
	next := &interest{topics: make(map[discovery.Topic]uint64), version: 1}
	t.mem.eachStream(func(st *stream) {
		if !st.Topic.IsZero() && st.Writer != t.s.self {
			next.topics[st.Topic] = 1
		}
	})
	t.mem.interest = next
}
