// SPDX-License-Identifier: Apache-2.0

package mesos

import (
	"cmp"
	"net/netip"
	"reflect"
	"slices"
	"strconv"

	"weft/discovery"
	"weft/discovery/dnsname"
	"weft/discovery/zone"
)

// Kinds of the sources of facts; no row has them.
const (
	KindMasters   discovery.Kind = "mesos-masters"
	KindAgent     discovery.Kind = "mesos-agent"     // key: agent id
	KindFramework discovery.Kind = "mesos-framework" // key: framework id
	KindTask      discovery.Kind = "mesos-task"      // key: framework id/task id
)

// Options say what the document does not.
type Options struct {
	// Masters are those that are configured, host:port, in the order of their names.
	Masters []string
	// Resolved has the addresses of State.Hosts; a host that is not there has none.
	Resolved map[string][]netip.Addr
}

// Facts are the facts of a state by their sources, and which source each task has.
type Facts struct {
	all     map[zone.Source]zone.Fact
	again   map[zone.Source]int // how often a source was there before
	listing []zone.Listed
}

// Facts returns what zones are made from.
func (s *State) Facts(o Options) *Facts {
	f := &Facts{all: map[zone.Source]zone.Fact{}, again: map[zone.Source]int{}}
	masters := zone.MesosMasters{Leader: s.Leader, Listed: o.Masters}
	for _, framework := range s.Frameworks {
		if dnsname.RFC1123.Domain(framework.Name) == "master" || dnsname.RFC952.Domain(framework.Name) == "master" {
			masters.Namesakes = append(masters.Namesakes, zone.MesosFramework{Name: framework.Name, Addrs: o.addrs(framework.host)})
		}
	}
	f.add(KindMasters, "masters", s.Leader, masters)
	for _, a := range s.agents {
		f.add(KindAgent, a.id, s.Leader, zone.MesosAgent{Addrs: o.addrs(a.host), Port: a.port})
	}
	for _, framework := range s.Frameworks {
		source := f.add(KindFramework, cmp.Or(framework.ID, framework.Name), s.Leader,
			zone.MesosFramework{Name: framework.Name, Addrs: o.addrs(framework.host), Port: framework.port})
		listed := zone.Listed{Name: framework.Name}
		for _, t := range framework.Tasks {
			if s.Named(t) {
				fact := s.task(framework.Name, t, &o)
				listed.Tasks = append(listed.Tasks, zone.ListedTask{
					ID: t.ID, Name: t.Name, Source: f.add(KindTask, source.Key+"/"+t.ID, s.Leader, fact),
				})
			}
		}
		f.listing = append(f.listing, listed)
	}
	return f
}

// add takes a fact; of several with one key the later ones get a number.
func (f *Facts) add(kind discovery.Kind, key, writer string, fact zone.Fact) zone.Source {
	s := zone.Source{Kind: kind, Key: key, Writer: writer}
	for first := s; f.all[s] != nil; {
		f.again[first]++
		s.Key = key + "#" + strconv.Itoa(f.again[first])
	}
	f.all[s] = fact
	return s
}

func (s *State) task(framework string, t Task, o *Options) zone.MesosTask {
	w, last := t.wire, t.wire.last()
	host := s.agents[s.byID[w.Agent]].host
	fact := zone.MesosTask{
		Framework: framework, ID: w.ID, Name: w.Name, Agent: w.Agent,
		AgentHost: host, AgentAddrs: o.addrs(host),
		Netinfo: parseAddrs(last.netinfo()), Mesos: parseAddrs(last.labelled(mesosLabel)), Docker: parseAddrs(last.labelled(dockerLabel)),
		HostPorts: parseRanges(w.Resources.Ports), Discovery: w.Discovery.Name, Mapped: w.mapped(), Unwell: w.unwell(),
	}
	for _, p := range w.Discovery.Ports.Ports {
		fact.Ports = append(fact.Ports, zone.MesosPort{Name: p.Name, Protocol: p.Protocol, Number: p.Number})
	}
	return fact
}

func (o *Options) addrs(host string) []netip.Addr {
	if a, ok := parseAddr(host); ok {
		return []netip.Addr{a}
	}
	return o.Resolved[host]
}

// Listing returns the frameworks and their tasks that have names. The caller must not change it.
func (f *Facts) Listing() []zone.Listed {
	if f == nil {
		return nil
	}
	return f.listing
}

// Changes returns how facts differ from the ones before (nil: there were none), ordered by source. Those that are equal are the
// ones before from then on, which zones hold: they are in memory once.
func (f *Facts) Changes(before *Facts) []zone.Change {
	var changes []zone.Change
	var old map[zone.Source]zone.Fact
	if before != nil {
		old = before.all
	}
	for s := range old {
		if f.all[s] == nil {
			changes = append(changes, zone.Change{Source: s})
		}
	}
	for s, fact := range f.all {
		if was := old[s]; was == nil || !reflect.DeepEqual(was, fact) {
			changes = append(changes, zone.Change{Source: s, Fact: fact})
		} else {
			f.all[s] = was
		}
	}
	slices.SortFunc(changes, func(a, b zone.Change) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Key, b.Key), cmp.Compare(a.Writer, b.Writer))
	})
	return changes
}
