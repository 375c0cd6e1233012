// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"weft/bpf"
	"weft/bpf/bpftest"
	"weft/bpf/row"
)

// Two tasks on one node, in namespaces of their own and outside of every cgroup that sees VIPs: what
// they send to a VIP or ask of the name server is the packet programs' to translate and answer.

// house is a node with two tasks.
type house struct {
	*namespace
	plane  *bpf.Plane
	inside map[task]int // namespaces
}

func newHouse(t *testing.T) *house {
	t.Helper()
	h := &house{namespace: enterNamespace(t), inside: make(map[task]int)}
	o := options("")
	o.Config.DNS4, o.Config.DNS6 = dnsServer4, dnsServer6
	h.plane = bpftest.BorrowPlane(t, o)
	h.addr(1, netip.PrefixFrom(dnsServer4, 32))
	h.addr(1, netip.PrefixFrom(dnsServer6, 128))
	tables := h.plane.Tables()
	for _, a := range []string{"10.1.0.0", "fd00:1::"} {
		h.do(tables.Blocks.Put(row.BlockKey{VNI: bedVNI, Addr: row.AddrOf(netip.MustParseAddr(a))},
			row.Block{MTU: 1450, Flags: row.BlockLocal}))
	}
	h.do(tables.Verdicts.Put(row.VerdictKey{VNI: bedVNI, Src: row.IdentityUngrouped, Dst: row.IdentityUngrouped},
		row.Verdict{Action: row.VerdictAllow}))
	h.settle("weft0000000c", client)
	h.settle("weft00000005", server)
	return h
}

// settle makes the link of a task, with rows and programs.
func (h *house) settle(name string, k task) {
	h.t.Helper()
	h.do(netlink.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: name, HardwareAddr: bpftest.Gateway[:], MTU: 1450},
		PeerName:  "eth0", PeerHardwareAddr: k.mac[:],
	}))
	inside := h.unshare()
	h.others = append(h.others, inside)
	h.inside[k] = inside
	h.enter(h.own)
	h.do(netlink.LinkSetNsFd(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: int(h.index("eth0"))}}, inside))
	ifindex := h.index(name)
	h.up(int(ifindex))
	h.t.Cleanup(func() {
		if err := h.plane.DetachWorkload(ifindex); err != nil {
			h.t.Error(err)
		}
	})

	h.in(k, func() {
		eth0 := int(h.index("eth0"))
		h.up(1)
		h.addr(eth0, netip.PrefixFrom(k.addr4, 32))
		h.addr(eth0, netip.PrefixFrom(k.addr6, 128))
		h.up(eth0)
		for gateway, all := range map[string]string{"169.254.1.1": "0.0.0.0/0", "fe80::1": "::/0"} {
			h.do(netlink.RouteReplace(&netlink.Route{
				LinkIndex: eth0, Dst: ipNet(netip.MustParsePrefix(all)), Gw: net.ParseIP(gateway), Flags: int(netlink.FLAG_ONLINK),
			}))
		}
	})

	tables := h.plane.Tables()
	h.do(tables.Workloads.Put(ifindex, row.Workload{
		VNI: bedVNI, Identity: row.IdentityUngrouped, MTU: 1450, MAC: k.mac, Block4: 24, Block6: 64,
		Addr4: row.AddrOf(k.addr4), Addr6: row.AddrOf(k.addr6),
	}))
	for _, a := range []netip.Addr{k.addr4, k.addr6} {
		h.do(tables.Endpoints.Put(row.EndpointKey{VNI: bedVNI, Addr: row.AddrOf(a)},
			row.Endpoint{Ifindex: ifindex, Identity: row.IdentityUngrouped, MAC: k.mac}))
	}
	h.do(h.plane.AttachWorkload(ifindex))
}

// in calls f in the namespace of a task. Sockets that f makes stay there.
func (h *house) in(k task, f func()) {
	h.t.Helper()
	h.enter(h.inside[k])
	f()
	h.enter(h.own)
}

// echo answers what it is sent, over TCP and UDP, until the test ends, and tells who asked.
func (h *house) echo(at netip.AddrPort) (askers chan netip.Addr) {
	h.t.Helper()
	tcp, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
	h.do(err)
	udp, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
	h.do(err)
	askers = make(chan netip.Addr, 16) // more than a test asks
	done := make(chan struct{}, 2)
	h.t.Cleanup(func() {
		_, _ = tcp.Close(), udp.Close() // ends the loops below
		<-done
		<-done
	})
	go func() {
		defer func() { done <- struct{}{} }()
		for {
			c, err := tcp.AcceptTCP()
			if err != nil {
				return
			}
			askers <- netip.MustParseAddrPort(c.RemoteAddr().String()).Addr().Unmap()
			_, _ = io.Copy(c, c) // what is lost fails at the client
			_ = c.Close()
		}
	}()
	go func() {
		defer func() { done <- struct{}{} }()
		buf := make([]byte, 1<<16)
		for {
			size, from, err := udp.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			askers <- from.Addr().Unmap()
			_, _ = udp.WriteToUDPAddrPort(buf[:size], from)
		}
	}()
	return askers
}

