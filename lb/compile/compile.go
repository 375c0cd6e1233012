// SPDX-License-Identifier: Apache-2.0

// Package compile turns facts about VIPs and backends into the rows that the kernel reads, and into
// the status that says of each backend why it is in or out. It is pure: it knows no table, no clock
// and no network, and leaves writing to lb/apply and the loop to lb/engine.
package compile

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"weft/bpf/row"
	"weft/discovery"
	"weft/lb"
)

// A compilation goes through these stages, one after the other:
//
//  1. collect: backends by lb.Key, in key order, with the addresses of their VIPs
//  2. judge:   which backends of an address are in, and why the others are not
//  3. keep:    VIPs that nobody serves any more but whose address is still a VIP's
//  4. place:   ids and slots, as near as possible to those that there are

// maxBackends is what row.VIP can count.
const maxBackends = 1<<16 - 1

// Facts is all that a compilation depends on, besides the rows that there are.
type Facts struct {
	Networks map[string]uint32 // VNI by name
	Pins     []lb.Pin
	Backends []lb.Backend
	// Down holds the nodes whose backends are out, with the reason: "is down". Nodes that are not
	// in it are up.
	Down map[discovery.NodeID]string
	// Self is the node whose tables these are, Zones says where nodes are: for VIPs that prefer.
	Self  discovery.NodeID
	Zones map[discovery.NodeID]string
	// Now, in seconds of CLOCK_MONOTONIC, is since when newcomers are there.
	Now uint32
}

// Rows is what the two tables hold.
type Rows struct {
	VIPs     map[row.VIPKey]row.VIP
	Backends map[row.BackendKey]row.Backend
}

// Clone returns a copy that shares nothing.
func (r Rows) Clone() Rows {
	return Rows{VIPs: maps.Clone(r.VIPs), Backends: maps.Clone(r.Backends)}
}

// IDs returns the ids by which the kernel half knows the backends of a VIP, by their addresses.
func (r Rows) IDs(v lb.VIPStatus, vni uint32) map[netip.AddrPort]uint32 {
	ids := make(map[netip.AddrPort]uint32)
	for _, a := range v.Addrs {
		vip := r.VIPs[vipKey(vni, a, v.Key)]
		for slot := range vip.Backends {
			b := r.Backends[row.BackendKey{VIP: vip.ID, Slot: slot}]
			ids[netip.AddrPortFrom(b.Addr.Netip(), row.Port(b.Port))] = b.ID
		}
	}
	return ids
}

// Compile returns the rows that f comes to and the status of every VIP that has a backend, by name,
// address and port. Ids and slots of have are kept wherever they still serve, so that a small change
// gives a small diff and a restart gives none.
func Compile(f Facts, have Rows) (Rows, []lb.VIPStatus) {
	status, members := collect(f)
	wanted := judge(f, members)
	keep(f, have, wanted)
	return place(wanted, have, f.Now), status
}

// member is a backend that may serve one address of a VIP; it points into the status that it is
// reported in.
type member struct {
	status  *lb.BackendStatus
	balance lb.Balance // of the VIP
	peer    netip.AddrPort
}

// collect returns a status for each key, with every backend out, and who may serve which row.
func collect(f Facts) ([]lb.VIPStatus, map[row.VIPKey][]member) {
	pins := make(map[string]lb.Pin, len(f.Pins))
	for _, p := range f.Pins {
		pins[p.Name] = p
	}
	backends := slices.Clone(f.Backends)
	slices.SortFunc(backends, func(a, b lb.Backend) int {
		return cmp.Or(a.VIP.Compare(b.VIP), cmp.Compare(a.Node, b.Node), cmp.Compare(a.Task, b.Task))
	})
	var status []lb.VIPStatus
	members := make(map[row.VIPKey][]member)
	for len(backends) > 0 {
		key := backends[0].VIP
		end := slices.IndexFunc(backends, func(b lb.Backend) bool { return b.VIP != key })
		if end < 0 {
			end = len(backends)
		}
		status = append(status, collectVIP(f, pins, backends[:end], members))
		backends = backends[end:]
	}
	return status, members
}

