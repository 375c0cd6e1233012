// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"context"
	"strings"
	"time"

	wire "github.com/miekg/dns"
)

// serveAlias answers a question whose name a CNAME leads out of our zones: with the chain up to there, and
// what the resolvers say of its end.
func (s *Server) serveAlias(ctx context.Context, w wire.ResponseWriter, q *question, a answer) {
	end := *q
	end.msg, end.name, end.own = q.msg.Copy(), strings.ToLower(a.beyond), false
	end.msg.Question[0].Name = a.beyond
	done, ok := s.limits.open(asker(w), time.Now())
	if !ok {
		s.stats.limited.Add(1)
		s.send(w, q, failure(q.msg, wire.RcodeRefused))
		return
	}
	m, err := s.foreignOf(end.name).resolve(ctx, &end)
	done()
	if err != nil {
		s.stats.failed.Add(1)
		s.log.Debug("no resolver answered", "name", end.name, "type", wire.Type(q.qtype), "error", err)
		s.send(w, q, failure(q.msg, wire.RcodeServerFailure))
		return
	}
	r := s.reply(q, a)
	r.Rcode, r.Truncated = m.Rcode, m.Truncated
	if r.Answer = append(r.Answer, m.Answer...); len(m.Answer) == 0 {
		r.Ns = m.Ns
	}
	s.send(w, q, r)
}

// resolve is what is remembered, or what the resolvers say.
func (f *foreign) resolve(ctx context.Context, q *question) (*wire.Msg, error) {
	key, memorable := memoryKeyOf(q)
	if memorable {
		if m := f.recall(key, q, time.Now()); m != nil {
			return m, nil
		}
	}
	r, err := f.ask(ctx, q)
	if err != nil {
		return nil, err
	}
	if memorable {
		f.remember(key, r.msg, time.Now())
	}
	return r.msg, nil
}
