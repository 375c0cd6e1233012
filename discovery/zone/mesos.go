// SPDX-License-Identifier: Apache-2.0

package zone

import "net/netip"

// mesos generates the zone of tasks and masters by the rules of Mesos-DNS (D is the domain):
//
//	label.fw.D, label-hash-tail.fw.D     A, AAAA   the task's addresses
//	_label._proto.fw.D                   SRV       each of its ports, at its canonical name
//	_port._label._proto.fw.D             SRV       the same by the port's name
//	leader.D, master.D                   A, AAAA   the leading master; all masters
//	ns1.D                                A, AAAA   where the zone is served
func mesos(o *Options, f Fact) []Record {
	switch f := f.(type) {
	case apexes:
		return apex(o.Domain, o.Servers, o)
	case Leader:
		name := join("leader", o.Domain)
		return append(addresses(name, o.TTL, []netip.Addr{f.Addr}),
			addresses(join("master", o.Domain), o.TTL, []netip.Addr{f.Addr})...)
	case Master:
		return addresses(join("master", o.Domain), o.TTL, []netip.Addr{f.Addr})
	case Task:
		return taskRecords(o, f)
	}
	return nil
}

func taskRecords(o *Options, t Task) []Record {
	label, framework := Label(t.Label), taskFramework(t)
	if label == "" || framework == "" {
		return nil // text without one usable character cannot be asked for
	}
	target := join(canonical(label, t.Task, string(t.Node)), framework, o.Domain)
	records := addresses(join(label, framework, o.Domain), o.TTL, t.Addrs)
	records = append(records, addresses(target, o.TTL, t.Addrs)...)
	for _, p := range t.Ports {
		for _, proto := range protocols(p.Protocol) {
			// An underscore goes before the labels here, so they are one shorter.
			service := []string{"_" + cut(label, maxLabel-1), "_" + proto, framework, o.Domain}
			srv := Record{Name: join(service...), Type: SRV, TTL: seconds(o.TTL), Target: target, Port: p.Port}
			records = appendNamed(records, srv)
			if port := cut(clean(p.Name), maxLabel-1); port != "" {
				srv.Name = join(append([]string{"_" + port}, service...)...)
				records = appendNamed(records, srv)
			}
		}
	}
	return records
}

// appendNamed leaves out what cannot be asked for or answered because a name got too long.
func appendNamed(records []Record, r Record) []Record {
	if r.Name == "" || r.Target == "" {
		return records
	}
	return append(records, r)
}

// protocols of a port: both when it names none.
func protocols(p string) []string {
	if p = clean(p); p == "" {
		return []string{"tcp", "udp"}
	}
	return []string{cut(p, maxLabel-1)}
}

// taskFramework is the part of a name below the domain.
func taskFramework(t Task) string {
	if t.Framework == "" {
		return "weft"
	}
	return Domain(t.Framework)
}

// apex generates the records that make a zone a zone, and its server's address.
func apex(domain string, servers []netip.Addr, o *Options) []Record {
	name, server := join(domain), join("ns1", domain)
	return append([]Record{
		{Name: name, Type: SOA, TTL: seconds(negativeTTL), Target: server},
		{Name: name, Type: NS, TTL: seconds(nsTTL), Target: server},
	}, addresses(server, o.TTL, servers)...)
}
