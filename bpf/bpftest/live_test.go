// SPDX-License-Identifier: Apache-2.0

package bpftest_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"weft/bpf"
	"weft/bpf/bpftest"
	"weft/bpf/row"
	"weft/overlay/apply"
)

// Two nodes, joined by a veth, with tasks in namespaces of their own: the same world as the packet
// tables', but real. otherNode's task is remote.

const underlayMTU = 1500

// lan is the two nodes. Its test runs on a thread of its own, which ends with the test.
type lan struct {
	t     *testing.T
	nodes [2]*machine
	files []int // namespaces
}

// machine is a node.
type machine struct {
	*lan
	addr   netip.Addr
	other  netip.Addr // of the other node
	ns     int
	device string // the underlay's
	plane  *bpf.Plane
}

// livingTask is a task with its own namespace.
type livingTask struct {
	*machine
	inside       int
	addr4, addr6 netip.Addr
}

func (k *livingTask) addr(a addrs) netip.Addr {
	if a.web.Is4() {
		return k.addr4
	}
	return k.addr6
}

func newLAN(t *testing.T, config func(*bpf.Config), mtu int) *lan {
	t.Helper()
	return newLANOf(t, config, wire{mtu: mtu, first: node, second: otherNode})
}

// wire is what joins the nodes.
type wire struct {
	mtu           int
	first, second netip.Addr
	tag           int // of a VLAN; 0: none
}

func newLANOf(t *testing.T, config func(*bpf.Config), w wire) *lan {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("namespaces need root")
	}
	runtime.LockOSThread() // never given back: the thread ends in the last namespace it was in
	l := &lan{t: t}
	t.Cleanup(func() {
		for _, fd := range l.files {
			_ = unix.Close(fd) // the namespace goes with its last user
		}
	})
	l.nodes[0] = &machine{lan: l, addr: w.first, ns: l.namespace(), device: "u0"}
	l.do(netlink.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: "u0", MTU: w.mtu}, PeerName: "u1", PeerMTU: uint32(w.mtu),
	}))
	l.nodes[1] = &machine{lan: l, addr: w.second, ns: l.namespace(), device: "u1"}
	l.enter(l.nodes[0].ns)
	l.do(netlink.LinkSetNsFd(l.link("u1"), l.nodes[1].ns))
	for i, m := range l.nodes {
		m.other = l.nodes[1-i].addr
		if w.tag != 0 {
			m.tag(w.tag)
		}
		m.start(config)
	}
	return l
}

// tag puts the node's underlay into a VLAN.
func (m *machine) tag(id int) {
	m.t.Helper()
	m.enter(m.ns)
	parent := m.link(m.device)
	m.do(netlink.LinkSetUp(parent))
	m.device += ".v"
	err := netlink.LinkAdd(&netlink.Vlan{
		LinkAttrs: netlink.LinkAttrs{Name: m.device, ParentIndex: parent.Attrs().Index}, VlanId: id, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q,
	})
	if errors.Is(err, unix.EOPNOTSUPP) {
		m.t.Skip("this kernel is built without VLANs (8021q)")
	}
	m.do(err)
}

func (l *lan) do(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatalf("%+v", err)
	}
}

// namespace makes a namespace and stays in it.
func (l *lan) namespace() int {
	l.t.Helper()
	l.do(unix.Unshare(unix.CLONE_NEWNET))
	fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	l.do(err)
	l.files = append(l.files, fd)
	l.do(netlink.LinkSetUp(l.link("lo")))
	return fd
}

func (l *lan) enter(ns int) {
	l.t.Helper()
	l.do(unix.Setns(ns, unix.CLONE_NEWNET))
}

func (l *lan) link(name string) netlink.Link {
	l.t.Helper()
	i, err := net.InterfaceByName(name)
	l.do(err)
	return &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: i.Index, Name: name}}
}

func (l *lan) give(link netlink.Link, prefixes ...netip.Prefix) {
	l.t.Helper()
	for _, p := range prefixes {
		l.do(netlink.AddrReplace(link, &netlink.Addr{IPNet: ipNet(p), Flags: unix.IFA_F_NODAD}))
	}
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// start brings the node's underlay, its VXLAN device and its programs up.
func (m *machine) start(config func(*bpf.Config)) {
	m.t.Helper()
	m.enter(m.ns)
	near := 24
	if m.addr.Is6() {
		near = 64
	}
	m.give(m.link(m.device), netip.PrefixFrom(m.addr, near))
	m.do(netlink.LinkSetUp(m.link(m.device)))
	m.do(netlink.LinkAdd(&netlink.Vxlan{
		LinkAttrs: netlink.LinkAttrs{Name: "vx0", MTU: underlayMTU - 50}, FlowBased: true, GBP: true, Port: 4789, UDP6ZeroCSumRx: true,
	}))
	m.do(netlink.LinkSetUp(m.link("vx0")))
	m.do(os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644))
	c := bpf.Config{
		NodeAddr: m.addr, Underlay: m.index(m.device), Neighbours: near, Tunnel: m.index("vx0"), DNS4: dns4, DNS6: dns6, EventsPerSecond: 100,
	}
	if config != nil {
		config(&c)
	}
	m.plane = bpftest.BorrowPlane(m.t, bpf.Options{Classic: apply.Classic{}, Config: c})
	m.goesWithTheTest("vx0")
	m.goesWithTheTest(m.device)
	m.do(m.plane.AttachUnderlay(c.Underlay))
	m.do(m.plane.AttachTunnel(c.Tunnel))
	m.do(m.plane.Tables().VTEPs.Put(row.AddrOf(m.other), row.VTEP{}))
	m.blocks(1450)
}