// exchange sends a megabyte (TCP) or a datagram and wants it back.
func (h *house) exchange(network string, to netip.AddrPort) {
	h.t.Helper()
	size := 1400
	if network == "tcp" {
		size = 1 << 20
	}
	c, err := net.DialTimeout(network, to.String(), patience)
	if err != nil {
		h.t.Fatalf("%s to %s: %v", network, to, err)
	}
	defer func() { _ = c.Close() }()
	h.do(c.SetDeadline(time.Now().Add(patience)))
	sent := bytes.Repeat([]byte("weft"), size/4)
	wrote := make(chan error, 1)
	go func() {
		_, err := c.Write(sent)
		wrote <- err
	}()
	got := make([]byte, size)
	if _, err := io.ReadFull(c, got); err != nil {
		h.t.Fatalf("%s to %s: %v", network, to, err)
	}
	h.do(<-wrote)
	if !bytes.Equal(got, sent) {
		h.t.Errorf("%s to %s: what came back is not what was sent", network, to)
	}
}

func TestTasksReachVIPPerPacket(t *testing.T) {
	h := newHouse(t)
	for _, v6 := range []bool{false, true} {
		v, s := vipOf(v6), at(server.addr(v6), 8080)
		putVIP(t, h.plane.Tables(), v, unix.IPPROTO_TCP, one(s.String()))
		putVIP(t, h.plane.Tables(), v, unix.IPPROTO_UDP, one(s.String()))
		var askers chan netip.Addr
		h.in(server, func() { askers = h.echo(s) })
		h.in(client, func() {
			for _, network := range []string{"tcp", "udp"} {
				h.exchange(network, v)
				if got, want := <-askers, client.addr(v6); got != want {
					t.Errorf("%s to %s: the backend saw %s, want %s", network, v, got, want)
				}
			}
		})
	}
}

// A backend where nobody listens: the task's own kernel takes what it is told for an answer of the VIP, and one connect
// finds out for all.
func TestTasksHearThatABackendRefuses(t *testing.T) {
	h := newHouse(t)
	for _, v6 := range []bool{false, true} {
		v, closed, open := vipOf(v6), at(server.addr(v6), 8081), at(server.addr(v6), 8080)
		putVIP(t, h.plane.Tables(), v, unix.IPPROTO_UDP, one(closed.String()))
		h.in(client, func() {
			c, err := net.Dial("udp", v.String())
			h.do(err)
			// The kernel sends so many ICMP errors a second, of all namespaces: who hears none asks again.
			for deadline := time.Now().Add(patience); !errors.Is(err, unix.ECONNREFUSED) && time.Now().Before(deadline); {
				h.do(c.SetDeadline(time.Now().Add(time.Second))) // before Write: one that is over refuses that, too
				if _, err = c.Write([]byte("hello")); err == nil {
					_, err = c.Read(make([]byte, 8))
				}
			}
			if !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("udp to %s: %v, want it refused", v, err)
			}
			h.do(c.Close())
		})
		putVIP(t, h.plane.Tables(), v, unix.IPPROTO_TCP, one(closed.String(), open.String()))
		var askers chan netip.Addr
		h.in(server, func() { askers = h.echo(open) })
		h.in(client, func() {
			refused, began := 0, time.Now()
			for range 40 {
				c, err := net.DialTimeout("tcp", v.String(), patience)
				switch {
				case errors.Is(err, unix.ECONNREFUSED):
					refused++
				case err != nil:
					t.Fatal(err)
				default:
					<-askers
					h.do(c.Close())
				}
			}
			if most := 1 + int(time.Since(began)/(5*time.Second)); refused > most { // then it is tried again
				t.Errorf("tcp to %s: %d of 40 connects were refused, want at most %d", v, refused, most)
			}
		})
	}
}

func TestTaskReachesItselfByVIP(t *testing.T) {
	h := newHouse(t)
	for _, v6 := range []bool{false, true} {
		v, own := vipOf(v6), at(client.addr(v6), 8080)
		putVIP(t, h.plane.Tables(), v, unix.IPPROTO_TCP, one(own.String()))
		putVIP(t, h.plane.Tables(), v, unix.IPPROTO_UDP, one(own.String()))
		h.in(client, func() {
			askers := h.echo(own)
			for _, network := range []string{"tcp", "udp"} {
				h.exchange(network, v)
				if got := <-askers; got != v.Addr() {
					t.Errorf("%s to %s: the task saw %s, want the VIP", network, v, got)
				}
			}
		})
	}
}

