// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"encoding/json"
	"fmt"
	"hash/maphash"
	"iter"
	"slices"
)

// Limits of what a watch sends at once. A reader by gRPC takes 4 MiB.
const (
	pieceBytes = 256 << 10 // of rows in one event, about
	partOf     = 250       // records of a name, or backends of a VIP: one is some 200 bytes, and never 4,000
)

// watchedName is the data of an event about a name. Gone means that the name is missing; before the
// node knows all names, it is not sent.
type watchedName struct {
	Name      string          `json:"name"`
	Gone      bool            `json:"gone,omitempty"`
	Records   []watchedRecord `json:"records"`
	Continues bool            `json:"continues,omitempty"` // the event before, whose records are of the name too
	More      bool            `json:"more,omitempty"`
}

type watchedRecord struct {
	Type   string `json:"type"`
	TTL    uint32 `json:"ttl"`
	Data   string `json:"data"`
	From   string `json:"from"`
	Writer string `json:"writer"`
}

// vipKey names a VIP among all.
type vipKey struct {
	VIP      string `json:"vip"`
	Protocol string `json:"protocol"`
	Network  string `json:"network,omitempty"`
}

// vipPart is a VIP with some of its backends.
type vipPart struct {
	VIP
	Continues bool `json:"continues,omitempty"` // the entry before, whose backends are of the VIP too
}

// piece is the data of an event about rows.
type piece struct {
	Changed []json.RawMessage `json:"changed"`
	Gone    []json.RawMessage `json:"gone,omitempty"`
	// Anew says that it is the first: what a reader has heard before, from a connection that broke, may be gone.
	Anew bool `json:"anew,omitempty"`
	More bool `json:"more,omitempty"`
}

func nameParts(name string, records []watchedRecord) []any {
	if len(records) == 0 {
		return []any{watchedName{Name: name, Gone: true, Records: records}}
	}
	var parts []any
	for some := range slices.Chunk(records, partOf) {
		parts = append(parts, watchedName{Name: name, Records: some, Continues: len(parts) > 0, More: (len(parts)+1)*partOf < len(records)})
	}
	return parts
}

// vipRows yields the parts of each VIP.
func vipRows(vips []VIP) iter.Seq2[vipKey, []any] {
	return func(yield func(vipKey, []any) bool) {
		for _, v := range vips {
			parts := []any{vipPart{VIP: v}}
			if len(v.Backends) > partOf {
				parts = parts[:0]
				for some := range slices.Chunk(v.Backends, partOf) {
					part := vipPart{VIP: v, Continues: len(parts) > 0}
					part.Backends = some
					parts = append(parts, part)
				}
			}
			if !yield(vipKey{v.VIP, v.Protocol, v.Network}, parts) {
				return
			}
		}
	}
}

func nodeRows(nodes []Node) iter.Seq2[string, []any] {
	return func(yield func(string, []any) bool) {
		for _, n := range nodes {
			if !yield(n.ID, []any{n}) {
				return
			}
		}
	}
}

// told is what one reader has heard of the rows of an event.
type told[K comparable] struct {
	event string
	seed  maphash.Seed
	rows  map[K]uint64 // what hash says of the row; nil: the reader has heard nothing yet
}

func newTold[K comparable](event string) *told[K] {
	return &told[K]{event: event, seed: maphash.MakeSeed()}
}

// renew notes what a row is now, and tells whether the reader has heard that.
func (t *told[K]) renew(key K, now map[K]uint64, parts [][]byte) (heard bool) {
	before, known := t.rows[key]
	now[key] = hash(t.seed, parts)
	return known && before == now[key]
}

// tell sends the rows that are not what they were, and the keys of those that are gone.
func (t *told[K]) tell(rows iter.Seq2[K, []any], send func(event string, document []byte) error) error {
	first := t.rows == nil
	p := pieces{event: t.event, send: send, now: piece{Anew: first}}
	now := make(map[K]uint64, len(t.rows))
	for key, row := range rows {
		parts, err := encode(row)
		if err != nil {
			return err
		}
		if t.renew(key, now, parts) {
			continue
		}
		for _, part := range parts {
			if err := p.add(&p.now.Changed, part); err != nil {
				return err
			}
		}
	}
	if err := t.tellGone(now, &p); err != nil {
		return err
	}
	if t.rows = now; p.size == 0 && !first {
		return nil
	}
	return p.flush(false) // who hears that there is nothing knows it
}

func (t *told[K]) tellGone(now map[K]uint64, p *pieces) error {
	for key := range t.rows {
		if _, there := now[key]; there {
			continue
		}
		text, err := json.Marshal(key)
		if err != nil {
			return fmt.Errorf("write the key of a row: %w", err)
		}
		if err := p.add(&p.now.Gone, text); err != nil {
			return err
		}
	}
	return nil
}

// pieces cuts rows into events.
type pieces struct {
	event string
	send  func(event string, document []byte) error
	now   piece
	size  int // bytes in now
}

// add puts a text into a list of the present piece, of which there may be a new one then.
func (p *pieces) add(list *[]json.RawMessage, text []byte) error {
	if p.size > 0 && p.size+len(text) > pieceBytes {
		if err := p.flush(true); err != nil {
			return err
		}
	}
	*list = append(*list, text)
	p.size += len(text)
	return nil
}

func (p *pieces) flush(more bool) error {
	if p.now.More = more; p.now.Changed == nil {
		p.now.Changed = []json.RawMessage{}
	}
	text, err := json.Marshal(p.now)
	if err != nil {
		return fmt.Errorf("write %s: %w", p.event, err)
	}
	p.now, p.size = piece{}, 0
	return p.send(p.event, text)
}

func encode(parts []any) ([][]byte, error) {
	texts := make([][]byte, len(parts))
	for i, part := range parts {
		var err error
		if texts[i], err = json.Marshal(part); err != nil {
			return nil, fmt.Errorf("write a row: %w", err)
		}
	}
	return texts, nil
}

// hash is what texts are compared by: two of one row have the same in one of 2^64 cases.
func hash(seed maphash.Seed, parts [][]byte) uint64 {
	var h maphash.Hash
	h.SetSeed(seed)
	for _, part := range parts {
		_, _ = h.Write(part) // never fails
	}
	return h.Sum64()
}
