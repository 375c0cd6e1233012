// SPDX-License-Identifier: Apache-2.0

package dnstest

import (
	"net/netip"
	"slices"
	"strings"

	wire "github.com/miekg/dns"

	"weft/discovery"
	"weft/discovery/zone"
)

// Addrs reads addresses.
func Addrs(list ...string) []netip.Addr {
	out := make([]netip.Addr, len(list))
	for i, s := range list {
		out[i] = netip.MustParseAddr(s)
	}
	return out
}

// Task is a task of prod on host-a.
func Task(id, label string, a ...string) zone.Change {
	return zone.Change{
		Source: zone.Source{Kind: discovery.KindName, Key: id, Writer: "host-a"},
		Fact: zone.Task{Name: discovery.Name{
			Task: id, Label: label, Network: "prod", Node: "host-a", Addrs: Addrs(a...),
			Ports: []discovery.NamedPort{{Name: "http", Protocol: "tcp", Port: 80}},
		}},
	}
}

// Gone takes a fact away.
func Gone(c zone.Change) zone.Change {
	c.Fact = nil
	return c
}

// Service is the name of a VIP.
func Service(network, name string, a ...string) zone.Change {
	return zone.Change{
		Source: zone.ServiceSource(network, name),
		Fact:   zone.Service{Network: network, ServiceName: discovery.ServiceName{Name: name, Addrs: Addrs(a...)}},
	}
}

// Network is one with a subnet.
func Network(name string, vni uint32, subnet string) zone.Change {
	return zone.Change{
		Source: zone.Source{Kind: discovery.KindNetwork, Key: name, Writer: discovery.Ledger},
		Fact:   zone.Network{Name: name, VNI: vni, Subnets: []netip.Prefix{netip.MustParsePrefix(subnet)}},
	}
}

// Values are the records of a section without owner and TTL, sorted: the order is by lot.
func Values(rrs []wire.RR) []string {
	out := []string{}
	for _, rr := range rrs {
		if rr.Header().Rrtype != wire.TypeOPT {
			out = append(out, strings.TrimPrefix(rr.String(), rr.Header().String()))
		}
	}
	slices.Sort(out)
	return out
}
