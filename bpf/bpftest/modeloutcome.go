// SPDX-License-Identifier: Apache-2.0

package bpftest

import (
	"bytes"
	"encoding/binary"

	"weft/bpf/row"
)

// What became of flows to VIPs, as their packets tell (lib/outcome.h), but for what takes time: no flow of the model
// waits so long that its backend counts as silent.

// again tells whether the SYN or datagram of a flow that is known chooses a backend anew.
func (m Model) again(p packet, answer row.Translation) bool {
	if answer.BackendID == 0 {
		return false
	}
	return answer.State == row.TranslationOver || p.proto == TCP && m.Barred[answer.BackendID]
}

// hears notes what a packet of a backend says of the flow that it belongs to.
func (m Model) hears(p packet) {
	key := p.translated()
	t := m.Translations[key]
	ends := p.flags&(RST|FIN) != 0
	switch {
	case t.BackendID == 0:
		return
	case p.proto != TCP:
		if t.State == row.TranslationAsked {
			t.State = row.TranslationAnswered
			delete(m.Barred, t.BackendID)
		}
	case t.State == row.TranslationAsked && p.flags&RST != 0:
		t.State = row.TranslationOver
		m.Barred[t.BackendID] = true
	case t.State == row.TranslationAsked && p.flags&(SYN|ACK) == SYN|ACK:
		t.State, t.First = row.TranslationAnswered, swap(p.word(4)+1)
	case t.State == row.TranslationAnswered && ends:
		t.State = row.TranslationOver
		if p.flags&FIN != 0 || swap(p.word(4)) != t.First {
			delete(m.Barred, t.BackendID)
		}
	}
	m.Translations[key] = t
}

// leaves notes that the task has cut a connection.
func (m Model) leaves(p packet, answer row.FlowKey) {
	t := m.Translations[answer]
	if t.BackendID == 0 {
		return
	}
	if t.State == row.TranslationAnswered && p.flags&ACK != 0 && swap(p.word(8)) != t.First {
		delete(m.Barred, t.BackendID)
	}
	t.State = row.TranslationOver
	m.Translations[answer] = t
}

// word is a word of the TCP header.
func (p packet) word(at int) uint32 { return binary.BigEndian.Uint32(p.frame[p.l4+at:]) }

// swap is a number as rows have it: in network order.
func swap(n uint32) uint32 {
	return binary.NativeEndian.Uint32(binary.BigEndian.AppendUint32(nil, n))
}

// news makes an ICMP error about what a task sent to a VIP's backend one about the VIP.
func (m Model) news(p packet) packet {
	about, ok := p.quoted()
	if !ok || about.Src != row.AddrOf(p.dst) || about.Proto != TCP && about.Proto != UDP {
		return p
	}
	key := row.FlowKey{VNI: p.vni, Src: about.Dst, Dst: about.Src, Sport: about.Dport, Dport: about.Sport, Proto: about.Proto}
	t, known := m.Translations[key]
	if !known {
		return p
	}
	m.unreachable(p, key)
	return p.translateNews(t.To, true, about.Dst == row.AddrOf(p.src))
}

// ownNews makes an ICMP error of a task about what it sent to itself by way of a VIP one about that, by the VIP.
func (m Model) ownNews(p packet) packet {
	about, ok := p.quoted()
	task, vip := row.AddrOf(p.src), row.AddrOf(p.dst)
	if !ok || about.Src != vip || about.Dst != task || about.Proto != TCP && about.Proto != UDP {
		return p
	}
	key := row.FlowKey{VNI: p.vni, Src: task, Dst: vip, Sport: about.Dport, Dport: about.Sport, Proto: about.Proto}
	t, known := m.Translations[key]
	if !known || t.To.Addr != vip {
		return p
	}
	m.unreachable(p, key)
	p = p.translateNews(t.To, true, true)
	p.frame = p.out
	p = p.translateNews(row.Peer{Addr: task, Port: about.Sport}, false, true)
	p.src, p.dst = p.dst, p.src
	return p
}

// unreachable notes what an ICMP error says of the flow whose way back has a key.
func (m Model) unreachable(p packet, key row.FlowKey) {
	t := m.Translations[key]
	if !p.findsNobody() || t.BackendID == 0 {
		return
	}
	switch {
	case t.State == row.TranslationAsked:
		m.Barred[t.BackendID] = true
		t.State = row.TranslationOver
	case t.State == row.TranslationAnswered && key.Proto == UDP:
		t.State = row.TranslationOver
	}
	m.Translations[key] = t
}

// findsNobody tells an ICMP error that says that nobody takes what was sent.
func (p packet) findsNobody() bool {
	if p.v4 {
		return p.icmp == 3 && p.frame[p.l4+1] != 4
	}
	return p.icmp == 1
}

// translateNews makes an ICMP error about what was sent to somebody (out), or by him, one about another one; ends: by that
// one, or to it, too.
func (p packet) translateNews(other row.Peer, out, ends bool) packet {
	p.out = bytes.Clone(p.frame)
	is, quote := other.Addr.Netip().AsSlice(), p.l4+8
	write := func(sum, at int, is []byte) {
		p.replace(sum, at, is, false)
		copy(p.out[at:], is)
	}
	source, destination, header := 8, 24, 40
	sum, quotedSum := p.l4+2, p.l4+2
	if p.v4 {
		source, destination, header = 12, 16, int(p.frame[quote]&15)*4
		sum, quotedSum = p.l3+10, quote+10
	}
	port := 2
	if !out {
		source, destination, port = destination, source, 0
	}
	if ends {
		write(sum, p.l3+source, is)
	}
	write(quotedSum, quote+destination, is)
	write(p.l4+2, quote+header+port, binary.NativeEndian.AppendUint16(nil, other.Port))
	return p
}
