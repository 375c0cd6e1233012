// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"weft/tests/bench/ends"
)

// tunnelRoom is what VXLAN over IPv4 takes of a packet, bytes.
const tunnelRoom = 50

// task addresses of a routed side: 10.100+N.1.2 and .2.2, behind the gateway .1. Of a bridged network
// all are in 10.100+N.0.0/16.
func (s side) task(i int) netip.Prefix { return s.tasks("10.%d.%d.%d/%d", 24, i+1) }
func (s side) gateway() netip.Prefix   { return s.tasks("10.%d.%d.%d/%d", 24, 1) }
func (s side) flat(i int) netip.Prefix { return s.tasks("10.%d.%d.%d/%d", 16, i+1) }

func (s side) task6(i int) netip.Prefix { return s.tasks("fd01:%d:0:%d::%d/%d", 64, i+1) }
func (s side) gateway6() netip.Prefix   { return s.tasks("fd01:%d:0:%d::%d/%d", 64, 1) }
func (s side) flat6(i int) netip.Prefix { return s.tasks("fd01:%d:0:%d::%d/%d", 48, i+1) }

func (s side) tasks(format string, bits, last int) netip.Prefix {
	return netip.MustParsePrefix(fmt.Sprintf(format, 100+s.n, s.last(), last, bits))
}

// makeRouted: a task behind a veth pair on each host, and routes.
func (t *topology) makeRouted(ctx context.Context, a, b side) error {
	p := &pair{variant: routed}
	for s, to := range map[side]side{a: b, b: a} {
		e, err := t.task(ctx, s, 1, t.o.mtu, "")
		if err != nil {
			return err
		}
		p.add(s, e)
		err = s.host.In(func() error {
			if err := configure("task1", s.gateway(), s.gateway6()); err != nil {
				return err
			}
			return through(to, to.wire().Addr(), to.wire6().Addr(), "")
		})
		if err != nil {
			return err
		}
		if err := e.leads(s); err != nil {
			return err
		}
	}
	t.pairs[routed] = p
	return nil
}

// makeDocker: an overlay network as Docker makes it. Bridge netfilter is off, as where nothing asks
// for it.
func (t *topology) makeDocker(ctx context.Context, a, b side) error {
	p, home := &pair{variant: docker}, &pair{variant: bridged}
	for s, to := range map[side]side{a: b, b: a} {
		err := s.host.In(func() error {
			if err := bridge("br0", t.o.mtu-tunnelRoom); err != nil {
				return err
			}
			return flood("vx0", "br0", 42, to.wire().Addr())
		})
		if err != nil {
			return err
		}
		for i := 1; i <= 2; i++ {
			e, err := t.task(ctx, s, i, t.o.mtu-tunnelRoom, "br0")
			if err != nil {
				return err
			}
			e.addr4, e.addr6 = s.flat(i).Addr(), s.flat6(i).Addr()
			err = ends.Inside(e.Netns(), func() error { return configure("eth0", s.flat(i), s.flat6(i)) })
			if err != nil {
				return err
			}
			switch {
			case i == 1:
				p.add(s, e)
				if !s.b {
					home.client = e
				}
			case !s.b:
				home.server = e
			}
		}
	}
	t.pairs[docker], t.pairs[bridged] = p, home
	return nil
}

// makeFlannel: a bridge for tasks, a VXLAN device with a route for each other host, and the firewall
// that comes with it.
func (t *topology) makeFlannel(ctx context.Context, a, b side) error {
	p := &pair{variant: flannel}
	for s, to := range map[side]side{a: b, b: a} {
		err := s.host.In(func() error {
			if err := bridge("cni0", t.o.mtu-tunnelRoom); err != nil {
				return err
			}
			if err := configure("cni0", s.gateway(), s.gateway6()); err != nil {
				return err
			}
			return t.flannelHost(s, to)
		})
		if err != nil {
			return err
		}
		e, err := t.task(ctx, s, 1, t.o.mtu-tunnelRoom, "cni0")
		if err != nil {
			return err
		}
		p.add(s, e)
		if err := e.leads(s); err != nil {
			return err
		}
	}
	t.pairs[flannel] = p
	return nil
}

