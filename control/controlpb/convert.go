// SPDX-License-Identifier: Apache-2.0

package controlpb

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strings"

	"weft/control"
	"weft/discovery"
	"weft/lb"
	"weft/overlay"
)

func each[A, B any](list []A, f func(A) B) []B {
	out := make([]B, len(list))
	for i, a := range list {
		out[i] = f(a)
	}
	return out
}

// eachErr converts a list from the wire; the result is never nil, so that it is [] in JSON.
func eachErr[A, B any](list []A, f func(A) (B, error)) ([]B, error) {
	out := make([]B, len(list))
	for i, a := range list {
		b, err := f(a)
		if err != nil {
			return nil, err
		}
		out[i] = b
	}
	return out, nil
}

func list[T any](values []T) []T {
	if values == nil {
		return []T{}
	}
	return values
}

// reader collects what can't be read of a message.
type reader struct{ errs []error }

func (r *reader) err() error { return errors.Join(r.errs...) }

func (r *reader) prefix(field, text string) netip.Prefix {
	if text == "" {
		return netip.Prefix{}
	}
	p, err := netip.ParsePrefix(text)
	if err != nil {
		r.errs = append(r.errs, fmt.Errorf("%w %s %q: ADDRESS/LENGTH is allowed, such as 9.0.0.0/16", control.ErrInvalid, field, text))
	}
	return p
}

func (r *reader) addr(field, text string) netip.Addr {
	if text == "" {
		return netip.Addr{}
	}
	a, err := netip.ParseAddr(text)
	if err != nil {
		r.errs = append(r.errs, fmt.Errorf("%w %s %q: an IPv4 or IPv6 address is allowed", control.ErrInvalid, field, text))
	}
	return a
}

func (r *reader) port(field string, value uint32) uint16 {
	if value > math.MaxUint16 {
		r.errs = append(r.errs, fmt.Errorf("%w %s %d: 0 to 65535 are allowed", control.ErrInvalid, field, value))
	}
	return uint16(value)
}

func prefixText(p netip.Prefix) string {
	if !p.IsValid() {
		return ""
	}
	return p.String()
}

func addrText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

func networkIn(m *Network) (control.Network, error) {
	var r reader
	n := control.Network{
		Network: overlay.Network{
			Name: m.GetName(), VNI: overlay.VNI(m.GetVni()), Subnet4: r.prefix("subnet4", m.GetSubnet4()),
			Subnet6: r.prefix("subnet6", m.GetSubnet6()), Block4: int(m.GetBlock4()), Block6: int(m.GetBlock6()),
			Ungrouped: overlay.Ungrouped(m.GetUngrouped()),
		},
		Groups: list(m.GetGroups()), Free4: int(m.GetFree4()), Free6: int(m.GetFree6()), GroupSets: int(m.GetGroupSets()),
		Shares: each(m.GetShares(), shareIn),
	}
	n.Blocks, _ = eachErr(m.GetBlocks(), func(b *Block) (overlay.Block, error) {
		return overlay.Block{
			Network: b.GetNetwork(), Node: discovery.NodeID(b.GetNode()), Prefix: r.prefix("blocks", b.GetPrefix()),
		}, nil
	})
	return n, r.err()
}

func networkOut(n control.Network) *Network {
	return &Network{
		Name: n.Name, Vni: uint32(n.VNI), Subnet4: prefixText(n.Subnet4), Subnet6: prefixText(n.Subnet6),
		Block4: int32(n.Block4), Block6: int32(n.Block6), Ungrouped: string(n.Ungrouped), Groups: n.Groups,
		Blocks: each(n.Blocks, func(b overlay.Block) *Block {
			return &Block{Network: b.Network, Node: string(b.Node), Prefix: prefixText(b.Prefix)}
		}),
		Free4: int32(n.Free4), Free6: int32(n.Free6), GroupSets: int32(n.GroupSets),
		Shares: each(n.Shares, shareOut),
	}
}

func shareIn(m *Share) control.Share {
	return control.Share{
		Network: m.GetNetwork(), Node: discovery.NodeID(m.GetNode()), Used4: int(m.GetUsed4()), Free4: int(m.GetFree4()),
		Used6: int(m.GetUsed6()), Free6: int(m.GetFree6()),
	}
}

