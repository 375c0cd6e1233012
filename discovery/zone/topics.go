// SPDX-License-Identifier: Apache-2.0

package zone

import (
	"slices"
	"strings"

	"weft/discovery"
	"weft/discovery/dnsname"
	"weft/discovery/zone/record"
)

// Topics returns the topics of the rows that a name's records may be from, besides rows that everyone holds. It
// knows by the rules of the zones alone: a name that is missing has topics as well.
func (z *Zone) Topics(name string) []discovery.Topic {
	var topics []discovery.Topic
	for range maxAliases {
		for _, t := range z.topicsOf(name) {
			if !slices.Contains(topics, t) {
				topics = append(topics, t)
			}
		}
		records, _ := z.names.Get(name)
		i := slices.IndexFunc(records, func(r record.Record) bool { return r.Type == record.CNAME })
		if i < 0 {
			break
		}
		name = records[i].Target
	}
	return topics
}

// maxAliases is how many names a question leads to, one by the other.
const maxAliases = 8

func (z *Zone) topicsOf(name string) []discovery.Topic {
	if z.options.MesosOnly {
		return nil
	}
	if original, ok := z.options.mirrored(name); ok {
		name = original
	}
	if p, ok := dnsname.ParseReverse(name); ok {
		if n, inside := z.NetworkOf(p.Addr()); inside && n.Name != "" && p.IsSingleIP() {
			return []discovery.Topic{{Kind: discovery.KindName, Of: discovery.Every}}
		}
		return nil
	}
	labels := z.taskLabels(name)
	if len(labels) < 2 {
		return nil // leader, slave, master0, ...
	}
	var topics []discovery.Topic
	add := func(label string) {
		if t := discovery.NameTopic(label); label != "" && !slices.Contains(topics, t) {
			topics = append(topics, t)
		}
	}
	add(dnsname.OfCanonical(labels[0]))
	add(strings.TrimPrefix(labels[0], "_"))
	// _label._proto.fw, _port._label._proto.fw
	for i := 0; i+1 < len(labels) && strings.HasPrefix(labels[i+1], "_"); i++ {
		add(strings.TrimPrefix(labels[i], "_"))
	}
	return topics
}

// taskLabels returns the labels before the zone, of a name in one that has tasks.
func (z *Zone) taskLabels(name string) []string {
	for _, apex := range [...]string{
		z.options.Domain, OwnZone, "agentip.dcos." + directory, "containerip.dcos." + directory, "autoip.dcos." + directory,
	} {
		if rest, ok := strings.CutSuffix(name, "."+apex+"."); ok {
			return strings.Split(rest, ".")
		}
	}
	return nil
}