// goesWithTheTest removes a link before the plane is given back: the kernel takes its time with a namespace, and programs
// would count what its links still see.
func (m *machine) goesWithTheTest(name string) {
	m.t.Helper()
	link := m.link(name)
	m.t.Cleanup(func() {
		m.enter(m.ns)
		if err := netlink.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) { // gone with its other end
			m.t.Errorf("remove %s: %v", name, err)
		}
	})
}

// blocks writes where addresses live, and how large a packet towards the other node may be.
func (m *machine) blocks(mtu uint16) {
	m.t.Helper()
	first, second := m.nodes[0].addr, m.nodes[1].addr
	for prefix, holder := range map[string]netip.Addr{
		"10.1.1.0/24": first, "fd01:1::1:0/112": first, "10.1.2.0/24": second, "fd01:1::2:0/112": second,
	} {
		b := row.Block{VTEP: row.AddrOf(holder), MTU: mtu}
		if holder == m.addr {
			b.Flags = row.BlockLocal
		}
		key := row.BlockKey{VNI: netA, Addr: row.AddrOf(netip.MustParsePrefix(prefix).Addr())}
		m.do(m.plane.Tables().Blocks.Put(key, b))
	}
	for key, net := range newTables(0).Prefixes {
		m.do(m.plane.Tables().Prefixes.Put(key, net))
	}
	for key, v := range newTables(0).Verdicts {
		m.do(m.plane.Tables().Verdicts.Put(key, v))
	}
}

func (m *machine) index(name string) uint32 { return uint32(m.link(name).Attrs().Index) }

// settle makes a task and joins it.
func (m *machine) settle(name string, identity uint16, addr4, addr6 netip.Addr) *livingTask {
	m.t.Helper()
	k := &livingTask{machine: m, addr4: addr4, addr6: addr6}
	four := addr4.As4()
	own := append(net.HardwareAddr{0x0a, 0x58}, four[:]...)
	m.enter(m.ns)
	m.do(netlink.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: name, HardwareAddr: bpftest.Gateway[:], MTU: underlayMTU - 50},
		PeerName:  "eth0", PeerHardwareAddr: own, PeerMTU: underlayMTU - 50,
	}))
	k.inside = m.namespace()
	m.enter(m.ns)
	m.do(netlink.LinkSetNsFd(m.link("eth0"), k.inside))
	host := m.link(name)
	m.do(netlink.LinkSetUp(host))
	for _, a := range []netip.Addr{addr4, addr6} {
		m.do(netlink.RouteReplace(&netlink.Route{
			LinkIndex: host.Attrs().Index, Dst: ipNet(netip.PrefixFrom(a, a.BitLen())), Scope: unix.RT_SCOPE_LINK,
		}))
	}
	k.in(func() {
		eth0 := m.link("eth0")
		m.give(eth0, netip.PrefixFrom(addr4, 32), netip.PrefixFrom(addr6, 128))
		m.do(netlink.LinkSetUp(eth0))
		for gateway, all := range map[string]string{"169.254.1.1": "0.0.0.0/0", "fe80::1": "::/0"} {
			m.do(netlink.RouteReplace(&netlink.Route{
				LinkIndex: eth0.Attrs().Index, Dst: ipNet(netip.MustParsePrefix(all)), Gw: net.ParseIP(gateway),
				Flags: int(netlink.FLAG_ONLINK),
			}))
		}
	})
	ifindex, tables := m.index(name), m.plane.Tables()
	m.do(tables.Workloads.Put(ifindex, row.Workload{
		VNI: netA, Identity: identity, MTU: underlayMTU - 50, MAC: [6]byte(own), Block4: 24, Block6: 112,
		Addr4: row.AddrOf(addr4), Addr6: row.AddrOf(addr6),
	}))
	for _, a := range []netip.Addr{addr4, addr6} {
		m.do(tables.Endpoints.Put(row.EndpointKey{VNI: netA, Addr: row.AddrOf(a)},
			row.Endpoint{Ifindex: ifindex, Identity: identity, MAC: [6]byte(own)}))
	}
	m.goesWithTheTest(name)
	m.do(m.plane.AttachWorkload(ifindex))
	return k
}

// in calls f in the task's namespace; sockets that f makes stay there.
func (k *livingTask) in(f func()) {
	k.t.Helper()
	k.enter(k.inside)
	f()
	k.enter(k.ns)
}

