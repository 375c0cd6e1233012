// SPDX-License-Identifier: Apache-2.0

package resident

import (
	"encoding/binary"
	"hash/maphash"
	"math/rand/v2"
	"sync"
	"sync/atomic"

	wire "github.com/miekg/dns"
)

// again is every how many questions that are answered from memory one goes the long way: in the kernel
// the answer may have given way to others, and is learnt anew there.
const again = 16

// rendered is an answer as it follows its question in a message, whoever asks.
type rendered struct {
	given  atomic.Uint32 // times
	rcode  uint8
	rotate uint8 // size of an answer record when they are turned, else 0
	counts [3]uint16
	data   []byte
}

// shards keep those who read from waiting for one that writes.
const shards = 64

// maxUDP is what an answer over UDP may have, bytes (DNS flag day 2020), as in the kernel.
const maxUDP = 1232

// memory holds the answers that are resident, for questions that come to the server: over the node's
// own sockets, and those that the kernel passes on. Answers keep it true, as it does the kernel's.
type memory struct {
	kernel bool // it answers too, and passes on what it has not
	seed   maphash.Seed
	able   atomic.Bool // foreign names are answered too (RA)
	shards [shards]struct {
		sync.RWMutex
		answers map[string]*rendered
	}
}

func newMemory() *memory {
	m := &memory{seed: maphash.MakeSeed()}
	for i := range m.shards {
		m.shards[i].answers = map[string]*rendered{}
	}
	return m
}

// Sizes of a key, bytes.
const (
	keyHead = 6 // before the name
	keyMax  = keyHead + 255
)

// appendMemoryKey builds the key of an answer, which is also its record in the journal: the name is in wire form and lower case.
func appendMemoryKey(b []byte, vni uint32, qtype uint16, qname []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, vni)
	b = binary.BigEndian.AppendUint16(b, qtype)
	return append(b, qname...)
}

func (m *memory) get(key []byte) *rendered {
	s := &m.shards[maphash.Bytes(m.seed, key)%shards]
	s.RLock()
	defer s.RUnlock()
	return s.answers[string(key)]
}

func (m *memory) put(key []byte, r *rendered) {
	s := &m.shards[maphash.Bytes(m.seed, key)%shards]
	s.Lock()
	defer s.Unlock()
	s.answers[string(key)] = r
}

func (m *memory) remove(key []byte) {
	s := &m.shards[maphash.Bytes(m.seed, key)%shards]
	s.Lock()
	defer s.Unlock()
	delete(s.answers, string(key))
}

// asked is a question that the quick way can answer: the same that the kernel can (bpf/src/lib/question.h).
type asked struct {
	qname []byte // as it came, with the root's byte
	end   int    // of the question in the message
	qtype uint16
	limit int // of the answer, bytes
	edns  bool
	do    byte
}

// Offsets and bits of a message's header (RFC 1035, 4.1.1).
const (
	headSize     = 12
	questionTail = 4 // type and class
	optSize      = 11
	askMax       = 512
	bitQR        = 0x80
	bitsOpcode   = 0x78
	bitAA        = 0x04
	bitTC        = 0x02
	bitRD        = 0x01
	bitRA        = 0x80
	bitCD        = 0x10
)

// parseAsked reads a plain question: one, of class IN, with at most an OPT record of version 0.
func parseAsked(m []byte) (a asked, ok bool) {
	if len(m) < headSize+1+questionTail || len(m) > askMax || m[2]&(bitQR|bitsOpcode|bitTC) != 0 ||
		binary.BigEndian.Uint32(m[4:]) != 1<<16 || binary.BigEndian.Uint16(m[8:]) != 0 || m[10] != 0 || m[11] > 1 {
		return a, false
	}
	at := headSize
	for at < len(m) && m[at] != 0 {
		if m[at] > 63 {
			return a, false
		}
		at += 1 + int(m[at])
	}
	at++
	if at-headSize > 255 || at+questionTail > len(m) || binary.BigEndian.Uint16(m[at+2:]) != 1 {
		return a, false
	}
	a = asked{qname: m[headSize:at], qtype: binary.BigEndian.Uint16(m[at:]), end: at + questionTail, limit: 512}
	if m[11] == 0 {
		return a, a.end == len(m)
	}
	opt := m[a.end:]
	if len(opt) < optSize || opt[0] != 0 || binary.BigEndian.Uint16(opt[1:]) != 41 || opt[6] != 0 ||
		optSize+int(binary.BigEndian.Uint16(opt[9:])) != len(opt) {
		return a, false
	}
	a.edns, a.do = true, opt[7]&0x80
	a.limit = min(max(int(binary.BigEndian.Uint16(opt[3:])), a.limit), maxUDP)
	return a, true
}

