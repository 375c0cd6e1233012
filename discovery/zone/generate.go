// SPDX-License-Identifier: Apache-2.0

package zone

import (
	"net/netip"
	"time"

	"weft/discovery"
	"weft/discovery/dnsname"
	"weft/discovery/zone/record"
)

// generators lists the zones; each is one file with one function that looks at one fact.
func (o *Options) generators() []func(*Options, Fact) []record.Record {
	if o.MesosOnly {
		return []func(*Options, Fact) []record.Record{mesosCluster}
	}
	return []func(*Options, Fact) []record.Record{mesos, mesosCluster, directoryRecords, dcosRecords, ownApex, reverse}
}

// recordsOf generates the records of a fact in every zone, with their source.
func (z *Zone) recordsOf(id string) []record.Record {
	s := z.facts.At(id)
	if s == nil {
		return nil
	}
	f := s.Fact
	home, unwell := "", false
	switch t := f.(type) {
	case Task:
		if z.lost(t.Node) {
			return nil
		}
		f = placedTask{t, z.addrsOf(t.Node)}
		if t.Network != discovery.HostNetwork {
			home = t.Network
		}
		unwell = t.Unwell || z.facts.At(UnwellSource(s.Key, s.Writer).id()) != nil
	case Host:
		t.lost = z.lost(t.ID)
		f = t
	case MesosTask:
		unwell = t.Unwell
	}
	var records []record.Record
	for _, generate := range z.options.generators() {
		records = append(records, generate(&z.options, f)...)
	}
	from := s.From()
	for i := range records {
		r := &records[i]
		r.From, r.Writer, r.Home, r.Unwell = from, s.Writer, home, unwell
		z.options.setTTL(r)
	}
	if fixed, ok := f.(static); ok {
		return fixed.records // they say themselves where they are from
	}
	return records
}

// setTTL gives a record the TTL of its zone, if that has one of its own.
func (o *Options) setTTL(r *record.Record) {
	if len(o.TTLs) == 0 || r.Type == record.SOA || r.Type == record.NS {
		return
	}
	if domain, ok := o.zoneOf(r.Name); ok {
		if ttl, ok := o.TTLs[domain]; ok {
			r.TTL = seconds(ttl)
		}
	}
}

// zoneOf returns the zone that a name is in, of those that hold more than reverse names.
func (o *Options) zoneOf(name string) (domain string, ok bool) {
	for _, domain := range o.zones() {
		if dnsname.Within(name, domain) {
			return domain, true
		}
	}
	return "", false
}

// placedTask is a task with the addresses of its node.
type placedTask struct {
	Task
	node []netip.Addr
}

// lost tells whether a node is dead.
func (z *Zone) lost(node discovery.NodeID) bool { return z.facts.At(LostSource(node).id()) != nil }

// addrsOf returns the addresses of a node.
func (z *Zone) addrsOf(node discovery.NodeID) []netip.Addr {
	if s := z.facts.At(hostSource(node).id()); s != nil {
		if h, ok := s.Fact.(Host); ok {
			return h.Addrs
		}
	}
	return nil
}

// address makes an A or AAAA record; ok is false for an address that no record can hold.
func address(name string, ttl time.Duration, addr netip.Addr) (r record.Record, ok bool) {
	addr = addr.Unmap().WithZone("")
	r = record.Record{Name: name, Type: record.A, TTL: seconds(ttl), Addr: addr}
	if addr.Is6() {
		r.Type = record.AAAA
	}
	return r, addr.IsValid() && name != ""
}

// addresses makes the A and AAAA records of a name.
func addresses(name string, ttl time.Duration, addrs []netip.Addr) []record.Record {
	records := make([]record.Record, 0, len(addrs))
	for _, a := range addrs {
		if r, ok := address(name, ttl, a); ok {
			records = append(records, r)
		}
	}
	return records
}

func seconds(d time.Duration) uint32 { return uint32(d / time.Second) }
