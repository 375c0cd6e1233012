// SPDX-License-Identifier: Apache-2.0

package record

import (
	"net/netip"
	"slices"
	"strings"

	"weft/discovery/dnsname"
	"weft/discovery/zone/table"
)

// Index maps names to their records. It is immutable: a Txn makes the next one, which shares what did not change.
type Index struct {
	table table.Table[entry]
	names int // that have records
}

// Names counts the names that have records.
func (x *Index) Names() int { return x.names }

// entry is a name. One without records is there because names below it have some (RFC 8020).
type entry struct {
	records []packed // ordered as Compare does
	below   int32    // names with records that end in this one
}

func (e *entry) alive() bool { return len(e.records) > 0 || e.below > 0 }

// packed is a record as it is kept.
type packed struct {
	value string // A, AAAA: the address's bytes; others: the target
	from  *origin
	ttl   uint32
	kind  Type
	port  uint16
}

// origin is what the records of one fact share.
type origin struct {
	network, home, text, from, writer string
	unwell                            bool
}

// Get returns the records of a name. It exists too when names below it do.
func (x *Index) Get(name string) (records []Record, exists bool) {
	e := x.table.At(name)
	if e == nil {
		return nil, false
	}
	return e.unpack(name), true
}

func (e *entry) unpack(name string) []Record {
	if len(e.records) == 0 {
		return nil
	}
	records := make([]Record, len(e.records))
	for i, p := range e.records {
		r := Record{
			Name: name, Type: p.kind, TTL: p.ttl, Port: p.port,
			Network: p.from.network, Home: p.from.home, Unwell: p.from.unwell, Text: p.from.text, From: p.from.from, Writer: p.from.writer,
		}
		if p.kind == A || p.kind == AAAA {
			r.Addr, _ = netip.AddrFromSlice([]byte(p.value)) // none where Mesos-DNS shows a text instead
		} else {
			r.Target = p.value
		}
		records[i] = r
	}
	return records
}

// Within calls yield for the records of each name that has some and is within domain, from the root down; an empty
// domain is the root.
func (x *Index) Within(domain string, yield func([]Record) bool) {
	type found struct {
		name, key string
		entry     *entry
	}
	var list []found
	for name, e := range x.table.Each {
		if len(e.records) > 0 && (domain == "" || dnsname.Within(name, domain)) {
			list = append(list, found{name, string(dnsname.Key(name)), e})
		}
	}
	slices.SortFunc(list, func(a, b found) int { return strings.Compare(a.key, b.key) })
	for _, f := range list {
		if !yield(f.entry.unpack(f.name)) {
			return
		}
	}
}

// Txn is an index that is being made. What records have in common is kept once.
type Txn struct {
	table   *table.Txn[entry]
	names   int
	origins map[origin]*origin
	addrs   map[netip.Addr]string
}

// Txn begins an index that differs from x, which stays as it is.
func (x *Index) Txn() *Txn {
	return &Txn{x.table.Txn(), x.names, map[origin]*origin{}, map[netip.Addr]string{}}
}

// Replace sets the records of a name, in their order, and tells which names begin or cease to exist by that.
func (x *Txn) Replace(name string, records []Record) (moved []string) {
	step := int32(0)
	moved = x.edit(name, func(e *entry) {
		step = int32(min(1, len(records)) - min(1, len(e.records)))
		e.records = x.pack(records)
	})
	if step == 0 {
		return moved
	}
	x.names += int(step)
	for _, above := range dnsname.Ancestry(name)[1:] {
		moved = append(moved, x.edit(above, func(e *entry) { e.below += step })...)
	}
	return moved
}

// edit changes an entry, which goes when nothing is left in it, and returns its name if it came or went.
func (x *Txn) edit(name string, f func(*entry)) (moved []string) {
	e := x.table.Set(name)
	before := e.alive()
	f(e)
	after := e.alive()
	if !after {
		x.table.Remove(name)
	}
	if before != after {
		moved = []string{name}
	}
	return moved
}

func (x *Txn) pack(records []Record) []packed {
	if len(records) == 0 {
		return nil
	}
	list := make([]packed, len(records))
	for i, r := range records {
		o := origin{r.Network, r.Home, r.Text, r.From, r.Writer, r.Unwell}
		if x.origins[o] == nil {
			x.origins[o] = &o
		}
		list[i] = packed{value: r.Target, from: x.origins[o], ttl: r.TTL, kind: r.Type, port: r.Port}
		if r.Addr.IsValid() {
			bytes, known := x.addrs[r.Addr]
			if !known {
				bytes = string(r.Addr.AsSlice())
				x.addrs[r.Addr] = bytes
			}
			list[i].value = bytes
		}
	}
	return list
}

// Commit ends the Txn.
func (x *Txn) Commit() Index { return Index{x.table.Commit(), x.names} }
