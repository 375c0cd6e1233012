// SPDX-License-Identifier: Apache-2.0

// Package edge decides what the tables of the edge hold: which slots of a published VIP lead to which backend, over
// changes, and what the tasks of this node serve to clients outside. It is pure: what is written and when is lb/edge/engine's.
package edge

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"weft/bpf/row"
	"weft/discovery"
	"weft/lb"
	"weft/lb/maglev"
)

// A plan is made in these stages:
//
//  1. members:  the backends of each publication, of its address's family, with their weights
//  2. backends: an index for each; those that nobody names stay for a while, for the flows that they have
//  3. tables:   slots by Maglev, the change from the last ones as generations (lb/maglev)
//  4. settle:   changes that are old enough end for flows that are not known
const (
	// Slots of a publication, on every edge node the same: shares are exact to one slot, so 1 % at 600 backends; and
	// when one of 100 leaves, less than 1 % of the slots of others move (3 % of 4,093 would).
	Slots = maglev.DefaultSize
	// Settle is how long a change learns the flows that it must not move. Those silent for so long go by the new slots.
	Settle = 5 * time.Minute
	// Linger is how long a backend that was withdrawn keeps the flows that it has.
	Linger = 2 * time.Minute

	// LifeTCP and LifeUDP are how long a known flow that is silent is kept (RFC 5382 5, RFC 4787 4.3).
	LifeTCP = 7440 * time.Second
	LifeUDP = 300 * time.Second

	maxSlots    = 1 << 24 // of bpf/src/lib/edge_maps.h
	maxBackends = 262144
)

// Facts is what a plan is made of.
type Facts struct {
	Publications []lb.Publication
	VIPs         map[lb.Key]lb.VIPStatus // those that are published and have a backend
	Networks     map[string]uint32       // VNI by name
	Nodes        map[discovery.NodeID]Node
	Self         discovery.NodeID
	Own          map[netip.Addr]bool // addresses that nodes have: what is not for a VIP is theirs
	Led          map[netip.Addr]bool // addresses that this node answers neighbours for
	Now          time.Duration       // since some moment
}

// Node is how backends of a node are reached.
type Node struct {
	Addr   netip.Addr // of the underlay
	MTU    uint16     // largest inner IP packet towards it, bytes
	Second bool       // by the second port of tunnels: the first one's frames don't arrive
	Host   uint32     // IPv4 address of its own processes, as rows have it: what answers by the edge name it by; 0: none
	Edge   bool       // of the edge, and alive
	Alive  bool
}

// Rows is what the tables of an edge node hold. Slots are by the first of a segment.
type Rows struct {
	VIPs        map[row.EdgeVIPKey]row.EdgeVIP
	Slots       map[uint32][]row.EdgeSlot
	Backends    map[uint32]row.EdgeBackend
	Connections map[row.EdgeConnectionKey]uint32
}

// Plan is the tables over time. The zero value is empty; see Restore.
type Plan struct {
	// Slots of a publication: another number, a prime, in tests. 0: the constant.
	Slots int

	tables   map[row.EdgeVIPKey]*slots
	backends map[task]*backend
	used     map[uint32]bool          // indexes of backends, and of
	retired  map[uint32]time.Duration // those that are gone, since when: not given anew yet
	last     uint32                   // index given last
}

// task tells backends apart; the receiver knows no more of them (docs/decisions/0008).
type task struct {
	vni uint32
	id  [8]uint8
}

type backend struct {
	index uint32
	row   row.EdgeBackend
	named time.Duration // when it was last
}

// slots are those of one publication.
type slots struct {
	first   uint32
	gen     maglev.Generations // nil: no backend
	members []maglev.Backend   // that it was made of
	changed time.Duration
	settled bool
}

// member is a backend of a publication.
type member struct {
	task
	addr   netip.Addr
	node   Node
	weight uint16
}

func taskID(a netip.Addr) [8]uint8 {
	b := a.As16()
	return [8]uint8(b[8:])
}

