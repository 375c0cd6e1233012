// SPDX-License-Identifier: Apache-2.0

package zone

import (
	"net/netip"
	"strconv"

	"weft/discovery/dnsname"
	"weft/discovery/zone/record"
)

// mesos generates the zone of tasks and masters by the rules of Mesos-DNS (D is the domain):
//
//	label.fw.D, label-hash-tail.fw.D              A, AAAA   the task's addresses
//	label.fw.slave.D, label-hash-tail.fw.slave.D  A, AAAA   its node's
//	_label._proto.fw.D                            SRV       each of its ports, at its canonical name
//	_port._label._proto.fw.D                      SRV       the same by the port's name
//	slave.D                                       A, AAAA   all nodes that live
//	leader.D, master.D, masterN.D                 A, AAAA   the leading master; all; each
//	_leader._tcp.D, _leader._udp.D                SRV       the leading master
//	ns1.D                                         A, AAAA   where the zone is served
func mesos(o *Options, f Fact) []record.Record {
	switch f := f.(type) {
	case apexes:
		return apex(o.Domain, dnsname.Join("ns1", o.Domain), o)
	case Leader:
		name := dnsname.Join("leader", o.Domain)
		records := append(addresses(name, o.TTL, []netip.Addr{f.Addr}),
			addresses(dnsname.Join("master", o.Domain), o.TTL, []netip.Addr{f.Addr})...)
		for _, service := range [...]string{"_leader._tcp", "_leader._udp"} {
			srv := record.Record{Name: dnsname.Join(service, o.Domain), Type: record.SRV, TTL: seconds(o.TTL), Target: name, Port: f.Port}
			if f.Port != 0 {
				records = append(records, srv)
			}
		}
		return records
	case Master:
		return addresses(dnsname.Join("master", o.Domain), o.TTL, []netip.Addr{f.Addr})
	case ensemble:
		var records []record.Record
		for i, a := range f.addrs {
			records = append(records, addresses(dnsname.Join("master"+strconv.Itoa(i), o.Domain), o.TTL, []netip.Addr{a})...)
		}
		return records
	case Host:
		if f.lost {
			return nil
		}
		return addresses(dnsname.Join("slave", o.Domain), o.TTL, f.Addrs[:min(1, len(f.Addrs))])
	case placedTask:
		return taskRecords(o, f)
	}
	return nil
}

// mesosCluster generates the same zone from the facts of a Mesos cluster.
func mesosCluster(o *Options, f Fact) []record.Record {
	switch f := f.(type) {
	case apexes:
		if o.MesosOnly {
			b := builder{o: o}
			b.addresses(o.Start.Server, o.Servers)
			return b.records
		}
	case MesosMasters:
		return masterRecords(o, f)
	case MesosAgent:
		return agentRecords(o, f)
	case MesosFramework:
		return frameworkRecords(o, f)
	case MesosTask:
		return mesosTaskRecords(o, f)
	}
	return nil
}

func taskRecords(o *Options, t placedTask) []record.Record {
	label, framework := dnsname.Label(t.Label), taskFramework(t.Task)
	if label == "" || framework == "" {
		return nil // text without one usable character cannot be asked for
	}
	own := dnsname.Canonical(label, t.Task.Task, string(t.Node))
	target := dnsname.Join(own, framework, o.Domain)
	records := addresses(dnsname.Join(label, framework, o.Domain), o.TTL, t.Addrs)
	records = append(records, addresses(target, o.TTL, t.Addrs)...)
	records = append(records, addresses(dnsname.Join(label, framework, "slave", o.Domain), o.TTL, t.node)...)
	records = append(records, addresses(dnsname.Join(own, framework, "slave", o.Domain), o.TTL, t.node)...)
	for _, p := range t.Ports {
		for _, proto := range protocols(p.Protocol) {
			// An underscore goes before the labels here, so they are one shorter.
			service := []string{"_" + dnsname.Cut(label, dnsname.MaxLabel-1), "_" + proto, framework, o.Domain}
			srv := record.Record{Name: dnsname.Join(service...), Type: record.SRV, TTL: seconds(o.TTL), Target: target, Port: p.Port}
			records = appendNamed(records, srv)
			if port := dnsname.Cut(dnsname.Clean(p.Name), dnsname.MaxLabel-1); port != "" {
				srv.Name = dnsname.Join(append([]string{"_" + port}, service...)...)
				records = appendNamed(records, srv)
			}
		}
	}
	return records
}

// appendNamed leaves out what cannot be asked for or answered because a name got too long.
func appendNamed(records []record.Record, r record.Record) []record.Record {
	if r.Name == "" || r.Target == "" {
		return records
	}
	return append(records, r)
}

// protocols of a port: both when it names none.
func protocols(p string) []string {
	if p = dnsname.Clean(p); p == "" {
		return []string{"tcp", "udp"}
	}
	return []string{dnsname.Cut(p, dnsname.MaxLabel-1)}
}

// taskFramework is the part of a name below the domain.
func taskFramework(t Task) string {
	if t.Framework == "" {
		return "weft"
	}
	return dnsname.Domain(t.Framework)
}

// apex generates the records that make a zone a zone, and its server's address.
func apex(domain, server string, o *Options) []record.Record {
	name := dnsname.Join(domain)
	return append([]record.Record{
		{Name: name, Type: record.SOA, TTL: record.Minimum, Target: server},
		{Name: name, Type: record.NS, TTL: seconds(nsTTL), Target: server},
	}, addresses(server, o.TTL, o.Servers)...)
}
