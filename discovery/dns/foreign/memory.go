// SPDX-License-Identifier: Apache-2.0

package foreign

import (
	"slices"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru"
	wire "github.com/miekg/dns"
)

// Limits of what is remembered: 16 MiB in all.
const (
	maxRemembered = 4096             // answers
	maxBytes      = 4096             // of one
	maxAge        = 10 * time.Minute // of an answer, whatever its TTL
	maxStale      = 24 * time.Hour   // of an answer that is given because there is no newer one
	staleTTL      = 30               // seconds, of its records (RFC 8767, section 4)
)

// memoryKey is what an answer depends on.
type memoryKey struct {
	name   string
	qtype  uint16
	do, cd bool
}

// keyOf is the key of a question; a question with EDNS options may get an answer of its own.
func keyOf(q *Question) (memoryKey, bool) {
	k := memoryKey{name: q.Name, qtype: q.Type, cd: q.Msg.CheckingDisabled}
	if opt := q.Msg.IsEdns0(); opt != nil {
		k.do = opt.Do()
		for _, o := range opt.Option {
			if !slices.Contains(hopByHop, o.Option()) {
				return k, false
			}
		}
	}
	return k, q.Msg.RecursionDesired
}

// memory is what was said. Names that were asked for once make no room for those that are asked for again (2Q).
type memory struct {
	answers *lru.TwoQueueCache // of memoryKey -> *memo
}

func newMemory() memory {
	c, _ := lru.New2Q(maxRemembered) // errs for a size below one only
	return memory{c}
}

// memo is an answer without OPT.
type memo struct {
	packed     []byte
	at, expiry time.Time
	// given is until when it is given without asking anew although it is old, Unix time.
	given atomic.Int64
}

func (c memory) get(k memoryKey) *memo {
	v, _ := c.answers.Get(k)
	m, _ := v.(*memo)
	return m
}

// recall returns what may still be remembered.
func (c memory) recall(k memoryKey, q *Question, now time.Time) *wire.Msg {
	m := c.get(k)
	if m == nil || !now.Before(m.expiry) {
		return nil
	}
	age := uint32(now.Sub(m.at) / time.Second)
	return m.reply(q, func(h *wire.RR_Header) { h.Ttl -= min(age, h.Ttl) })
}

// old returns what was the answer once: better than none while no resolver answers (RFC 8767).
func (c memory) old(k memoryKey, now time.Time) *memo {
	m := c.get(k)
	if m != nil && now.Sub(m.expiry) > maxStale {
		c.answers.Remove(k)
		return nil
	}
	return m
}

// stale is an old answer, marked as such, with the reason why it is given.
func (m *memo) stale(q *Question, why error) Reply {
	r := m.reply(q, func(h *wire.RR_Header) { h.Ttl = staleTTL })
	if opt := r.IsEdns0(); opt != nil {
		opt.Option = append(opt.Option, &wire.EDNS0_EDE{InfoCode: wire.ExtendedErrorCodeStaleAnswer})
	}
	return Reply{Msg: r, Stale: why}
}

// reply makes the remembered answer one to a question.
func (m *memo) reply(q *Question, ttl func(*wire.RR_Header)) *wire.Msg {
	r := new(wire.Msg)
	_ = r.Unpack(m.packed) // it was packed here
	r.Id, r.Question, r.Authoritative = q.Msg.Id, q.Msg.Question, false
	eachRecord(r, ttl)
	if opt := q.Msg.IsEdns0(); opt != nil {
		r.SetEdns0(udpSize, opt.Do())
	}
	return r
}

// remember keeps an answer in place of the one before. What is not to be kept ends that one's time as well; failures and
// cut answers say nothing of it.
func (c memory) remember(k memoryKey, m *wire.Msg, now time.Time) {
	if m.Truncated || !good(m) {
		return
	}
	packed, ttl := withoutOPT(m), lifetime(m, k.qtype)
	if ttl == 0 || len(packed) == 0 || len(packed) > maxBytes {
		c.answers.Remove(k)
		return
	}
	c.answers.Add(k, &memo{packed: packed, at: now, expiry: now.Add(ttl)})
}

// lifetime is the shortest TTL of an answer; of a missing name or type, behind aliases or not, as short as the SOA record says
// (RFC 2308, section 5), and none without that.
func lifetime(m *wire.Msg, qtype uint16) time.Duration {
	ttl, negative := uint32(maxAge/time.Second), m.Rcode == wire.RcodeNameError || !holds(m, qtype)
	eachRecord(m, func(h *wire.RR_Header) { ttl = min(ttl, h.Ttl) })
	for _, rr := range m.Ns {
		if soa, ok := rr.(*wire.SOA); ok && negative {
			ttl, negative = min(ttl, soa.Minttl), false
		}
	}
	if negative {
		return 0
	}
	return time.Duration(ttl) * time.Second
}

// withoutOPT is the rest of a message in wire form; nil: it has none.
func withoutOPT(m *wire.Msg) []byte {
	keep := m.Copy()
	keep.Compress = true
	keep.Extra = slices.DeleteFunc(keep.Extra, func(rr wire.RR) bool { return rr.Header().Rrtype == wire.TypeOPT })
	packed, err := keep.Pack()
	if err != nil {
		return nil
	}
	return packed
}

// holds tells whether an answer has what was asked for, not aliases alone.
func holds(m *wire.Msg, qtype uint16) bool {
	return slices.ContainsFunc(m.Answer, func(rr wire.RR) bool { return qtype == wire.TypeANY || rr.Header().Rrtype == qtype })
}

// eachRecord calls f for each record but OPT, whose TTL is no time.
func eachRecord(m *wire.Msg, f func(*wire.RR_Header)) {
	for _, section := range [][]wire.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range section {
			if h := rr.Header(); h.Rrtype != wire.TypeOPT {
				f(h)
			}
		}
	}
}
