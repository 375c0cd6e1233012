// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/moby/ipvs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"weft/bpf"
	"weft/bpf/row"
	"weft/lb"
	"weft/lb/apply"
	"weft/lb/compile"
	"weft/tests/bench/ends"
)

const (
	vni     = 7
	vipPort = 53
)

var (
	clientAddr = netip.MustParsePrefix("10.50.0.1/24")
	serverAddr = netip.MustParsePrefix("10.50.0.2/24")
)

// service is the n-th VIP.
func service(n int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{11, 1, byte(n >> 8), byte(n)}), vipPort)
}

// BenchmarkRoundTrip counts what a question to a VIP and its answer take, all in: client, server, kernel. It is for the
// guest of tests/kernels, whose clock counts instructions and whose network nobody else uses.
func BenchmarkRoundTrip(b *testing.B) {
	if os.Getppid() != 1 { // whose first process runs it
		b.Skip("it is for an emulated guest: make bench-ipvs")
	}
	s := newScene(b)
	s.count(b, wayDirect, 0, netip.AddrPortFrom(serverAddr.Addr(), serverPort))
	for _, n := range serviceCounts {
		s.ipvs(b, n)
		s.count(b, wayIPVS, n, service(n-1))
	}
	s.inClient(b, func() error {
		h, err := ipvs.New("")
		if err != nil {
			return err
		}
		defer h.Close()
		return h.Flush()
	})
	plane := s.weft(b)
	for _, n := range serviceCounts {
		s.vips(b, plane, n)
		s.count(b, wayWeft, n, service(n-1))
	}
}

// scene is two namespaces and a link between them.
type scene struct {
	client, server *exec.Cmd // that hold the namespaces; the server serves
	rows           compile.Rows
}

func netns(c *exec.Cmd) string { return fmt.Sprintf("/proc/%d/ns/net", c.Process.Pid) }

func newScene(b *testing.B) *scene {
	b.Helper()
	s := &scene{client: hold(b), server: hold(b)}
	must(b, ends.Inside(netns(s.server), func() error {
		veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "c0"}, PeerName: "eth0", PeerNamespace: netlink.NsPid(s.client.Process.Pid)}
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		return errors.Join(up("c0", serverAddr), up("lo", netip.Prefix{}))
	}))
	s.inClient(b, func() error {
		if err := errors.Join(up("eth0", clientAddr), up("lo", netip.Prefix{})); err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{Gw: serverAddr.Addr().AsSlice()})
	})
	return s
}

// hold starts a server in a namespace of its own.
func hold(b *testing.B) *exec.Cmd {
	b.Helper()
	cmd := again("serve")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	out, err := cmd.StdoutPipe()
	must(b, err)
	must(b, cmd.Start())
	b.Cleanup(func() {
		_ = cmd.Process.Kill() // it has nothing to lose
		_ = cmd.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		b.Fatalf("a server says %q (%v)", line, err)
	}
	return cmd
}

// again is this binary as an end.
func again(order string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), endVariable+"="+order, "GODEBUG=asyncpreemptoff=1", "GOGC=off")
	cmd.Stderr = os.Stderr
	return cmd
}

func (s *scene) inClient(b *testing.B, f func() error) {
	b.Helper()
	must(b, ends.Inside(netns(s.client), f))
}

func up(name string, addr netip.Prefix) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	if addr.IsValid() {
		mask := net.CIDRMask(addr.Bits(), addr.Addr().BitLen())
		if err := netlink.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: addr.Addr().AsSlice(), Mask: mask}}); err != nil {
			return err
		}
	}
	return netlink.LinkSetUp(l)
}

// count measures one way, by each kind of socket.
func (s *scene) count(b *testing.B, way string, services int, to netip.AddrPort) {
	b.Helper()
	for _, socket := range sockets {
		b.Run(fmt.Sprintf("%s/%s/%d", socket, way, services), func(b *testing.B) {
			var out []byte
			s.inClient(b, func() (err error) {
				out, err = again(socket + " " + to.String()).Output()
				return err
			})
			n, err := strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
			must(b, err)
			b.ReportMetric(n, "instructions/question")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// ipvs makes n services in the client's namespace, beside those that there are.
func (s *scene) ipvs(b *testing.B, n int) {
	b.Helper()
	s.inClient(b, func() error {
		h, err := ipvs.New("")
		if err != nil {
			return err
		}
		defer h.Close()
		if err := h.Flush(); err != nil {
			return err
		}
		for i := range n {
			v := &ipvs.Service{
				Address: service(i).Addr().AsSlice(), Port: vipPort, Protocol: unix.IPPROTO_UDP, AddressFamily: unix.AF_INET,
				SchedName: "rr", Netmask: 0xffffffff,
			}
			d := &ipvs.Destination{Address: serverAddr.Addr().AsSlice(), Port: serverPort, Weight: 1, AddressFamily: unix.AF_INET}
			if err := errors.Join(h.NewService(v), h.NewDestination(v, d)); err != nil {
				return fmt.Errorf("service %d: %w", i, err)
			}
		}
		return nil
	})
}

// weft attaches the programs to every socket of the guest, as netd does.
func (s *scene) weft(b *testing.B) *bpf.Plane {
	b.Helper()
	plane, err := bpf.Open(bpf.Options{})
	must(b, err)
	b.Cleanup(func() { must(b, plane.Close()) })
	must(b, plane.AttachCgroup("/sys/fs/cgroup/unified"))
	for _, c := range []*exec.Cmd{s.client, s.server} { // both are tasks
		must(b, ends.Inside(netns(c), func() error {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
			if err != nil {
				return err
			}
			return plane.Tables().Spaces.Put(cookie, row.Space{VNI: vni})
		}))
	}
	return plane
}

// vips makes the tables hold n services.
func (s *scene) vips(b *testing.B, plane *bpf.Plane, n int) {
	b.Helper()
	f := compile.Facts{Networks: map[string]uint32{"bench": vni}, Now: 1}
	for i := range n {
		f.Backends = append(f.Backends, lb.Backend{
			VIP:  lb.Key{Network: "bench", Addr: service(i).Addr(), Port: vipPort, Protocol: lb.UDP},
			Task: strconv.Itoa(i), Node: "n1", Addrs: []netip.Addr{serverAddr.Addr()}, Port: serverPort, Weight: 1,
		})
	}
	want, _ := compile.Compile(f, s.rows)
	t := plane.Tables()
	_, err := apply.Tables{VIPs: t.VIPs, Backends: t.Backends, Maglevs: t.Maglevs}.Sync(s.rows, want)
	must(b, err)
	s.rows = want
}

func must(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}
