// SPDX-License-Identifier: Apache-2.0

package bpftest_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"weft/bpf"
	"weft/bpf/bpftest"
	"weft/bpf/row"
	"weft/overlay/apply"
	"weft/overlay/compile"
	"weft/overlay/paths"
)

// wantTraffic wants every kind of traffic from one task to another.
func wantTraffic(t *testing.T, from, to *livingTask) {
	t.Helper()
	bulk := 16 << 20
	if testing.Short() {
		bulk = 1 << 20 // guests are slow
	}
	for name, a := range families {
		to.serve(a)
		for what, err := range map[string]error{
			"ping":              from.ping(to.addr(a), 56),
			"ping in fragments": from.ping(to.addr(a), 4000),
			"tcp":               from.exchange("tcp", to.addr(a), 1000),
			"tcp bulk":          from.exchange("tcp", to.addr(a), bulk),
			"udp":               from.exchange("udp", to.addr(a), 1200),
			"udp in fragments":  from.exchange("udp", to.addr(a), 8000),
			"udp segments":      from.segments(to, a, 200),
		} {
			if err != nil {
				t.Errorf("%s %s: %v", name, what, err)
			}
		}
	}
}

// TestTasksOfTwoNodes crosses the underlay, by own and by the kernel's tunnel at either end.
func TestTasksOfTwoNodes(t *testing.T) {
	for _, slow := range []struct{ encap, decap bool }{{false, false}, {true, false}, {false, true}, {true, true}} {
		t.Run(fmt.Sprintf("slow encap %v decap %v", slow.encap, slow.decap), func(t *testing.T) {
			if slow.encap != slow.decap {
				anyKernel(t)
			}
			l := newLAN(t, func(c *bpf.Config) { c.SlowEncap, c.SlowDecap = slow.encap, slow.decap }, underlayMTU)
			here := l.nodes[0].settle("weft00000001", web, v4.web, v6.web)
			there := l.nodes[1].settle("weft00000002", web, v4.remote, v6.remote)
			wantTraffic(t, here, there)
			if l.nodes[0].count(row.ReasonEncapsulated) == 0 || l.nodes[1].count(row.ReasonDelivered) == 0 {
				t.Error("traffic went another way than the tunnel")
			}
			wantSlowPath(t, here, there, slow.decap)
		})
	}
}

// TestTasksOverOtherWires crosses an underlay of IPv6, whose link is 20 bytes larger, as its headers are,
// and one in a VLAN, by own and by the kernel's tunnel at either end.
func TestTasksOverOtherWires(t *testing.T) {
	for name, w := range map[string]wire{
		"ipv6":      {mtu: underlayMTU + 20, first: node6, second: otherNode6},
		"vlan":      {mtu: underlayMTU, first: node, second: otherNode, tag: 77},
		"ipv6 vlan": {mtu: underlayMTU + 20, first: node6, second: otherNode6, tag: 77},
	} {
		for i, slow := range []struct{ encap, decap bool }{{false, false}, {true, true}, {true, false}, {false, true}} {
			if testing.Short() && (i > 0 || name != "ipv6 vlan") {
				break // guests are slow: the one that has both
			}
			t.Run(fmt.Sprintf("%s slow encap %v decap %v", name, slow.encap, slow.decap), func(t *testing.T) {
				l := newLANOf(t, func(c *bpf.Config) { c.SlowEncap, c.SlowDecap = slow.encap, slow.decap }, w)
				here := l.nodes[0].settle("weft00000001", web, v4.web, v6.web)
				there := l.nodes[1].settle("weft00000002", web, v4.remote, v6.remote)
				wantTraffic(t, here, there)
				if l.nodes[0].count(row.ReasonEncapsulated) == 0 || l.nodes[1].count(row.ReasonDelivered) == 0 {
					t.Error("traffic went another way than the tunnel")
				}
			})
		}
	}
}

// wantSlowPath wants a stream opened by from_underlay, unless all is left to the kernel's device, and
// datagrams that were joined always by the device.
func wantSlowPath(t *testing.T, from, to *livingTask, all bool) {
	t.Helper()
	before := to.count(row.ReasonSlowPath)
	from.do(from.exchange("tcp", to.addr4, 1<<20))
	if n := to.count(row.ReasonSlowPath) - before; n != 0 != all {
		t.Errorf("%d packets of a stream took the slow path", n)
	}
	before = to.count(row.ReasonSlowPath)
	from.do(from.segments(to, v4, 20))
	if to.count(row.ReasonSlowPath) == before {
		t.Error("datagrams that were joined did not take the slow path")
	}
}

