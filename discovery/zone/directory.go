// SPDX-License-Identifier: Apache-2.0

package zone

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"weft/discovery/dnsname"
	"weft/discovery/zone/record"
)

// Zones besides Options.Domain and thisdcos.directory.
const (
	zkZone      = "zk"
	spartanZone = "spartan"
	localZone   = "localhost"
)

// ensembleSize is how many names of masters zk has, whatever their number is.
const ensembleSize = 5

// zones are the names of the zones that hold more than reverse records.
func (o *Options) zones() []string {
	if o.MesosOnly {
		return []string{o.Domain}
	}
	return append([]string{o.Domain, directory, OwnZone, zkZone, spartanZone, localZone}, o.Zones...)
}

// directoryRecords generates thisdcos.directory, the zone of everything that is no task:
//
//	name.l4lb.thisdcos.directory   A, AAAA   a VIP; seen in its network and by the hosts
//	id.node.thisdcos.directory     A, AAAA   a node (ours: its reverse record needs a name)
//	thisnode.thisdcos.directory    A or AAAA  the node that answers, its first address
//
// mesos.thisdcos.directory has what Options.Domain has; see mirror.
func directoryRecords(o *Options, f Fact) []record.Record {
	switch f := f.(type) {
	case apexes:
		return apex(directory, record.DCOSServer, o)
	case Host:
		records := addresses(hostName(f), o.TTL, f.Addrs)
		if f.ID == o.Self && o.Self != "" {
			records = append(records, addresses(dnsname.Join("thisnode", directory), serviceTTL, f.Addrs[:min(1, len(f.Addrs))])...)
		}
		return records
	case Service:
		records := addresses(serviceName(f), serviceTTL, f.Addrs)
		for i := range records {
			records[i].Network = f.Network
		}
		return records
	}
	return nil
}

// dcosRecords generates the names of dcos-net that tell where something is reached (T is
// dcos.thisdcos.directory), and its small zones:
//
//	label.fw.containerip.T   A, AAAA   a task's own addresses, its node's if it has none
//	label.fw.agentip.T       A, AAAA   its node's
//	label.fw.autoip.T        A, AAAA   its node's if a port there leads to it, else as containerip
//	leader.T, master.T       A, AAAA   the leading master; all
//	zk-N.zk                  A, AAAA   master N of 1 to 5, again from the first if there are fewer
//	ready.spartan            A         says that names are answered here: a probe
//	ns.spartan               A, AAAA   where
//	localhost                A, AAAA
func dcosRecords(o *Options, f Fact) []record.Record {
	switch f := f.(type) {
	case apexes:
		loopback := []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
		var records []record.Record
		for _, zone := range [...]string{zkZone, spartanZone, localZone} {
			records = append(records, apex(zone, record.DCOSServer, o)[:2]...)
		}
		records = append(records, addresses("ready.spartan.", serviceTTL, loopback[:1])...)
		for _, zone := range o.Zones {
			records = append(records, apex(zone, dnsname.Join("ns1", o.Domain), o)[:2]...)
		}
		return append(records, addresses("localhost.", serviceTTL, loopback)...)
	case Leader:
		return append(addresses(dnsname.Join("leader.dcos", directory), serviceTTL, []netip.Addr{f.Addr}),
			addresses(dnsname.Join("master.dcos", directory), serviceTTL, []netip.Addr{f.Addr})...)
	case Master:
		return addresses(dnsname.Join("master.dcos", directory), serviceTTL, []netip.Addr{f.Addr})
	case MesosMasters:
		leader, all := f.addrs()
		records := append(addresses(dnsname.Join("leader.dcos", directory), serviceTTL, leader),
			addresses(dnsname.Join("master.dcos", directory), serviceTTL, all)...)
		return append(records, zkRecords(all)...)
	case ensemble:
		return zkRecords(f.addrs)
	case placedTask:
		container := f.Addrs
		if len(container) == 0 {
			container = f.node
		}
		auto := container
		if f.Mapped {
			auto = mappedAt(f.node, container)
		}
		return placeRecords(f.Label, taskFramework(f.Task), f.node, container, auto)
	case MesosTask:
		container := f.Netinfo
		if len(container) == 0 {
			container = f.AgentAddrs
		}
		auto := container
		if f.Mapped {
			auto = f.AgentAddrs
		}
		name := f.Discovery
		if name == "" {
			name = f.Name
		}
		return placeRecords(name, dnsname.Domain(f.Framework), f.AgentAddrs, container, auto)
	}
	return nil
}

