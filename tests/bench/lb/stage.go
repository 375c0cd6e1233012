// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"weft/agent/sandbox"
	"weft/bpf"
	"weft/bpf/row"
	"weft/lb/apply"
	"weft/lb/compile"
	"weft/tests/bench/ends"
	"weft/tests/lab/owned"
)

// Who talks to the server, each from a namespace of its own.
const (
	direct   = "direct"
	weft     = "weft"
	nft      = "nft"
	iptables = "iptables"
)

const (
	vni        = 7
	serverPort = 9000
	vipPort    = 80
)

// counts are how many services there are; the wanted one is the last.
var counts = []int{1, 1000, 10000}

// service is the n-th VIP.
func service(n int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{11, 1, byte(n >> 8), byte(n)}), vipPort)
}

// seat is a client and its link to the server.
type seat struct {
	*ends.End
	server netip.AddrPort // as this client reaches it
}

// stage is the server's namespace with a client for each variant.
type stage struct {
	plane   *bpf.Plane
	pin     string
	inside  string // cgroup whose sockets see VIPs: this process and the client of weft
	outside string // cgroup of all others
	before  string // where this process came from
	server  *ends.End
	seats   map[string]*seat
	rows    compile.Rows // what the tables hold
	cookie  uint64       // of the namespace of weft's client
}

func newStage(load string) (*stage, error) {
	s := &stage{seats: make(map[string]*seat)}
	if err := s.makeCgroups(); err != nil {
		return s, err
	}
	var err error
	if s.pin, err = owned.Folder(os.TempDir(), "weft-bench-lb.", removePins); err != nil {
		return s, err
	}
	if s.plane, err = bpf.Open(bpf.Options{Pin: filepath.Join(s.pin, "bpf")}); err != nil {
		return s, err
	}
	if err := s.plane.AttachCgroup(s.inside); err != nil {
		return s, err
	}
	in, err1 := os.Open(s.inside)
	out, err2 := os.Open(s.outside)
	if err := errors.Join(err1, err2); err != nil {
		return s, err
	}
	defer in.Close()
	defer out.Close()
	if s.server, err = newEnd(load, out); err != nil {
		return s, err
	}
	if err := ends.Inside(s.server.Netns(), func() error { return up("lo") }); err != nil {
		return s, err
	}
	names := []string{direct, weft}
	for _, n := range counts {
		names = append(names, rival(nft, n), rival(iptables, n))
	}
	for i, name := range names {
		cgroup := out
		if name == weft {
			cgroup = in
		}
		if err := s.addSeat(load, name, i+1, cgroup); err != nil {
			return s, fmt.Errorf("client %s: %w", name, err)
		}
	}
	return s, ends.Inside(s.seats[weft].Netns(), func() (err error) {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if s.cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE); err != nil {
			return err
		}
		return s.plane.Tables().Spaces.Put(s.cookie, row.Space{VNI: vni})
	})
}

func rival(name string, services int) string { return name + "-" + strconv.Itoa(services) }

func (s *stage) makeCgroups() error {
	top, err := sandbox.CgroupRoot()
	if err != nil {
		return err
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(own)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			s.before = filepath.Join(top, path)
		}
	}
	s.inside, err = owned.Folder(top, "weft-bench-in.", os.Remove)
	if err != nil {
		return err
	}
	if s.outside, err = owned.Folder(top, "weft-bench-out.", os.Remove); err != nil {
		return err
	}
	return moveSelf(s.inside)
}

