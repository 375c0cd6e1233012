// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"bufio"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"weft/bpf"
	"weft/bpf/bpftest"
	"weft/bpf/row"
	"weft/tests/lab/owned"
)

// Real sockets against the programs of socket.bpf.c: one namespace, backends on addresses of its
// loopback, the test itself in a cgroup of its own.

const bedVNI = 7

var (
	vip4, vip6       = netip.MustParseAddrPort("11.1.2.3:80"), netip.MustParseAddrPort("[fd01:c::123]:80")
	client4, client6 = netip.MustParseAddr("10.0.0.100"), netip.MustParseAddr("fd00::100")
)

// bed is a namespace whose sockets see VIPs.
type bed struct {
	*namespace
	plane  *bpf.Plane
	tables bpf.Tables
	cookie uint64
	cgroup string // of the test
	before string // where it came from
}

func newBed(t *testing.T) *bed {
	t.Helper()
	b := &bed{namespace: enterNamespace(t)}
	for _, a := range []string{"10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.100"} {
		b.addr(1, netip.PrefixFrom(netip.MustParseAddr(a), 32))
	}
	for _, a := range []string{"fd00::1", "fd00::2", "fd00::3", "fd00::100"} {
		b.addr(1, netip.PrefixFrom(netip.MustParseAddr(a), 128))
	}
	b.cookie = b.netnsCookie()
	b.joinCgroup()
	b.plane = bpftest.BorrowPlane(t, options(""))
	t.Cleanup(func() {
		if err := b.plane.DetachCgroup(b.cgroup); err != nil {
			t.Error(err)
		}
	})
	b.do(b.plane.AttachCgroup(b.cgroup))
	b.tables = b.plane.Tables()
	b.do(b.tables.Spaces.Put(b.cookie, row.Space{VNI: bedVNI}))
	return b
}

func (n *namespace) addr(ifindex int, p netip.Prefix) {
	n.t.Helper()
	n.do(netlink.AddrReplace(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: ifindex}}, &netlink.Addr{
		IPNet: ipNet(p), Flags: unix.IFA_F_NODAD,
	}))
}

// netnsCookie is the kernel's number of the namespace the thread is in.
func (n *namespace) netnsCookie() uint64 {
	n.t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	n.do(err)
	defer n.closeFD(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	n.do(err)
	return cookie
}

func (n *namespace) closeFD(fd int) {
	if err := unix.Close(fd); err != nil {
		n.t.Error(err)
	}
}

// joinCgroup moves the test process into a new cgroup, and back at its end.
func (b *bed) joinCgroup() {
	b.t.Helper()
	root := cgroupRoot(b.t)
	own, err := os.ReadFile("/proc/self/cgroup")
	b.do(err)
	for line := range strings.Lines(string(own)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			b.before = filepath.Join(root, path)
		}
	}
	b.cgroup, err = owned.Folder(root, "weft-bed.", os.Remove)
	b.do(err)
	b.t.Cleanup(func() {
		b.move(b.before)
		if err := os.Remove(b.cgroup); err != nil {
			b.t.Error(err)
		}
	})
	b.move(b.cgroup)
}