// TestTaskAndTheWorld has the other node be the world, which routes to the first: what a task opens is
// answered, what the world opens reaches public tasks alone.
func TestTaskAndTheWorld(t *testing.T) {
	l := newLAN(t, nil, underlayMTU)
	here, other := l.nodes[0], l.nodes[1]
	task := here.settle("weft00000001", web, v4.web, v6.web)
	open := here.settle("weft00000002", public, v4.open, v6.open)
	near6, far6 := addr("fd00:feed::1"), addr("fd00:feed::2")
	here.enter(here.ns)
	l.give(l.link("u0"), netip.PrefixFrom(near6, 64))
	l.do(os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0o644))
	world := &livingTask{machine: other, inside: other.ns, addr4: otherNode, addr6: far6}
	world.in(func() {
		u1 := l.link("u1")
		l.give(u1, netip.PrefixFrom(far6, 64))
		for prefix, via := range map[string]netip.Addr{"10.1.1.0/24": node, "fd01:1::1:0/112": near6} {
			l.do(netlink.RouteReplace(&netlink.Route{
				LinkIndex: u1.Attrs().Index, Dst: ipNet(netip.MustParsePrefix(prefix)), Gw: via.AsSlice(),
			}))
		}
	})
	wantTraffic(t, task, world)
	wantTraffic(t, world, open)
	for _, to := range []netip.Addr{task.addr4, task.addr6} {
		before := here.count(row.ReasonNotPublic)
		l.do(udpTo(world, netip.AddrPort{}, netip.AddrPortFrom(to, 80)))
		here.await(row.ReasonNotPublic, before)
	}
}

// TestTasksOfOneNode never leaves the node.
func TestTasksOfOneNode(t *testing.T) {
	l := newLAN(t, nil, underlayMTU)
	here := l.nodes[0].settle("weft00000001", web, v4.web, v6.web)
	peer := l.nodes[0].settle("weft00000002", web, v4.peer, v6.peer)
	wantTraffic(t, here, peer)
	if n := l.nodes[0].count(row.ReasonEncapsulated); n != 0 {
		t.Errorf("%d packets were sent to another node", n)
	}
}

// TestTaskAndItsNode talk in both directions.
func TestTaskAndItsNode(t *testing.T) {
	l := newLAN(t, nil, underlayMTU)
	task := l.nodes[0].settle("weft00000001", web, v4.web, v6.web)
	own := &livingTask{machine: l.nodes[0], inside: l.nodes[0].ns, addr4: node, addr6: addr("fd00:feed::1")}
	own.in(func() { l.give(l.link("lo"), netip.PrefixFrom(own.addr6, 128)) })
	wantTraffic(t, task, own)
	wantTraffic(t, own, task)
}

// TestPathSmallerThanTheTask wants the sender told, and what may be fragmented to arrive.
func TestPathSmallerThanTheTask(t *testing.T) {
	const small = 1350
	l := newLAN(t, nil, small)
	here := l.nodes[0].settle("weft00000001", web, v4.web, v6.web)
	there := l.nodes[1].settle("weft00000002", web, v4.remote, v6.remote)
	for _, m := range l.nodes {
		m.blocks(small - 50)
	}
	for name, a := range families {
		there.serve(a)
		before := l.nodes[0].count(row.ReasonAnsweredTooBig)
		if err := here.exchange("tcp", there.addr(a), 1<<20); err != nil {
			t.Errorf("%s tcp: %v", name, err)
		}
		if l.nodes[0].count(row.ReasonAnsweredTooBig) == before {
			t.Errorf("%s: the sender was not told", name)
		}
	}
	var c *net.UDPConn
	here.in(func() {
		var err error
		c, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(v4.remote, 80)))
		l.do(err)
	})
	defer func() { _ = c.Close() }()
	raw, err := c.SyscallConn()
	l.do(err)
	l.do(raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_INTERFACE)
	}))
	l.do(err)
	l.do(c.SetDeadline(time.Now().Add(patience)))
	if _, err := c.Write(make([]byte, 1400)); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(make([]byte, 1500)); err != nil || n != 1400 {
		t.Errorf("a datagram that may be fragmented: %d bytes came back, %v", n, err)
	}
}

