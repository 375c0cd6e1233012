// SPDX-License-Identifier: Apache-2.0

// Package resident keeps answers about names of ours where they are given without a thought: in memory and, where there is
// one, in the kernel's cache. It learns what was asked for once, and keeps it true while the zone changes. Who asks and which
// zone there is, is discovery/dns'; what an answer says, discovery/dns/answer's.
package resident

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

	"weft/discovery/zone"
	"weft/discovery/zone/record"
)

// Limits of what may be resident in the kernel. What is missing for sure, names and types that no zone has, has a share of its
// own, so that a task which asks for random ones pushes out no answer.
const (
	maxResident = 65536
	maxMissing  = 4096
	retryEvery  = time.Second // of changes that the kernel refused
)

// Key is a question as the kernel sees it.
type Key struct {
	VNI  uint32 // of the asker's network, 0: the host
	Name string // lower case, fully qualified
	Type uint16
}

// Cache is where the kernel looks for answers. bpf/answers has it.
type Cache interface {
	// Put sets the answer to a question: qname is the lower-case wire form with the root's byte, data
	// the records that follow the question in the message (which begins 12 bytes before the
	// question). rotate is the size of an answer record when records may be rotated, else 0.
	Put(vni uint32, qname []byte, qtype uint16, rcode uint8, ancount, nscount, arcount uint16,
		rotate uint8, data []byte) error
	// Delete forgets the answer; one that is not there is no error.
	Delete(vni uint32, qname []byte, qtype uint16) error
	// Clear forgets all answers.
	Clear() error
}

// Options say where answers are resident besides memory.
type Options struct {
	// Cache is the kernel's; nil: none.
	Cache Cache
	// Limit is how many bytes of records an answer in Cache may have; longer ones are in memory only. 0: none are.
	Limit int
	// Journal is the file that remembers what is in Cache for the next process; empty: that one clears the cache.
	Journal string
	Fixed   bool         // records keep their order; else they are turned, from answer to answer
	Log     *slog.Logger // required
}

// Stats counts answers.
type Stats struct {
	Learned  uint64 // put, since Open
	Renewed  uint64 // replaced or deleted because the zone changed
	Unkept   uint64 // refusals of the kernel's cache
	Resident int    // now, in the kernel too unless they are too long for it
}

// entry is an answer that may be in the kernel. All that the kernel ever got is here until it was
// deleted there, so that no answer can outlive its truth.
type entry struct {
	Key
	depends []string // other names with a part in the answer
	missing bool     // as Lesson.missing
	// inherited from an earlier process, and nothing in this one's zone has told yet what is true.
	inherited bool
	place     *list.Element
}

// Answers are those that are resident. They are learnt from the zone that is served only: an answer that was composed from an
// older one is not put. Make them with Open.
type Answers struct {
	memory  *memory
	cache   Cache // nil: memory only
	limit   int   // bytes of records in cache, 0: none
	fixed   bool
	log     *slog.Logger
	known   *shelf
	missing *shelf // what is missing
	long    *marks // of answers that are longer than any that is resident
	// renewing tells who would learn not to wait for a change that may take long.
	renewing atomic.Bool

	mu       sync.Mutex // guards what follows
	zone     *zone.Zone // served
	entries  map[Key]*entry
	byName   map[string][]*entry // by the names an answer depends on, its own too
	refused  map[Key]struct{}
	journal  *journal
	settled  bool // what an earlier process left in the kernel is accounted for
	unlisted bool // the journal did not tell all of that

	learned, renewed, unkept uint64
}

// Open reads the journal. Nothing is resident but what that lists.
func Open(o Options) (*Answers, error) {
	l := &Answers{
		memory: newMemory(), cache: o.Cache, limit: o.Limit, fixed: o.Fixed, log: o.Log,
		entries: map[Key]*entry{}, byName: map[string][]*entry{},
		known: newShelf(maxResident), missing: newShelf(maxMissing), long: newMarks(maxMissing), refused: map[Key]struct{}{},
	}
	l.memory.kernel = o.Cache != nil
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
		o.Log.Info("which answers the kernel has is not known; they are cleared once the zone is", "path", o.Journal)
	}
	for _, k := range keys {
		if l.entries[k] == nil {
			l.inherit(k)
		}
	}
	return l, nil
}

