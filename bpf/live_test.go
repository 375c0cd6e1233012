// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"weft/bpf"
	"weft/bpf/row"
	"weft/overlay/apply"
	"weft/tests/lab/owned"
)

// namespace is the network namespace of one test, on the test's own thread. Tests in it start no
// subtests: those run on other threads.
type namespace struct {
	t      *testing.T
	own    int // the namespaces, as files
	others []int
}

// enterNamespace moves the test into a new network namespace with its loopback up. The thread is
// never given back: it ends with the test, and the namespace with it.
func enterNamespace(t *testing.T) *namespace {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("loading programs needs root")
	}
	runtime.LockOSThread()
	n := &namespace{t: t}
	n.own = n.unshare()
	t.Cleanup(func() {
		for _, fd := range append(n.others, n.own) {
			if err := unix.Close(fd); err != nil {
				t.Error(err)
			}
		}
	})
	n.up(1)
	return n
}

// unshare makes a namespace and stays in it.
func (n *namespace) unshare() int {
	n.t.Helper()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		n.t.Fatal(err)
	}
	fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		n.t.Fatal(err)
	}
	return fd
}

func (n *namespace) enter(fd int) {
	n.t.Helper()
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		n.t.Fatal(err)
	}
}

func (n *namespace) up(ifindex int) {
	n.t.Helper()
	n.do(netlink.LinkSetUp(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: ifindex}}))
}

func (n *namespace) do(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatal(err)
	}
}

func (n *namespace) index(name string) uint32 {
	n.t.Helper()
	i, err := net.InterfaceByName(name)
	n.do(err)
	return uint32(i.Index)
}

var (
	gatewayMAC = net.HardwareAddr{0x0a, 0x77, 0x65, 0x66, 0x74, 0x01}
	taskAddr   = netip.MustParseAddr("10.1.0.5")
	taskMAC    = net.HardwareAddr{0x0a, 0x58, 10, 1, 0, 5}
	nodeAddr   = netip.MustParseAddr("192.0.2.1")
)

// task makes a task's link, its other end configured in a namespace of its own, which it returns. The
// test stays in the node's namespace.
func (n *namespace) task(host string) (inside int) {
	n.t.Helper()
	n.do(netlink.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: host, HardwareAddr: gatewayMAC, MTU: 1450},
		PeerName:  "eth0", PeerHardwareAddr: taskMAC,
	}))
	inside = n.unshare()
	n.others = append(n.others, inside)
	n.enter(n.own)
	n.do(netlink.LinkSetNsFd(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: int(n.index("eth0"))}}, inside))
	hostIndex := int(n.index(host))
	n.up(hostIndex)
	n.do(netlink.AddrReplace(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: 1}},
		&netlink.Addr{IPNet: ipNet(netip.PrefixFrom(nodeAddr, 32))}))
	n.do(netlink.RouteReplace(&netlink.Route{
		LinkIndex: hostIndex, Dst: ipNet(netip.PrefixFrom(taskAddr, 32)), Scope: unix.RT_SCOPE_LINK,
		Src: nodeAddr.AsSlice(),
	}))
	n.do(netlink.NeighSet(&netlink.Neigh{
		LinkIndex: hostIndex, State: netlink.NUD_PERMANENT, IP: taskAddr.AsSlice(), HardwareAddr: taskMAC,
	}))
	n.enter(inside)
	eth0 := int(n.index("eth0"))
	n.up(1)
	gateway := netip.MustParseAddr("169.254.1.1")
	n.do(netlink.AddrReplace(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: eth0}},
		&netlink.Addr{IPNet: ipNet(netip.PrefixFrom(taskAddr, 32))}))
	n.up(eth0)
	n.do(netlink.NeighSet(&netlink.Neigh{
		LinkIndex: eth0, State: netlink.NUD_PERMANENT, IP: gateway.AsSlice(), HardwareAddr: gatewayMAC,
	}))
	n.do(netlink.RouteReplace(&netlink.Route{
		LinkIndex: eth0, Dst: ipNet(netip.MustParsePrefix("0.0.0.0/0")), Gw: gateway.AsSlice(), Flags: int(netlink.FLAG_ONLINK),
	}))
	n.enter(n.own)
	return inside
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// pinFolder is a folder that bpffs will be mounted on; nothing of it outlives the test.
func pinFolder(t *testing.T) string {
	t.Helper()
	dir, err := owned.Folder(os.TempDir(), "weft-pins.", removePins)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := removePins(dir); err != nil {
			t.Error(err)
		}
	})
	return filepath.Join(dir, "pins")
}

func removePins(dir string) error {
	err := unix.Unmount(filepath.Join(dir, "pins"), unix.MNT_DETACH)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return os.RemoveAll(dir)
}

func options(pin string) bpf.Options {
	return bpf.Options{
		Pin: pin, Classic: apply.Classic{},
		Config: bpf.Config{NodeAddr: nodeAddr, Underlay: 1, EventsPerSecond: 100},
	}
}

// open opens a Plane that the test closes, unless it did so itself.
func open(t *testing.T, o bpf.Options) *bpf.Plane {
	t.Helper()
	p, err := bpf.Open(o)
	if err != nil {
		t.Fatalf("%+v", err)
	}
	return p
}

// fill writes the rows of the task behind ifindex.
func fill(t *testing.T, p *bpf.Plane, ifindex uint32) {
	t.Helper()
	tables := p.Tables()
	w := row.Workload{
		VNI: 7, Identity: row.IdentityUngrouped, MTU: 1450, MAC: [6]byte(taskMAC), Block4: 24,
		Addr4: row.AddrOf(taskAddr),
	}
	e := row.Endpoint{Ifindex: ifindex, Identity: row.IdentityUngrouped, MAC: [6]byte(taskMAC)}
	if err := errors.Join(
		tables.Workloads.Put(ifindex, w),
		tables.Endpoints.Put(row.EndpointKey{VNI: 7, Addr: row.AddrOf(taskAddr)}, e),
	); err != nil {
		t.Fatal(err)
	}
}