func moveSelf(cgroup string) error {
	return os.WriteFile(filepath.Join(cgroup, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0o644)
}

// addSeat starts a client and joins it to the server by a link; what has no route goes to the server.
func (s *stage) addSeat(load, name string, n int, cgroup *os.File) error {
	e, err := newEnd(load, cgroup)
	if err != nil {
		return err
	}
	subnet := func(host byte) netip.Prefix {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 50, byte(n), host}), 24)
	}
	s.seats[name] = &seat{e, netip.AddrPortFrom(subnet(2).Addr(), serverPort)}
	link := "c" + strconv.Itoa(n)
	if err := ends.Inside(s.server.Netns(), func() error {
		veth := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: "eth0", PeerNamespace: netlink.NsPid(e.Cmd.Process.Pid)}
		veth.Name = link
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		return errors.Join(give(link, subnet(2)), up(link))
	}); err != nil {
		return err
	}
	return ends.Inside(e.Netns(), func() error {
		if err := errors.Join(up("lo"), give("eth0", subnet(1)), up("eth0")); err != nil {
			return err
		}
		// Many connections to one port: what waits is used again.
		if err := errors.Join(
			os.WriteFile("/proc/sys/net/ipv4/tcp_tw_reuse", []byte("1"), 0o644),
			os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("1024 65535"), 0o644),
		); err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{Gw: net.IP(subnet(2).Addr().AsSlice())})
	})
}

func up(name string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(l)
}

func give(name string, p netip.Prefix) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}})
}

// down takes all away; it is called with whatever newStage came to.
func (s *stage) down() error {
	var errs []error
	for _, c := range s.seats {
		errs = append(errs, c.Stop())
	}
	if s.server != nil {
		errs = append(errs, s.server.Stop())
	}
	if s.plane != nil {
		errs = append(errs, s.plane.Remove())
	}
	if s.before != "" {
		errs = append(errs, moveSelf(s.before))
	}
	for _, cgroup := range []string{s.inside, s.outside} {
		if cgroup != "" {
			errs = append(errs, os.Remove(cgroup))
		}
	}
	if s.pin != "" {
		errs = append(errs, removePins(s.pin))
	}
	return errors.Join(errs...)
}

// removePins removes a folder with bpffs in it; what is pinned there goes with it.
func removePins(dir string) error {
	err := unix.Unmount(filepath.Join(dir, "bpf"), unix.MNT_DETACH)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) { // it was never mounted
		err = nil
	}
	return errors.Join(err, os.RemoveAll(dir))
}

// write makes Weft's tables want.
func (s *stage) write(want compile.Rows) error {
	t := s.plane.Tables()
	_, err := apply.Tables{VIPs: t.VIPs, Backends: t.Backends, Maglevs: t.Maglevs}.Sync(s.rows, want)
	s.rows = want
	return err
}

// loadRivals gives each rival its services: all but the last lead nowhere.
func (s *stage) loadRivals() error {
	for _, n := range counts {
		for name, run := range map[string]func(int, netip.AddrPort) error{nft: loadNft, iptables: loadIptables} {
			c := s.seats[rival(name, n)]
			if err := ends.Inside(c.Netns(), func() error { return run(n, c.server) }); err != nil {
				return fmt.Errorf("%s with %d services: %w", name, n, err)
			}
		}
	}
	return nil
}

// loadNft translates by one look-up in a map, the best that nftables has.
func loadNft(n int, server netip.AddrPort) error {
	var b strings.Builder
	b.WriteString("table ip lb {\n map services {\n  type ipv4_addr . inet_service : ipv4_addr . inet_service\n  elements = {\n")
	for i := range n {
		fmt.Fprintf(&b, "   %s . %d : %s . %d,\n", service(i).Addr(), vipPort, server.Addr(), server.Port())
	}
	b.WriteString("  }\n }\n chain out {\n  type nat hook output priority -100\n  dnat ip to ip daddr . tcp dport map @services\n }\n}\n")
	return feed(b.String(), "nft", "-f", "-")
}

// loadIptables has a rule for each service, as kube-proxy and Docker have them.
func loadIptables(n int, server netip.AddrPort) error {
	var b strings.Builder
	b.WriteString("*nat\n")
	for i := range n {
		fmt.Fprintf(&b, "-A OUTPUT -d %s/32 -p tcp --dport %d -j DNAT --to-destination %s\n", service(i).Addr(), vipPort, server)
	}
	b.WriteString("COMMIT\n")
	return feed(b.String(), "iptables-restore")
}

// feed runs a program of Debian's in the calling thread's namespace.
func feed(input, program string, args ...string) error {
	cmd := exec.Command(program, args...)
	cmd.Stdin = strings.NewReader(input)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", program, err, out)
	}
	return nil
}