func vipKey(p lb.Publication) row.EdgeVIPKey {
	proto := uint8(protoTCP)
	if p.VIP.Protocol == lb.UDP {
		proto = protoUDP
	}
	return row.EdgeVIPKey{Addr: row.AddrOf(p.Addr), Port: row.Port(p.Port), Proto: proto}
}

// IP protocol numbers.
const (
	protoTCP = 6
	protoUDP = 17
)

// Restore begins with what the tables hold, after a restart. Changes in progress begin anew.
func Restore(have Rows, now time.Duration) *Plan {
	p := &Plan{}
	p.init()
	for index, b := range have.Backends {
		if b.VTEP == (row.Addr{}) {
			continue
		}
		p.last, p.used[index] = max(p.last, index), true
		p.backends[task{b.VNI, b.Task}] = &backend{index: index, row: b, named: now - 1}
	}
	for key, vip := range have.VIPs {
		held := have.Slots[vip.First]
		if vip.Slots == 0 || len(held) != int(vip.Slots) {
			continue
		}
		if slices.ContainsFunc(held, func(h row.EdgeSlot) bool { return !p.used[h.Current] || !p.used[h.Previous&^row.EdgeSlotKept] }) {
			continue // rows that another layout's build could not read: an index may soon be another backend's
		}
		s := &slots{first: vip.First, gen: make(maglev.Generations, len(held)), changed: now}
		for i, h := range held {
			s.gen[i] = maglev.Slot{Current: h.Current, Previous: h.Previous &^ row.EdgeSlotKept, Kept: h.Previous&row.EdgeSlotKept != 0}
		}
		s.settled = !s.gen.Changing()
		p.tables[key] = s
	}
	return p
}

func (p *Plan) init() {
	if p.tables == nil {
		p.tables, p.backends = make(map[row.EdgeVIPKey]*slots), make(map[task]*backend)
		p.used, p.retired = make(map[uint32]bool), make(map[uint32]time.Duration)
	}
}

// Compile brings the plan up to the facts and returns the rows of an edge node. next is when it is to be compiled
// again though no fact changes, 0: never. The error names publications that could not be served; the others are.
func (p *Plan) Compile(f Facts) (rows Rows, next time.Duration, err error) {
	p.init()
	publications := slices.SortedFunc(slices.Values(f.Publications), lb.Publication.Compare)
	rows = Rows{
		VIPs: make(map[row.EdgeVIPKey]row.EdgeVIP), Slots: make(map[uint32][]row.EdgeSlot),
		Backends: make(map[uint32]row.EdgeBackend), Connections: make(map[row.EdgeConnectionKey]uint32),
	}
	members := make([][]member, len(publications))
	published := make(map[row.EdgeVIPKey]bool)
	for i, pub := range publications {
		members[i] = f.members(pub)
		published[vipKey(pub)] = true
		p.name(members[i], f.Now)
	}
	maps.DeleteFunc(p.tables, func(key row.EdgeVIPKey, _ *slots) bool { return !published[key] })
	next, gone := p.retire(f)
	serving := serving{now: f.Now, gone: gone, is: make(map[uint32]bool, len(p.backends))}
	for _, b := range p.backends {
		serving.is[b.index] = true
		rows.Backends[b.index] = b.row
	}
	var errs []error
	for i, pub := range publications {
		key := vipKey(pub)
		if !f.Own[pub.Addr] {
			alone := row.EdgeVIP{}
			if f.Led[pub.Addr] {
				alone.Flags = row.EdgeVIPLed
			}
			rows.VIPs[row.EdgeVIPKey{Addr: key.Addr}] = alone
		}
		s, err := p.table(key, members[i], serving)
		if err != nil {
			errs = append(errs, fmt.Errorf("publication %s: %w", pub.Name(), err))
		}
		if at := s.settle(f.Now); at != 0 {
			next = earlier(next, at)
		}
		vip := row.EdgeVIP{First: s.first, Slots: uint32(len(s.gen)), Flags: flags(pub)}
		if len(s.gen) > 0 {
			rows.Slots[s.first] = s.rows()
		}
		rows.VIPs[key] = vip
		if pub.QUIC {
			p.connections(key, members[i], rows.Connections)
		}
	}
	return rows, next, errors.Join(errs...)
}