func (b *bed) move(cgroup string) {
	b.t.Helper()
	err := os.WriteFile(filepath.Join(cgroup, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0o644)
	if err != nil {
		b.t.Error(err)
	}
}

// cgroupRoot is where cgroup2 is mounted; it mounts it for the test where it is not.
func cgroupRoot(t *testing.T) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		mount, super, _ := strings.Cut(line, " - ")
		if f := strings.Fields(mount); strings.HasPrefix(super, "cgroup2 ") && f[3] == "/" {
			return f[4]
		}
	}
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "cgroup2", 0, ""); err != nil {
		t.Fatalf("mount cgroup2: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// backend is a row of backends, as a test writes it.
type backend struct {
	at     string
	weight uint16
}

// one returns the backends at these addresses, all of weight 1.
func one(at ...string) []backend {
	var list []backend
	for _, a := range at {
		list = append(list, backend{a, 1})
	}
	return list
}

// vip sets the backends of a VIP.
func (b *bed) vip(at netip.AddrPort, proto uint8, backends []backend) {
	b.t.Helper()
	putVIP(b.t, b.tables, at, proto, backends)
}

func putVIP(t *testing.T, tables bpf.Tables, at netip.AddrPort, proto uint8, backends []backend) {
	t.Helper()
	key := row.VIPKey{VNI: bedVNI, Addr: row.AddrOf(at.Addr()), Port: row.Port(at.Port()), Proto: proto}
	id := uint32(at.Port())<<8 | uint32(proto) | uint32(at.Addr().BitLen())<<24
	vip, slots := vipRows(id, backends)
	errs := []error{tables.VIPs.Put(key, vip)}
	for slot, b := range slots {
		errs = append(errs, tables.Backends.Put(row.BackendKey{VIP: id, Slot: uint16(slot)}, b))
	}
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// vipRows is a VIP and its slots: those without weight come last, and take nothing new.
func vipRows(id uint32, backends []backend) (row.VIP, []row.Backend) {
	vip := row.VIP{ID: id, Backends: uint16(len(backends)), Weight: 1}
	slots := make([]row.Backend, 0, len(backends))
	for _, open := range []bool{true, false} {
		for i, e := range backends {
			if (e.weight > 0) != open {
				continue
			}
			a := netip.MustParseAddrPort(e.at)
			slots = append(slots, row.Backend{Addr: row.AddrOf(a.Addr()), Port: row.Port(a.Port()), Weight: e.weight, ID: id<<4 + uint32(i) + 1})
		}
		if open {
			vip.Draining = uint16(len(backends) - len(slots))
		}
	}
	return vip, slots
}

// serveTCP answers each connection with its own address and the client's.
func (n *namespace) serveTCP(at string) {
	n.t.Helper()
	l, err := net.Listen("tcp", at)
	n.do(err)
	done := make(chan struct{})
	n.t.Cleanup(func() {
		_ = l.Close() // ends the loop below
		<-done
	})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
			_, _ = c.Write([]byte(at + " " + host + "\n")) // a lost answer fails at the client
			_ = c.Close()
		}
	}()
}

// serveUDP answers each datagram as serveTCP each connection.
func (n *namespace) serveUDP(at string) {
	n.t.Helper()
	c, err := net.ListenPacket("udp", at)
	n.do(err)
	done := make(chan struct{})
	n.t.Cleanup(func() {
		_ = c.Close() // ends the loop below
		<-done
	})
	go func() {
		defer close(done)
		buf := make([]byte, 64)
		for {
			_, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(from.String())
			_, _ = c.WriteTo([]byte(at+" "+host+"\n"), from) // a lost answer fails at the client
		}
	}()
}

// socket is a bare socket, for the calls that Go's net package does not make.
type socket struct {
	t      *testing.T
	fd     int
	family int
}

func (n *namespace) socket(family, kind, proto int) *socket {
	n.t.Helper()
	fd, err := unix.Socket(family, kind, proto)
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		n.t.Skipf("this kernel has no protocol %d", proto)
	}
	n.do(err)
	s := &socket{n.t, fd, family}
	n.t.Cleanup(func() { n.closeFD(fd) })
	n.do(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}))
	return s
}

// sockaddr is a as the socket's family has it: IPv4 mapped in an IPv6 socket.
func (s *socket) sockaddr(a netip.AddrPort) unix.Sockaddr {
	if s.family == unix.AF_INET {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port))
	}
	return netip.AddrPort{}
}

func (s *socket) bind(a netip.Addr) {
	s.t.Helper()
	if err := unix.Bind(s.fd, s.sockaddr(netip.AddrPortFrom(a, 0))); err != nil {
		s.t.Fatalf("bind to %s: %v", a, err)
	}
}

