// SPDX-License-Identifier: Apache-2.0

package bpftest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"golang.org/x/sys/unix"

	"weft/bpf/row"
)

// VIPs is what the programs know of VIPs that they translate packet by packet (lib/vip.h).
type VIPs struct {
	VIPs     map[row.VIPKey]row.VIP
	Backends map[row.BackendKey]row.Backend
	Maglevs  map[uint32]row.Maglev
	Barred   map[uint32]bool // backends, by id, that get nothing new while others take it
	// What the programs remember; the model writes it too.
	Translations map[row.FlowKey]row.Translation // without slots and times
	Affinities   map[row.AffinityKey]row.Peer
	Asks         map[uint32]bool // links whose task sent a packet to a VIP
}

// NewVIPs returns none.
func NewVIPs() VIPs {
	return VIPs{
		VIPs: make(map[row.VIPKey]row.VIP), Backends: make(map[row.BackendKey]row.Backend), Maglevs: make(map[uint32]row.Maglev), Barred: make(map[uint32]bool),
		Translations: make(map[row.FlowKey]row.Translation), Affinities: make(map[row.AffinityKey]row.Peer), Asks: make(map[uint32]bool),
	}
}

const never = 1 << 62 // of the kernel's clock, ns

// Fill makes the maps of a set hold them and nothing else.
func (v *VIPs) Fill(s *Set) error {
	now, err := clock()
	if err != nil {
		return err
	}
	translations := make(map[row.FlowKey]row.Translation)
	for key, t := range v.Translations {
		t.Since = now
		translations[key] = t
	}
	affinities := make(map[row.AffinityKey]row.Affinity)
	for key, to := range v.Affinities {
		affinities[key] = row.Affinity{Backend: row.SocketPeer{To: to}, Seen: now}
	}
	return errors.Join(v.FillBehind(s), fill(s, "translations", translations), fill(s, "affinities", affinities), v.mark(s))
}

// clock is the kernel's, ns.
func clock() (uint64, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return 0, fmt.Errorf("read the clock: %w", err)
	}
	return uint64(now.Nano()), nil
}

// FillBehind is Fill for what Go writes; what programs remember stays, but for what connections came to. Every backend
// has a latency so long that none is on trial or counts as silent while a test runs: the model knows no time.
func (v *VIPs) FillBehind(s *Set) error {
	return errors.Join(fill(s, "vips", v.VIPs), fill(s, "backends", v.Backends), fill(s, "maglevs", v.Maglevs),
		v.FillFeedbacks(s), fill(s, "loads", map[uint32]row.Load{}))
}

// FillFeedbacks is Fill for what programs learn of backends. The bars that they set themselves end after five seconds;
// these do not.
func (v *VIPs) FillFeedbacks(s *Set) error {
	now, err := clock()
	if err != nil {
		return err
	}
	feedbacks := make(map[uint32]row.Feedback)
	for _, b := range v.Backends {
		feedbacks[b.ID] = row.Feedback{Latency: math.MaxUint32, Measured: now}
	}
	for id := range v.Barred {
		feedbacks[id] = row.Feedback{Latency: math.MaxUint32, Measured: now, Barred: never}
	}
	return fill(s, "feedbacks", feedbacks)
}

// mark marks the links that ask, and no other that a test has.
func (v *VIPs) mark(s *Set) error {
	for link := range uint32(16) {
		mark := uint32(0)
		if v.Asks[link] {
			mark = 1 // VIP_LINK_ASKS
		}
		if err := s.Maps["vip_links"].Put(link, mark); err != nil {
			return fmt.Errorf("mark link %d: %w", link, err)
		}
	}
	return nil
}

func (p packet) carried() bool { return p.proto == TCP || p.proto == UDP }

// asks tells a SYN, which may be of a new connection at the ports of an old one.
func (p packet) asks() bool { return p.proto == TCP && p.flags&(SYN|ACK) == SYN }