func flags(p lb.Publication) (flags uint32) {
	if p.Affinity {
		flags |= row.EdgeVIPAffinity
	}
	if p.QUIC {
		flags |= row.EdgeVIPQUIC
	}
	return flags
}

// members returns the backends that a publication may lead to, each once, in the same order on every node.
func (f Facts) members(pub lb.Publication) []member {
	vni, known := f.Networks[pub.VIP.Network]
	if !known {
		return nil
	}
	found := make(map[task]member)
	for _, b := range f.VIPs[pub.VIP].Backends {
		node, known := f.Nodes[b.Node]
		if !known || !node.Addr.IsValid() || !node.Alive && !b.In {
			continue
		}
		for _, a := range b.Addrs {
			if a.Is4() != pub.Addr.Is4() {
				continue
			}
			m := member{task: task{vni, taskID(a)}, addr: a, node: node}
			if b.In {
				m.weight = b.Weight
			}
			if old, twice := found[m.task]; !twice || old.weight < m.weight {
				found[m.task] = m
			}
		}
	}
	return slices.SortedFunc(maps.Values(found), func(a, b member) int { return a.addr.Compare(b.addr) })
}

// name gives each member an index and its row.
func (p *Plan) name(members []member, now time.Duration) {
	for _, m := range members {
		b := p.backends[m.task]
		if b == nil {
			index := p.index()
			if index == 0 {
				continue
			}
			b = &backend{index: index}
			p.backends[m.task] = b
		}
		b.named = now
		b.row = row.EdgeBackend{VTEP: row.AddrOf(m.node.Addr), VNI: m.vni, Task: m.id, MTU: m.node.MTU}
		if m.node.Second {
			b.row.Flags = row.EdgeBackendSecondPort
		}
	}
}

// index returns one that no slot and no known flow leads to, 0 when there is none: it is nobody's.
func (p *Plan) index() uint32 {
	for range maxBackends {
		if p.last++; p.last >= maxBackends {
			p.last = 1
		}
		if !p.used[p.last] {
			p.used[p.last] = true
			return p.last
		}
	}
	return 0
}

// retire ends backends whose node is gone, or that nobody named for long; gone tells that there were some, next when
// the next one is due.
func (p *Plan) retire(f Facts) (next time.Duration, gone bool) {
	alive := make(map[row.Addr]bool, len(f.Nodes))
	for _, n := range f.Nodes {
		if n.Alive {
			alive[row.AddrOf(n.Addr)] = true
		}
	}
	for key, b := range p.backends {
		switch due := b.named + Linger; {
		case b.named == f.Now:
		case due <= f.Now, !alive[b.row.VTEP]:
			p.retired[b.index], gone = f.Now, true
			delete(p.backends, key)
		default:
			next = earlier(next, due)
		}
	}
	return next, gone
}

// Purged tells that no known flow leads to a backend that was gone at that time any more: slots that lead there were
// written anew, and what was known of its flows is forgotten.
func (p *Plan) Purged(at time.Duration) {
	for index, since := range p.retired {
		if since <= at {
			delete(p.retired, index)
			delete(p.used, index)
		}
	}
}

// Merge ends the changes of the VIPs that have no known flow left.
func (p *Plan) Merge(known map[row.EdgeVIPKey]bool) {
	for key, s := range p.tables {
		if s.settled && !known[key] {
			s.gen = s.gen.Merge()
		}
	}
}

// Pending tells whether Purged or Merge have something to do.
func (p *Plan) Pending() bool {
	kept := func(s *slots) bool {
		return s.settled && slices.ContainsFunc(s.gen, func(slot maglev.Slot) bool { return slot.Kept })
	}
	return len(p.retired) > 0 || slices.ContainsFunc(slices.Collect(maps.Values(p.tables)), kept)
}

