// SPDX-License-Identifier: Apache-2.0

// Package zone turns facts (names of tasks, nodes, masters, VIPs) into the records of the zones that
// Weft owns, each with the row it came from, and answers look-ups in them. It is pure: the rows are
// read by discovery/engine, the questions by discovery/dns.
//
// A change walks through these stages, one Zone at a time:
//
//  1. Change: the fact of one row is new, different or gone        (fact.go)
//  2. generate: the fact's records, one file a zone                (generate.go names them)
//  3. merge: the names they touch get new record sets              (update.go)
//  4. Diff: what a resolver would see differently                  (update.go)
package zone

import (
	"net/netip"
	"slices"
	"time"

	"weft/discovery"
	"weft/discovery/dnsname"
	"weft/discovery/zone/record"
	"weft/discovery/zone/table"
)

// Default values of Options.
const (
	DefaultDomain = "mesos"
	// DefaultTTL is short because an answer costs microseconds on the node itself, and a name has to
	// be true within a second where it is used; a client that caches for longer is late.
	DefaultTTL = 5 * time.Second
)

// Fixed by compatibility with dcos-net: TTL of names of VIPs, and of NS records.
const (
	serviceTTL = 5 * time.Second
	nsTTL      = time.Hour
)

// directory is the zone of everything that is no task.
const directory = "thisdcos.directory"

// Options say what the zones are; the zero value works.
type Options struct {
	Domain string        // of task names, without dots at the ends; default DefaultDomain
	TTL    time.Duration // of task names, nodes and masters, whole seconds; default DefaultTTL
	// TTLs are those of the records of single zones, by their names without dots at the ends, whatever TTL
	// and dcos-net say; Static says its own.
	TTLs map[string]time.Duration
	// Heeding are the zones whose answers leave out a task that is not well while another one has the name;
	// nil: OwnZone.
	Heeding []string
	// Servers are the addresses at which a node answers, for the NS records.
	Servers []netip.Addr
	// Reverse are prefixes whose reverse zones are ours besides the networks' subnets: the ranges of
	// VIP addresses.
	Reverse []netip.Prefix
	// Zones are names of more zones that are ours, without dots at the ends, and Static are records for
	// them or for the others, as the operator of this node has them. Their From says where.
	Zones  []string
	Static []record.Record
	// Key is this cluster's public key as DC/OS writes it (z-base-32): names below KEY.dcos.directory are the same as below
	// thisdcos.directory; empty: there are none.
	Key string
	// Self is the node that thisnode.thisdcos.directory is on; empty: there is no such name.
	Self discovery.NodeID

	// IPSources says where the addresses of a Mesos task are taken from: the first that has any;
	// default netinfo, mesos, host.
	IPSources []IPSource
	// RFC952 makes labels of Mesos tasks and frameworks shorter: 24 characters, no leading digit.
	RFC952 bool
	// MesosOnly leaves out all zones but that of Domain, which then has records of a Mesos cluster's
	// facts alone, and is answered as Mesos-DNS does; Start and Weight are for it.
	MesosOnly bool
	// Strict gives such a zone all that Mesos-DNS has, what nobody can ask for and what breaks answers
	// included.
	Strict bool
	// Start is that zone's SOA record; default server ns1.D, mailbox root.ns1.D and Mesos-DNS's times.
	Start record.Start
	// Weight is that of its SRV records.
	Weight uint16
}

// complete sets the default values.
func (o *Options) complete() {
	if o.Domain == "" {
		o.Domain = DefaultDomain
	}
	if o.TTL == 0 {
		o.TTL = DefaultTTL
	}
	if o.Heeding == nil {
		o.Heeding = []string{OwnZone}
	}
	if o.IPSources == nil {
		o.IPSources = []IPSource{FromNetinfo, FromMesos, FromHost}
	}
	if o.Start.Server == "" {
		ttl := seconds(o.TTL)
		o.Start = record.Start{
			Server: "ns1." + o.Domain + ".", Mailbox: "root.ns1." + o.Domain + ".",
			Serial: record.Serial, Refresh: record.Refresh, Retry: record.Retry, Expire: record.Expire, Minimum: ttl,
		}
	}
}

func (o *Options) rule() dnsname.Rule {
	if o.RFC952 {
		return dnsname.RFC952
	}
	return dnsname.RFC1123
}

// Zone is an immutable set of records; With makes the next one, sharing what did not change.
type Zone struct {
	options  Options
	facts    table.Table[Sourced] // by Source.id(): what to take away when the fact changes
	names    record.Index
	networks []Network // by name
	reverse  []netip.Prefix
	complete bool
	records  int
}

// New returns a zone without facts: it owns its names but knows none of them yet, see Complete.
func New(o Options) *Zone {
	o.complete()
	z := &Zone{options: o}
	if !o.MesosOnly {
		z.reverse = slices.Clone(o.Reverse)
	}
	next, _ := z.With([]Change{{Source: apexSource(), Fact: apexes{}}, {Source: staticSource(), Fact: static{o.Static}}})
	return next
}

// Options returns what the zone was made with, default values included. The caller must not change
// what is in it.
func (z *Zone) Options() Options { return z.options }

// Dated returns the same zone with another serial number in Options.Start.
func (z *Zone) Dated(serial uint32) *Zone {
	c := *z
	c.options.Start.Serial = serial
	return &c
}

// Complete says whether a name that is not here may be called missing. Before that, the node has not
// heard all of the cluster's facts since its disk was empty, so an unknown name may well exist.
func (z *Zone) Complete() bool { return z.complete }

// Completed returns the same zone, complete.
func (z *Zone) Completed() *Zone {
	if z.complete {
		return z
	}
	c := *z
	c.complete = true
	return &c
}

// Doubted returns the same zone, not complete: for a question that it may not hold all rows of.
func (z *Zone) Doubted() *Zone {
	c := *z
	c.complete = false
	return &c
}

// Records counts the records, those that several facts give once for each.
func (z *Zone) Records() int { return z.records }

// Names counts the names that have records.
func (z *Zone) Names() int { return z.names.Names() }

// Network returns the network of a VNI.
func (z *Zone) Network(vni uint32) (Network, bool) {
	for _, n := range z.networks {
		if n.VNI == vni {
			return n, true
		}
	}
	return Network{}, false
}

// NetworkOf returns the network that an address belongs to; the host's own is none.
func (z *Zone) NetworkOf(addr netip.Addr) (Network, bool) {
	addr = addr.Unmap()
	for _, n := range z.networks {
		for _, p := range n.Subnets {
			if p.Contains(addr) {
				return n, true
			}
		}
	}
	return Network{}, false
}

// All calls yield for each record, by name from the root down.
func (z *Zone) All(yield func(record.Record) bool) {
	z.names.Within("", func(records []record.Record) bool {
		for _, r := range records {
			if !yield(r) {
				return false
			}
		}
		return true
	})
}

// Facts calls yield for each fact, ordered by source.
func (z *Zone) Facts(yield func(Sourced) bool) {
	var ids []string
	for id := range z.facts.Each {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		if !yield(*z.facts.At(id)) {
			return
		}
	}
}

// From returns the records that a source gives, each once, in the order in which its rules give them.
func (z *Zone) From(s Source) []record.Record { return unique(z.recordsOf(s.id())) }
