// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"strings"
	"time"

	wire "github.com/miekg/dns"

	"weft/discovery/dns/foreign"
)

// forwarded is a zone that has resolvers of its own.
type forwarded struct {
	*foreign.Resolvers
	zone string // lower case, with the final dot
}

// forward sets whom to ask for which names.
func (s *Server) forward(o *Options) {
	others := func(resolvers []netip.AddrPort) *foreign.Resolvers {
		return foreign.New(slices.DeleteFunc(slices.Clone(resolvers), s.isOwn), o.ResolverTimeout, s.log)
	}
	s.foreign = others(o.Resolvers)
	for name, resolvers := range o.ZoneResolvers {
		s.zones = append(s.zones, forwarded{others(resolvers), strings.ToLower(strings.TrimSuffix(name, ".")) + "."})
	}
	slices.SortFunc(s.zones, func(a, b forwarded) int { return cmp.Compare(len(b.zone), len(a.zone)) })
}

// foreignOf returns who is asked for a name.
func (s *Server) foreignOf(name string) *foreign.Resolvers {
	for _, z := range s.zones {
		if wire.IsSubDomain(z.zone, name) {
			return z.Resolvers
		}
	}
	return s.foreign
}

// serveForeign answers a question about a name that is not ours.
func (s *Server) serveForeign(ctx context.Context, w wire.ResponseWriter, q *question) {
	s.stats.foreign.Add(1)
	from := s.foreignOf(q.name)
	if s.mesos != nil && !from.Able() {
		s.stats.refused.Add(1)
		s.send(w, q, failure(q.msg, wire.RcodeRefused))
		return
	}
	ask := foreign.Question{Msg: q.msg, Name: q.name, Type: q.qtype, TCP: q.tcp}
	if r := from.Recall(&ask); r != nil {
		s.stats.remembered.Add(1)
		fit(r, q)
		_ = w.WriteMsg(r) // who went away gets no answer
		return
	}
	r, ok := s.askForeign(ctx, w, q, from, &ask)
	switch {
	case !ok:
	case r.Stale != nil:
		s.stats.stale.Add(1)
		fit(r.Msg, q)
		_ = w.WriteMsg(r.Msg)
	case len(r.Raw) > limit(q): // a resolver that does not keep to the size it was told
		fit(r.Msg, q)
		r.Msg.Id = q.msg.Id
		_ = w.WriteMsg(r.Msg)
	default:
		_, _ = w.Write(r.Raw)
	}
}

// askForeign has resolvers answer, if the asker has not too many questions open. When there is no answer it says so to the
// asker itself.
func (s *Server) askForeign(ctx context.Context, w wire.ResponseWriter, q *question, from *foreign.Resolvers, ask *foreign.Question) (foreign.Reply, bool) {
	done, ok := s.limits.open(asker(w), time.Now())
	if !ok {
		s.stats.limited.Add(1)
		s.send(w, q, failure(q.msg, wire.RcodeRefused))
		return foreign.Reply{}, false
	}
	r, err := from.Ask(ctx, ask)
	done()
	if err != nil || r.Stale != nil {
		s.stats.failed.Add(1)
		s.log.Debug("no resolver answered", "name", ask.Name, "type", wire.Type(q.qtype), "error", cmp.Or(err, r.Stale))
	}
	if err != nil {
		s.send(w, q, failure(q.msg, wire.RcodeServerFailure))
	}
	return r, err == nil
}
