// SPDX-License-Identifier: Apache-2.0

// Package answer composes what a zone says to a question, for nobody in particular: the records and those that go with them, in
// the form of the library that writes messages. Who asks, and how much that one takes, is discovery/dns'.
package answer

import (
	"net"
	"slices"

	wire "github.com/miekg/dns"

	"weft/discovery/zone"
	"weft/discovery/zone/record"
)

// Answer is what a zone says to a question.
type Answer struct {
	Rcode int
	Chain []wire.RR // CNAMEs that lead from the name to the one of Records
	// Beyond is the foreign name that the chain leads to: who answers for it has the records.
	Beyond                    string
	Records, Authority, Extra []wire.RR
	// Depends are other names with a part in the answer.
	Depends []string
}

// MaxChain is how many CNAMEs are followed: more are a loop, or a mistake.
const MaxChain = 8

// Compose answers from a zone as a network sees it: name is in the zone of apex, lower case.
func Compose(z *zone.Zone, network, apex, name string, qtype uint16) Answer {
	var a Answer
	look := lookup(z, network, apex, name)
	for len(a.Chain) < MaxChain {
		alias := look.Of(record.CNAME)
		if len(alias) == 0 || len(look.Of(record.Type(qtype))) > 0 {
			break
		}
		a.Chain, a.Depends = append(a.Chain, Record(alias[0])), append(a.Depends, alias[0].Target)
		name = alias[0].Target
		var own bool
		if apex, own = z.Apex(name); !own {
			a.Beyond = name
			return a
		}
		look = lookup(z, network, apex, name)
	}
	if !look.Exists && !z.Complete() {
		return Answer{Rcode: wire.RcodeServerFailure}
	}
	for _, r := range look.Of(record.Type(qtype)) {
		a.Records = append(a.Records, Record(r))
		if r.Type == record.SRV || r.Type == record.NS {
			a.addAddresses(z, network, r.Target)
		}
	}
	if len(a.Records) == 0 {
		a.Authority = []wire.RR{Record(z.Start(apex))}
		if !look.Exists {
			a.Rcode = wire.RcodeNameError // of the last name (RFC 6604, section 3)
		}
	}
	return a
}

// lookup is what the zone of apex says of a name.
func lookup(z *zone.Zone, network, apex, name string) zone.Answer {
	look := z.Lookup(network, name)
	if name == apex {
		look.Exists = true
		look.Records = withApex(z, apex, look.Records)
	}
	return look
}

// withApex adds the records that make a zone, to reverse zones, which have none of their own.
func withApex(z *zone.Zone, apex string, records []record.Record) []record.Record {
	for _, r := range records {
		if r.Type == record.SOA {
			return records
		}
	}
	return append([]record.Record{z.Authority(apex), z.Start(apex)}, records...)
}

// addAddresses adds a target's addresses once, all of them: part of a set would be taken for the
// whole by who remembers it (RFC 2181, section 5).
func (a *Answer) addAddresses(z *zone.Zone, network, target string) {
	if slices.Contains(a.Depends, target) {
		return
	}
	a.Depends = append(a.Depends, target)
	look := z.Lookup(network, target)
	for _, t := range [...]record.Type{record.A, record.AAAA} {
		for _, r := range look.Of(t) {
			a.Extra = append(a.Extra, Record(r))
		}
	}
}

// Record is a record in the library's form.
func Record(r record.Record) wire.RR {
	h := wire.RR_Header{Name: r.Name, Rrtype: uint16(r.Type), Class: wire.ClassINET, Ttl: r.TTL}
	switch r.Type {
	case record.A:
		return &wire.A{Hdr: h, A: net.IP(r.Addr.AsSlice())}
	case record.AAAA:
		return &wire.AAAA{Hdr: h, AAAA: net.IP(r.Addr.AsSlice())}
	case record.SRV:
		return &wire.SRV{Hdr: h, Priority: record.Priority, Weight: record.Weight, Port: r.Port, Target: r.Target}
	case record.CNAME:
		return &wire.CNAME{Hdr: h, Target: r.Target}
	case record.PTR:
		return &wire.PTR{Hdr: h, Ptr: r.Target}
	case record.NS:
		return &wire.NS{Hdr: h, Ns: r.Target}
	case record.SOA:
		return Start(h, record.StartOf(r.Target))
	default: // zones hold nothing else
		return &wire.NULL{Hdr: h}
	}
}

// Start is the SOA record of a zone, under a header.
func Start(h wire.RR_Header, s record.Start) wire.RR {
	return &wire.SOA{
		Hdr: h, Ns: s.Server, Mbox: s.Mailbox, Serial: s.Serial, Refresh: s.Refresh, Retry: s.Retry, Expire: s.Expire,
		Minttl: s.Minimum,
	}
}
