// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"context"
	"strings"

	wire "github.com/miekg/dns"

	"weft/discovery/dns/answer"
	"weft/discovery/dns/foreign"
)

// serveAlias answers a question whose name a CNAME leads out of our zones: with the chain up to there, and
// what the resolvers say of its end.
func (s *Server) serveAlias(ctx context.Context, w wire.ResponseWriter, q *question, a answer.Answer) {
	end := foreign.Question{Msg: q.msg.Copy(), Name: strings.ToLower(a.Beyond), Type: q.qtype, TCP: q.tcp}
	end.Msg.Question[0].Name = a.Beyond
	from := s.foreignOf(end.Name)
	m := from.Recall(&end)
	if m == nil {
		said, ok := s.askForeign(ctx, w, q, from, &end)
		if !ok {
			return
		}
		m = said.Msg
	}
	r := s.reply(q, a)
	r.Rcode, r.Truncated = m.Rcode, m.Truncated
	if r.Answer = append(r.Answer, m.Answer...); len(m.Answer) == 0 {
		r.Ns = m.Ns
	}
	s.send(w, q, r)
}
