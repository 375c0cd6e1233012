// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"cmp"
	"net/netip"
	"slices"

	"weft/discovery"
	"weft/discovery/state"
	"weft/discovery/zone"
)

// network is what names need of a network row; the rest is the overlay's.
type network struct {
	Name    string       `json:"name"`
	VNI     uint32       `json:"vni"`
	Subnet4 netip.Prefix `json:"subnet4"`
	Subnet6 netip.Prefix `json:"subnet6"`
}

// factOf reads a row; nil without an error for kinds that make no records, and for rows of a kind that
// their writer does not write: nobody but the masters says where the leader is.
func factOf(r discovery.Row) (zone.Fact, error) {
	if (r.Writer == discovery.Ledger) != byLedger(r.Kind) {
		return nil, nil
	}
	switch r.Kind {
	case discovery.KindName:
		n, err := state.Value[discovery.Name](r)
		if err != nil {
			return nil, err
		}
		if n.Node == "" {
			n.Node = discovery.NodeID(r.Writer)
		}
		return zone.Task{Name: n}, nil // the zone leaves out what can't be asked for
	case discovery.KindNode:
		n, err := state.Value[discovery.Node](r)
		return zone.Host{Node: n}, err
	case discovery.KindMaster:
		m, err := state.Value[discovery.Master](r)
		return zone.Master{Master: m}, err
	case discovery.KindLeader:
		m, err := state.Value[discovery.Master](r)
		return zone.Leader{Master: m}, err
	case discovery.KindNetwork:
		n, err := state.Value[network](r)
		if err != nil {
			return nil, err
		}
		f := zone.Network{Name: n.Name, VNI: n.VNI}
		for _, p := range []netip.Prefix{n.Subnet4, n.Subnet6} {
			if p.IsValid() {
				f.Subnets = append(f.Subnets, p)
			}
		}
		return f, nil
	default:
		return nil, nil
	}
}

// byLedger tells who writes a kind: the masters or nodes.
func byLedger(k discovery.Kind) bool { return k != discovery.KindName && k != discovery.KindNode }

// serviceChanges compares the names of VIPs before and now, by network and name.
func serviceChanges(before, now map[string][]discovery.ServiceName) []zone.Change {
	facts := func(services map[string][]discovery.ServiceName) map[zone.Source]zone.Service {
		m := map[zone.Source]zone.Service{}
		for network, names := range services {
			for _, n := range names {
				m[zone.ServiceSource(network, n.Name)] = zone.Service{Network: network, ServiceName: n}
			}
		}
		return m
	}
	old, next := facts(before), facts(now)
	var changes []zone.Change
	for source := range old {
		if _, stays := next[source]; !stays {
			changes = append(changes, zone.Change{Source: source})
		}
	}
	for source, f := range next {
		if was, had := old[source]; !had || !slices.Equal(was.Addrs, f.Addrs) {
			changes = append(changes, zone.Change{Source: source, Fact: f})
		}
	}
	slices.SortFunc(changes, func(a, b zone.Change) int { return cmp.Compare(a.Key, b.Key) })
	return changes
}