func (s *socket) connect(a netip.AddrPort) error { return unix.Connect(s.fd, s.sockaddr(a)) }

func (s *socket) peer() netip.AddrPort {
	s.t.Helper()
	sa, err := unix.Getpeername(s.fd)
	if err != nil {
		s.t.Fatal(err)
	}
	return addrPort(sa)
}

func (s *socket) sendTo(a netip.AddrPort) error {
	return unix.Sendto(s.fd, []byte("hello"), 0, s.sockaddr(a))
}

// hear returns what came and from whom it seems to be.
func (s *socket) hear() (string, netip.AddrPort) {
	s.t.Helper()
	buf := make([]byte, 64)
	size, from, err := unix.Recvfrom(s.fd, buf, 0)
	for errors.Is(err, unix.EINTR) { // the Go runtime's signals
		size, from, err = unix.Recvfrom(s.fd, buf, 0)
	}
	if err != nil {
		s.t.Fatalf("receive: %v", err)
	}
	return strings.TrimSpace(string(buf[:size])), addrPort(from)
}

// families are the three ways in which a socket may speak to a VIP.
var families = []struct {
	name     string
	family   int
	vip      netip.AddrPort
	client   netip.Addr
	backends []string
}{
	{"IPv4", unix.AF_INET, vip4, client4, []string{"10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.3:8080"}},
	{"IPv6", unix.AF_INET6, vip6, client6, []string{"[fd00::1]:8080", "[fd00::2]:8080", "[fd00::3]:8080"}},
	{"IPv4 of an IPv6 socket", unix.AF_INET6, vip4, client4, []string{"10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.3:8080"}},
}

func TestTCPConnectsToBackend(t *testing.T) {
	b := newBed(t)
	for _, at := range append(families[0].backends, families[1].backends...) {
		b.serveTCP(at)
	}
	b.vip(vip4, unix.IPPROTO_TCP, one(families[0].backends...))
	b.vip(vip6, unix.IPPROTO_TCP, one(families[1].backends...))
	for _, f := range families {
		for _, proto := range []int{unix.IPPROTO_TCP, unix.IPPROTO_MPTCP} {
			s := b.socket(f.family, unix.SOCK_STREAM, proto)
			s.bind(f.client)
			if err := s.connect(f.vip); err != nil {
				t.Fatalf("%s: connect: %v", f.name, err)
			}
			// The kernel asks for the name of the MPTCP socket, whose subflow it was that connected.
			if got := s.peer(); got != f.vip && proto != unix.IPPROTO_MPTCP {
				t.Errorf("%s: peer is %s, want %s", f.name, got, f.vip)
			}
			said, _ := s.hear()
			at, client, _ := strings.Cut(said, " ")
			if !strings.Contains(strings.Join(f.backends, " "), at) || client != f.client.String() {
				t.Errorf("%s: %s saw the client as %s, want one of %s and %s", f.name, at, client, f.backends, f.client)
			}
		}
	}
}

// What users have: Go's own dialer.
func TestDialerSeesVIP(t *testing.T) {
	b := newBed(t)
	b.serveTCP("10.0.0.1:8080")
	b.vip(vip4, unix.IPPROTO_TCP, one("10.0.0.1:8080"))
	c, err := net.DialTimeout("tcp", vip4.String(), patience)
	b.do(err)
	defer func() { _ = c.Close() }()
	line, err := bufio.NewReader(c).ReadString('\n')
	b.do(err)
	if got := c.RemoteAddr().String(); got != vip4.String() || !strings.HasPrefix(line, "10.0.0.1:8080 ") {
		t.Errorf("peer is %s and said %q, want %s and a line of 10.0.0.1:8080", got, line, vip4)
	}
}

