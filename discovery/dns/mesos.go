// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"math/rand/v2"
	"slices"
	"sort"
	"strings"
	"time"

	wire "github.com/miekg/dns"

	"weft/discovery/dns/answer"
	"weft/discovery/zone"
	"weft/discovery/zone/record"
)

// Mesos makes a server answer as Mesos-DNS does, from a zone made with MesosOnly. With Strict, which the zone has to be
// made with too, it answers to the letter; without, these are put right:
//
//   - the size that a client takes over UDP counts (EDNS)
//   - a missing name is missing for SRV too, and the apex is there for all types
//   - SOA and NS are answers, of the apex alone; the SOA record of what is not there is the apex's, with
//     the configured minimum
//   - messages that are no questions, and classes that are not ours, are refused; DS is a type like others
//   - of the resolvers the two best are asked at a time, their refusals are not the last word, and what they say is
//     remembered
//
// Foreign names without a resolver are refused.
type Mesos struct {
	Recursion bool // what answers say of it (RA), whatever is so
	Truncate  bool // answers that were cut say so (TC)
	Strict    bool
}

// serveMesos answers a question about a name of the zone.
func (s *Server) serveMesos(w wire.ResponseWriter, q *question) {
	s.stats.own.Add(1)
	o := q.zone.Options()
	if opt := q.msg.IsEdns0(); opt != nil && opt.Version() != 0 && !o.Strict {
		s.send(w, q, failure(q.msg, wire.RcodeBadVers)) // RFC 6891, 6.1.3
		return
	}
	r, lot := composeMesos(q, &o)
	r.Authoritative, r.RecursionAvailable = true, s.mesos.Recursion
	size, length := wire.MinMsgSize, (*wire.Msg).Len
	if o.Strict {
		length = letterLen
	}
	switch {
	case q.tcp:
		size = wire.MaxMsgSize - 1
	case !o.Strict:
		size = limit(q)
	}
	if opt := q.msg.IsEdns0(); opt != nil && !o.Strict {
		r.SetEdns0(maxUDP, opt.Do())
	}
	if cutMesos(r, size, length) {
		r.Truncated = s.mesos.Truncate
		s.stats.truncated.Add(1)
	}
	if r.Rcode == wire.RcodeNameError {
		s.stats.missing.Add(1)
	}
	text, err := r.Pack()
	if err != nil {
		s.log.Debug("answer can't be packed", "name", q.name, "type", wire.Type(q.qtype), "error", err)
		return // with Strict nobody gets one
	}
	if !q.tcp {
		s.spoken.Load().keep(q.msg, q.zone, r.Rcode, text, lot)
	}
	_, _ = w.Write(text) // who went away gets no answer
}

// composeMesos makes the answer, whatever its size. Lot tells that it may be another one the next time.
func composeMesos(q *question, o *zone.Options) (r *wire.Msg, lot bool) {
	r = new(wire.Msg).SetReply(q.msg)
	r.Compress = true
	asked, apex := q.msg.Question[0].Name, o.Domain+"."
	name := strings.ToLower(strings.ReplaceAll(asked, ".*", "")) // wildcards are as if they were not there
	if o.Strict {
		name = strings.ReplaceAll(name, `\'`, `'`) // the library's form; names are compared as they are in the state
	}
	look := q.zone.Lookup("", name)
	all := q.qtype == wire.TypeANY
	if all || q.qtype == wire.TypeSRV {
		lot = addServices(r, q.zone, o, asked, look)
	}
	for _, t := range [...]record.Type{record.A, record.AAAA} {
		if all || q.qtype == uint16(t) {
			for _, rec := range answerable(look.Of(t)) {
				r.Answer = append(r.Answer, answer.Record(rec))
			}
		}
	}
	switch {
	case o.Strict:
		r.Ns = apexMesos(q.qtype, o, asked)
	case name == apex:
		r.Answer = append(r.Answer, apexMesos(q.qtype, o, apex)...)
	}
	if len(r.Answer) == 0 {
		owner := apex
		if o.Strict {
			owner = asked
		}
		emptyMesos(r, q, o, owner, len(look.Records) > 0 || !o.Strict && name == apex)
	}
	rand.Shuffle(len(r.Answer), func(i, j int) { r.Answer[i], r.Answer[j] = r.Answer[j], r.Answer[i] })
	return r, lot || len(r.Answer) > 1
}