// To appends the answer to a message of an asker in a network to out, and returns its rcode. Without hit there is none.
func (l *Answers) To(out, msg []byte, vni uint32) (_ []byte, rcode int, hit bool) {
	out, r := l.memory.answer(out, msg, vni)
	if r == nil {
		return nil, 0, false
	}
	return out, int(r.rcode), true
}

// SetRecursion sets what answers from memory say of foreign names: that those are answered too (RA).
func (l *Answers) SetRecursion(able bool) { l.memory.able.Store(able) }

// Question returns what a message asks in a network, if it asks as To reads it for a name of letters, digits, hyphens and
// underscores, and no answer to it is resident, nor was too long for that: to compose what is long may take a while.
func (l *Answers) Question(msg []byte, vni uint32) (Key, bool) {
	a, ok := parseAsked(msg)
	if !ok || !record.Type(a.qtype).Held() {
		return Key{}, false
	}
	var space [keyMax]byte
	key := a.appendKey(space[:0], vni)
	if l.memory.get(key) != nil || l.long.has(key) {
		return Key{}, false
	}
	name, ok := plainName(key[keyHead:])
	return Key{VNI: vni, Name: name, Type: a.qtype}, ok
}

// Say appends a rendered answer to a message that Question read to out, and returns its rcode. It fails when that is too long for
// the asker.
func (l *Answers) Say(out, msg []byte, p *Lesson) (_ []byte, rcode int, ok bool) {
	a, ok := parseAsked(msg)
	if !ok {
		return nil, 0, false
	}
	out = l.memory.write(out, msg, &a, p.rendered)
	return out, int(p.rendered.rcode), out != nil
}

// Learn makes an answer resident. It gives way when the zone is being changed: the next asker is as good a teacher.
func (l *Answers) Learn(p *Lesson) {
	if l.renewing.Load() {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.zone != p.zone {
		return
	}
	r := l.entries[p.Key]
	if r == nil {
		// First into the journal: the next process has to know more than the kernel, never less.
		if err := l.journal.add(p); err != nil {
			l.refuse("journal", p.Key, err)
			return
		}
		r = &entry{Key: p.Key}
	} else {
		l.remove(r)
	}
	l.insert(r, p)
	if err := l.put(p); err != nil {
		l.withdraw(r)
		return
	}
	l.learned++
	l.shrink(l.known)
	l.shrink(l.missing)
	l.compact()
}

// Renew makes the answers those of z, then calls serve, with no learning in between.
func (l *Answers) Renew(z *zone.Zone, diff zone.Diff, serve func()) {
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

// Names calls yield for every name that a resident answer depends on.
func (l *Answers) Names(yield func(string) bool) {
	l.mu.Lock()
	names := slices.Collect(maps.Keys(l.byName))
	l.mu.Unlock()
	for _, name := range names {
		if !yield(name) {
			return
		}
	}
}

// Forget withdraws the answers that depend on one of these names.
func (l *Answers) Forget(of func(string) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.entries {
		if of(r.Name) || slices.ContainsFunc(r.depends, of) {
			l.withdraw(r)
		}
	}
}

// Run tries refused changes again until ctx ends.
func (l *Answers) Run(ctx context.Context) error {
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

// Stats returns the present counts.
func (l *Answers) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Stats{Learned: l.learned, Renewed: l.renewed, Unkept: l.unkept, Resident: len(l.entries)}
}

// Close closes the journal. What is in the kernel stays there.
func (l *Answers) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.journal.close(); err != nil && !errors.Is(err, errClosed) {
		return fmt.Errorf("journal of kernel answers: %w", err)
	}
	return nil
}
