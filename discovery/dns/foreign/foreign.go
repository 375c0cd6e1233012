// SPDX-License-Identifier: Apache-2.0

// Package foreign knows what is said of names that are not ours: it asks resolvers, believes what fits the question, and
// remembers it for as long as that may be remembered. Which names are foreign, and to whom an answer goes, is discovery/dns'.
package foreign

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru"
	wire "github.com/miekg/dns"
	"golang.org/x/sync/semaphore"
)

// Limits of foreign questions.
const (
	maxAsked      = 1024             // at the same time
	maxRemembered = 4096             // answers
	maxAge        = 10 * time.Minute // of an answer, whatever its TTL
	askFor        = 10 * time.Second // in all
	maxStale      = 24 * time.Hour   // of an answer that is given because there is no newer one
	staleTTL      = 30               // seconds, of its records (RFC 8767, section 4)
)

// udpSize is what an answer over UDP may have, bytes (DNS flag day 2020).
const udpSize = 1232

// Question is one question about a foreign name. Msg has it alone, as it was asked.
type Question struct {
	Msg  *wire.Msg
	Name string // lower case
	Type uint16
	TCP  bool // so it came, and so resolvers are asked
}

// Reply is an answer: as it came, and read. What is remembered did not come.
type Reply struct {
	Raw []byte
	Msg *wire.Msg
	// Stale says why an old answer is given (RFC 8767); nil: it is none.
	Stale error
}

// Resolvers are those who answer for some names, and what they said. Make them with New.
type Resolvers struct {
	upstreams []*upstream
	asked     *semaphore.Weighted
	memory    *lru.Cache // of memoryKey -> memo
	// slower are exchanges, some of which go on for a moment after a faster one was taken.
	slower sync.WaitGroup
}

// memoryKey is what an answer depends on.
type memoryKey struct {
	name   string
	qtype  uint16
	do, cd bool
}

// memo is an answer without OPT.
type memo struct {
	msg        *wire.Msg
	at, expiry time.Time
}

var (
	errBusy    = errors.New("too many questions are open")
	errFailing = errors.New("the resolvers fail")
)

// New returns the resolvers at these addresses, each of which may take so long to answer (0: 5 seconds).
func New(resolvers []netip.AddrPort, within time.Duration, log *slog.Logger) *Resolvers {
	within = cmp.Or(within, answerWithin)
	f := &Resolvers{asked: semaphore.NewWeighted(maxAsked)}
	f.memory, _ = lru.New(maxRemembered) // errs for a size below one only
	for _, a := range resolvers {
		f.upstreams = append(f.upstreams, &upstream{addr: a, within: within, log: log})
	}
	return f
}

// Able tells whether there is one.
func (f *Resolvers) Able() bool { return len(f.upstreams) > 0 }

// Stats are counts of each resolver.
func (f *Resolvers) Stats() []Stats {
	var all []Stats
	for _, u := range f.upstreams {
		all = append(all, Stats{u.addr, u.asked.Load(), u.failed.Load()})
	}
	return all
}

// Wait waits for exchanges that nobody listens to any more.
func (f *Resolvers) Wait() { f.slower.Wait() }

// Recall returns the remembered answer to a question, its TTLs counted down; nil: there is none.
func (f *Resolvers) Recall(q *Question) *wire.Msg {
	key, memorable := keyOf(q)
	if !memorable {
		return nil
	}
	return f.recall(key, q, time.Now())
}

// Ask has the question answered by the resolvers. The reply has the asker's id; but for that its bytes are the resolver's.
// When they fail, an old answer is better than none.
func (f *Resolvers) Ask(ctx context.Context, q *Question) (Reply, error) {
	r, err := f.ask(ctx, q)
	key, memorable := keyOf(q)
	if !memorable {
		return r, err
	}
	if err == nil && r.Msg.Rcode != wire.RcodeServerFailure {
		f.remember(key, r.Msg, time.Now())
		return r, nil
	}
	old := f.recallStale(key, q, time.Now())
	if old == nil {
		return r, err
	}
	if err == nil {
		err = errFailing
	}
	return Reply{Msg: old, Stale: err}, nil
}

