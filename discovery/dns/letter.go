// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"context"
	"slices"
	"strings"

	wire "github.com/miekg/dns"

	"weft/discovery/dns/foreign"
)

// admitAll is which messages Mesos-DNS reads, by their header: whatever is no answer, and is whole.
func admitAll(h wire.Header) wire.MsgAcceptAction {
	const answer, truncated = 1 << 15, 1 << 9 // RFC 1035, 4.1.1
	switch {
	case h.Bits&answer != 0:
		return wire.MsgIgnore
	case h.Bits&truncated != 0:
		return wire.MsgReject
	}
	return wire.MsgAccept
}

// serveLetter answers a message as Mesos-DNS does to the letter: of any opcode and class, by its first question.
func (s *Server) serveLetter(ctx context.Context, w wire.ResponseWriter, m *wire.Msg) {
	if len(m.Question) == 0 {
		_ = w.WriteMsg(failure(m, wire.RcodeServerFailure)) // who went away gets no answer
		return
	}
	q := question{msg: m, name: strings.ToLower(m.Question[0].Name), qtype: m.Question[0].Qtype, zone: s.zone.Load()}
	q.tcp = w.RemoteAddr().Network() == "tcp"
	_, q.own = q.zone.Apex(q.name)
	// Questions for DS go to who has the parent (RFC 4035, 3.1.4.1): to nobody else than the resolvers of all.
	if q.own && q.qtype != wire.TypeDS {
		s.serveMesos(w, &q)
		return
	}
	from := s.foreign
	if q.qtype != wire.TypeDS {
		from = s.foreignOf(q.name)
	}
	s.stats.foreign.Add(1)
	r := s.askInTurn(ctx, from, &q)
	r.Compress = true
	if cutMesos(r, letterSize(r, q.tcp), letterLen) {
		r.Truncated = true
	}
	r.Truncated = r.Truncated && s.mesos.Truncate
	_ = w.WriteMsg(r)
}

// askInTurn returns what the resolvers say, or how the question is refused.
func (s *Server) askInTurn(ctx context.Context, from *foreign.Resolvers, q *question) *wire.Msg {
	if !from.Able() {
		s.stats.refused.Add(1)
		return failure(q.msg, wire.RcodeRefused)
	}
	r, err := from.InTurn(ctx, &foreign.Question{Msg: q.msg, Name: q.name, Type: q.qtype, TCP: q.tcp})
	if err != nil {
		s.stats.failed.Add(1)
		s.log.Debug("no resolver answered", "name", q.name, "type", wire.Type(q.qtype), "error", err)
		return failure(q.msg, wire.RcodeServerFailure)
	}
	r.Id = q.msg.Id
	return r
}

// letterSize is how long an answer may be: over UDP what it says itself of its sender.
func letterSize(r *wire.Msg, tcp bool) int {
	if tcp {
		return wire.MaxMsgSize
	}
	if opt := r.IsEdns0(); opt != nil {
		return int(opt.UDPSize())
	}
	return wire.MinMsgSize
}

// letterLen is how long Mesos-DNS takes a message to be. Its library guesses what compression makes of a SOA record: of two
// names that both end like an earlier one all but a byte is saved, else nothing.
func letterLen(m *wire.Msg) int {
	n := m.Len()
	for i, rr := range m.Ns {
		soa, ok := rr.(*wire.SOA)
		if !ok {
			continue
		}
		before, with := *m, *m
		before.Ns, before.Extra = m.Ns[:i], nil
		with.Ns, with.Extra = m.Ns[:i+1], nil
		saved := 0
		known := namesIn(&before)
		if server, mailbox := known.shared(soa.Ns), known.shared(soa.Mbox); server > 0 && mailbox > 0 {
			saved = server + mailbox - 1
		}
		bare := before
		bare.Ns = append(slices.Clone(before.Ns), &wire.NULL{Hdr: soa.Hdr})
		n += bare.Len() + len(soa.Ns) + 1 + len(soa.Mbox) + 1 + timesLen - saved - with.Len()
	}
	return n
}

// timesLen is what a SOA record has besides its names, bytes.
const timesLen = 5 * 4

// endings are what names end with, from a label on.
type endings map[string]bool

func namesIn(m *wire.Msg) endings {
	known := endings{}
	add := func(name string) {
		for _, at := range wire.Split(name) {
			known[name[at:]] = true
		}
	}
	for _, q := range m.Question {
		add(q.Name)
	}
	for _, rr := range append(slices.Clone(m.Answer), m.Ns...) {
		add(rr.Header().Name)
		switch rr := rr.(type) {
		case *wire.SRV:
			add(rr.Target)
		case *wire.NS:
			add(rr.Ns)
		case *wire.SOA:
			add(rr.Ns)
			add(rr.Mbox)
		}
	}
	return known
}

// shared is how many characters of a name an earlier one ends with too.
func (e endings) shared(name string) int {
	for _, at := range wire.Split(name) {
		if e[name[at:]] {
			return len(name) - at
		}
	}
	return 0
}