func (p packet) source() row.Peer { return row.Peer{Addr: row.AddrOf(p.src), Port: row.Port(p.sport)} }

func (p packet) destination() row.Peer {
	return row.Peer{Addr: row.AddrOf(p.dst), Port: row.Port(p.dport)}
}

// translated is the key by which a translation of the packet is met.
func (p packet) translated() row.FlowKey {
	if p.fragment == 2 {
		return p.datagram()
	}
	return p.flow()
}

// answerOf is the key by which the answer of a backend to the packet will be met: it goes to the task, but for
// that of the task itself, which goes to the VIP.
func (p packet) answerOf(backend row.Peer) row.FlowKey {
	key := p.flow()
	if backend.Addr != key.Src {
		key.Dst = key.Src
	}
	key.Src, key.Sport, key.Dport = backend.Addr, backend.Port, row.Port(p.sport)
	return key
}

// toVIP decides about a packet of the task at a link to where no block is: of what goes to a VIP it makes what
// goes to a backend; false: there is none.
func (m Model) toVIP(p packet, link uint32) (packet, bool) {
	if p.isICMP() && p.isError() && m.Asks[link] {
		return m.ownNews(p), true
	}
	if !p.carried() {
		return p, true
	}
	vip, is := m.VIPs.VIPs[row.VIPKey{VNI: p.vni, Addr: row.AddrOf(p.dst), Port: row.Port(p.dport), Proto: p.proto}]
	is = is && p.fragment != 2
	if !is && !m.Asks[link] {
		return p, true
	}
	flow, known := m.Translations[p.translated()]
	to := flow.To
	switch {
	case known && (p.fragment == 2 || to.Addr == row.AddrOf(p.dst)):
		m.hears(p)
	case !is:
		return p, true
	case known && m.keeps(p, vip, to):
		if _, expected := m.Translations[p.answerOf(to)]; !expected {
			m.Translations[p.answerOf(to)] = row.Translation{To: p.destination()}
		}
	default:
		if to, known = m.choose(p, vip); !known {
			return p, false
		}
		m.Translations[p.answerOf(to)] = m.asked(p, vip, to)
		m.Translations[p.flow()] = row.Translation{To: to}
		m.Asks[link] = true
	}
	if p.fragment == 1 {
		m.Translations[p.datagram()] = row.Translation{To: to}
	}
	return p.give(to), true
}

// asked is what is known at first of the way back of a new flow.
func (m Model) asked(p packet, vip row.VIP, to row.Peer) row.Translation {
	t := row.Translation{To: p.destination()}
	all, _ := m.slots(vip)
	if b, there := find(all, to); there && (p.proto == UDP || p.asks()) {
		t.BackendID, t.VIPID, t.State = b.ID, vip.ID, row.TranslationAsked
	}
	return t
}

// give makes a packet to a VIP one to its backend. A task that is its own backend sees the VIP on each side.
func (p packet) give(to row.Peer) packet {
	task, vip := p.source(), p.destination()
	switch to.Addr {
	case vip.Addr: // T:b -> V:p becomes V:v -> T:p
		return p.write(true, to).write(false, row.Peer{Addr: task.Addr, Port: vip.Port})
	case task.Addr: // T:p -> V:v becomes V:p -> T:b
		return p.write(false, to).write(true, row.Peer{Addr: vip.Addr, Port: task.Port})
	}
	return p.write(false, to)
}

// slots returns the backends of a VIP: all, and those of them that take new flows.
func (m Model) slots(vip row.VIP) (all, open []row.Backend) {
	for slot := range vip.Backends {
		all = append(all, m.Backends[row.BackendKey{VIP: vip.ID, Slot: slot}])
	}
	return all, all[:vip.Backends-vip.Draining]
}

func find(slots []row.Backend, to row.Peer) (row.Backend, bool) {
	for _, b := range slots {
		if b.Addr == to.Addr && b.Port == to.Port {
			return b, true
		}
	}
	return row.Backend{}, false
}

