// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	wire "github.com/miekg/dns"

	"weft/discovery/zone"
)

// Limits of what may be resident in the kernel. Names that are missing have a share of their own, so
// that a task which asks for random names pushes out no answer.
const (
	maxResident = 65536
	maxMissing  = 4096
	retryEvery  = time.Second // of changes that the kernel refused
)

// residentKey is a question as the kernel sees it.
type residentKey struct {
	vni   uint32
	name  string // lower case, fully qualified
	qtype uint16
}

// resident is an answer that may be in the kernel. All that the kernel ever got is here until it was
// deleted there, so that no answer can outlive its truth.
type resident struct {
	residentKey
	depends []string // other names with a part in the answer
	missing bool     // NXDOMAIN
	// inherited from an earlier process, and nothing in this one's zone has told yet what is true.
	inherited bool
	place     *list.Element
}

// learner makes answers resident, in memory and in the kernel's cache, and keeps them true. It learns from the zone that is
// served only: an answer that was composed from an older one is not put.
type learner struct {
	memory *memory
	cache  Cache // nil: memory only
	limit  int   // bytes of records in cache, 0: none
	log    *slog.Logger
	// renewing tells who would learn not to wait for a change that may take long.
	renewing atomic.Bool

	mu       sync.Mutex // guards what follows
	zone     *zone.Zone // served
	entries  map[residentKey]*resident
	byName   map[string][]*resident // by the names an answer depends on, its own too
	known    *list.List             // of *resident, oldest first
	missing  *list.List             // the same for missing names
	refused  map[residentKey]struct{}
	journal  *journal
	settled  bool // what an earlier process left in the kernel is accounted for
	unlisted bool // the journal did not tell all of that

	learned, renewed, unkept uint64
}

func newLearner(o *Options, m *memory, log *slog.Logger) (*learner, error) {
	l := &learner{
		memory: m, cache: o.Cache, limit: o.CacheLimit, log: log,
		entries: map[residentKey]*resident{}, byName: map[string][]*resident{},
		known: list.New(), missing: list.New(), refused: map[residentKey]struct{}{},
	}
	if o.Cache == nil {
		l.settled = true
		return l, nil
	}
	j, keys, whole, err := openJournal(o.Journal)
	if err != nil {
		return nil, err
	}
	l.journal, l.unlisted = j, !whole
	if !whole && o.Journal != "" {
		log.Info("which answers the kernel has is not known; they are cleared once the zone is", "path", o.Journal)
	}
	for _, k := range keys {
		if l.entries[k] == nil {
			l.inherit(k)
		}
	}
	return l, nil
}

