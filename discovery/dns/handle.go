// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"strings"
	"time"

	wire "github.com/miekg/dns"

	"weft/discovery/dns/answer"
	"weft/discovery/dns/resident"
	"weft/discovery/zone"
)

// question is one question with all that its answer depends on.
type question struct {
	msg     *wire.Msg
	name    string // lower case
	qtype   uint16
	zone    *zone.Zone
	vni     uint32
	network string
	own     bool // the name is in a zone of ours
	renamed bool // it was asked for by a former name
	tcp     bool
}

// maxQuestions is how many a message may have. More than one is what nobody asks any more (RFC 9619).
const maxQuestions = 16

// admit is which messages are read at all, by their header: what the library admits, and those of several questions.
func admit(h wire.Header) wire.MsgAcceptAction {
	if h.Bits>>11&0xf == wire.OpcodeQuery && h.Qdcount > 1 && h.Qdcount <= maxQuestions {
		h.Qdcount = 1
	}
	return wire.DefaultMsgAcceptFunc(h)
}

// serve answers one message. Of several questions the first is answered, and the answer names that one alone: so do
// dcos-net, which sends the message where the first question belongs, and Mesos-DNS.
func (s *Server) serve(ctx context.Context, w wire.ResponseWriter, m *wire.Msg) {
	if s.mesos != nil && s.mesos.Strict {
		s.serveLetter(ctx, w, m)
		return
	}
	if len(m.Question) == 0 {
		return // the library has answered FORMERR to those before
	}
	m.Question = m.Question[:1]
	q := question{
		msg: m, name: strings.ToLower(m.Question[0].Name), qtype: m.Question[0].Qtype, zone: s.zone.Load(),
	}
	q.tcp = w.RemoteAddr().Network() == "tcp"
	q.name, q.renamed = q.zone.Present(q.name)
	var apex string
	apex, q.own = q.zone.Apex(q.name)
	if s.mesos != nil && q.own && m.Opcode == wire.OpcodeQuery {
		s.serveMesos(w, &q)
		return
	}
	if q.vni, q.network = s.view(asker(w)); q.tcp && q.vni != 0 && !s.limits.ask(asker(w), time.Now()) {
		s.stats.limited.Add(1)
		s.send(w, &q, failure(m, wire.RcodeRefused))
		return
	}
	if rcode, ok := accept(m); !ok {
		s.stats.refused.Add(1)
		s.send(w, &q, failure(m, rcode))
		return
	}
	if !q.own {
		s.serveForeign(ctx, w, &q)
		return
	}
	s.stats.own.Add(1)
	held := s.hold == nil || s.hold(ctx, q.name)
	if q.zone = s.zone.Load(); !held {
		q.zone = q.zone.Doubted()
	}
	a := answer.Compose(q.zone, q.network, apex, q.name, q.qtype)
	if a.Beyond != "" {
		s.serveAlias(ctx, w, &q, a)
		return
	}
	var lesson *resident.Lesson
	if !q.tcp && !q.renamed {
		lesson = s.lesson(resident.Key{VNI: q.vni, Name: q.name, Type: q.qtype}, q.zone, a)
	}
	s.send(w, &q, s.reply(&q, a))
	if lesson != nil {
		s.answers.Learn(lesson)
	}
}

// lesson is an answer, before its names are as asked, that should become resident; nil if it should not.
func (s *Server) lesson(k resident.Key, z *zone.Zone, a answer.Answer) *resident.Lesson {
	p, err := s.answers.Render(k, z, a)
	if err != nil || !s.answers.Wants(p) {
		return nil
	}
	return p
}

// accept tells whether a message is a question that can be answered, or how it is refused.
func accept(m *wire.Msg) (rcode int, ok bool) {
	opt := m.IsEdns0()
	switch q := m.Question[0]; {
	case m.Opcode != wire.OpcodeQuery:
		return wire.RcodeNotImplemented, false
	case opt != nil && opt.Version() != 0:
		return wire.RcodeBadVers, false // RFC 6891, 6.1.3
	case q.Qclass != wire.ClassINET:
		return wire.RcodeRefused, false
	case q.Qtype == wire.TypeAXFR, q.Qtype == wire.TypeIXFR, q.Qtype == wire.TypeMAILA, q.Qtype == wire.TypeMAILB:
		return wire.RcodeRefused, false
	case q.Qtype == wire.TypeOPT, q.Qtype == wire.TypeNone:
		return wire.RcodeFormatError, false
	}
	return wire.RcodeSuccess, true
}

