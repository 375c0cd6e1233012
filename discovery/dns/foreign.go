// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
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

// foreign answers for names that are not ours: it remembers what resolvers said for as long as that
// may be remembered, and asks them for the rest.
type foreign struct {
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

var errBusy = errors.New("too many questions are open")

// forwarded is a zone that has resolvers of its own.
type forwarded struct {
	*foreign
	zone string // lower case, with the final dot
}

// forward sets whom to ask for which names.
func (s *Server) forward(o *Options) {
	within := cmp.Or(o.ResolverTimeout, answerWithin)
	others := func(resolvers []netip.AddrPort) *foreign {
		return newForeign(slices.DeleteFunc(slices.Clone(resolvers), s.isOwn), within, s.log)
	}
	s.foreign = others(o.Resolvers)
	for name, resolvers := range o.ZoneResolvers {
		s.zones = append(s.zones, forwarded{others(resolvers), strings.ToLower(strings.TrimSuffix(name, ".")) + "."})
	}
	slices.SortFunc(s.zones, func(a, b forwarded) int { return cmp.Compare(len(b.zone), len(a.zone)) })
}

// foreignOf returns who is asked for a name.
func (s *Server) foreignOf(name string) *foreign {
	for _, z := range s.zones {
		if wire.IsSubDomain(z.zone, name) {
			return z.foreign
		}
	}
	return s.foreign
}

func newForeign(resolvers []netip.AddrPort, within time.Duration, log *slog.Logger) *foreign {
	f := &foreign{asked: semaphore.NewWeighted(maxAsked)}
	f.memory, _ = lru.New(maxRemembered) // errs for a size below one only
	for _, a := range resolvers {
		f.upstreams = append(f.upstreams, &upstream{addr: a, within: within, log: log})
	}
	return f
}

func (f *foreign) able() bool { return len(f.upstreams) > 0 }

func (f *foreign) stats() []UpstreamStats {
	var all []UpstreamStats
	for _, u := range f.upstreams {
		all = append(all, UpstreamStats{u.addr, u.asked.Load(), u.failed.Load()})
	}
	return all
}

// serveForeign answers a question about a name that is not ours.
func (s *Server) serveForeign(ctx context.Context, w wire.ResponseWriter, q *question) {
	s.stats.foreign.Add(1)
	f := s.foreignOf(q.name)
	if s.mesos != nil && !f.able() {
		s.stats.refused.Add(1)
		s.send(w, q, failure(q.msg, wire.RcodeRefused))
		return
	}
	key, memorable := memoryKeyOf(q)
	if memorable {
		if r := f.recall(key, q, time.Now()); r != nil {
			s.stats.remembered.Add(1)
			fit(r, q)
			_ = w.WriteMsg(r) // who went away gets no answer
			return
		}
	}
	done, ok := s.limits.open(asker(w), time.Now())
	if !ok {
		s.stats.limited.Add(1)
		s.send(w, q, failure(q.msg, wire.RcodeRefused))
		return
	}
	r, err := f.ask(ctx, q)
	done()
	if err == nil && r.msg.Rcode == wire.RcodeServerFailure && memorable && f.recallStale(key, q, time.Now()) != nil {
		err = errors.New("the resolvers fail")
	}
	if err != nil {
		s.stats.failed.Add(1)
		s.log.Debug("no resolver answered", "name", q.name, "type", wire.Type(q.qtype), "error", err)
		if old := f.recallStale(key, q, time.Now()); memorable && old != nil {
			s.stats.stale.Add(1)
			fit(old, q)
			_ = w.WriteMsg(old)
			return
		}
		s.send(w, q, failure(q.msg, wire.RcodeServerFailure))
		return
	}
	if memorable {
		f.remember(key, r.msg, time.Now())
	}
	if len(r.raw) > limit(q) { // a resolver that does not keep to the size it was told
		fit(r.msg, q)
		r.msg.Id = q.msg.Id
		_ = w.WriteMsg(r.msg)
		return
	}
	_, _ = w.Write(r.raw)
}

// ask has the question answered by the resolvers. The reply has the asker's id; but for that its
// bytes are the resolver's.
func (f *foreign) ask(ctx context.Context, q *question) (reply, error) {
	if !f.able() {
		return reply{}, errors.New("there are no resolvers")
	}
	if !f.asked.TryAcquire(1) {
		return reply{}, errBusy
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
		if r.err == nil && (r.msg.Rcode == wire.RcodeSuccess || r.msg.Rcode == wire.RcodeNameError) {
			best = r
			break // the other one is told by cancel that nobody listens
		}
		if best.err != nil {
			best = r
		}
	}
	if best.err != nil {
		return reply{}, fmt.Errorf("ask for %s: %w", q.name, best.err)
	}
	best.raw[0], best.raw[1] = byte(q.msg.Id>>8), byte(q.msg.Id)
	return best.reply, nil
}

// memoryKeyOf is the key of a question; a question with EDNS options may get an answer of its own.
func memoryKeyOf(q *question) (memoryKey, bool) {
	k := memoryKey{name: q.name, qtype: q.qtype, cd: q.msg.CheckingDisabled}
	if opt := q.msg.IsEdns0(); opt != nil {
		k.do = opt.Do()
		for _, o := range opt.Option {
			switch o.Option() {
			case wire.EDNS0COOKIE, wire.EDNS0PADDING, wire.EDNS0TCPKEEPALIVE:
			default:
				return k, false
			}
		}
	}
	return k, q.msg.RecursionDesired
}

// recall returns the remembered answer to a question, its TTLs counted down.
func (f *foreign) recall(k memoryKey, q *question, now time.Time) *wire.Msg {
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
func (f *foreign) recallStale(k memoryKey, q *question, now time.Time) *wire.Msg {
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
func (m memo) reply(q *question, ttl func(*wire.RR_Header)) *wire.Msg {
	r := m.msg.Copy()
	r.Id, r.Question, r.Authoritative = q.msg.Id, q.msg.Question, false
	eachRecord(r, ttl)
	if opt := q.msg.IsEdns0(); opt != nil {
		r.SetEdns0(maxUDP, opt.Do())
	}
	return r
}

// remember keeps an answer for as long as its shortest TTL; a missing name or type for as long as the
// SOA record says (RFC 2308, section 5). Failures and cut answers are not kept.
func (f *foreign) remember(k memoryKey, m *wire.Msg, now time.Time) {
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