// count returns how many packets a node counted by reason.
func (m *machine) count(reason row.Reason) uint64 {
	m.t.Helper()
	counters, err := m.plane.Counters()
	m.do(err)
	return counters[reason].Packets
}

// patience is how long what comes at once on an idle machine may take, here or in a guest.
const patience = time.Minute

// await waits until the node has counted one more than before.
func (m *machine) await(reason row.Reason, before uint64) {
	m.t.Helper()
	deadline := time.Now().Add(patience)
	for m.count(reason) == before {
		if time.Now().After(deadline) {
			counters, _ := m.plane.Counters()
			m.t.Fatalf("no packet was counted as %s; counters: %v", reason, counters)
		}
		runtime.Gosched()
	}
}

// serve echoes TCP and UDP at port 80 of the task until the test ends.
func (k *livingTask) serve(a addrs) {
	k.t.Helper()
	at := netip.AddrPortFrom(k.addr(a), 80)
	var tcp *net.TCPListener
	var udp *net.UDPConn
	k.in(func() {
		var err error
		tcp, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
		k.do(err)
		udp, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		k.do(err)
	})
	done := make(chan struct{}, 2) // one of each loop
	k.t.Cleanup(func() {
		_, _ = tcp.Close(), udp.Close() // ends the loops
		<-done
		<-done
	})
	go func() {
		defer func() { done <- struct{}{} }()
		for {
			c, err := tcp.Accept()
			if err != nil {
				return
			}
			_, _ = io.Copy(c, c) // what is lost fails at the client
			_ = c.Close()
		}
	}()
	go func() {
		defer func() { done <- struct{}{} }()
		buf := make([]byte, 1<<16)
		for {
			n, from, err := udp.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			_, _ = udp.WriteToUDPAddrPort(buf[:n], from)
		}
	}()
}

// exchange sends size bytes to port 80 and wants them back.
func (k *livingTask) exchange(network string, to netip.Addr, size int) error {
	k.t.Helper()
	var c net.Conn
	var err error
	k.in(func() {
		c, err = net.DialTimeout(network, netip.AddrPortFrom(to, 80).String(), patience)
	})
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	sent := bytes.Repeat([]byte("weft"), size/4)
	wrote := make(chan error, 1)
	go func() {
		_, err := c.Write(sent)
		wrote <- err
	}()
	got := make([]byte, len(sent))
	if _, err := io.ReadFull(c, got); err != nil {
		return fmt.Errorf("read: %w", err)
	}
	if !bytes.Equal(got, sent) {
		return errors.New("what came back is not what was sent")
	}
	return <-wrote
}

// ping wants an echo of size bytes answered.
func (k *livingTask) ping(to netip.Addr, size int) error {
	k.t.Helper()
	network, request, reply := "ip4:icmp", byte(8), byte(0)
	if to.Is6() {
		network, request, reply = "ip6:ipv6-icmp", 128, 129
	}
	var c net.Conn
	var err error
	k.in(func() { c, err = net.DialTimeout(network, to.String(), patience) })
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	message := append([]byte{request, 0, 0, 0, 0x12, 0x34, 0, 1}, make([]byte, size)...)
	if to.Is4() {
		sum := bpftest.Sum(message)
		message[2], message[3] = byte(sum>>8), byte(sum)
	}
	for range 5 { // the first may be larger than a path that is not known yet
		if err = echoed(c, message, reply, to.Is4()); err == nil {
			return nil
		}
	}
	return err
}

// echoed sends an echo request and waits for its reply.
func echoed(c net.Conn, message []byte, reply byte, header bool) error {
	if err := c.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return err
	}
	if _, err := c.Write(message); err != nil {
		return err
	}
	buf := make([]byte, 1<<16)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return fmt.Errorf("no reply: %w", err)
		}
		got := buf[:n]
		if header {
			got = got[min(n, 20):] // raw sockets of IPv4 see the IP header
		}
		if len(got) == len(message) && got[0] == reply && got[4] == 0x12 && got[5] == 0x34 {
			return nil
		}
	}
}

// segments sends datagrams in one call (UDP_SEGMENT) and wants every one of them.
func (k *livingTask) segments(to *livingTask, a addrs, count int) error {
	k.t.Helper()
	const size = 1200
	var in, out *net.UDPConn
	var err error
	at := netip.AddrPortFrom(to.addr(a), 81)
	to.in(func() { in, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at)) })
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	k.in(func() { out, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(at)) })
	if err != nil {
		return err
	}
	defer func() { _ = out.Close() }()
	raw, err := out.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, size) }); err != nil || failed != nil {
		return errors.Join(err, failed)
	}
	buf := make([]byte, 1<<16)
	for range count / 20 {
		if _, err := out.Write(make([]byte, 20*size)); err != nil {
			return err
		}
		if err := in.SetReadDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
		for i := range 20 {
			n, err := in.Read(buf)
			if err != nil || n != size {
				return fmt.Errorf("datagram %d of 20: %d bytes, %w", i, n, err)
			}
		}
	}
	return nil
}