// answerable are those of some records that can be in an answer.
func answerable(records []record.Record) []record.Record {
	return slices.DeleteFunc(records, func(r record.Record) bool { return !r.Answerable() })
}

// addServices adds the SRV records, and one address of each family for each target: by lot, where there are more.
func addServices(r *wire.Msg, z *zone.Zone, o *zone.Options, asked string, look zone.Answer) (lot bool) {
	var targets []string
	for _, rec := range answerable(look.Of(record.SRV)) {
		r.Answer = append(r.Answer, &wire.SRV{
			Hdr: headerMesos(o, asked, wire.TypeSRV), Priority: record.Priority, Weight: o.Weight, Port: rec.Port, Target: rec.Target,
		})
		if slices.Contains(targets, rec.Target) {
			continue
		}
		targets = append(targets, rec.Target)
		there := z.Lookup("", rec.Target)
		for _, t := range [...]record.Type{record.A, record.AAAA} {
			addrs := answerable(there.Of(t))
			if len(addrs) > 0 {
				r.Extra = append(r.Extra, answer.Record(addrs[rand.IntN(len(addrs))]))
				lot = lot || len(addrs) > 1
			}
		}
	}
	return lot
}

// apexMesos returns the records that make a name a zone, those of them that are asked for.
func apexMesos(qtype uint16, o *zone.Options, owner string) []wire.RR {
	var rrs []wire.RR
	if qtype == wire.TypeSOA || qtype == wire.TypeANY {
		rrs = append(rrs, startMesos(o, owner))
	}
	if qtype == wire.TypeNS || qtype == wire.TypeANY {
		rrs = append(rrs, &wire.NS{Hdr: headerMesos(o, owner, wire.TypeNS), Ns: o.Start.Server})
	}
	return rrs
}

// emptyMesos says that there is no answer. To a question for services Mesos-DNS never says more than
// that.
func emptyMesos(r *wire.Msg, q *question, o *zone.Options, owner string, exists bool) {
	switch q.qtype {
	case wire.TypeSOA, wire.TypeNS:
		if o.Strict {
			return
		}
	case wire.TypeSRV:
		if o.Strict || exists {
			return
		}
	}
	if !exists {
		r.Rcode = wire.RcodeNameError
	}
	r.Ns = append(r.Ns, startMesos(o, owner))
}

func startMesos(o *zone.Options, owner string) wire.RR {
	start := o.Start
	if o.Strict {
		start.Minimum = uint32(o.TTL / time.Second)
	}
	return answer.Start(headerMesos(o, owner, wire.TypeSOA), start)
}

func headerMesos(o *zone.Options, owner string, qtype uint16) wire.RR_Header {
	return wire.RR_Header{Name: owner, Rrtype: qtype, Class: wire.ClassINET, Ttl: uint32(o.TTL / time.Second)}
}

// cutMesos makes a message shorter than size when its length is more: first all additional records go, then
// as many answers as have to. It tells whether it did.
func cutMesos(r *wire.Msg, size int, length func(*wire.Msg) int) bool {
	if length(r) <= size {
		return false
	}
	opt := r.IsEdns0()
	if r.Extra = nil; opt != nil {
		r.Extra = []wire.RR{opt}
	}
	answers := r.Answer
	fits := func(dropped int) bool {
		r.Answer = answers[:len(answers)-dropped]
		return length(r) < size
	}
	dropped := sort.Search(len(answers), fits)
	r.Answer = answers[:len(answers)-dropped]
	return true
}
