// SPDX-License-Identifier: Apache-2.0

package master_test

import (
	"encoding/json"
	"net/netip"
	"slices"
	"sync"

	"weft/discovery"
	"weft/overlay"
)

// facts are rows of nodes in memory, and who lives.
type facts struct {
	alive map[discovery.NodeID]bool

	mu   sync.Mutex
	rows []discovery.Row
	next chan struct{}
}

// Rows implements fabric.Facts.
func (f *facts) Rows(kind discovery.Kind) []discovery.Row {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(f.rows), func(r discovery.Row) bool { return r.Kind != kind })
}

// Changed implements fabric.Facts.
func (f *facts) Changed(...discovery.Kind) <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.next == nil {
		f.next = make(chan struct{})
	}
	return f.next
}

// Alive implements fabric.Members.
func (f *facts) Alive(id discovery.NodeID) bool { return f.alive[id] }

func (f *facts) say(node string, kind discovery.Kind, key string, v any) {
	value, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	f.put(discovery.Row{Writer: node, Kind: kind, Key: key, Incarnation: 7, Seq: 1, Value: value})
}

// put takes a row in place of an earlier one.
func (f *facts) put(r discovery.Row) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rows = slices.DeleteFunc(f.rows, func(old discovery.Row) bool {
		return old.Writer == r.Writer && old.Kind == r.Kind && old.Key == r.Key
	})
	f.rows = append(f.rows, r)
	if f.next != nil {
		close(f.next)
		f.next = nil
	}
}

func (f *facts) node(id, addr string) {
	f.say(id, discovery.KindNode, id, discovery.Node{ID: discovery.NodeID(id), Addrs: []netip.Addr{netip.MustParseAddr(addr)}})
}

func (f *facts) want(node string, w overlay.Want) { f.say(node, discovery.KindWant, w.Network, w) }

// sink keeps the rows that a master tells.
type sink struct {
	mu   sync.Mutex
	rows map[string]discovery.Row // by kind/key
}

func (s *sink) take(list []discovery.Row) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rows == nil {
		s.rows = map[string]discovery.Row{}
	}
	for _, r := range list {
		id := string(r.Kind) + "/" + r.Key
		if s.rows[id].Seq <= r.Seq {
			s.rows[id] = r
		}
	}
	return nil
}

// live returns the keys of a kind, in order.
func (s *sink) live(kind discovery.Kind) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var keys []string
	for _, r := range s.rows {
		if r.Kind == kind && !r.Deleted {
			keys = append(keys, r.Key)
		}
	}
	slices.Sort(keys)
	return keys
}