func TestConnectionsSpread(t *testing.T) {
	b := newBed(t)
	backends := families[0].backends
	for _, at := range backends {
		b.serveTCP(at)
	}
	list := append(one(backends...), backend{"10.0.0.1:1", 0})
	b.vip(vip4, unix.IPPROTO_TCP, list)
	hits := make(map[string]int)
	const connects = 300
	for range connects {
		s := b.socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		if err := s.connect(vip4); err != nil {
			t.Fatal(err)
		}
		said, _ := s.hear()
		at, _, _ := strings.Cut(said, " ")
		hits[at]++
	}
	for _, at := range backends {
		// A third each, as the draws fall. Far below: a chance of less than 1 in 10 million.
		if hits[at] < connects/6 {
			t.Errorf("%s got %d of %d connections: %v", at, hits[at], connects, hits)
		}
	}
}

func TestConnectedUDPShowsVIP(t *testing.T) {
	b := newBed(t)
	b.serveUDP("10.0.0.1:8080")
	b.serveUDP("[fd00::1]:8080")
	b.vip(vip4, unix.IPPROTO_UDP, one("10.0.0.1:8080"))
	b.vip(vip6, unix.IPPROTO_UDP, one("[fd00::1]:8080"))
	for _, f := range families {
		s := b.socket(f.family, unix.SOCK_DGRAM, 0)
		s.bind(f.client)
		if err := s.connect(f.vip); err != nil {
			t.Fatalf("%s: connect: %v", f.name, err)
		}
		if _, err := unix.Write(s.fd, []byte("hello")); err != nil {
			t.Fatal(err)
		}
		said, from := s.hear()
		if want := f.backends[0] + " " + f.client.String(); said != want || from != f.vip || s.peer() != f.vip {
			t.Errorf("%s: heard %q from %s, peer %s; want %q from %s", f.name, said, from, s.peer(), want, f.vip)
		}
		// Connected anew, past the VIP: no VIP any more.
		direct := netip.MustParseAddrPort(f.backends[0])
		if err := s.connect(direct); err != nil {
			t.Fatal(err)
		}
		if got := s.peer(); got != direct {
			t.Errorf("%s: peer is %s, want %s", f.name, got, direct)
		}
	}
}

func TestUnconnectedUDPShowsVIP(t *testing.T) {
	b := newBed(t)
	b.serveUDP("10.0.0.1:8080")
	b.serveUDP("[fd00::1]:8080")
	b.vip(vip4, unix.IPPROTO_UDP, one("10.0.0.1:8080"))
	b.vip(vip6, unix.IPPROTO_UDP, one("[fd00::1]:8080"))
	b.serveUDP("10.0.0.1:8081")
	b.serveUDP("[fd00::1]:8081")
	for _, f := range families {
		s := b.socket(f.family, unix.SOCK_DGRAM, 0)
		if f.family == unix.AF_INET6 && f.vip == vip4 {
			s.bind(netip.IPv6Unspecified()) // such a socket speaks both
		} else {
			s.bind(f.client)
		}
		if err := s.sendTo(f.vip); err != nil {
			t.Fatalf("%s: send: %v", f.name, err)
		}
		said, from := s.hear()
		if at, _, _ := strings.Cut(said, " "); at != f.backends[0] || from != f.vip {
			t.Errorf("%s: heard %q from %s, want %s from %s", f.name, said, from, f.backends[0], f.vip)
		}
		// Both in turn by one socket: each is who it was asked for.
		direct := netip.MustParseAddrPort(strings.Replace(f.backends[0], "8080", "8081", 1))
		if err := s.sendTo(direct); err != nil {
			t.Fatal(err)
		}
		if _, from := s.hear(); from != direct {
			t.Errorf("%s: heard from %s, want %s", f.name, from, direct)
		}
	}
}

