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

	wire "github.com/miekg/dns"
	"golang.org/x/sync/semaphore"
)

// Limits of foreign questions.
const (
	maxAsked = 1024             // at the same time
	askFor   = 10 * time.Second // in all
	// nextAfter is how long those asked may keep silent before one more is.
	nextAfter = time.Second
	// staleAfter is how long resolvers may take before who asks is given an old answer: a stub resolver that waits a second
	// for each try is not to wait in vain (RFC 8767, section 5, has 1.8 s for those that wait two). An answer that comes
	// later is remembered.
	staleAfter = 800 * time.Millisecond
	// staleFor is how long an old answer is then given at once.
	staleFor = 5 * time.Second
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
	memory    memory
	// slower are exchanges, some of which go on for a moment after a faster one was taken.
	slower sync.WaitGroup
}

var (
	errNone    = errors.New("there are no resolvers")
	errBusy    = errors.New("too many questions are open")
	errLong    = errors.New("the answer is longer than the asker takes")
	errFailing = errors.New("the resolvers fail")
	errSlow    = errors.New("the resolvers take long")
)

// New returns the resolvers at these addresses, each of which may take so long to answer (0: 5 seconds).
func New(resolvers []netip.AddrPort, within time.Duration, log *slog.Logger) *Resolvers {
	within = cmp.Or(within, answerWithin)
	f := &Resolvers{asked: semaphore.NewWeighted(maxAsked), memory: newMemory()}
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
	return f.memory.recall(key, q, time.Now())
}

// Ask has the question answered by the resolvers. The reply has the asker's id; but for that its bytes are the resolver's.
// When they fail, or take long, an old answer is better than none.
func (f *Resolvers) Ask(ctx context.Context, q *Question) (Reply, error) {
	key, memorable := keyOf(q)
	if !memorable {
		return f.ask(ctx, q)
	}
	old := f.memory.old(key, time.Now())
	if old == nil {
		return f.askAndRemember(ctx, key, q)
	}
	if time.Now().Unix() < old.given.Load() {
		return old.stale(q, errFailing), nil
	}
	answers := make(chan result, 1) // so that one that comes late is not waited with
	f.slower.Go(func() {
		r, err := f.askAndRemember(ctx, key, q)
		answers <- result{r, err}
	})
	patience := time.NewTimer(staleAfter)
	defer patience.Stop()
	why := errSlow
	select {
	case r := <-answers:
		if r.err == nil && good(r.Msg) {
			return r.Reply, nil
		}
		why = cmp.Or(r.err, errFailing)
	case <-patience.C:
	}
	old.given.Store(time.Now().Add(staleFor).Unix())
	return old.stale(q, why), nil
}

// InTurn has the question answered by the first resolver, in the order in which they were given, that says anything in the
// size that the asker takes; they are asked for that size, too. Nothing is remembered. The reply has an id of its own.
func (f *Resolvers) InTurn(ctx context.Context, q *Question) (*wire.Msg, error) {
	err, size := errNone, wire.MinMsgSize
	if opt := q.Msg.IsEdns0(); opt != nil {
		size = max(size, int(opt.UDPSize()))
	}
	for _, u := range f.upstreams {
		var r Reply
		if r, err = u.exchange(ctx, q.Msg.Copy(), q.TCP); err == nil && (q.TCP || len(r.Raw) <= size) {
			return r.Msg, nil
		}
		err = cmp.Or(err, errLong)
	}
	return nil, fmt.Errorf("ask for %s: %w", q.Name, err)
}

func (f *Resolvers) askAndRemember(ctx context.Context, key memoryKey, q *Question) (Reply, error) {
	r, err := f.ask(ctx, q)
	if err == nil {
		f.memory.remember(key, r.Msg, time.Now())
	}
	return r, err
}

// good tells whether a resolver has said what there is, or that there is nothing.
func good(m *wire.Msg) bool { return m.Rcode == wire.RcodeSuccess || m.Rcode == wire.RcodeNameError }

func (f *Resolvers) ask(ctx context.Context, q *Question) (Reply, error) {
	if !f.Able() {
		return Reply{}, errNone
	}
	if !f.asked.TryAcquire(1) {
		return Reply{}, errBusy
	}
	defer f.asked.Release(1)
	best := f.race(ctx, q)
	if best.err != nil {
		return Reply{}, fmt.Errorf("ask for %s: %w", q.Name, best.err)
	}
	best.Raw[0], best.Raw[1] = byte(q.Msg.Id>>8), byte(q.Msg.Id)
	return best.Reply, nil
}

// race asks one resolver after the other, some of them at once, and returns the first good answer, or else what the first said.
func (f *Resolvers) race(ctx context.Context, q *Question) result {
	ctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel() // those that are slower hear that nobody listens
	order := choose(f.upstreams)
	replies := make(chan result, len(order)) // one each, so that the slower ones never wait for us
	asked := 0
	next := func() {
		u := order[asked]
		asked++
		f.slower.Go(func() {
			r, err := u.exchange(ctx, ours(q.Msg), q.TCP)
			replies <- result{r, err}
		})
	}
	for asked < min(atOnce, len(order)) {
		next()
	}
	best := result{err: errors.New("no answer")}
	hedge := time.NewTicker(nextAfter)
	defer hedge.Stop()
	for heard := 0; heard < asked; {
		select {
		case <-hedge.C:
			if asked < len(order) {
				next()
			}
			continue
		case r := <-replies:
			heard++
			if best.err != nil || r.err == nil && good(r.Msg) {
				best = r
			}
		}
		if best.err == nil && good(best.Msg) {
			return best
		}
		if asked < len(order) && ctx.Err() == nil {
			next()
		}
	}
	return best
}
