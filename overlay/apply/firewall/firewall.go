// SPDX-License-Identifier: Apache-2.0

// Package firewall is a node's nftables table, and the sockets that hold the node's ports which lead to tasks. The table
// keeps what comes out of tunnel devices from going on by itself, gives what leaves the networks the node's address, and
// leads ports of the node to tasks.
//
// Everything works on the network namespace of the calling thread, which is the node's.
package firewall

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"weft/overlay/compile"
)

// Table is our only table. It is as this file says or not there: each change writes it anew in
// one transaction, so that no packet meets half of it.
//
//	set networks4, networks6: subnets of all networks
//	maps ports4, ports6, every4, every6: ports of the node -> ports of tasks (ports.go)
//	chain closed      (prerouting, raw):  in by the tunnel device -> drop: the packet path had its chance
//	chain ports_in    (prerouting, nat):  to an address and port of the node that lead to a task -> there
//	chain ports_own   (output, nat):      the same, from the node's own processes
//	chain masquerade  (postrouting, nat): from a network, to none, out by what is not ours -> masquerade;
//	                                      by a port of the node, from a task or from loopback -> the node's
const Table = "weft"

// Options say what is ours on a node.
type Options struct {
	Node4, Node6   netip.Addr                   // the node's addresses; each may be invalid
	Links, Tunnels string                       // what names of tasks' links and of tunnel devices begin with
	Local          func() ([]netip.Addr, error) // all addresses of the node, as they are now
}

// Firewall is the table as it should be. Make it with New.
type Firewall struct {
	o Options

	mu      sync.Mutex // guards what follows
	subnets []netip.Prefix
	ports   []compile.Port
	held    map[hold]io.Closer
	written bool // the table is this process' own
}

// New returns a Firewall that has done nothing yet.
func New(o Options) *Firewall { return &Firewall{o: o, held: make(map[hold]io.Closer)} }

// family is what the two halves of the table differ in. Offsets are of the addresses in the IP header.
type family struct {
	digit    string // of the names of its sets
	key      nftables.SetDatatype
	proto    byte
	src, dst uint32
	size     uint32
	is4      bool
}

func families() []family {
	return []family{
		{"4", nftables.TypeIPAddr, unix.NFPROTO_IPV4, 12, 16, 4, true},
		{"6", nftables.TypeIP6Addr, unix.NFPROTO_IPV6, 8, 24, 16, false},
	}
}

// Ensure writes the table unless one is there: that of an earlier process serves until Set says what the
// networks are. Without them, what a task opens to the world meanwhile would leave with the task's
// address, for as long as it is remembered.
func (w *Firewall) Ensure(ctx context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("firewall: %w", err)
	}
	there, err := hasTable(conn)
	if err != nil || there && !w.written {
		return err
	}
	return w.write(ctx)
}

// Set makes traffic from the networks' subnets to outside of them leave with the node's address, and
// ports of the node lead to tasks. Ports are sorted.
func (w *Firewall) Set(ctx context.Context, subnets []netip.Prefix, ports []compile.Port) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.written && samePrefixes(w.subnets, subnets) && slices.Equal(w.ports, ports) {
		return nil
	}
	subnetsBefore, portsBefore, first := w.subnets, w.ports, !w.written
	w.subnets, w.ports = sortedPrefixes(subnets), slices.Clone(ports)
	if err := w.write(ctx); err != nil {
		w.subnets, w.ports = subnetsBefore, portsBefore
		return err
	}
	if first {
		return nil // an earlier process' ports were these: its conversations go on
	}
	return w.forget(changedPorts(portsBefore, ports))
}

// hasTable reports whether the table is there, whoever wrote it.
func hasTable(conn *nftables.Conn) (bool, error) {
	tables, err := conn.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return false, fmt.Errorf("firewall: list nftables tables: %w", err)
	}
	return slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == Table }), nil
}