// A socket that asks several VIPs, some by way of one backend, hears from whom it asked last; connected to one, it stays
// that one's whatever else it sends.
func TestOneSocketAsksSeveralVIPs(t *testing.T) {
	b := newBed(t)
	b.serveUDP("10.0.0.1:8080")
	b.serveUDP("10.0.0.2:8080")
	vips := make([]netip.AddrPort, 3)
	for i, backend := range []string{"10.0.0.1:8080", "10.0.0.1:8080", "10.0.0.2:8080"} {
		vips[i] = netip.AddrPortFrom(vip4.Addr(), 80+uint16(i))
		b.vip(vips[i], unix.IPPROTO_UDP, one(backend))
	}
	s := b.socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	asks := func(v netip.AddrPort) {
		t.Helper()
		if err := s.sendTo(v); err != nil {
			t.Fatal(err)
		}
		if _, from := s.hear(); from != v {
			t.Errorf("asked %s, heard from %s", v, from)
		}
	}
	for _, i := range []int{0, 0, 1, 1, 0, 2, 2, 0, 2, 1, 2, 0} {
		asks(vips[i])
	}
	if err := s.connect(vips[0]); err != nil {
		t.Fatal(err)
	}
	if err := s.sendTo(vips[2]); err != nil { // whose answer a connected socket does not hear
		t.Fatal(err)
	}
	asks(vips[0])
	if got := s.peer(); got != vips[0] {
		t.Errorf("the peer is %s, want %s", got, vips[0])
	}
}

// A socket stays at one backend, follows it to another slot, and leaves it when it is gone.
func TestUnconnectedUDPSticks(t *testing.T) {
	b := newBed(t)
	backends := families[0].backends
	for _, at := range backends {
		b.serveUDP(at)
	}
	b.vip(vip4, unix.IPPROTO_UDP, one(backends...))
	s := b.socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	exchange := func() string {
		t.Helper()
		if err := s.sendTo(vip4); err != nil {
			t.Fatal(err)
		}
		said, from := s.hear()
		if from != vip4 {
			t.Errorf("heard from %s, want %s", from, vip4)
		}
		at, _, _ := strings.Cut(said, " ")
		return at
	}
	first := exchange()
	stays := func(why string, list []backend) {
		t.Helper()
		b.vip(vip4, unix.IPPROTO_UDP, list)
		for range 20 {
			if got := exchange(); got != first {
				t.Fatalf("%s: went to %s, want %s", why, got, first)
			}
		}
	}
	stays("as it was", one(backends...))
	stays("in other slots", one(backends[2], backends[0], backends[1]))
	draining := one(backends...)
	for i := range draining {
		if draining[i].at == first {
			draining[i].weight = 0
		}
	}
	stays("draining", draining)
	var others []string
	for _, at := range backends {
		if at != first {
			others = append(others, at)
		}
	}
	b.vip(vip4, unix.IPPROTO_UDP, one(others...))
	second := exchange()
	if second == first {
		t.Errorf("%s is gone and still asked", first)
	}
	b.vip(vip4, unix.IPPROTO_UDP, nil)
	if err := s.sendTo(vip4); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("send to a VIP without backend: %v, want connection refused", err)
	}
}

func TestVIPWithoutBackendRefuses(t *testing.T) {
	b := newBed(t)
	for _, f := range families {
		for name, list := range map[string][]backend{
			"none":                nil,
			"none with weight":    {{f.backends[0], 0}, {f.backends[1], 0}},
			"of the other family": one(map[bool]string{true: "[fd00::1]:80", false: "10.0.0.1:80"}[f.vip == vip4]),
		} {
			b.vip(f.vip, unix.IPPROTO_TCP, list)
			b.vip(f.vip, unix.IPPROTO_UDP, list)
			before := b.counted(row.ReasonNoBackend)
			if err := b.socket(f.family, unix.SOCK_STREAM, 0).connect(f.vip); !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("%s, backends %s: TCP connect: %v, want connection refused", f.name, name, err)
			}
			if err := b.socket(f.family, unix.SOCK_DGRAM, 0).connect(f.vip); !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("%s, backends %s: UDP connect: %v, want connection refused", f.name, name, err)
			}
			if err := b.socket(f.family, unix.SOCK_DGRAM, 0).sendTo(f.vip); !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("%s, backends %s: send: %v, want connection refused", f.name, name, err)
			}
			if got := b.counted(row.ReasonNoBackend) - before; got != 3 {
				t.Errorf("%s, backends %s: counted %d refusals, want 3", f.name, name, got)
			}
		}
	}
}