// appendKey builds the key of the answer to a question.
func (a *asked) appendKey(b []byte, vni uint32) []byte {
	b = appendMemoryKey(b, vni, a.qtype, a.qname)
	for i := keyHead; i < len(b); i++ { // lengths of labels are below 'A'
		if c := b[i]; c >= 'A' && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return b
}

// answer appends the answer to a message to out; nil: it is for the long way. Hit tells what was said.
func (m *memory) answer(out, msg []byte, vni uint32) (_ []byte, hit *rendered) {
	a, ok := parseAsked(msg)
	if !ok {
		return nil, nil
	}
	var space [keyMax]byte
	r := m.get(a.appendKey(space[:0], vni))
	if r == nil || m.kernel && r.given.Add(1)%again == 0 {
		return nil, nil
	}
	if out = m.write(out, msg, &a, r); out == nil {
		return nil, nil
	}
	return out, r
}

// write appends a rendered answer to a message that was read to out; nil: it is too long for its asker.
func (m *memory) write(out, msg []byte, a *asked, r *rendered) []byte {
	size := a.end + len(r.data)
	if a.edns {
		size += optSize
	}
	if size > a.limit {
		return nil
	}
	out = append(out, msg[:a.end]...)
	out[2] = bitQR | bitAA | msg[2]&bitRD
	out[3] = msg[3]&bitCD | r.rcode
	if m.able.Load() {
		out[3] |= bitRA
	}
	counts := r.counts
	out = r.appendRecords(out)
	if a.edns {
		counts[2]++
		out = append(out, 0, 0, 41, maxUDP>>8, maxUDP&0xff, 0, 0, a.do, 0, 0, 0)
	}
	for i, n := range counts {
		binary.BigEndian.PutUint16(out[6+2*i:], n)
	}
	return out
}

// appendRecords turns the answer records by a random number of places.
func (r *rendered) appendRecords(out []byte) []byte {
	if r.rotate == 0 || r.counts[0] < 2 {
		return append(out, r.data...)
	}
	block := int(r.rotate) * int(r.counts[0])
	first := rand.IntN(int(r.counts[0])) * int(r.rotate)
	out = append(out, r.data[first:block]...)
	out = append(out, r.data[:first]...)
	return append(out, r.data[block:]...)
}

// Refusal turns a question, in place, into its refusal: no longer than it was. It has none when it is none that could be answered
// quickly.
func Refusal(m []byte) ([]byte, bool) {
	a, ok := parseAsked(m)
	if !ok {
		return nil, false
	}
	m = m[:a.end]
	m[2] = m[2]&(bitsOpcode|bitRD) | bitQR
	m[3] = wire.RcodeRefused
	m[10], m[11] = 0, 0
	return m, true
}

// plainName is the text of a name in wire form, lower case, of letters, digits, hyphens and underscores; no other needs escaping.
func plainName(qname []byte) (string, bool) {
	var space [256]byte
	text := append(space[:0], qname[1:]...) // the length of a label is where the dot behind the one before goes
	left := int(qname[0])
	for at, c := range text {
		switch {
		case left == 0:
			left, text[at] = int(c), '.'
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '_':
			left--
		default:
			return "", false
		}
	}
	return string(text), len(text) > 0
}