// write writes the table for w.subnets and w.ports.
func (w *Firewall) write(context.Context) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("firewall: %w", err)
	}
	table := replaceTable(conn)
	closed := conn.AddChain(&nftables.Chain{
		Name: "closed", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw,
	})
	conn.AddRule(&nftables.Rule{Table: table, Chain: closed, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte(w.o.Tunnels)}, // whatever follows it
		&expr.Counter{},
		&expr.Verdict{Kind: expr.VerdictDrop},
	}})
	masquerade := conn.AddChain(&nftables.Chain{
		Name: "masquerade", Table: table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	})
	var networks []*nftables.Set
	for _, f := range families() {
		set := &nftables.Set{Table: table, Name: "networks" + f.digit, KeyType: f.key, Interval: true}
		if err := conn.AddSet(set, elements(f, w.subnets)); err != nil {
			return fmt.Errorf("firewall: set %s: %w", set.Name, err)
		}
		conn.AddRule(&nftables.Rule{Table: table, Chain: masquerade, Exprs: w.masqueraded(f, set)})
		networks = append(networks, set)
	}
	if len(w.ports) > 0 {
		if err := w.writePorts(conn, table, masquerade, networks); err != nil {
			return fmt.Errorf("firewall: %w", err)
		}
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("firewall: write nftables table inet %s: %w", Table, err)
	}
	w.written = true
	return nil
}

// replaceTable begins a transaction that leaves nothing of an earlier table.
func replaceTable(conn *nftables.Conn) *nftables.Table {
	table := &nftables.Table{Name: Table, Family: nftables.TableFamilyINet}
	conn.AddTable(table) // deleting what is not there would fail
	conn.DelTable(table)
	return conn.AddTable(table)
}

func (w *Firewall) masqueraded(f family, networks *nftables.Set) []expr.Any {
	return slices.Concat(
		f.only(), f.in(networks, f.src, false), f.in(networks, f.dst, true), w.toTask(expr.CmpOpNeq),
		[]expr.Any{&expr.Counter{}, &expr.Masq{}},
	)
}

// only matches packets of the family.
func (f family) only() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{f.proto}},
	}
}

// in matches packets whose address at offset is in a set, or with invert is not.
func (f family) in(set *nftables.Set, offset uint32, invert bool) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: f.size},
		&expr.Lookup{SourceRegister: 1, SetName: set.Name, SetID: set.ID, Invert: invert},
	}
}

// toTask matches packets that leave by a task's link; with CmpOpNeq by any other.
func (w *Firewall) toTask(op expr.CmpOp) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1},
		&expr.Cmp{Op: op, Register: 1, Data: []byte(w.o.Links)}, // compares as many bytes: weft*
	}
}

// elements returns the subnets as half-open intervals. Subnets of networks never overlap.
func elements(f family, subnets []netip.Prefix) []nftables.SetElement {
	var list []nftables.SetElement
	for _, p := range subnets {
		if p.Addr().Is4() != f.is4 {
			continue
		}
		list = append(list, nftables.SetElement{Key: p.Masked().Addr().AsSlice()})
		if end := lastOf(p).Next(); end.IsValid() {
			list = append(list, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
		}
	}
	return list
}

// lastOf returns the last address of a prefix.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// Remove removes the table, gives the ports back, and reports whether there was a table.
func (w *Firewall) Remove(context.Context) (bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.subnets, w.ports, w.written = nil, nil, false
	released := w.release(slices.Collect(maps.Keys(w.held)))
	was, err := removeTable()
	return was, errors.Join(released, err)
}

func removeTable() (was bool, err error) {
	conn, err := nftables.New()
	if err != nil {
		return false, fmt.Errorf("firewall: %w", err)
	}
	if there, err := hasTable(conn); err != nil || !there {
		return false, err
	}
	conn.DelTable(&nftables.Table{Name: Table, Family: nftables.TableFamilyINet})
	if err := conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return false, fmt.Errorf("firewall: remove nftables table inet %s: %w", Table, err)
	}
	return true, nil
}

func sortedPrefixes(list []netip.Prefix) []netip.Prefix {
	sorted := slices.Clone(list)
	slices.SortFunc(sorted, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	return slices.Compact(sorted)
}

func samePrefixes(sorted, other []netip.Prefix) bool {
	return slices.Equal(sorted, sortedPrefixes(other))
}
