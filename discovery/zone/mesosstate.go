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

// IPSource says where the addresses of a Mesos task are from.
type IPSource string

// The sources that Mesos-DNS knows.
const (
	FromHost    IPSource = "host"    // its agent
	FromNetinfo IPSource = "netinfo" // network_infos of its last status
	FromMesos   IPSource = "mesos"   // label of the Mesos containerizer in its last status
	FromDocker  IPSource = "docker"  // label of Docker in its last status
)

// The facts of a Mesos cluster, which discovery/mesos reads from a master's state. Texts are as they
// are there: the zone makes labels of them.
type (
	// MesosTask is a running task on an agent that the master knows.
	MesosTask struct {
		Framework string // its name
		ID, Name  string
		Agent     string // id
		// AgentHost is the host in the agent's PID; AgentAddrs are its addresses, none when the host has
		// none.
		AgentHost  string
		AgentAddrs []netip.Addr
		// Addresses of the last status, by where it has them.
		Netinfo, Mesos, Docker []netip.Addr
		HostPorts              []int  // of resources.ports
		Discovery              string // name of its DiscoveryInfo; empty: it has none
		Ports                  []MesosPort
		Mapped                 bool // a port of the agent leads to it
		Unwell                 bool // its checks say so, or have not said anything yet
	}
	// MesosPort is a port of a DiscoveryInfo; nobody has checked the number.
	MesosPort struct {
		Name, Protocol string
		Number         int
	}
	// MesosFramework is a framework that is registered.
	MesosFramework struct {
		Name  string
		Addrs []netip.Addr
		Port  string // of its PID; empty: it has no PID
	}
	// MesosAgent is an agent that the master knows.
	MesosAgent struct {
		Addrs []netip.Addr
		Port  string // of its PID
	}
	// MesosMasters are the masters, host:port. The order of those listed is that of their names.
	MesosMasters struct {
		Leader string
		Listed []string
		// Namesakes are frameworks that are called master or nearly so: a master at the address of one gets
		// no number, as Mesos-DNS takes it for one that it has seen.
		Namesakes []MesosFramework
	}
)

func (MesosTask) fact()      {}
func (MesosFramework) fact() {}
func (MesosAgent) fact()     {}
func (MesosMasters) fact()   {}

// builder collects the records of a fact.
type builder struct {
	o       *Options
	records []record.Record
}

// add takes a record, unless nobody could ask for it or it could not be in an answer; Mesos-DNS shows
// those in its HTTP API.
func (b *builder) add(r record.Record) {
	if b.o.Strict || dnsname.Askable(r.Name) && r.Answerable() && (r.Target == "" || dnsname.Askable(r.Target)) {
		r.TTL = seconds(b.o.TTL)
		b.records = append(b.records, r)
	}
}

func (b *builder) addresses(name string, addrs []netip.Addr) {
	for _, a := range addrs {
		if r, ok := address(name, b.o.TTL, a); ok {
			b.add(r)
		}
	}
}

// text adds an address as somebody wrote it.
func (b *builder) text(name, text string) {
	addr, err := netip.ParseAddr(text)
	if err != nil || addr.Zone() != "" {
		return
	}
	if r, ok := address(name, b.o.TTL, addr); ok {
		if r.Addr.String() != text && b.o.Strict {
			r.Text = text
		}
		b.add(r)
	}
}

// service adds a SRV record. A target with a character that parts host and port is one that Mesos-DNS
// can't take apart when it is asked.
func (b *builder) service(name, target string, port int) {
	r := record.Record{Name: name, Type: record.SRV, Target: target, Port: uint16(port)}
	if odd := port <= 0 || port > 0xffff; odd && !b.o.Strict {
		return
	} else if odd || strings.ContainsAny(target, ":[]") {
		r.Text = target + ":" + strconv.Itoa(port)
	}
	if strings.ContainsAny(target, ":[]") {
		r.Target = ""
	}
	b.add(r)
}

// serviceText is service with a port as it is in a PID.
func (b *builder) serviceText(name, target, port string) {
	n, err := strconv.Atoi(port)
	if err == nil && (strconv.Itoa(n) == port || !b.o.Strict) {
		b.service(name, target, n)
		return
	}
	r := record.Record{Name: name, Type: record.SRV, Target: target, Port: uint16(n), Text: target + ":" + port}
	if err != nil {
		r.Target = ""
	}
	b.add(r)
}

func frameworkRecords(o *Options, f MesosFramework) []record.Record {
	b := builder{o: o}
	name := o.rule().Domain(f.Name) + "." + o.Domain + "."
	b.addresses(name, f.Addrs)
	if f.Port != "" && len(f.Addrs) > 0 {
		b.serviceText("_framework._tcp."+name, name, f.Port)
	}
	return b.records
}

func agentRecords(o *Options, a MesosAgent) []record.Record {
	b := builder{o: o}
	name := "slave." + o.Domain + "."
	b.addresses(name, a.Addrs)
	if len(a.Addrs) > 0 {
		b.serviceText("_slave._tcp."+o.Domain+".", name, a.Port)
	}
	return b.records
}

