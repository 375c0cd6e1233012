// SPDX-License-Identifier: Apache-2.0

package resident

import (
	"errors"
	"slices"

	wire "github.com/miekg/dns"

	"weft/discovery/zone"
	"weft/discovery/zone/record"
)

// affected returns the resident answers that a change may have made untrue.
func (l *Answers) affected(diff zone.Diff) []*entry {
	var out []*entry
	if diff.All {
		for _, r := range l.entries {
			out = append(out, r)
		}
		return out
	}
	seen := map[*entry]struct{}{}
	for _, q := range diff.Questions {
		for _, r := range l.byName[q.Name] {
			own := r.Name == q.Name && (q.Type == record.Any || uint16(q.Type) == r.Type)
			part := r.Name != q.Name // addresses of a target, anything behind a CNAME
			if _, twice := seen[r]; !twice && (own || part) {
				seen[r] = struct{}{}
				out = append(out, r)
			}
		}
	}
	return out
}

// settle accounts, once, for what an earlier process left in the kernel: each answer is put or deleted, by which what it was
// killed in the middle of is whole too (bpf/answers). Until the zone is complete that is the best answer there is.
func (l *Answers) settle() {
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
func (l *Answers) again(r *entry) {
	l.renewed++
	network, known := l.zone.Network(r.VNI)
	p, err := l.compose(r.Key, l.zone, network.Name)
	if r.VNI != 0 && !known {
		err = errForeign
	}
	if r.inherited && !l.zone.Complete() && (errors.Is(err, errForeign) || errors.Is(err, errUnready)) {
		return // it was true when last heard of, and nobody has said otherwise yet
	}
	if err != nil || l.put(p) != nil {
		l.withdraw(r)
		return
	}
	l.remove(r)
	l.insert(r, p)
}

// put makes the answer resident: in the kernel, unless it is too long for it, then here. What the
// kernel refuses to change is not changed here either: the caller withdraws it from both.
func (l *Answers) put(p *Lesson) error {
	if err := l.putCache(p, p.rendered); err != nil {
		return err
	}
	l.memory.put(p.key, p.rendered)
	return nil
}

func (l *Answers) putCache(p *Lesson, r *rendered) error {
	switch {
	case l.cache == nil:
		return nil
	case l.limit > 0 && len(r.data) > l.limit:
		return l.cache.Delete(p.VNI, p.qname(), p.Type)
	default:
		return l.cache.Put(p.VNI, p.qname(), p.Type, r.rcode, r.counts[0], r.counts[1], r.counts[2], r.rotate, r.data)
	}
}

// delete takes an answer away here and in the kernel.
func (l *Answers) delete(k Key) error {
	key, err := appendKey(nil, k)
	if err != nil {
		return err
	}
	l.memory.remove(key)
	if l.cache == nil {
		return nil
	}
	return l.cache.Delete(k.VNI, key[keyHead:], k.Type)
}

// withdraw takes an answer out of the kernel; the kernel's refusal is remembered and tried again.
func (l *Answers) withdraw(r *entry) {
	l.remove(r)
	if err := l.delete(r.Key); err != nil {
		l.refuse("delete", r.Key, err)
		l.refused[r.Key] = struct{}{}
	}
}

func (l *Answers) refuse(what string, k Key, err error) {
	l.unkept++
	l.log.Error("kernel answer not changed", "step", what, "name", k.Name, "type", wire.Type(k.Type), "vni", k.VNI, "error", err)
}

// retry deletes what the kernel refused to delete before.
func (l *Answers) retry() {
	for k := range l.refused {
		if l.delete(k) == nil {
			delete(l.refused, k)
		}
	}
}

// inherit lists an answer that an earlier process put into the kernel.
func (l *Answers) inherit(k Key) {
	r := &entry{Key: k}
	l.insert(r, &Lesson{missing: !record.Type(k.Type).Held()})
	r.inherited = true
}

func (l *Answers) insert(r *entry, p *Lesson) {
	r.depends, r.missing, r.inherited = p.depends, p.missing, false
	l.entries[r.Key] = r
	for _, n := range append([]string{r.Name}, r.depends...) {
		if !slices.Contains(l.byName[n], r) {
			l.byName[n] = append(l.byName[n], r)
		}
	}
	l.shelfOf(r.missing).push(r)
}

func (l *Answers) remove(r *entry) {
	delete(l.entries, r.Key)
	for _, n := range append([]string{r.Name}, r.depends...) {
		rest := slices.DeleteFunc(l.byName[n], func(o *entry) bool { return o == r })
		if len(rest) == 0 {
			delete(l.byName, n)
		} else {
			l.byName[n] = rest
		}
	}
	l.shelfOf(r.missing).remove(r)
}

// shrink takes away the answers that were learnt first, if they are too many.
func (l *Answers) shrink(s *shelf) {
	for s.order.Len() > s.most {
		r, ok := s.order.Front().Value.(*entry)
		if !ok {
			return
		}
		l.withdraw(r)
	}
}

// compact writes the journal anew when most of it is past.
func (l *Answers) compact() {
	if l.journal.length() < 2*len(l.entries)+1024 {
		return
	}
	keys := make([]Key, 0, len(l.entries)+len(l.refused))
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