func TestVIPWithoutBackendIsDropped(t *testing.T) {
	h := newHouse(t)
	putVIP(t, h.plane.Tables(), vip4, unix.IPPROTO_UDP, nil)
	h.in(client, func() {
		c, err := net.Dial("udp", vip4.String())
		h.do(err)
		_, err = c.Write([]byte("hello"))
		h.do(errors.Join(err, c.Close()))
	})
	counters, err := h.plane.Counters()
	h.do(err)
	if got := counters[row.ReasonNoBackend].Packets; got != 1 {
		t.Errorf("%d packets counted as %s, want 1", got, row.ReasonNoBackend)
	}
}

// capture opens a packet socket on eth0 of the namespace the test is in.
func (h *house) capture() int {
	h.t.Helper()
	all := int(row.Port(unix.ETH_P_ALL))
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all)
	h.do(err)
	h.t.Cleanup(func() { h.closeFD(fd) })
	h.do(unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: uint16(all), Ifindex: int(h.index("eth0"))}))
	h.do(unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1))
	h.do(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: int64(patience.Seconds())}))
	return fd
}

// captured returns the next incoming packet of a protocol from a port, and whether its transport sum
// was left to be finished by a device.
func (h *house) captured(fd int, proto uint8, port uint16) (frame []byte, partial bool) {
	h.t.Helper()
	const sumNotReady = 1 << 3 // TP_STATUS_CSUMNOTREADY
	buf, oob := make([]byte, 1<<16), make([]byte, 256)
	for {
		size, oobSize, _, from, err := unix.Recvmsg(fd, buf, oob, 0)
		if err != nil {
			h.t.Fatalf("no packet of protocol %d from port %d: %v", proto, port, err)
		}
		frame = buf[:size]
		kind, l4 := uint8(0), 0
		switch frame[12] {
		case 0x08:
			kind, l4 = frame[23], 34
		case 0x86:
			kind, l4 = frame[20], 54
		}
		if link, ok := from.(*unix.SockaddrLinklayer); !ok || link.Pkttype == unix.PACKET_OUTGOING || kind != proto ||
			size < l4+8 || binary.BigEndian.Uint16(frame[l4:]) != port {
			continue
		}
		messages, err := unix.ParseSocketControlMessage(oob[:oobSize])
		h.do(err)
		for _, m := range messages {
			if m.Header.Level == unix.SOL_PACKET && m.Header.Type == unix.PACKET_AUXDATA {
				partial = binary.NativeEndian.Uint32(m.Data)&sumNotReady != 0
			}
		}
		return frame, partial
	}
}

// checkSum holds the transport sum of a captured packet against what it must be: the whole, or the
// pseudo header's part (not complemented) where a device is to add the rest.
func checkSum(t *testing.T, frame []byte, partial bool) {
	t.Helper()
	if !partial {
		if err := bpftest.Check(frame); err != nil {
			t.Error(err)
		}
		return
	}
	l4, addrs, proto := 34, frame[26:34], frame[23]
	if frame[12] == 0x86 {
		l4, addrs, proto = 54, frame[22:54], frame[20]
	}
	sum := l4 + 6
	if proto == unix.IPPROTO_TCP {
		sum = l4 + 16
	}
	size := len(frame) - l4
	want := fold(addrs, uint32(proto)+uint32(size))
	if got := binary.BigEndian.Uint16(frame[sum:]); got != want {
		t.Errorf("sum to be finished is %04x, want %04x: % x", got, want, frame[:l4+20])
	}
}