func zkRecords(masters []netip.Addr) []record.Record {
	var records []record.Record
	for i := range ensembleSize {
		if n := len(masters); n > 0 {
			name := dnsname.Join("zk-"+strconv.Itoa(i+1), zkZone)
			records = append(records, addresses(name, serviceTTL, masters[i%n:i%n+1])...)
		}
	}
	return records
}

func placeRecords(name, framework string, agent, container, auto []netip.Addr) []record.Record {
	label := dnsname.Label(name)
	if label == "" || framework == "" {
		return nil
	}
	tail := "dcos." + directory
	records := addresses(dnsname.Join(label, framework, "agentip", tail), serviceTTL, agent)
	records = append(records, addresses(dnsname.Join(label, framework, "containerip", tail), serviceTTL, container)...)
	return append(records, addresses(dnsname.Join(label, framework, "autoip", tail), serviceTTL, auto)...)
}

// mappedAt are those of a node's addresses whose ports lead to a task: of the families that it has.
func mappedAt(node, task []netip.Addr) []netip.Addr {
	return slices.DeleteFunc(slices.Clone(node), func(a netip.Addr) bool {
		return !slices.ContainsFunc(task, func(t netip.Addr) bool { return t.Is4() == a.Is4() })
	})
}

// addrs are the leader's address and those of all masters, listed ones first.
func (m MesosMasters) addrs() (leader, all []netip.Addr) {
	for _, text := range append(slices.Clone(m.Listed), m.Leader) {
		host, _, ok := splitHostPort(text)
		if !ok {
			continue
		}
		addr := netip.MustParseAddr(host).Unmap()
		if !slices.Contains(all, addr) {
			all = append(all, addr)
		}
		if text == m.Leader {
			leader = []netip.Addr{addr}
		}
	}
	return leader, all
}

// mirrorApex is the zone that has the records of Options.Domain once more, for clients of dcos-net.
const mirrorApex = "mesos." + directory

// mirrored returns the name in Options.Domain that a name in the mirror stands for.
func (o *Options) mirrored(name string) (string, bool) {
	if o.MesosOnly || !dnsname.Within(name, mirrorApex) {
		return "", false
	}
	return strings.TrimSuffix(name, mirrorApex+".") + o.Domain + ".", true
}

// mirror returns a name's counterpart in the mirror.
func (o *Options) mirror(name string) (string, bool) {
	if o.MesosOnly || !dnsname.Within(name, o.Domain) {
		return "", false
	}
	return strings.TrimSuffix(name, o.Domain+".") + mirrorApex + ".", true
}

// reflected returns records of Options.Domain as the mirror has them. It is no zone of its own.
func (o *Options) reflected(records []record.Record) []record.Record {
	out := make([]record.Record, 0, len(records))
	for _, r := range records {
		if r.Type == record.SOA || r.Type == record.NS {
			continue
		}
		r.Name, _ = o.mirror(r.Name)
		r.TTL = seconds(serviceTTL)
		o.setTTL(&r)
		if target, ok := o.mirror(r.Target); ok {
			r.Target = target
		}
		if len(r.Name) <= dnsname.MaxName && len(r.Target) <= dnsname.MaxName {
			out = append(out, r)
		}
	}
	return out
}

func hostName(h Host) string { return dnsname.Join(dnsname.Label(string(h.ID)), "node", directory) }

func serviceName(s Service) string { return dnsname.Join(dnsname.Domain(s.Name), "l4lb", directory) }