// flannelMAC is the link address of a side's VXLAN device: others know it.
func flannelMAC(s side) net.HardwareAddr {
	return net.HardwareAddr{0x0a, 0, 0, 0, byte(s.n), byte(s.last())}
}

// inner addresses of flannel's devices.
func (s side) device() netip.Addr  { return s.tasks("10.%d.%d.%d/%d", 32, 0).Addr() }
func (s side) device6() netip.Addr { return s.tasks("fd01:%d:0:%d::%d/%d", 128, 0).Addr() }

func (t *topology) flannelHost(s, to side) error {
	link, err := vxlan("flannel.1", 1, flannelMAC(s))
	if err != nil {
		return err
	}
	if err := configure("flannel.1", single(s.device()), single(s.device6())); err != nil {
		return err
	}
	entries := []*netlink.Neigh{
		{Family: unix.AF_BRIDGE, Flags: netlink.NTF_SELF, IP: to.wire().Addr().AsSlice()},
		{Family: unix.AF_INET, IP: to.device().AsSlice()},
		{Family: unix.AF_INET6, IP: to.device6().AsSlice()},
	}
	for _, n := range entries {
		n.LinkIndex, n.State, n.HardwareAddr = link.Attrs().Index, netlink.NUD_PERMANENT, flannelMAC(to)
		if err := netlink.NeighSet(n); err != nil {
			return fmt.Errorf("neighbour %s: %w", n.IP, err)
		}
	}
	if err := through(to, to.device(), to.device6(), "flannel.1"); err != nil {
		return err
	}
	return firewall(s)
}

// through leads to the tasks of another side, and makes the calling thread's namespace a router.
func through(to side, via, via6 netip.Addr, dev string) error {
	if err := forward(); err != nil {
		return err
	}
	if err := route(to.task(0).Masked(), via, dev); err != nil {
		return err
	}
	return route(to.task6(0).Masked(), via6, dev)
}

// leads gives an endpoint its addresses and its way out.
func (e *endpoint) leads(s side) error {
	e.addr4, e.addr6 = s.task(1).Addr(), s.task6(1).Addr()
	return ends.Inside(e.Netns(), func() error {
		if err := configure("eth0", s.task(1), s.task6(1)); err != nil {
			return err
		}
		if err := route(netip.MustParsePrefix("0.0.0.0/0"), s.gateway().Addr(), ""); err != nil {
			return err
		}
		return route(netip.MustParsePrefix("::/0"), s.gateway6().Addr(), "")
	})
}

func (p *pair) add(s side, e *endpoint) {
	if s.b {
		p.server = e
	} else {
		p.client = e
	}
}

// task starts an endpoint in a namespace of its own, joined to its host by a veth pair, task1 and so
// on there, eth0 here.
func (t *topology) task(ctx context.Context, s side, i, mtu int, master string) (*endpoint, error) {
	e, err := t.endpoint(ctx, s.host, true)
	if err != nil {
		return nil, err
	}
	return e, s.host.In(func() error {
		ns, err := os.Open(e.Netns())
		if err != nil {
			return err
		}
		defer ns.Close()
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = fmt.Sprintf("task%d", i), mtu
		if master != "" {
			link, err := netlink.LinkByName(master)
			if err != nil {
				return err
			}
			attrs.MasterIndex = link.Attrs().Index
		}
		err = netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: attrs, PeerName: "eth0", PeerMTU: uint32(mtu), PeerNamespace: netlink.NsFd(int(ns.Fd())),
		})
		if err != nil {
			return fmt.Errorf("make %s: %w", attrs.Name, err)
		}
		return configure(attrs.Name)
	})
}

func bridge(name string, mtu int) error {
	for _, family := range []string{"iptables", "ip6tables", "arptables"} {
		if err := sysctl("net/bridge/bridge-nf-call-"+family, "0"); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = name, mtu
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		return fmt.Errorf("make %s: %w", name, err)
	}
	return configure(name)
}