// masterRecords numbers the masters in the order in which they are listed; the leader gets the next
// number when it is not among them. A second one at the same address gets none.
func masterRecords(o *Options, m MesosMasters) []record.Record {
	leader, port, ok := splitHostPort(m.Leader)
	if !ok {
		return nil
	}
	b := builder{o: o}
	tail := "." + o.Domain + "."
	b.text("leader"+tail, leader)
	b.text("master"+tail, leader)
	b.serviceText("_leader._tcp"+tail, "leader"+tail, port)
	b.serviceText("_leader._udp"+tail, "leader"+tail, port)
	seen := []string{leader}
	for _, f := range m.Namesakes {
		if o.rule().Domain(f.Name) == "master" {
			for _, a := range f.Addrs {
				seen = append(seen, a.String())
			}
		}
	}
	number, led := 0, false
	for _, listed := range m.Listed {
		host, _, ok := splitHostPort(listed)
		switch {
		case !ok, listed == m.Leader && led, listed != m.Leader && slices.Contains(seen, host):
			continue
		case listed == m.Leader:
			led = true
		default:
			seen = append(seen, host)
			b.text("master"+tail, host)
		}
		b.text("master"+strconv.Itoa(number)+tail, host)
		number++
	}
	if !led {
		b.text("master"+strconv.Itoa(number)+tail, leader)
	}
	return b.records
}

// splitHostPort parts an address of a master; names are no addresses.
func splitHostPort(text string) (host, port string, ok bool) {
	i := strings.LastIndexByte(text, ':')
	if i < 0 {
		return "", "", false
	}
	host, port = text[:i], text[i+1:]
	if h, bracketed := strings.CutPrefix(host, "["); bracketed {
		host = strings.TrimSuffix(h, "]")
	}
	a, err := netip.ParseAddr(host)
	return host, port, err == nil && a.Zone() == ""
}

// addrsOf a task are those of the first source that has any.
func (o *Options) addrsOf(t MesosTask) []netip.Addr {
	for _, source := range o.IPSources {
		var addrs []netip.Addr
		switch source {
		case FromHost:
			addrs = t.AgentAddrs
		case FromNetinfo:
			addrs = t.Netinfo
		case FromMesos:
			addrs = t.Mesos
		case FromDocker:
			addrs = t.Docker
		}
		if len(addrs) > 0 {
			return addrs
		}
	}
	return nil
}

// mesosTaskRecords are the records of a task under its name. One with a DiscoveryInfo has its name
// instead; Mesos-DNS gives it all records under that name as it is written too, most of which nobody
// can ask for.
func mesosTaskRecords(o *Options, t MesosTask) []record.Record {
	b := builder{o: o}
	switch {
	case t.Discovery == "":
		b.task(t, o.rule().Label(t.Name))
	case o.Strict:
		b.task(t, t.Discovery)
		fallthrough
	default:
		b.task(t, o.rule().Label(t.Discovery))
	}
	return b.records
}

// task gives the records in the order in which /v1/enumerate has them.
func (b *builder) task(t MesosTask, label string) {
	rule := b.o.rule()
	framework := rule.Domain(t.Framework)
	tail, slave := "."+framework+"."+b.o.Domain+".", "."+framework+".slave."+b.o.Domain+"."
	own := b.canonical(label, t)
	for _, addr := range b.o.addrsOf(t) {
		b.addresses(label+tail, []netip.Addr{addr})
		b.addresses(own+tail, []netip.Addr{addr})
	}
	for _, addr := range t.AgentAddrs {
		b.addresses(label+slave, []netip.Addr{addr})
		b.addresses(own+slave, []netip.Addr{addr})
	}
	if host := rule.Domain(t.AgentHost); b.o.Strict && len(t.AgentAddrs) == 0 && host != "" {
		b.add(record.Record{Name: label + slave, Type: record.A, Text: host})
		b.add(record.Record{Name: own + slave, Type: record.A, Text: host})
	}
	b.hostPorts(t, label, own)
	if t.Discovery != "" {
		b.discoveryPorts(t, label, own)
	}
}

// hostPorts gives the ports of resources.ports: at the agent, and under the task's own name unless that
// is for the ports of its DiscoveryInfo.
func (b *builder) hostPorts(t MesosTask, label, own string) {
	framework := b.o.rule().Domain(t.Framework)
	tail, slave := "."+framework+"."+b.o.Domain+".", "."+framework+".slave."+b.o.Domain+"."
	target := own + slave
	names := []string{"_" + label + "._tcp" + slave, "_" + label + "._udp" + slave}
	if t.Discovery == "" {
		names = append(names, "_"+label+"._tcp"+tail, "_"+label+"._udp"+tail)
	}
	for _, port := range t.HostPorts {
		for _, name := range names {
			b.service(name, target, port)
		}
	}
}

func (b *builder) discoveryPorts(t MesosTask, label, own string) {
	rule := b.o.rule()
	tail := "." + rule.Domain(t.Framework) + "." + b.o.Domain + "."
	for _, p := range t.Ports {
		protos := []string{rule.Label(p.Protocol)}
		if protos[0] == "" {
			protos = []string{"tcp", "udp"}
		}
		prefixes := []string{"_"}
		if port := rule.Label(p.Name); port != "" {
			prefixes = append(prefixes, "_"+port+"._")
		}
		for _, prefix := range prefixes {
			for _, proto := range protos {
				b.service(prefix+label+"._"+proto+tail, own+tail, p.Number)
			}
		}
	}
}

// canonical is the label of one task alone, shortened when it would be no label.
func (b *builder) canonical(label string, t MesosTask) string {
	tail := strings.ToLower(t.Agent[strings.LastIndexByte(t.Agent, '-')+1:])
	own := label + "-" + dnsname.Hash(t.ID) + "-" + tail
	if b.o.Strict || len(own) <= dnsname.MaxLabel && dnsname.Mangle(tail) == tail {
		return own
	}
	return dnsname.Canonical(label, t.ID, t.Agent)
}
