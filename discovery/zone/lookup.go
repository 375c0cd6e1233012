// SPDX-License-Identifier: Apache-2.0

package zone

import (
	"slices"
	"strings"

	"weft/discovery/dnsname"
	"weft/discovery/zone/record"
)

// Answer is what a zone says of a name.
type Answer struct {
	Records []record.Record // of all types; equal ones that came from several rows all stay
	// Exists is also true of a name that has no records but names below it (RFC 8020), and of one
	// whose records other networks see only.
	Exists bool
	heeds  bool // tasks that are not well are left out while others are
}

// LeftOut tells whether a record is not in answers: its task is not well, and another one is.
func (a Answer) LeftOut(r record.Record) bool {
	return a.heeds && r.Unwell && slices.ContainsFunc(a.Records, func(o record.Record) bool { return o.Type == r.Type && !o.Unwell })
}

// Of returns the records of one type, each value once, in the order of values.
func (a Answer) Of(t record.Type) []record.Record {
	var records []record.Record
	for _, r := range a.Records {
		if r.Type != t && t != record.Any || a.LeftOut(r) {
			continue
		}
		if n := len(records); n > 0 && records[n-1].Bare() == r.Bare() {
			continue
		}
		records = append(records, r)
	}
	return records
}

// Lookup answers for a name (lower case, fully qualified) as a network sees it; the empty network is
// the host, which sees everything.
func (z *Zone) Lookup(network, name string) Answer {
	if original, ok := z.options.mirrored(name); ok {
		a := z.Lookup(network, original)
		a.Records, a.heeds = z.options.reflected(a.Records), z.heeds(directory)
		return a
	}
	domain, _ := z.options.zoneOf(name)
	a := Answer{heeds: z.heeds(domain)}
	if a.Records, a.Exists = z.names.Get(name); len(a.Records) > 0 {
		a.Records = slices.DeleteFunc(a.Records, func(r record.Record) bool { return !r.SeenBy(network) })
	}
	if domain == OwnZone && z.options.hasOwn() {
		z.addOwn(&a, network, strings.TrimSuffix(name, OwnZone+"."))
	}
	if a.Exists {
		return a
	}
	if p, ok := dnsname.ParseReverse(name); ok && p.Bits() < p.Addr().BitLen() {
		a.Exists = true // what is around addresses
	}
	return a
}

// heedsAt tells whether answers for a name of ours, or for the one in the mirror that has the same records,
// leave out who is not well.
func (z *Zone) heedsAt(name string) bool {
	domain, ok := z.options.zoneOf(name)
	return ok && (z.heeds(domain) || domain == z.options.Domain && z.heeds(directory))
}

func (z *Zone) heeds(domain string) bool { return slices.Contains(z.options.Heeding, domain) }

// Apex returns the name of the zone of ours that a name is in; ok is false for foreign names.
func (z *Zone) Apex(name string) (apex string, ok bool) {
	if domain, ok := z.options.zoneOf(name); ok {
		return domain + ".", true
	}
	if !strings.HasSuffix(name, ".arpa.") || z.options.MesosOnly {
		return "", false
	}
	p, ok := dnsname.ParseReverse(name)
	if !ok {
		return "", false
	}
	for _, own := range z.reverse {
		if own.Bits() <= p.Bits() && own.Contains(p.Addr()) {
			return dnsname.ReverseZone(own), true
		}
	}
	// A node's address lies in somebody else's network: only its own name is ours.
	if records, _ := z.names.Get(name); len(records) > 0 {
		return name, true
	}
	return "", false
}

// Start returns the SOA record of the zone that a name is in.
func (z *Zone) Start(apex string) record.Record {
	records, _ := z.names.Get(apex)
	for _, r := range records {
		if r.Type == record.SOA {
			return r
		}
	}
	return record.Record{Name: apex, Type: record.SOA, TTL: record.Minimum, Target: dnsname.Join("ns1", z.options.Domain)}
}

// Authority returns the NS record of a zone.
func (z *Zone) Authority(apex string) record.Record {
	return record.Record{Name: apex, Type: record.NS, TTL: seconds(nsTTL), Target: z.Start(apex).Target}
}