func vxlan(name string, id int, mac net.HardwareAddr) (netlink.Link, error) {
	under, err := netlink.LinkByName("wire0")
	if err != nil {
		return nil, err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = name, under.Attrs().MTU-tunnelRoom, mac
	v := &netlink.Vxlan{LinkAttrs: attrs, VxlanId: id, VtepDevIndex: under.Attrs().Index, Port: 4789}
	if err := netlink.LinkAdd(v); err != nil {
		return nil, fmt.Errorf("make %s: %w", name, err)
	}
	return netlink.LinkByName(name)
}

// flood adds a VXLAN device to a bridge that sends what it does not know to the other host.
func flood(name, master string, id int, to netip.Addr) error {
	link, err := vxlan(name, id, nil)
	if err != nil {
		return err
	}
	br, err := netlink.LinkByName(master)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetMaster(link, br); err != nil {
		return err
	}
	err = netlink.NeighAppend(&netlink.Neigh{
		LinkIndex: link.Attrs().Index, Family: unix.AF_BRIDGE, Flags: netlink.NTF_SELF, State: netlink.NUD_PERMANENT,
		IP: to.AsSlice(), HardwareAddr: make(net.HardwareAddr, 6),
	})
	if err != nil {
		return fmt.Errorf("forwarding entry of %s: %w", name, err)
	}
	return configure(name)
}

// firewall is what flannel and its surroundings have: a forward chain that refuses what conntrack finds
// invalid and lets the tasks' traffic pass, a chain before routing that looks for host ports, and
// masquerading of what leaves the tasks' network, after exceptions for what does not.
func firewall(s side) error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	for _, f := range []struct {
		family   nftables.TableFamily
		src, dst uint32 // offsets in the IP header
		prefix   netip.Prefix
	}{
		{nftables.TableFamilyIPv4, 12, 16, netip.PrefixFrom(s.task(0).Addr(), 16).Masked()},
		{nftables.TableFamilyIPv6, 8, 24, netip.PrefixFrom(s.task6(0).Addr(), 48).Masked()},
	} {
		table := conn.AddTable(&nftables.Table{Family: f.family, Name: "cni"})
		chain := func(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority *nftables.ChainPriority) *nftables.Chain {
			return conn.AddChain(&nftables.Chain{Name: name, Table: table, Type: kind, Hooknum: hook, Priority: priority})
		}
		rule := func(c *nftables.Chain, parts ...[]expr.Any) {
			r := &nftables.Rule{Table: table, Chain: c}
			for _, p := range parts {
				r.Exprs = append(r.Exprs, p...)
			}
			conn.AddRule(r)
		}
		from, to := within(f.src, f.prefix, true), within(f.dst, f.prefix, true)
		beyond := within(f.dst, f.prefix, false)
		accept := []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictAccept}}

		pre := chain("prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest)
		rule(pre, []expr.Any{
			&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.RTN_LOCAL, 0, 0, 0}},
			&expr.Counter{},
		})
		pass := chain("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter)
		rule(pass, []expr.Any{
			&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
			&expr.Bitwise{
				SourceRegister: 1, DestRegister: 1, Len: 4,
				Mask: []byte{byte(expr.CtStateBitINVALID), 0, 0, 0}, Xor: make([]byte, 4),
			},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
			&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop},
		})
		rule(pass, from, accept)
		rule(pass, to, accept)
		post := chain("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
		rule(post, from, to, []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictReturn}})
		rule(post, from, beyond, []expr.Any{&expr.Counter{}, &expr.Masq{}})
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("write the firewall: %w", err)
	}
	return nil
}

// within compares an address of the IP header with a prefix.
func within(offset uint32, p netip.Prefix, inside bool) []expr.Any {
	bytes := uint32(p.Bits() / 8)
	op := expr.CmpOpEq
	if !inside {
		op = expr.CmpOpNeq
	}
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: bytes},
		&expr.Cmp{Op: op, Register: 1, Data: p.Addr().AsSlice()[:bytes]},
	}
}
