// SPDX-License-Identifier: Apache-2.0

// Package compile turns facts about VIPs and backends into the rows that the kernel reads, and into
// the status that says of each backend why it is in or out. It is pure: it knows no table, no clock
// and no network, and leaves writing to lb/apply and the loop to lb/engine.
package compile

import (
	"maps"
	"net/netip"

	"weft/bpf/row"
	"weft/discovery"
	"weft/lb"
)

// A compilation goes through these stages, one after the other, for the VIPs that a change touches:
//
//  1. merge:   changes of backends, by lb.Key               (compiler.go)
//  2. spread:  VIPs that lead to one row go together        (compiler.go)
//  3. collect: statuses, and who may serve which row        (judge.go)
//  4. judge:   which backends of a row are in, and why the others are not
//  5. place:   ids and slots, as near as possible to those that there are (place.go); which clients are whose,
//     where hashes decide (spread.go)

// maxBackends is what row.VIP can count.
const maxBackends = 1<<16 - 1

// Facts is all that a compilation depends on, besides the rows that there are.
type Facts struct {
	Networks map[string]uint32 // VNI by name
	Pins     []lb.Pin
	Backends []lb.Backend
	Nodes
	// RefuseUnhealthy takes no backend for fit that its health speaks against, also where there is no other: as in
	// DC/OS.
	RefuseUnhealthy bool
	// Now, in seconds of CLOCK_MONOTONIC, is since when newcomers are there.
	Now uint32
}

// Nodes is what matters of nodes. Who is handed it does not change it any more.
type Nodes struct {
	// Down holds the nodes whose backends are out, with the reason: "is down". Nodes that are not
	// in it are up.
	Down map[discovery.NodeID]string
	// Self is the node whose tables these are, Zones says where nodes are: for VIPs that prefer.
	Self  discovery.NodeID
	Zones map[discovery.NodeID]string
}

// near tells whether a VIP that prefers asks the backends of a node first.
func (n Nodes) near(p lb.Preference, node discovery.NodeID) bool {
	switch p {
	case lb.SameNode:
		return node == n.Self
	case lb.SameZone:
		return n.Zones[node] != "" && n.Zones[node] == n.Zones[n.Self]
	default:
		return false
	}
}

// Rows is what the tables hold, or a part of it.
type Rows struct {
	VIPs     map[row.VIPKey]row.VIP
	Backends map[row.BackendKey]row.Backend
	Maglevs  map[uint32]row.Maglev // by id of the VIP
}

func newRows(vips int) Rows {
	return Rows{
		VIPs: make(map[row.VIPKey]row.VIP, vips), Backends: make(map[row.BackendKey]row.Backend), Maglevs: make(map[uint32]row.Maglev),
	}
}

// Clone returns a copy that shares nothing.
func (r Rows) Clone() Rows {
	return Rows{VIPs: maps.Clone(r.VIPs), Backends: maps.Clone(r.Backends), Maglevs: maps.Clone(r.Maglevs)}
}

// VIP is a VIP as it was compiled. It is never changed.
type VIP struct {
	lb.VIPStatus
	// IDs are how the kernel half knows the backends: of each of Backends, for each of its Addrs. 0: it has
	// no slot at that address.
	IDs []uint32
}

// Compile returns the rows that f comes to and the status of every VIP that has a backend, by name,
// address and port. Ids and slots of have are kept wherever they still serve, so that a small change
// gives a small diff and a restart gives none.
func Compile(f Facts, have Rows) (Rows, []lb.VIPStatus) {
	c := New(have)
	c.SetNetworks(f.Networks)
	c.SetNodes(f.Nodes)
	c.SetRefuseUnhealthy(f.RefuseUnhealthy)
	for i := range f.Pins {
		c.SetPin(f.Pins[i].Name, f.Pins[i])
	}
	for i := range f.Backends {
		b := &f.Backends[i]
		c.SetBackend(Source{Node: b.Node, Key: b.RowKey()}, b)
	}
	c.Compile(f.Now)
	status := make([]lb.VIPStatus, len(c.order))
	for i, e := range c.order {
		status[i] = e.vip.VIPStatus
	}
	return c.Rows(), status
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