// TestProbesFindTheSmallPath has the other end take less than this one sends, and nobody say so.
func TestProbesFindTheSmallPath(t *testing.T) {
	if testing.Short() {
		t.Skip("it waits for what does not come: no matter of kernels, and long in a guest")
	}
	const end, small = 1400, 1400 + 4 // a veth takes what has room for a VLAN's tag
	for name, w := range map[string]wire{
		"ipv4": {mtu: underlayMTU, first: node, second: otherNode},
		"ipv6": {mtu: underlayMTU, first: node6, second: otherNode6},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLANOf(t, nil, w)
			l.enter(l.nodes[1].ns)
			l.do(netlink.LinkSetMTU(l.link("u1"), end))
			l.enter(l.nodes[0].ns)
			prober, err := paths.OpenProber(t.Context(), w.first, [2]uint16{apply.DefaultPort})
			l.do(err)
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- prober.Run(ctx) }()
			defer func() {
				cancel()
				if err := <-ended; err != nil {
					t.Errorf("run: %v", err)
				}
			}()
			size, err := compile.FindPath(underlayMTU, func(size int) (bool, error) { return prober.Fits(t.Context(), w.second, false, size) })
			if size != small || err != nil {
				t.Errorf("got %d, %v; want %d", size, err, small)
			}
			for size, want := range map[int]bool{small + 1: false, 60000: false} {
				if fits, err := prober.Fits(t.Context(), w.second, false, size); fits != want || err != nil {
					t.Errorf("%d bytes: got %v, %v", size, fits, err)
				}
			}
		})
	}
}

// TestStrangersGetNothing sends what must not pass, and waits until it was counted.
func TestStrangersGetNothing(t *testing.T) {
	anyKernel(t)
	l := newLAN(t, nil, underlayMTU)
	here, other := l.nodes[0], l.nodes[1]
	task := here.settle("weft00000001", web, v4.web, v6.web)
	far := other.settle("weft00000002", stranger, v4.remote, v6.remote)
	delivered := other.count(row.ReasonDelivered)

	before := other.count(row.ReasonNoCommonGroup)
	l.do(udpTo(task, netip.AddrPort{}, netip.AddrPortFrom(far.addr4, 80)))
	other.await(row.ReasonNoCommonGroup, before)

	before = here.count(row.ReasonSpoofedTunnel)
	for _, to := range []netip.Addr{node, otherNode} {
		l.do(udpTo(task, netip.AddrPort{}, netip.AddrPortFrom(to, 4789)))
		here.await(row.ReasonSpoofedTunnel, before)
		before = here.count(row.ReasonSpoofedTunnel)
	}

	before = here.count(row.ReasonSpoofedAddress)
	task.in(func() { l.give(l.link("lo"), netip.PrefixFrom(v4.peer, 32)) })
	l.do(udpTo(task, netip.AddrPortFrom(v4.peer, 0), netip.AddrPortFrom(far.addr4, 80)))
	here.await(row.ReasonSpoofedAddress, before)

	before = other.count(row.ReasonUnknownVTEP)
	own := &livingTask{machine: here, inside: here.ns}
	own.in(func() { l.give(l.link("lo"), netip.PrefixFrom(noNode, 32)) })
	other.enter(other.ns)
	l.do(udpTo(own, netip.AddrPortFrom(noNode, 0), netip.AddrPortFrom(otherNode, 4789)))
	other.await(row.ReasonUnknownVTEP, before)

	if n := other.count(row.ReasonDelivered); n != delivered {
		t.Errorf("%d packets were delivered", n-delivered)
	}
}

// udpTo sends one datagram.
func udpTo(k *livingTask, from, to netip.AddrPort) error {
	var err error
	k.in(func() {
		var local *net.UDPAddr
		if from.Addr().IsValid() {
			local = net.UDPAddrFromAddrPort(from)
		}
		var c *net.UDPConn
		if c, err = net.DialUDP("udp", local, net.UDPAddrFromAddrPort(to)); err != nil {
			return
		}
		_, err = c.Write(bpftest.Packet{Src: v4.remote, Dst: v4.web, Proto: bpftest.UDP}.Bytes())
		_ = c.Close() // a datagram needs no more
	})
	return err
}