// Sums that a task leaves to its device stay right: a device behind the receiver would finish them.
func TestUnfinishedSumsStayRight(t *testing.T) {
	h := newHouse(t)
	web := records(typeA, 1)
	h.do(h.plane.Answers().Put(bedVNI, wire("web.weft.mesos."), typeA, 0, 1, 0, 0, web.Rotate, web.Data[:web.Len]))
	for _, v6 := range []bool{false, true} {
		v, s := vipOf(v6), at(server.addr(v6), 8080)
		putVIP(t, h.plane.Tables(), v, unix.IPPROTO_TCP, one(s.String()))
		putVIP(t, h.plane.Tables(), v, unix.IPPROTO_UDP, one(s.String()))
		nameServer := at(map[bool]netip.Addr{false: dnsServer4, true: dnsServer6}[v6], 53)
		var atServer, atClient int
		h.in(server, func() {
			h.echo(s)
			atServer = h.capture()
		})
		h.in(client, func() {
			atClient = h.capture()
			for _, proto := range []string{"tcp", "udp"} {
				number := map[string]uint8{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP}[proto]
				c, err := net.Dial(proto, v.String())
				h.do(err)
				_, err = c.Write([]byte("sum me"))
				h.do(err)
				port := netip.MustParseAddrPort(c.LocalAddr().String()).Port()
				frame, partial := h.captured(atServer, number, port)
				if !partial {
					t.Errorf("%s to %s: the sum is finished, so this tests nothing", proto, v)
				}
				checkSum(t, frame, partial)
				frame, partial = h.captured(atClient, number, v.Port())
				checkSum(t, frame, partial)
				h.do(c.Close())
			}
			c, err := net.Dial("udp", nameServer.String())
			h.do(err)
			_, err = c.Write(ask("web.weft.mesos.", typeA).edns(1232, 0, nil).message())
			h.do(err)
			frame, partial := h.captured(atClient, unix.IPPROTO_UDP, 53)
			if !partial {
				t.Errorf("answer of %s: the sum is finished, so this tests nothing", nameServer)
			}
			checkSum(t, frame, partial)
			h.do(c.Close())
		})
	}
}

// dig asks as a user would; there is no server behind the address.
func (h *house) dig(args ...string) string {
	h.t.Helper()
	out, err := exec.CommandContext(h.t.Context(), "dig", append(args, "+tries=1", "+timeout=2")...).CombinedOutput()
	if err != nil {
		h.t.Fatalf("dig %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func TestStockResolverIsAnsweredInTheKernel(t *testing.T) {
	if _, err := exec.LookPath("dig"); err != nil {
		t.Skip("needs dig")
	}
	h := newHouse(t)
	h.do(h.plane.AttachHost(1))
	names := h.plane.Answers()
	for vni, last := range map[uint32]byte{bedVNI: 1, 0: 2} {
		a := records(typeA, 1)
		a.Data[15] = last
		h.do(names.Put(vni, wire("web.weft.mesos."), typeA, 0, 1, 0, 0, 16, a.Data[:16]))
		aaaa := records(typeAAAA, 1)
		aaaa.Data[27] = last
		h.do(names.Put(vni, wire("web.weft.mesos."), typeAAAA, 0, 1, 0, 0, 28, aaaa.Data[:28]))
		// The target is the name from its second label on: a pointer into the question.
		srv := []byte{0xc0, 12, 0, typeSRV, 0, 1, 0, 0, 0, 30, 0, 8, 0, 0, 0, last, 0x1f, 0x90, 0xc0, 12 + 10}
		h.do(names.Put(vni, wire("_web._tcp.web.weft.mesos."), typeSRV, 0, 1, 0, 0, 0, srv))
		soa := append([]byte{0xc0, 12 + 5, 0, 6, 0, 1, 0, 0, 0, 5, 0, 24, 0xc0, 12 + 5, 0xc0, 12 + 5}, make([]byte, 20)...)
		h.do(names.Put(vni, wire("gone.weft.mesos."), typeA, 3, 0, 1, 0, 0, soa))
	}
	check := func(where, server string, last string) {
		t.Helper()
		got := map[string]string{
			"A":       h.dig("@"+server, "+short", "WEB.weft.mesos", "A"),
			"plain":   h.dig("@"+server, "+short", "+noedns", "web.weft.mesos", "A"),
			"AAAA":    h.dig("@"+server, "+short", "web.weft.mesos", "AAAA"),
			"SRV":     h.dig("@"+server, "+short", "_web._tcp.web.weft.mesos", "SRV"),
			"no name": "",
		}
		for line := range strings.Lines(h.dig("@"+server, "gone.weft.mesos", "A")) {
			if strings.Contains(line, "status: NXDOMAIN") {
				got["no name"] = "NXDOMAIN"
			}
			if strings.Contains(line, "WARNING") || strings.Contains(line, "malformed") {
				t.Errorf("%s, %s: %s", where, server, line)
			}
		}
		want := map[string]string{
			"A": "0.0.0." + last + "\n", "plain": "0.0.0." + last + "\n", "AAAA": "::" + last + "\n",
			"SRV": "0 " + last + " 8080 web.weft.mesos.\n", "no name": "NXDOMAIN",
		}
		if diff := cmp.Diff(got, want); diff != "" {
			t.Errorf("%s, %s (-got +want):\n%s", where, server, diff)
		}
	}
	for _, server := range []string{dnsServer4.String(), dnsServer6.String()} {
		h.in(client, func() { check("task", server, "1") })
		check("host", server, "2")
	}
	counters, err := h.plane.Counters()
	h.do(err)
	if got := counters[row.ReasonAnsweredDNS].Packets; got != 20 {
		t.Errorf("%d questions counted as answered, want 20", got)
	}
}