func asker(w wire.ResponseWriter) netip.Addr { return askerAt(w.RemoteAddr()) }

// reply makes the message of an answer about an own name. Names are as they were asked for.
func (s *Server) reply(q *question, a answer.Answer) *wire.Msg {
	r := new(wire.Msg).SetRcode(q.msg, a.Rcode)
	r.Authoritative = a.Rcode != wire.RcodeServerFailure
	if !s.fixed {
		a.Records = rotate(a.Records)
	}
	r.Answer, r.Ns, r.Extra = append(a.Chain, a.Records...), a.Authority, a.Extra
	for _, section := range [][]wire.RR{r.Answer, r.Ns} {
		for _, rr := range section {
			rr.Header().Name = q.asAsked(rr.Header().Name)
		}
	}
	switch a.Rcode {
	case wire.RcodeNameError:
		s.stats.missing.Add(1)
	case wire.RcodeServerFailure:
		s.stats.unready.Add(1)
	}
	return r
}

// asAsked is the name of a record's owner in the letters, and by the zone's name, that the asker used.
func (q *question) asAsked(owner string) string {
	asked := q.msg.Question[0].Name
	if !wire.IsSubDomain(owner, q.name) {
		return owner
	}
	labels := wire.Split(asked)
	n := wire.CountLabel(owner) + len(labels) - wire.CountLabel(q.name) // a former zone may be deeper
	if n == 0 || n > len(labels) {
		return owner
	}
	return asked[labels[len(labels)-n]:]
}

// rotate turns the records by a random number of places, so that clients which take the first one
// spread.
func rotate(rrs []wire.RR) []wire.RR {
	if len(rrs) < 2 {
		return rrs
	}
	n := rand.IntN(len(rrs))
	return append(append(make([]wire.RR, 0, len(rrs)), rrs[n:]...), rrs[:n]...)
}

func failure(m *wire.Msg, rcode int) *wire.Msg { return new(wire.Msg).SetRcode(m, rcode) }

// send writes a reply in the size that the asker takes.
func (s *Server) send(w wire.ResponseWriter, q *question, r *wire.Msg) {
	r.RecursionAvailable = s.foreign.Able()
	if opt := q.msg.IsEdns0(); opt != nil {
		r.SetEdns0(maxUDP, opt.Do())
		if q.own && r.Rcode == wire.RcodeServerFailure {
			notReady := &wire.EDNS0_EDE{InfoCode: wire.ExtendedErrorCodeNotReady, ExtraText: "the node has not heard all names yet"}
			r.IsEdns0().Option = append(r.IsEdns0().Option, notReady)
		}
	}
	fit(r, q)
	if r.Truncated {
		s.stats.truncated.Add(1)
	}
	// Who went away gets no answer: nothing to report.
	_ = w.WriteMsg(r)
}

// fit makes a message no longer than its asker takes. Additional records are what goes first: without
// them an answer is still whole (RFC 2181, section 9).
func fit(r *wire.Msg, q *question) {
	size := limit(q)
	r.Compress = true
	if r.Len() <= size {
		return
	}
	opt := r.IsEdns0()
	if r.Extra = nil; opt != nil {
		r.Extra = []wire.RR{opt}
	}
	r.Truncate(size)
	r.Compress = true
}

// limit is how long the answer to a question may be, bytes.
func limit(q *question) int {
	if q.tcp {
		return wire.MaxMsgSize - 1 // the length before a message has 16 bits
	}
	if opt := q.msg.IsEdns0(); opt != nil {
		return min(max(int(opt.UDPSize()), wire.MinMsgSize), maxUDP)
	}
	return wire.MinMsgSize
}
