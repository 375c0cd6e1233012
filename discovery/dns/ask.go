// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	wire "github.com/miekg/dns"

	"weft/discovery/dnsname"
)

// Reply is what a name server said to one question, as people read it.
type Reply struct {
	Server     netip.AddrPort `json:"server"`
	Status     string         `json:"status"` // NOERROR, NXDOMAIN, ...
	Flags      []string       `json:"flags"`  // aa, ra, tc
	Took       time.Duration  `json:"took"`
	TCP        bool           `json:"tcp,omitempty"` // asked again, the answer was too long for UDP
	Answer     []string       `json:"answer"`
	Authority  []string       `json:"authority,omitempty"`
	Additional []string       `json:"additional,omitempty"`
	Remarks    []string       `json:"remarks,omitempty"` // extended errors (RFC 8914)
}

// Ask asks a name server one question as a stub resolver does: over UDP, and over TCP when the answer
// is too long for that.
func Ask(ctx context.Context, server netip.AddrPort, name, qtype string) (Reply, error) {
	t, ok := wire.StringToType[strings.ToUpper(qtype)]
	if !ok {
		return Reply{}, fmt.Errorf("type is %q: a DNS type is allowed, for example A, AAAA, SRV or PTR", qtype)
	}
	if _, ok := wire.IsDomainName(name); !ok {
		return Reply{}, fmt.Errorf("name is %q: labels of 1 to 63 bytes, 255 in all, are allowed", name)
	}
	m := new(wire.Msg).SetQuestion(wire.Fqdn(name), t).SetEdns0(maxUDP, false)
	reply := Reply{Server: server, Answer: []string{}}
	c := wire.Client{UDPSize: maxUDP}
	r, took, err := c.ExchangeContext(ctx, m, server.String())
	if err == nil && r.Truncated {
		c.Net, reply.TCP = "tcp", true
		r, took, err = c.ExchangeContext(ctx, m, server.String())
	}
	if err != nil {
		return Reply{}, fmt.Errorf("ask %s: %w", server, err)
	}
	reply.Status, reply.Took = wire.RcodeToString[r.Rcode], took
	for _, flag := range []struct {
		name string
		set  bool
	}{{"aa", r.Authoritative}, {"ra", r.RecursionAvailable}, {"tc", r.Truncated}} {
		if flag.set {
			reply.Flags = append(reply.Flags, flag.name)
		}
	}
	reply.Answer, reply.Authority, reply.Additional = texts(r.Answer), texts(r.Ns), texts(r.Extra)
	if opt := r.IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			if e, ok := o.(*wire.EDNS0_EDE); ok {
				reply.Remarks = append(reply.Remarks, strings.TrimSpace(wire.ExtendedErrorCodeToString[e.InfoCode]+" "+e.ExtraText))
			}
		}
	}
	return reply, nil
}

func texts(rrs []wire.RR) []string {
	list := []string{}
	for _, rr := range rrs {
		if rr.Header().Rrtype != wire.TypeOPT {
			list = append(list, strings.ReplaceAll(rr.String(), "\t", " "))
		}
	}
	return list
}

// ReverseName is the name that holds an address's PTR records.
func ReverseName(addr netip.Addr) string { return dnsname.ReverseName(addr) }