// keeps tells whether a flow goes on at its backend: an established connection to the end, datagrams while it is
// behind the VIP, a new connection while it takes some.
func (m Model) keeps(p packet, vip row.VIP, to row.Peer) bool {
	all, open := m.slots(vip)
	answer, known := m.Translations[p.answerOf(to)]
	mine := known && answer.To == p.destination()
	if p.proto == TCP && !p.asks() {
		if mine && p.flags&RST != 0 {
			m.leaves(p, p.answerOf(to))
		}
		return true
	}
	if p.asks() {
		all = open
	}
	_, there := find(all, to)
	if over := mine && m.again(p, answer); there && !over {
		return true
	}
	if mine && p.proto == TCP {
		delete(m.Translations, p.answerOf(to))
	}
	return false
}

// tries is how often a backend is sought whose answers are told apart from those of another flow.
const tries = 3

// choose returns the backend of a new flow. Where it is drawn the test is asked which it is, of those that may be.
func (m Model) choose(p packet, vip row.VIP) (to row.Peer, ok bool) {
	_, open := m.slots(vip)
	if len(open) == 0 {
		return to, false
	}
	client := row.AffinityKey{VIP: vip.ID, Client: row.AddrOf(p.src)}
	table, led := m.Maglevs[vip.ID]
	led = led && vip.Policy == row.VIPMaglev
	for try := range uint32(tries) {
		kept, stays := m.stays(vip, client, open)
		switch {
		case stays:
			to = kept
		case led:
			b := m.turn(table, open, p.hash(vip)+try*0x9e3779b9)
			to = row.Peer{Addr: b.Addr, Port: b.Port}
		default:
			to, ok = m.drawn(p, vip, open)
		}
		if of := to.Addr.Netip(); !of.IsValid() || of.Is4() != p.v4 {
			return to, false
		}
		if vip.Affinity > 0 {
			m.Affinities[client] = to
		}
		other, taken := m.Translations[p.answerOf(to)]
		if ok || !taken || other.To == p.destination() {
			break
		}
	}
	return to, true
}

// stays returns the backend that a client had, as long as it can.
func (m Model) stays(vip row.VIP, client row.AffinityKey, open []row.Backend) (row.Peer, bool) {
	to, known := m.Affinities[client]
	b, there := find(open, to)
	return to, known && vip.Affinity > 0 && there && !m.Barred[b.ID]
}

// hash is that of a client, by which a Maglev table is asked.
func (p packet) hash(vip row.VIP) uint32 {
	if vip.Affinity > 0 {
		return maglevHash(p.src, 0)
	}
	return maglevHash(p.src, p.sport)
}

// turn is where a table leads: to the first of eight of its slots that takes something new, else to the next backend in
// order that does, else to the first of those that don't.
func (m Model) turn(table row.Maglev, open []row.Backend, hash uint32) row.Backend {
	first := -1
	for i := range 8 {
		slot := int(table.Slots[(maglevSlot(hash)+i)%row.MaglevSlots])
		if slot >= len(open) {
			continue
		}
		if !m.Barred[open[slot].ID] {
			return open[slot]
		}
		if first < 0 {
			first = slot
		}
	}
	first = max(first, 0)
	for i := range open {
		if b := open[(first+i)%len(open)]; !m.Barred[b.ID] {
			return b
		}
	}
	return open[first]
}

// drawn asks the test which backend was drawn: of the near ones as long as all of them are willing, of all willing ones,
// of all.
func (m Model) drawn(p packet, vip row.VIP, open []row.Backend) (row.Peer, bool) {
	willing, near := m.willing(open), m.willing(open[:vip.Near])
	switch {
	case len(near) > 0 && len(near) == int(vip.Near):
		open = near
	case len(willing) > 0:
		open = willing
	}
	var allowed []row.Peer
	for _, b := range open {
		if b.Addr.Netip().Is4() == p.v4 {
			allowed = append(allowed, row.Peer{Addr: b.Addr, Port: b.Port})
		}
	}
	if len(allowed) == 0 {
		return row.Peer{}, false
	}
	return m.Chosen(p.flow(), allowed), true
}