// collectVIP does the same for the backends of one key.
func collectVIP(f Facts, pins map[string]lb.Pin, backends []lb.Backend, members map[row.VIPKey][]member) lb.VIPStatus {
	key := backends[0].VIP
	vip := lb.VIPStatus{Key: key, Balance: backends[0].Balance, Backends: make([]lb.BackendStatus, len(backends))}
	addrs := []netip.Addr{key.Addr}
	var why string
	if key.Name != "" {
		vip.DNS = lb.DNSName(key.Name)
		pin, pinned := pins[key.Name]
		if !pinned {
			why = "waiting for a master to give " + key.Name + " an address"
		}
		addrs = []netip.Addr{pin.Addr4, pin.Addr6}
	}
	vni, known := f.Networks[key.Network]
	if !known {
		why = fmt.Sprintf("network %s is not known", key.Network)
	}
	for i, b := range backends {
		vip.Backends[i] = lb.BackendStatus{Backend: b, Reason: cmp.Or(why, "has no address of the VIP's family")}
	}
	for _, addr := range addrs {
		if !addr.IsValid() || why != "" {
			continue
		}
		id := vipKey(vni, addr, key)
		found := members[id]
		served := false
		for i := range vip.Backends {
			b := &vip.Backends[i]
			for _, a := range b.Addrs {
				if a.Is4() == addr.Is4() {
					found = append(found, member{b, vip.Balance, netip.AddrPortFrom(a, b.Port)})
					served = true
				}
			}
		}
		members[id] = found // also when empty: the VIP then refuses instead of leaking to the world
		if served {
			vip.Addrs = append(vip.Addrs, addr)
		}
	}
	return vip
}

func vipKey(vni uint32, addr netip.Addr, key lb.Key) row.VIPKey {
	proto := uint8(protoTCP)
	if key.Protocol == lb.UDP {
		proto = protoUDP
	}
	return row.VIPKey{VNI: vni, Addr: row.AddrOf(addr), Port: row.Port(key.Port), Proto: proto}
}

// IP protocol numbers.
const (
	protoTCP = 6
	protoUDP = 17
)

// judge decides who is in, tells the reasons to the status and returns who stands where, by row.
func judge(f Facts, members map[row.VIPKey][]member) map[row.VIPKey]service {
	wanted := make(map[row.VIPKey]service, len(members))
	for id, ms := range members {
		allDown := !slices.ContainsFunc(ms, func(m member) bool {
			_, down := f.Down[m.status.Node]
			return m.status.Weight > 0 && !down
		})
		in := service{backends: make(map[netip.AddrPort]standing, len(ms))}
		if len(ms) > 0 {
			in.balance = ms[0].balance
		}
		for _, m := range ms {
			why, down := f.Down[m.status.Node]
			_, counted := in.backends[m.peer]
			switch {
			case !counted && len(in.backends) == maxBackends:
				m.say(fmt.Sprintf("the VIP has %d backends, more are not served", maxBackends))
			case m.status.Weight == 0 && !down:
				in.add(f, m)
				m.say("draining")
			case m.status.Weight == 0:
				m.say("draining")
			case down && !allDown:
				m.say(fmt.Sprintf("node %s %s", m.status.Node, why))
			case down:
				in.add(f, m)
				m.status.In, m.status.Reason = true, fmt.Sprintf("node %s %s, kept because no other backend is up", m.status.Node, why)
			default:
				in.add(f, m)
				m.status.In, m.status.Reason = true, "serving"
			}
		}
		wanted[id] = in
	}
	return wanted
}

// say gives the reason for being out, unless the backend is in at another address of the VIP.
func (m member) say(why string) {
	if !m.status.In {
		m.status.Reason = why
	}
}

// service is what serves a row: two tasks at one address and port are one backend.
type service struct {
	balance  lb.Balance
	backends map[netip.AddrPort]standing
}

// standing is how a backend is asked: weight 0 is draining.
type standing struct {
	weight uint16
	near   bool
}

func (s service) add(f Facts, m member) {
	old := s.backends[m.peer]
	s.backends[m.peer] = standing{max(old.weight, m.status.Weight), old.near || f.near(s.balance.Prefer, m.status.Node)}
}

// near tells whether a VIP that prefers asks the backends of a node first.
func (f Facts) near(p lb.Preference, node discovery.NodeID) bool {
	switch p {
	case lb.SameNode:
		return node == f.Self
	case lb.SameZone:
		return f.Zones[node] != "" && f.Zones[node] == f.Zones[f.Self]
	default:
		return false
	}
}

// keep adds, without backends, those VIPs that the tables hold and that nobody names any more, as
// long as the address is pinned: it is no address of the world.
func keep(f Facts, have Rows, wanted map[row.VIPKey]service) {
	pinned := make(map[row.Addr]bool, 2*len(f.Pins))
	for _, p := range f.Pins {
		for _, a := range []netip.Addr{p.Addr4, p.Addr6} {
			if a.IsValid() {
				pinned[row.AddrOf(a)] = true
			}
		}
	}
	vnis := make(map[uint32]bool, len(f.Networks))
	for _, vni := range f.Networks {
		vnis[vni] = true
	}
	for id := range have.VIPs {
		if _, ok := wanted[id]; !ok && pinned[id.Addr] && vnis[id.VNI] {
			wanted[id] = service{}
		}
	}
}