// serving is which backends may have flows at a time, and whether some that did are gone.
type serving struct {
	now  time.Duration
	is   map[uint32]bool
	gone bool
}

// stale tells that a slot leads to a backend that is gone.
func (s serving) stale(gen maglev.Generations) bool {
	return s.gone && slices.ContainsFunc(gen, func(slot maglev.Slot) bool { return !s.is[slot.Current] || !s.is[slot.Previous] })
}

// table brings the slots of a publication up to its members.
func (p *Plan) table(key row.EdgeVIPKey, members []member, serving serving) (*slots, error) {
	s := p.tables[key]
	if s == nil {
		s = &slots{settled: true}
		p.tables[key] = s
	}
	var wanted []maglev.Backend
	for _, m := range members {
		if b := p.backends[m.task]; b != nil && m.weight > 0 {
			wanted = append(wanted, maglev.Backend{Key: fmt.Sprintf("%d/%s", m.vni, m.addr), ID: b.index, Weight: m.weight})
		}
	}
	if slices.Equal(wanted, s.members) && !serving.stale(s.gen) {
		return s, nil
	}
	table, err := maglev.Build(p.size(), wanted)
	if err != nil {
		return s, err
	}
	switch {
	case table == nil && !slices.ContainsFunc(s.gen, func(slot maglev.Slot) bool { return serving.is[slot.Current] }):
		s.gen, s.first, s.settled = nil, 0, true
	case table == nil: // all drain: nobody else could take what comes
		return s, nil
	case len(s.gen) != len(table): // none, or of another build
		if s.first, err = p.room(); err != nil {
			return s, err
		}
		s.gen, s.settled = maglev.Start(table), true
	default:
		gen, err := s.gen.Next(table, func(index uint32) bool { return serving.is[index] })
		if err != nil {
			return s, err
		}
		if !slices.Equal(gen, s.gen) {
			s.gen, s.changed, s.settled = gen, serving.now, !gen.Changing()
		}
	}
	s.members = wanted
	return s, nil
}

func (p *Plan) size() int { return cmp.Or(p.Slots, Slots) }

// room returns the first of as many slots as a publication has that are nobody's.
func (p *Plan) room() (uint32, error) {
	taken := make(map[uint32]bool, len(p.tables))
	for _, s := range p.tables {
		if len(s.gen) > 0 {
			taken[s.first] = true
		}
	}
	size := uint32(p.size())
	for first := uint32(0); first+size <= maxSlots; first += size {
		if !taken[first] {
			return first, nil
		}
	}
	return 0, fmt.Errorf("there are %d published VIPs with backends, more are not served", len(taken))
}

// settle ends a change that is old enough, and returns when it is to be looked at, 0: not.
func (s *slots) settle(now time.Duration) time.Duration {
	switch {
	case s.settled:
		return 0
	case now < s.changed+Settle:
		return s.changed + Settle
	}
	s.gen, s.settled = s.gen.Settle(), true
	return 0
}

func (s *slots) rows() []row.EdgeSlot {
	rows := make([]row.EdgeSlot, len(s.gen))
	for i, slot := range s.gen {
		rows[i] = row.EdgeSlot{Current: slot.Current, Previous: slot.Previous}
		if slot.Kept {
			rows[i].Previous |= row.EdgeSlotKept
		}
	}
	return rows
}

// connections lets QUIC connection ids name each member.
func (p *Plan) connections(key row.EdgeVIPKey, members []member, rows map[row.EdgeConnectionKey]uint32) {
	for _, m := range members {
		if b := p.backends[m.task]; b != nil {
			rows[row.EdgeConnectionKey{VIP: key, Task: m.id}] = b.index
		}
	}
}

func earlier(a, b time.Duration) time.Duration { return cmp.Or(min(a, b), a, b) }
