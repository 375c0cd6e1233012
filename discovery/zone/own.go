// SPDX-License-Identifier: Apache-2.0

package zone

import (
	"slices"
	"strings"

	"weft/discovery"
	"weft/discovery/dnsname"
	"weft/discovery/zone/record"
)

// OwnZone is the zone of short names, which tasks of a network use among themselves (net is its name):
//
//	label.net.weft                                      A, AAAA   the tasks of that name in the network
//	label-hash-tail.net.weft                            A, AAAA   one task alone
//	_label._proto.net.weft, _port._label._proto.net.weft   SRV    their ports
//	label.framework.net.weft                            the same for tasks of another framework than weft
//
// The network and the hosts see them. They are no records of their own: what Options.Domain has of the
// tasks of one network is their answer, so they cost no memory.
const OwnZone = "weft"

// ownApex generates the records that make it a zone.
func ownApex(o *Options, f Fact) []record.Record {
	if _, ok := f.(apexes); ok && o.hasOwn() {
		return apex(OwnZone, dnsname.Join("ns1", o.Domain), o)[:2]
	}
	return nil
}

func (o *Options) hasOwn() bool { return !o.MesosOnly && o.Domain != OwnZone }

// addOwn adds what a name in OwnZone stands for; it is given without the zone, and with a dot at its end.
func (z *Zone) addOwn(a *Answer, network, name string) {
	name = strings.TrimSuffix(name, ".")
	i := strings.LastIndexByte(name, '.')
	name, home := name[:max(i, 0)], name[i+1:]
	if network != "" && dnsname.Label(network) != home {
		return
	}
	known := slices.ContainsFunc(z.networks, func(n Network) bool { return dnsname.Label(n.Name) == home })
	if name == "" {
		a.Exists = a.Exists || known
		return
	}
	for _, original := range z.options.originals(name) {
		records, exists := z.names.Get(original)
		a.Exists = a.Exists || known && exists && len(records) == 0 // names below it have some, of whatever network
		for _, r := range records {
			if r.Home == "" || dnsname.Label(r.Home) != home || network != "" && r.Home != network {
				continue
			}
			if own, ok := z.options.owned(r, home); ok {
				a.Records, a.Exists = append(a.Records, own), true
			}
		}
	}
	slices.SortFunc(a.Records, record.Compare)
}

// owned is a record of Options.Domain as OwnZone has it, unless its names get too long by that.
func (o *Options) owned(r record.Record, home string) (record.Record, bool) {
	r.Name = o.ownName(r.Name, home)
	if dnsname.Within(r.Target, o.Domain) {
		r.Target = o.ownName(r.Target, home)
	}
	o.setTTL(&r)
	return r, dnsname.Askable(r.Name) && (r.Target == "" || dnsname.Askable(r.Target))
}

// originals are the names in Options.Domain that a name, given without network and OwnZone, can stand for.
func (o *Options) originals(name string) []string {
	names := []string{name + "." + discovery.DefaultFramework + "." + o.Domain + "."}
	if !strings.HasSuffix(name, "."+discovery.DefaultFramework) && !strings.HasSuffix(name, ".slave") {
		names = append(names, name+"."+o.Domain+".")
	}
	return names
}

// ownName is what a name of a task in Options.Domain is called in OwnZone.
func (o *Options) ownName(name, home string) string {
	name = strings.TrimSuffix(name, "."+o.Domain+".")
	return strings.TrimSuffix(name, "."+discovery.DefaultFramework) + "." + home + "." + OwnZone + "."
}

// ownChanges adds the questions about names in OwnZone that names of Options.Domain answer differently
// since before. homes has the networks of what was edited; a name that is not there is only above others,
// in whatever network.
func (z *Zone) ownChanges(before *Zone, name string, homes map[string][]string, changed map[Question]struct{}) {
	if !z.options.hasOwn() || !dnsname.Within(name, z.options.Domain) {
		return
	}
	labels, edited := homes[name]
	if !edited {
		for _, n := range slices.Concat(before.networks, z.networks) {
			labels = append(labels, dnsname.Label(n.Name))
		}
	}
	for _, home := range labels {
		own := z.options.ownName(name, home)
		was, is := before.Lookup("", own), z.Lookup("", own)
		if was.Exists != is.Exists {
			changed[Question{own, record.Any}] = struct{}{}
		}
		for _, t := range differences(was, is) {
			changed[Question{own, t}] = struct{}{}
		}
	}
}

// homesOf returns the labels of the networks of tasks that records tell of.
func homesOf(old, now []record.Record) []string {
	var homes []string
	for _, r := range slices.Concat(old, now) {
		if r.Home != "" && !slices.Contains(homes, r.Home) {
			homes = append(homes, r.Home)
		}
	}
	for i, home := range homes {
		homes[i] = dnsname.Label(home)
	}
	return homes
}