func shareOut(s control.Share) *Share {
	return &Share{
		Network: s.Network, Node: string(s.Node), Used4: int32(s.Used4), Free4: int32(s.Free4),
		Used6: int32(s.Used6), Free6: int32(s.Free6),
	}
}

func groupIn(m *Group) (control.Group, error) {
	return control.Group{
		Group: overlay.Group{Network: m.GetNetwork(), Name: m.GetName()}, Tasks: int(m.GetTasks()),
		Rules: each(m.GetRules(), func(id uint32) overlay.RuleID { return overlay.RuleID(id) }),
	}, nil
}

func groupOut(g control.Group) *Group {
	return &Group{
		Network: g.Network, Name: g.Name, Tasks: int32(g.Tasks),
		Rules: each(g.Rules, func(id overlay.RuleID) uint32 { return uint32(id) }),
	}
}

func ruleIn(m *Rule) (overlay.Rule, error) {
	var r reader
	rule := overlay.Rule{
		ID: overlay.RuleID(m.GetId()), Network: m.GetNetwork(), From: m.GetFrom(), To: m.GetTo(), Protocol: m.GetProtocol(),
		Action: overlay.Action(m.GetAction()), Audit: m.GetAudit(),
	}
	for _, p := range m.GetPorts() {
		rule.Ports = append(rule.Ports, overlay.PortRange{
			First: r.port("ports first", p.GetFirst()), Last: r.port("ports last", p.GetLast()),
		})
	}
	return rule, r.err()
}

func ruleOut(r overlay.Rule) *Rule {
	return &Rule{
		Id: uint32(r.ID), Network: r.Network, From: r.From, To: r.To, Protocol: r.Protocol,
		Action: string(r.Action), Audit: r.Audit,
		Ports: each(r.Ports, func(p overlay.PortRange) *PortRange {
			return &PortRange{First: uint32(p.First), Last: uint32(p.Last)}
		}),
	}
}

func nodeIn(m *Node) (control.Node, error) {
	var r reader
	n := control.Node{
		Node: discovery.Node{
			ID: discovery.NodeID(m.GetId()), Hostname: m.GetHostname(), Peer: m.GetPeer(), MTU: int(m.GetMtu()),
			Zone: m.GetZone(), Version: m.GetVersion(), Warnings: m.GetWarnings(),
		},
		Alive: m.GetAlive(), Admitted: m.GetAdmitted(), VTEP: r.addr("vtep", m.GetVtep()), Blocks: int(m.GetBlocks()),
		Host4: r.prefix("host4", m.GetHost4()), Host6: r.prefix("host6", m.GetHost6()),
		Refusals: list(m.GetRefusals()), Shares: each(m.GetShares(), shareIn),
	}
	n.Addrs = each(m.GetAddrs(), func(a string) netip.Addr { return r.addr("addrs", a) })
	if m.GetPlain() != nil {
		plain, err := plainIn(m.GetPlain())
		if err != nil {
			return n, err
		}
		n.Plain = &plain
	}
	return n, r.err()
}

func plainIn(m *PlainNode) (overlay.PlainNode, error) {
	var r reader
	n := overlay.PlainNode{
		Node: discovery.NodeID(m.GetId()), VTEP: r.addr("vtep", m.GetVtep()), Network: m.GetNetwork(), Groups: m.GetGroups(),
		MAC: m.GetMac(), MTU: int(m.GetMtu()), Identity: overlay.Identity(m.GetIdentity()),
	}
	for _, b := range m.GetBlocks() {
		n.Blocks = append(n.Blocks, r.prefix("blocks", b))
	}
	return n, r.err()
}

func plainOut(n overlay.PlainNode) *PlainNode {
	return &PlainNode{
		Id: string(n.Node), Vtep: addrText(n.VTEP), Network: n.Network, Groups: n.Groups, Blocks: each(n.Blocks, prefixText),
		Mac: n.MAC, Mtu: int32(n.MTU), Identity: uint32(n.Identity),
	}
}