func (b *bed) counted(r row.Reason) uint64 {
	b.t.Helper()
	counters, err := b.plane.Counters()
	b.do(err)
	return counters[r].Packets
}

// Each of these leaves the address alone: the call fails for want of a route, or reaches what it names.
func TestNoVIPIsUntouched(t *testing.T) {
	b := newBed(t)
	b.serveTCP("10.0.0.1:8080")
	b.vip(vip4, unix.IPPROTO_TCP, one("10.0.0.1:8080"))
	unreachable := func(why string, a netip.AddrPort, kind int) {
		t.Helper()
		if err := b.socket(unix.AF_INET, kind, 0).connect(a); !errors.Is(err, unix.ENETUNREACH) {
			t.Errorf("%s: connect to %s: %v, want network unreachable", why, a, err)
		}
	}
	direct := netip.MustParseAddrPort("10.0.0.1:8080")
	s := b.socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err := s.connect(direct); err != nil || s.peer() != direct {
		t.Errorf("direct: %v, peer %s, want %s", err, s.peer(), direct)
	}
	unreachable("another port", netip.AddrPortFrom(vip4.Addr(), 81), unix.SOCK_STREAM)
	unreachable("another address", netip.AddrPortFrom(vip4.Addr().Next(), 80), unix.SOCK_STREAM)
	unreachable("another protocol", vip4, unix.SOCK_DGRAM)
	b.do(b.tables.Spaces.Put(b.cookie, row.Space{VNI: bedVNI + 1}))
	unreachable("another network", vip4, unix.SOCK_STREAM)
	b.do(b.tables.Spaces.Delete(b.cookie))
	unreachable("no space", vip4, unix.SOCK_STREAM)
	b.do(b.tables.Spaces.Put(b.cookie, row.Space{VNI: bedVNI}))
	b.move(b.before)
	unreachable("outside of the cgroup", vip4, unix.SOCK_STREAM)
	b.move(b.cgroup)
	if err := b.socket(unix.AF_INET, unix.SOCK_STREAM, 0).connect(vip4); err != nil {
		t.Errorf("back in the cgroup: connect: %v", err)
	}
}

// A restart of the daemon in the midst of it: what sockets remember is in pinned maps.
func TestSocketsKeepVIPOverRestart(t *testing.T) {
	anyKernel(t)
	b := newBed(t)
	b.serveTCP("10.0.0.1:8080")
	b.serveUDP("10.0.0.1:8080")
	o := options(pinFolder(t))
	first := open(t, o)
	b.do(b.plane.DetachCgroup(b.cgroup))
	b.do(first.AttachCgroup(b.cgroup))
	b.do(first.Tables().Spaces.Put(b.cookie, row.Space{VNI: bedVNI}))
	putVIP(t, first.Tables(), vip4, unix.IPPROTO_TCP, one("10.0.0.1:8080"))
	putVIP(t, first.Tables(), vip4, unix.IPPROTO_UDP, one("10.0.0.1:8080"))
	tcp, udp := b.socket(unix.AF_INET, unix.SOCK_STREAM, 0), b.socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	b.do(tcp.connect(vip4))
	b.do(udp.sendTo(vip4))
	b.do(first.Close())
	during := []netip.AddrPort{tcp.peer()}
	second := open(t, o)
	b.do(second.AttachCgroup(b.cgroup))
	_, from := udp.hear()
	got := append(during, tcp.peer(), from)
	if diff := cmp.Diff(got, []netip.AddrPort{vip4, vip4, vip4}, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Errorf("peers without the daemon, after it, and of a datagram (-got +want):\n%s", diff)
	}
	b.do(second.Remove())
}