func (f *Resolvers) ask(ctx context.Context, q *Question) (Reply, error) {
	if !f.Able() {
		return Reply{}, errors.New("there are no resolvers")
	}
	if !f.asked.TryAcquire(1) {
		return Reply{}, errBusy
	}
	defer f.asked.Release(1)
	ctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	order := choose(f.upstreams)
	replies := make(chan result, len(order)) // one each, so that the slower ones never wait for us
	asked := 0
	next := func() {
		u := order[asked]
		asked++
		f.slower.Go(func() {
			r, err := u.exchange(ctx, q)
			replies <- result{r, err}
		})
	}
	for asked < min(atOnce, len(order)) {
		next()
	}
	var best result
	best.err = errors.New("no answer")
	heard := 0
	for heard < asked {
		r := <-replies
		heard++
		if r.err != nil && asked < len(order) && ctx.Err() == nil {
			next()
		}
		if r.err == nil && (r.Msg.Rcode == wire.RcodeSuccess || r.Msg.Rcode == wire.RcodeNameError) {
			best = r
			break // the other one is told by cancel that nobody listens
		}
		if best.err != nil {
			best = r
		}
	}
	if best.err != nil {
		return Reply{}, fmt.Errorf("ask for %s: %w", q.Name, best.err)
	}
	best.Raw[0], best.Raw[1] = byte(q.Msg.Id>>8), byte(q.Msg.Id)
	return best.Reply, nil
}

// keyOf is the key of a question; a question with EDNS options may get an answer of its own.
func keyOf(q *Question) (memoryKey, bool) {
	k := memoryKey{name: q.Name, qtype: q.Type, cd: q.Msg.CheckingDisabled}
	if opt := q.Msg.IsEdns0(); opt != nil {
		k.do = opt.Do()
		for _, o := range opt.Option {
			switch o.Option() {
			case wire.EDNS0COOKIE, wire.EDNS0PADDING, wire.EDNS0TCPKEEPALIVE:
			default:
				return k, false
			}
		}
	}
	return k, q.Msg.RecursionDesired
}

func (f *Resolvers) recall(k memoryKey, q *Question, now time.Time) *wire.Msg {
	v, ok := f.memory.Get(k)
	if !ok {
		return nil
	}
	m, ok := v.(memo)
	if !ok || !now.Before(m.expiry) {
		return nil
	}
	age := uint32(now.Sub(m.at) / time.Second)
	return m.reply(q, func(h *wire.RR_Header) { h.Ttl -= min(age, h.Ttl) })
}

// recallStale returns what was the answer once, marked as such: better than none while no resolver
// answers (RFC 8767).
func (f *Resolvers) recallStale(k memoryKey, q *Question, now time.Time) *wire.Msg {
	v, ok := f.memory.Get(k)
	if !ok {
		return nil
	}
	m, ok := v.(memo)
	if !ok || now.Sub(m.expiry) > maxStale {
		f.memory.Remove(k)
		return nil
	}
	r := m.reply(q, func(h *wire.RR_Header) { h.Ttl = staleTTL })
	if opt := r.IsEdns0(); opt != nil {
		opt.Option = append(opt.Option, &wire.EDNS0_EDE{InfoCode: wire.ExtendedErrorCodeStaleAnswer})
	}
	return r
}

// reply makes the remembered answer one to a question.
func (m memo) reply(q *Question, ttl func(*wire.RR_Header)) *wire.Msg {
	r := m.msg.Copy()
	r.Id, r.Question, r.Authoritative = q.Msg.Id, q.Msg.Question, false
	eachRecord(r, ttl)
	if opt := q.Msg.IsEdns0(); opt != nil {
		r.SetEdns0(udpSize, opt.Do())
	}
	return r
}

// remember keeps an answer for as long as its shortest TTL; a missing name or type for as long as the
// SOA record says (RFC 2308, section 5). Failures and cut answers are not kept.
func (f *Resolvers) remember(k memoryKey, m *wire.Msg, now time.Time) {
	if m.Truncated || m.Rcode != wire.RcodeSuccess && m.Rcode != wire.RcodeNameError {
		return
	}
	ttl := uint32(maxAge / time.Second)
	eachRecord(m, func(h *wire.RR_Header) { ttl = min(ttl, h.Ttl) })
	if len(m.Answer) == 0 || m.Rcode == wire.RcodeNameError {
		known := false
		for _, rr := range m.Ns {
			if soa, ok := rr.(*wire.SOA); ok {
				known, ttl = true, min(ttl, soa.Minttl)
			}
		}
		if !known {
			return
		}
	}
	if ttl == 0 {
		return
	}
	keep := m.Copy()
	var extra []wire.RR
	for _, rr := range keep.Extra {
		if rr.Header().Rrtype != wire.TypeOPT {
			extra = append(extra, rr)
		}
	}
	keep.Extra = extra
	f.memory.Add(k, memo{keep, now, now.Add(time.Duration(ttl) * time.Second)})
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