// learn makes the answer to a question resident. It gives way when the zone is being changed: the
// next asker is as good a teacher.
func (l *learner) learn(q *question) {
	if q.qtype == wire.TypeANY || l.renewing.Load() {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.zone != q.zone {
		return
	}
	k := residentKey{q.vni, q.name, q.qtype}
	p, err := l.prepare(k, q.network)
	if err != nil {
		return // it is the server's to answer
	}
	r := l.entries[k]
	if r == nil {
		// First into the journal: the next process has to know more than the kernel, never less.
		if err := l.journal.add(k); err != nil {
			l.refuse("journal", k, err)
			return
		}
		r = &resident{residentKey: k}
	} else {
		l.remove(r)
	}
	l.insert(r, p)
	if err := l.put(k, p); err != nil {
		l.withdraw(r)
		return
	}
	l.learned++
	l.shrink(l.known, maxResident)
	l.shrink(l.missing, maxMissing)
	l.compact()
}

// renew makes the kernel's answers those of z, then calls serve, with no learning in between.
func (l *learner) renew(z *zone.Zone, diff zone.Diff, serve func()) {
	l.renewing.Store(true)
	defer l.renewing.Store(false)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.zone = z
	for _, r := range l.affected(diff) {
		l.again(r)
	}
	l.settle()
	l.retry()
	serve()
}

// affected returns the resident answers that a change may have made untrue.
func (l *learner) affected(diff zone.Diff) []*resident {
	var out []*resident
	if diff.All {
		for _, r := range l.entries {
			out = append(out, r)
		}
		return out
	}
	seen := map[*resident]struct{}{}
	for _, q := range diff.Questions {
		for _, r := range l.byName[q.Name] {
			own := r.name == q.Name && (q.Type == zone.Any || uint16(q.Type) == r.qtype)
			part := r.name != q.Name // addresses of a target, anything behind a CNAME
			if _, twice := seen[r]; !twice && (own || part) {
				seen[r] = struct{}{}
				out = append(out, r)
			}
		}
	}
	return out
}

// settle accounts, once, for what an earlier process left in the kernel. Until the zone is complete
// that is the best answer there is.
func (l *learner) settle() {
	if l.settled || !l.zone.Complete() {
		return
	}
	if l.unlisted {
		if err := l.cache.Clear(); err != nil {
			l.unkept++
			l.log.Error("kernel answers not cleared", "error", err)
			return // the next change tries again
		}
		l.unlisted = false
	}
	for _, r := range l.affected(zone.Diff{All: true}) {
		l.again(r)
	}
	l.settled = true
}

// again composes a resident answer anew, or takes it away when the server has to answer.
func (l *learner) again(r *resident) {
	l.renewed++
	network, known := l.zone.Network(r.vni)
	p, err := l.prepare(r.residentKey, network.Name)
	if r.vni != 0 && !known {
		err = errForeign
	}
	if r.inherited && !l.zone.Complete() && (errors.Is(err, errForeign) || errors.Is(err, errUnready)) {
		return // it was true when last heard of, and nobody has said otherwise yet
	}
	if err != nil || l.put(r.residentKey, p) != nil {
		l.withdraw(r)
		return
	}
	l.remove(r)
	l.insert(r, p)
}

// names calls yield for every name that a resident answer depends on.
func (l *learner) names(yield func(string) bool) {
	l.mu.Lock()
	names := slices.Collect(maps.Keys(l.byName))
	l.mu.Unlock()
	for _, name := range names {
		if !yield(name) {
			return
		}
	}
}

// forget withdraws the answers that depend on one of these names.
func (l *learner) forget(of func(string) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.entries {
		if of(r.name) || slices.ContainsFunc(r.depends, of) {
			l.withdraw(r)
		}
	}
}

// put makes the answer resident: in the kernel, unless it is too long for it, then here. What the
// kernel refuses to change is not changed here either: the caller withdraws it from both.
func (l *learner) put(k residentKey, p prepared) error {
	r := &rendered{
		rcode: uint8(p.rcode), rotate: p.rotate, data: p.data,
		counts: [3]uint16{uint16(len(p.records)), uint16(len(p.authority)), uint16(len(p.extra))},
	}
	if err := l.putCache(k, p.qname, r); err != nil {
		return err
	}
	l.memory.put(appendMemoryKey(nil, k.vni, k.qtype, p.qname), r)
	return nil
}

func (l *learner) putCache(k residentKey, qname []byte, r *rendered) error {
	switch {
	case l.cache == nil:
		return nil
	case l.limit > 0 && len(r.data) > l.limit:
		return l.cache.Delete(k.vni, qname, k.qtype)
	default:
		return l.cache.Put(k.vni, qname, k.qtype, r.rcode, r.counts[0], r.counts[1], r.counts[2], r.rotate, r.data)
	}
}

// delete takes an answer away here and in the kernel.
func (l *learner) delete(k residentKey) error {
	qname, err := wireName(k.name)
	if err != nil {
		return err
	}
	l.memory.remove(appendMemoryKey(nil, k.vni, k.qtype, qname))
	if l.cache == nil {
		return nil
	}
	return l.cache.Delete(k.vni, qname, k.qtype)
}

// withdraw takes an answer out of the kernel; the kernel's refusal is remembered and tried again.
func (l *learner) withdraw(r *resident) {
	l.remove(r)
	if err := l.delete(r.residentKey); err != nil {
		l.refuse("delete", r.residentKey, err)
		l.refused[r.residentKey] = struct{}{}
	}
}

func (l *learner) refuse(what string, k residentKey, err error) {
	l.unkept++
	l.log.Error("kernel answer not changed", "step", what, "name", k.name, "type", wire.Type(k.qtype), "vni", k.vni, "error", err)
}

// retry deletes what the kernel refused to delete before.
func (l *learner) retry() {
	for k := range l.refused {
		if l.delete(k) == nil {
			delete(l.refused, k)
		}
	}
}

// run retries until ctx ends.
func (l *learner) run(ctx context.Context) error {
	tick := time.NewTicker(retryEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			l.mu.Lock()
			l.retry()
			if l.zone != nil {
				l.settle()
			}
			l.mu.Unlock()
		}
	}
}

// inherit lists an answer that an earlier process put into the kernel.
func (l *learner) inherit(k residentKey) {
	r := &resident{residentKey: k}
	l.insert(r, prepared{})
	r.inherited = true
}

func (l *learner) insert(r *resident, p prepared) {
	r.depends, r.missing, r.inherited = p.depends, p.rcode == wire.RcodeNameError, false
	l.entries[r.residentKey] = r
	for _, n := range append([]string{r.name}, r.depends...) {
		if !slices.Contains(l.byName[n], r) {
			l.byName[n] = append(l.byName[n], r)
		}
	}
	if r.missing {
		r.place = l.missing.PushBack(r)
	} else {
		r.place = l.known.PushBack(r)
	}
}

func (l *learner) remove(r *resident) {
	delete(l.entries, r.residentKey)
	for _, n := range append([]string{r.name}, r.depends...) {
		rest := slices.DeleteFunc(l.byName[n], func(o *resident) bool { return o == r })
		if len(rest) == 0 {
			delete(l.byName, n)
		} else {
			l.byName[n] = rest
		}
	}
	if r.missing {
		l.missing.Remove(r.place)
	} else {
		l.known.Remove(r.place)
	}
}

// shrink takes away the answers that were learnt first.
func (l *learner) shrink(order *list.List, limit int) {
	for order.Len() > limit {
		r, ok := order.Front().Value.(*resident)
		if !ok {
			return
		}
		l.withdraw(r)
	}
}

// compact writes the journal anew when most of it is past.
func (l *learner) compact() {
	if l.journal.length() < 2*len(l.entries)+1024 {
		return
	}
	keys := make([]residentKey, 0, len(l.entries)+len(l.refused))
	for k := range l.entries {
		keys = append(keys, k)
	}
	for k := range l.refused {
		keys = append(keys, k)
	}
	if err := l.journal.rewrite(keys); err != nil {
		l.unkept++
		l.log.Error("journal of kernel answers not written", "error", err)
	}
}

func (l *learner) count(s *Stats) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s.Learned, s.Renewed, s.Unkept, s.Resident = l.learned, l.renewed, l.unkept, len(l.entries)
}

func (l *learner) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.journal.close(); err != nil && !errors.Is(err, errClosed) {
		return fmt.Errorf("journal of kernel answers: %w", err)
	}
	return nil
}