func nodeOut(n control.Node) *Node {
	out := &Node{
		Id: string(n.ID), Hostname: n.Hostname, Addrs: each(n.Addrs, addrText), Peer: n.Peer, Mtu: int32(n.MTU),
		Zone: n.Zone, Version: n.Version, Alive: n.Alive, Admitted: n.Admitted, Vtep: addrText(n.VTEP),
		Blocks: int32(n.Blocks), Refusals: n.Refusals, Warnings: n.Warnings,
		Host4: prefixText(n.Host4), Host6: prefixText(n.Host6), Shares: each(n.Shares, shareOut),
	}
	if n.Plain != nil {
		out.Plain = plainOut(*n.Plain)
	}
	return out
}

func publicationIn(m *Publication) (lb.Publication, error) {
	var r reader
	p := lb.Publication{
		Addr: r.addr("addr", m.GetAddr()), Port: r.port("port", m.GetPort()), Affinity: m.GetAffinity(), QUIC: m.GetQuic(),
	}
	way, err := lb.ParseReturn(m.GetReturn())
	if err != nil {
		r.errs = append(r.errs, fmt.Errorf("%w publication: %w", control.ErrInvalid, err))
	}
	p.Return = way
	key, err := lb.ParseKey(m.GetNetwork(), m.GetVip())
	if err != nil {
		r.errs = append(r.errs, fmt.Errorf("%w vip: %w", control.ErrInvalid, err))
	}
	p.VIP = key
	return p, r.err()
}

func publicationOut(p lb.Publication) *Publication {
	_, vip, _ := strings.Cut(p.VIP.String(), "/")
	return &Publication{
		Addr: addrText(p.Addr), Port: uint32(p.Port), Network: p.VIP.Network, Vip: vip, Affinity: p.Affinity, Quic: p.QUIC, Return: p.Return.String(),
	}
}

func pinIn(m *Pin) (lb.Pin, error) {
	var r reader
	p := lb.Pin{Name: m.GetName(), Addr4: r.addr("addr4", m.GetAddr4()), Addr6: r.addr("addr6", m.GetAddr6())}
	return p, r.err()
}

func pinOut(p lb.Pin) *Pin {
	return &Pin{Name: p.Name, Addr4: addrText(p.Addr4), Addr6: addrText(p.Addr6)}
}

func statusIn(m *Status) (control.Status, error) {
	var r reader
	c := m.GetCounts()
	st := control.Status{
		Answered: m.GetAnswered(),
		Ledger: control.Ledger{
			Healthy: m.GetLedger().GetHealthy(), Problem: m.GetLedger().GetProblem(), Revision: m.GetLedger().GetRevision(),
		},
		Counts: control.Counts{
			Networks: int(c.GetNetworks()), Groups: int(c.GetGroups()), Rules: int(c.GetRules()), Blocks: int(c.GetBlocks()),
			Identities: int(c.GetIdentities()), Pins: int(c.GetPins()), Endpoints: int(c.GetEndpoints()),
		},
		Masters: each(m.GetMasters(), func(m *Master) control.Master {
			return control.Master{
				Master: discovery.Master{ID: m.GetId(), Addr: r.addr("addr", m.GetAddr()), Port: r.port("port", m.GetPort())},
				Leads:  m.GetLeads(),
			}
		}),
	}
	var err error
	st.Nodes, err = eachErr(m.GetNodes(), nodeIn)
	return st, errors.Join(err, r.err())
}

func statusOut(st control.Status) *Status {
	c := st.Counts
	return &Status{
		Answered: st.Answered,
		Ledger:   &Ledger{Healthy: st.Ledger.Healthy, Problem: st.Ledger.Problem, Revision: st.Ledger.Revision},
		Counts: &Counts{
			Networks: int32(c.Networks), Groups: int32(c.Groups), Rules: int32(c.Rules), Blocks: int32(c.Blocks),
			Identities: int32(c.Identities), Pins: int32(c.Pins), Endpoints: int32(c.Endpoints),
		},
		Masters: each(st.Masters, func(m control.Master) *Master {
			return &Master{Id: m.ID, Addr: addrText(m.Addr), Port: uint32(m.Port), Leads: m.Leads}
		}),
		Nodes: each(st.Nodes, nodeOut),
	}
}