func (m Model) willing(slots []row.Backend) (list []row.Backend) {
	for _, b := range slots {
		if !m.Barred[b.ID] {
			list = append(list, b)
		}
	}
	return list
}

// release forgets the flow to a VIP whose answers would be met by the key of those to this packet, which goes to a
// task's own address.
func (m Model) release(p packet, link uint32) {
	if !p.carried() || !m.Asks[link] || p.fragment == 2 || p.proto == TCP && !p.asks() {
		return
	}
	answer := p.answerOf(p.destination())
	vip, known := m.Translations[answer]
	if !known {
		return
	}
	key := p.flow()
	key.Dst, key.Dport = vip.To.Addr, vip.To.Port
	delete(m.Translations, key)
	delete(m.Translations, answer)
}

// answered gives what a backend answers to the task at a link the VIP as its source.
func (m Model) answered(p packet, link uint32) packet {
	if !m.Asks[link] {
		return p
	}
	if p.isICMP() && p.isError() {
		return m.news(p)
	}
	vip, known := m.Translations[p.translated()]
	if !p.carried() || !known {
		return p
	}
	m.hears(p)
	if p.fragment == 1 {
		m.Translations[p.datagram()] = row.Translation{To: vip.To}
	}
	return p.write(true, vip.To)
}

// delivered is the end of the walk of a packet for a task: where it passes, an answer comes from the VIP.
func (m Model) delivered(o Outcome, p packet) Outcome {
	if o.Reason == row.ReasonDelivered || o.Reason == row.ReasonAudited {
		p = m.answered(p, o.To.Ifindex)
	}
	o.Frame = p.out
	return o
}

// write gives the packet another source or destination: in what is known of it, and in the frame that leaves.
func (p packet) write(source bool, to row.Peer) packet {
	if p.out == nil {
		p.out = bytes.Clone(p.frame)
	}
	addr, size, port := p.l3+16, 4, p.l4+2
	if !p.v4 {
		addr, size = p.l3+24, 16
	}
	if source {
		addr, port = addr-size, p.l4
	}
	is := to.Addr.Netip()
	if p.v4 {
		p.replace(p.l3+10, addr, is.AsSlice(), false)
	}
	number := binary.NativeEndian.AppendUint16(nil, to.Port)
	if p.fragment != 2 {
		p.replace(p.sumAt(), addr, is.AsSlice(), p.proto == UDP)
		if !bytes.Equal(p.out[port:port+2], number) {
			p.replace(p.sumAt(), port, number, p.proto == UDP)
		}
		copy(p.out[port:], number)
	}
	copy(p.out[addr:], is.AsSlice())
	if source {
		p.src, p.sport = is, binary.BigEndian.Uint16(number)
	} else {
		p.dst, p.dport = is, binary.BigEndian.Uint16(number)
	}
	return p
}

func (p packet) sumAt() int {
	if p.proto == TCP {
		return p.l4 + 16
	}
	return p.l4 + 6
}

// replace makes the checksum at sum that of a frame with other bytes at an offset (RFC 1624): what it lacked before
// it lacks after. optional: 0 is none, and stays none.
func (p packet) replace(sum, at int, is []byte, optional bool) {
	was := binary.BigEndian.Uint16(p.out[sum:])
	if optional && was == 0 {
		return
	}
	total := uint32(was)
	for i := 0; i < len(is); i += 2 {
		total += uint32(binary.BigEndian.Uint16(p.out[at+i:])) + uint32(^binary.BigEndian.Uint16(is[i:]))
	}
	total %= 0xffff
	if optional && total == 0 {
		total = 0xffff
	}
	binary.BigEndian.PutUint16(p.out[sum:], uint16(total))
}
