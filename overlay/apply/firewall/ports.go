// SPDX-License-Identifier: Apache-2.0

package firewall

import (
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"weft/overlay/compile"
)

// Ports of the node that lead to tasks, in the firewall table. A packet to an address of the node is
// looked up twice, whatever the number of ports: by protocol, address and port, then without address.
//
// The client's address stays, so that the task sees who asks. There are two exceptions, whose answers
// would not come back through the node: a task of the node that goes by the node's address, and a
// process of the node that goes by loopback. They appear with the node's address.

// firstRegister is where keys and values begin: the 4-byte registers of nftables follow each other, and
// the first of them is register 1.
const firstRegister = 8

// portMap is the form of one of the maps: what a key has in front of the port.
type portMap struct {
	name    string
	address bool // by address too
}

func portMaps(f family) []portMap {
	return []portMap{{"ports" + f.digit, true}, {"every" + f.digit, false}}
}

// writePorts adds maps and chains for w.ports, and what masquerade has to do for them.
func (w *Firewall) writePorts(conn *nftables.Conn, table *nftables.Table, masquerade *nftables.Chain, networks []*nftables.Set) error {
	var chains []*nftables.Chain
	for name, hook := range map[string]*nftables.ChainHook{
		"ports_in": nftables.ChainHookPrerouting, "ports_own": nftables.ChainHookOutput,
	} {
		chains = append(chains, conn.AddChain(&nftables.Chain{
			Name: name, Table: table, Type: nftables.ChainTypeNAT, Hooknum: hook, Priority: nftables.ChainPriorityNATDest,
		}))
	}
	for i, f := range families() {
		for _, m := range portMaps(f) {
			set := &nftables.Set{
				Table: table, Name: m.name, IsMap: true, Concatenation: true, KeyType: m.keyType(f),
				DataType: nftables.MustConcatSetType(f.key, nftables.TypeInetService),
			}
			if err := conn.AddSet(set, m.elements(f, w.ports)); err != nil {
				return fmt.Errorf("map %s: %w", m.name, err)
			}
			for _, chain := range chains {
				conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: m.translate(f, set)})
			}
		}
		sources := [][]expr.Any{f.in(networks[i], f.src, false)}
		if f.is4 {
			sources = append(sources, fromLoopback(f))
		}
		for _, from := range sources {
			conn.AddRule(&nftables.Rule{Table: table, Chain: masquerade, Exprs: w.returning(f, from)})
		}
	}
	return nil
}

func (m portMap) keyType(f family) nftables.SetDatatype {
	if m.address {
		return nftables.MustConcatSetType(nftables.TypeInetProto, f.key, nftables.TypeInetService)
	}
	return nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService)
}

// elements returns what of the ports belongs into the map. Fields of a key are padded to 4 bytes.
func (m portMap) elements(f family, ports []compile.Port) []nftables.SetElement {
	var list []nftables.SetElement
	for _, p := range ports {
		if p.Task.Addr().Is4() != f.is4 || p.Host.Addr().IsUnspecified() == m.address {
			continue
		}
		key := []byte{p.Proto, 0, 0, 0}
		if m.address {
			key = append(key, p.Host.Addr().AsSlice()...)
		}
		list = append(list, nftables.SetElement{
			Key: append(key, portBytes(p.Host)...), Val: append(p.Task.Addr().AsSlice(), portBytes(p.Task)...),
		})
	}
	return list
}

func portBytes(p netip.AddrPort) []byte {
	return []byte{byte(p.Port() >> 8), byte(p.Port()), 0, 0}
}

// translate looks up where a packet to the node goes, and sends it there.
func (m portMap) translate(f family, set *nftables.Set) []expr.Any {
	words := f.size / 4
	exprs := f.only()
	if !f.is4 {
		exprs = append(exprs, notLoopback6(f)...)
	}
	exprs = append(exprs,
		&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.RTN_LOCAL, 0, 0, 0}},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: firstRegister},
	)
	next := uint32(firstRegister + 1)
	if m.address {
		exprs = append(exprs, &expr.Payload{DestRegister: next, Base: expr.PayloadBaseNetworkHeader, Offset: f.dst, Len: f.size})
		next += words
	}
	return append(exprs,
		&expr.Payload{DestRegister: next, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}, // destination port
		&expr.Lookup{SourceRegister: firstRegister, DestRegister: firstRegister, IsDestRegSet: true, SetName: set.Name, SetID: set.ID},
		&expr.Counter{},
		&expr.NAT{
			Type: expr.NATTypeDestNAT, Family: uint32(f.proto), RegAddrMin: firstRegister, RegProtoMin: firstRegister + words,
			Specified: true,
		},
	)
}

// fromLoopback matches packets that come from the node's own loopback.
func fromLoopback(f family) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: f.src, Len: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{127}},
	}
}

// notLoopback6 leaves ::1 alone: the kernel refuses what comes back to it from another link, so that it
// is better refused at once.
func notLoopback6(f family) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: f.dst, Len: f.size},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: netip.IPv6Loopback().AsSlice()},
	}
}

// returning gives what was led to a task the node's address, so that answers come back through here.
func (w *Firewall) returning(f family, from []expr.Any) []expr.Any {
	const destinationWasChanged = 1 << 5 // IPS_DST_NAT
	exprs := append(f.only(),
		&expr.Ct{Key: expr.CtKeySTATUS, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: []byte{destinationWasChanged, 0, 0, 0}, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	)
	exprs = append(append(exprs, w.toTask(expr.CmpOpEq)...), from...)
	exprs = append(exprs, &expr.Counter{})
	node := w.o.Node4
	if !f.is4 {
		node = w.o.Node6
	}
	if !node.IsValid() {
		return append(exprs, &expr.Masq{}) // by the address that the kernel finds best
	}
	return append(exprs,
		&expr.Immediate{Register: 1, Data: node.AsSlice()},
		&expr.NAT{Type: expr.NATTypeSourceNAT, Family: uint32(f.proto), RegAddrMin: 1},
	)
}
