// SPDX-License-Identifier: Apache-2.0

package apply

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// inHost gives the test a network namespace of its own to be the node's. The test's thread is never
// used again.
func inHost(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("root is needed to make network namespaces")
		}
		t.Skip("root is needed to make network namespaces")
	}
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("make network namespace: %v", err)
	}
	must(t, setUp("lo"))
	must(t, writeSysctl("net/ipv4/ip_forward", "0")) // a new one has the machine's
}

// newTask returns the path of a new namespace, held by an open file until the test ends.
func newTask(t *testing.T) string {
	t.Helper()
	const own = "/proc/thread-self/ns/net"
	back, err := os.Open(own)
	must(t, err)
	must(t, unix.Unshare(unix.CLONE_NEWNET))
	made, err := os.Open(own)
	must(t, errors.Join(err, unix.Setns(int(back.Fd()), unix.CLONE_NEWNET), back.Close()))
	t.Cleanup(func() { _ = made.Close() })
	return fmt.Sprintf("/proc/self/fd/%d", made.Fd())
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func setUp(name string) error {
	l, err := linkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(l)
}

// within runs f in a task's namespace.
func within(t *testing.T, path string, f func() error) {
	t.Helper()
	ns, err := openNamespace(path)
	must(t, err)
	defer func() { must(t, ns.close()) }()
	must(t, ns.do(f))
}

func spec(id, netns string) Spec {
	return Spec{
		Name: LinkName(id), NetNS: netns, Interface: "eth0", MAC: [6]byte{0x0a, 0x58, 9, 0, 0, 1}, MTU: 1450,
		Addr4: netip.MustParseAddr("9.0.0.1"), Addr6: netip.MustParseAddr("fd01:b::1"),
		Subnets: []netip.Prefix{netip.MustParsePrefix("9.0.0.0/16"), netip.MustParsePrefix("fd01:b::/64")},
	}
}

func TestLinkCarriesPacketsOfBothFamilies(t *testing.T) {
	inHost(t)
	task := newTask(t)
	host, err := NewHost(HostOptions{Underlay: Underlay{MTU: 1500}})
	must(t, err)
	_, _, err = host.Ensure(t.Context())
	must(t, err)
	// No programs are on this link: the node's own stack answers for the gateway's neighbours.
	links := Links{Node6: netip.MustParseAddr(NameServer6)}
	s := spec("web-1", task)
	made, err := links.Ensure(t.Context(), s)
	must(t, err)
	if made.Up || made.Cookie == 0 || made.Ifindex == 0 || made.Name != s.Name {
		t.Errorf("got %+v, want it down, with cookie and ifindex", made)
	}
	must(t, links.Up(t.Context(), s))

	// What BPF answers in a node: neighbours of the gateways.
	gateway, err := net.ParseMAC(GatewayMAC)
	must(t, err)
	within(t, task, func() error {
		if c, err := cookie(); err != nil || c != made.Cookie {
			t.Errorf("got cookie %d %v, want %d", c, err, made.Cookie)
		}
		eth0, err := linkByName("eth0")
		must(t, err)
		if a := eth0.Attrs(); a.MTU != 1450 || a.HardwareAddr.String() != "0a:58:09:00:00:01" {
			t.Errorf("got MTU %d, address %s", a.MTU, a.HardwareAddr)
		}
		for _, g := range []string{Gateway4, Gateway6} {
			must(t, netlink.NeighSet(&netlink.Neigh{
				LinkIndex: eth0.Attrs().Index, State: netlink.NUD_PERMANENT, IP: net.ParseIP(g), HardwareAddr: gateway,
			}))
		}
		if v, err := readSysctl("net/ipv6/conf/eth0/accept_dad"); err != nil || v != "0" {
			t.Errorf("got accept_dad %s %v, want 0", v, err)
		}
		return nil
	})
	for _, server := range []string{NameServer4, NameServer6} {
		for _, client := range []string{s.Addr4.String(), s.Addr6.String()} {
			if strings.Contains(server, ":") == strings.Contains(client, ":") {
				echo(t, task, client, server)
			}
		}
	}
}

// echo sends a datagram from a task to the node and has it answered.
func echo(t *testing.T, task, client, server string) {
	t.Helper()
	conn, err := net.ListenPacket("udp", net.JoinHostPort(server, "0"))
	must(t, err)
	defer func() { must(t, conn.Close()) }()
	var out net.Conn
	within(t, task, func() (err error) {
		out, err = net.Dial("udp", conn.LocalAddr().String())
		return err
	})
	defer func() { must(t, out.Close()) }()
	if from, _, _ := net.SplitHostPort(out.LocalAddr().String()); from != client {
		t.Errorf("got source %s, want %s", from, client)
	}
	// The node's stack takes its time to find a neighbour, and may lose the first answers meanwhile.
	buf := make([]byte, 16)
	for deadline := time.Now().Add(20 * time.Second); ; {
		try := time.Now().Add(200 * time.Millisecond)
		must(t, errors.Join(out.SetDeadline(try), conn.SetDeadline(try)))
		err := askOnce(out, conn, buf)
		if err == nil {
			return
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) || time.Now().After(deadline) {
			t.Fatalf("from %s to %s: %v", client, server, err)
		}
	}
}

// askOnce sends a datagram by out, has it sent back by conn, and reads it.
func askOnce(out net.Conn, conn net.PacketConn, buf []byte) error {
	if _, err := out.Write([]byte("hello")); err != nil {
		return err
	}
	n, from, err := conn.ReadFrom(buf)
	if err != nil {
		return err
	}
	if _, err := conn.WriteTo(buf[:n], from); err != nil {
		return err
	}
	if n, err = out.Read(buf); err == nil && string(buf[:n]) != "hello" {
		err = fmt.Errorf("got %q, want hello", buf[:n])
	}
	return err
}

func TestEnsureTwiceIsOneLink(t *testing.T) {
	inHost(t)
	task := newTask(t)
	var links Links
	s := spec("web-1", task)
	one, err := links.Ensure(t.Context(), s)
	must(t, err)
	must(t, links.Up(t.Context(), s))
	two, err := links.Ensure(t.Context(), s)
	must(t, err)
	must(t, links.Up(t.Context(), s))
	one.Up = true
	if diff := cmp.Diff(one, two); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	list, err := links.List(t.Context())
	must(t, err)
	one.Cookie = 0
	if diff := cmp.Diff([]Link{one}, list); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	// The same attachment in another namespace is another link.
	s.NetNS = newTask(t)
	three, err := links.Ensure(t.Context(), s)
	must(t, err)
	if three.Ifindex == one.Ifindex {
		t.Errorf("got the link to the old namespace")
	}
	must(t, links.Remove(t.Context(), s.Name))
	must(t, links.Remove(t.Context(), s.Name))
	if list, err = links.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("got %v %v, want none", list, err)
	}
}

func TestEnsureRefusesAndLeavesNothing(t *testing.T) {
	inHost(t)
	task := newTask(t)
	within(t, task, func() error {
		return netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "eth1"}})
	})
	for name, row := range map[string]struct {
		change func(*Spec)
		want   string
	}{
		"no namespace":    {func(s *Spec) { s.NetNS = "/proc/0/ns/net" }, "/proc/0/ns/net"},
		"own namespace":   {func(s *Spec) { s.NetNS = "/proc/thread-self/ns/net" }, "the node's own"},
		"no namespace 2":  {func(s *Spec) { s.NetNS = "/dev/null" }, "/dev/null"},
		"interface there": {func(s *Spec) { s.Interface = "eth1" }, "an interface eth1 already"},
		"foreign name":    {func(s *Spec) { s.Name = "eth0" }, `"eth0" is not named`},
		"MTU":             {func(s *Spec) { s.MTU = 70000 }, "MTU"},
	} {
		s := spec("web-1", task)
		row.change(&s)
		_, err := Links{}.Ensure(t.Context(), s)
		if err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: got %v, want it to say %q", name, err, row.want)
		}
		if list, err := (Links{}).List(t.Context()); err != nil || len(list) != 0 {
			t.Errorf("%s: got %v %v, want no link", name, list, err)
		}
	}
}

// The default route is the first interface's by name, in whatever order they come.
func TestFirstInterfaceTakesTheDefaultRoute(t *testing.T) {
	inHost(t)
	task := newTask(t)
	var links Links
	eth0, eth1 := spec("a/eth1", task), spec("a/eth0", task)
	eth1.Interface, eth1.Addr4, eth1.Addr6 = "eth1", netip.MustParseAddr("9.1.0.1"), netip.MustParseAddr("fd01:c::1")
	for range 2 {
		for _, s := range []Spec{eth1, eth0} {
			_, err := links.Ensure(t.Context(), s)
			must(t, err)
		}
	}
	within(t, task, func() error {
		for source, want := range map[netip.Addr]string{eth0.Addr4: "eth0", eth1.Addr4: "eth1", eth0.Addr6: "eth0", eth1.Addr6: "eth1"} {
			to := "10.0.0.1"
			if source.Is6() {
				to = "2001:db8::1"
			}
			for from, want := range map[string]string{source.String(): want, "": "eth0"} {
				routes, err := netlink.RouteGetWithOptions(net.ParseIP(to), &netlink.RouteGetOptions{SrcAddr: net.ParseIP(from)})
				must(t, err)
				link, err := netlink.LinkByIndex(routes[0].LinkIndex)
				must(t, err)
				if got := link.Attrs().Name; got != want {
					t.Errorf("from %q to %s: got %s, want %s", from, to, got, want)
				}
			}
		}
		return nil
	})
}

func TestSecondInterfaceHasRoutesOfItsNetworkOnly(t *testing.T) {
	inHost(t)
	task := newTask(t)
	var links Links
	_, err := links.Ensure(t.Context(), spec("a", task))
	must(t, err)
	second := spec("a/eth1", task)
	second.Interface, second.Addr6, second.Addr4 = "eth1", netip.Addr{}, netip.MustParseAddr("9.1.0.1")
	second.Subnets = []netip.Prefix{netip.MustParsePrefix("9.1.0.0/16")}
	_, err = links.Ensure(t.Context(), second)
	must(t, err)
	within(t, task, func() error {
		routes, err := routesOf(netlink.FAMILY_V4)
		must(t, err)
		var got []string
		for _, r := range routes {
			link, err := netlink.LinkByIndex(r.LinkIndex)
			must(t, err)
			got = append(got, fmt.Sprint(r.Dst, " ", link.Attrs().Name))
		}
		if diff := cmp.Diff([]string{"0.0.0.0/0 eth0", "9.0.0.0/16 eth0", "9.1.0.0/16 eth1"}, got); diff != "" {
			t.Errorf("-want +got\n%s", diff)
		}
		return nil
	})

	// What comes from its address leaves by it; of an address that it had before nothing is left.
	for _, a := range []string{"9.1.0.2", "9.1.0.2", "9.1.0.1"} {
		must(t, links.Remove(t.Context(), second.Name))
		second.Addr4 = netip.MustParseAddr(a)
		_, err = links.Ensure(t.Context(), second)
		must(t, err)
		_, err = links.Ensure(t.Context(), second)
		must(t, err)
	}
	within(t, task, func() error {
		rules, err := netlink.RuleList(netlink.FAMILY_V4)
		must(t, err)
		var got []string
		for _, r := range rules {
			if r.Priority == ownPriority {
				got = append(got, r.Src.String())
			}
		}
		if diff := cmp.Diff([]string{"9.1.0.1/32"}, got); diff != "" {
			t.Errorf("rules: -want +got\n%s", diff)
		}
		routes, err := netlink.RouteGetWithOptions(net.ParseIP("10.0.0.1"), &netlink.RouteGetOptions{SrcAddr: net.ParseIP("9.1.0.1")})
		must(t, err)
		eth1, err := linkByName("eth1")
		must(t, err)
		if routes[0].LinkIndex != eth1.Attrs().Index {
			t.Errorf("answers leave by link %d, want eth1", routes[0].LinkIndex)
		}
		return nil
	})
}

func TestWatchTellsWhenATasksNamespaceEnds(t *testing.T) {
	inHost(t)
	ctx, cancel := context.WithCancel(t.Context())
	var links Links
	gone, err := links.Watch(ctx)
	must(t, err)
	cmd := exec.Command("sleep", "60")
	cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL}
	must(t, cmd.Start())
	s := spec("web-1", fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid))
	_, err = links.Ensure(t.Context(), s)
	must(t, err)
	ended := make(chan error, 1)
	go func() { ended <- WaitProcess(ctx, cmd.Process.Pid, 0) }()
	began := time.Now()
	must(t, cmd.Process.Kill())
	_ = cmd.Wait()
	select {
	case err := <-ended:
		must(t, err)
		t.Logf("process seen to end after %v", time.Since(began))
	case <-time.After(10 * time.Second):
		t.Fatal("the end of the process was not seen")
	}
	deadline := time.After(10 * time.Second)
	for {
		select {
		case <-gone:
		case <-deadline:
			t.Fatal("the end of the link was not seen")
		}
		list, err := links.List(t.Context())
		must(t, err)
		if len(list) == 0 {
			break
		}
	}
	t.Logf("link seen to go after %v", time.Since(began))
	cancel()
	for range gone {
	}
}

// A thread that stayed would hold the namespace of a task that has ended, and so its link.
func TestNoThreadStaysInATasksNamespace(t *testing.T) {
	inHost(t)
	task := newTask(t)
	ns, err := openNamespace(task)
	must(t, err)
	defer func() { must(t, ns.close()) }()
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if err := ns.do(func() error { return nil }); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	theirs, err := os.Stat(task)
	must(t, err)
	threads, err := filepath.Glob("/proc/self/task/*/ns/net")
	must(t, err)
	for _, thread := range threads {
		// A thread that ends meanwhile is in no namespace.
		if at, err := os.Stat(thread); err == nil && os.SameFile(at, theirs) {
			t.Errorf("%s is in the task's namespace", thread)
		}
	}
}

func TestWaitProcess(t *testing.T) {
	if err := WaitProcess(t.Context(), os.Getpid(), 1); err != nil {
		t.Errorf("got %v, want the process with another start time to have ended", err)
	}
	start, err := startTime(os.Getpid())
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := WaitProcess(ctx, os.Getpid(), start); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want it to wait until ctx ends", err)
	}
	// Above the largest pid_max there is.
	if err := WaitProcess(t.Context(), 1<<22+1, 0); err != nil {
		t.Errorf("got %v, want no such process to have ended", err)
	}
}

func TestHostEnsureAndRemoveLeaveNoTrace(t *testing.T) {
	inHost(t)
	dir := t.TempDir()
	must(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "under0"}}))
	must(t, writeSysctl("net/ipv6/conf/under0/accept_ra", "1"))
	before := snapshot(t)
	o := HostOptions{Underlay: Underlay{MTU: 1500}, Dir: dir, NameServers: NameServersDCOS()}
	host, err := NewHost(o)
	must(t, err)
	tunnel, _, err := host.Ensure(t.Context())
	must(t, err)
	again, _, err := host.Ensure(t.Context())
	must(t, err)
	if again != tunnel {
		t.Errorf("got device %d, want %d kept", again, tunnel)
	}
	link, err := linkByName(TunnelDevice)
	must(t, err)
	v, ok := link.(*netlink.Vxlan)
	if !ok || !v.FlowBased || !v.GBP || v.Port != DefaultPort || v.Learning || v.MTU != 1450 || v.Flags&net.FlagUp == 0 {
		t.Errorf("got %+v", link)
	}
	for name, want := range map[string]string{
		"net/ipv4/ip_forward": "1", "net/ipv6/conf/all/forwarding": "1", "net/ipv6/conf/under0/accept_ra": "2",
	} {
		if got, err := readSysctl(name); err != nil || got != want {
			t.Errorf("%s: got %s %v, want %s", name, got, err, want)
		}
	}
	// Another process removes, as after a crash.
	host, err = NewHost(HostOptions{Dir: dir})
	must(t, err)
	removed, err := host.Remove(t.Context())
	must(t, err)
	for _, want := range []string{
		"nftables table inet weft", "device weft-vx0", "address 198.51.100.1 of lo", "address 198.51.100.3 of lo", "sysctl net/ipv4/ip_forward, which is 0 again",
	} {
		if !slices.Contains(removed, want) {
			t.Errorf("got %q, want it to name %q", removed, want)
		}
	}
	if diff := cmp.Diff(before, snapshot(t)); diff != "" {
		t.Errorf("-before +after\n%s", diff)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("got %v %v, want no file left", left, err)
	}
	if removed, err := host.Remove(t.Context()); err != nil || len(removed) != 0 {
		t.Errorf("again: got %q, %v, want nothing to remove", removed, err)
	}
}

// snapshot returns what Host may change.
func snapshot(t *testing.T) map[string]string {
	t.Helper()
	s := make(map[string]string)
	for _, name := range []string{
		"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding", "net/ipv6/conf/under0/accept_ra", "net/ipv4/conf/all/forwarding",
	} {
		v, err := readSysctl(name)
		must(t, err)
		s[name] = v
	}
	links, err := allLinks()
	must(t, err)
	for _, l := range links {
		addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
		must(t, err)
		s["link "+l.Attrs().Name] = fmt.Sprint(addrs)
	}
	conn, err := nftables.New()
	must(t, err)
	tables, err := conn.ListTables()
	must(t, err)
	for _, table := range tables {
		s["table "+table.Name] = "there"
	}
	return s
}

func TestHostIsSetUpThoughTheDiskKeepsNothing(t *testing.T) {
	inHost(t)
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, nil, 0o600))
	var said strings.Builder
	host, err := NewHost(HostOptions{Underlay: Underlay{MTU: 1500}, Log: slog.New(slog.NewTextHandler(&said, nil))})
	must(t, err)
	host.settings.file = filepath.Join(file, "sysctl.json") // below a file nothing can be written
	_, _, err = host.Ensure(t.Context())
	must(t, err)
	if got, err := readSysctl("net/ipv4/ip_forward"); got != "1" || err != nil {
		t.Errorf("forwarding is %s, %v, want 1", got, err)
	}
	if !strings.Contains(said.String(), "sysctl=net/ipv4/ip_forward") {
		t.Errorf("the log does not name the setting: %s", said.String())
	}
	host.settings.file = ""
	_, err = host.Remove(t.Context())
	must(t, err)
}

func TestHostSaysWhoHasThePort(t *testing.T) {
	inHost(t)
	conn, err := net.ListenPacket("udp4", ":4789")
	must(t, err)
	host, err := NewHost(HostOptions{Underlay: Underlay{MTU: 1500}})
	must(t, err)
	if _, _, err = host.Ensure(t.Context()); err == nil || !strings.Contains(err.Error(), "UDP port 4789 is taken") {
		t.Errorf("got %v, want it to name the port", err)
	}
	must(t, conn.Close())
	_, _, err = host.Ensure(t.Context())
	must(t, err)
	two, err := NewHost(HostOptions{Underlay: Underlay{MTU: 1500}, Port2: 4790})
	must(t, err)
	if first, second, err := two.Ensure(t.Context()); err != nil || second == 0 || first == second {
		t.Errorf("got devices %d and %d, %v, want two", first, second, err)
	}
	if _, second, err := host.Ensure(t.Context()); err != nil || second != 0 {
		t.Errorf("got a second device %d, %v, want none", second, err)
	}
	if l, err := linkByName(secondDevice); err != nil || l != nil {
		t.Errorf("the second device stays without a second port: %v, %v", l, err)
	}
	// A device of another shape under our name is replaced.
	must(t, netlink.LinkDel(&netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: TunnelDevice}}))
	must(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: TunnelDevice}}))
	_, _, err = host.Ensure(t.Context())
	must(t, err)
	_, err = host.Remove(t.Context())
	must(t, err)
}

func TestMasqueradeOnlyWhatLeavesTheNetworks(t *testing.T) {
	inHost(t)
	host, err := NewHost(HostOptions{Underlay: Underlay{MTU: 1500}})
	must(t, err)
	must(t, host.SetFirewall(t.Context(), []netip.Prefix{netip.MustParsePrefix("9.0.0.0/16"), netip.MustParsePrefix("9.1.0.0/16")}, nil))
	_, _, err = host.Ensure(t.Context())
	must(t, err)

	// A world behind the node: a namespace joined by a veth pair.
	world := newTask(t)
	ns, err := openNamespace(world)
	must(t, err)
	defer func() { must(t, ns.close()) }()
	must(t, netlink.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: "under0"}, PeerName: "world0", PeerNamespace: netlink.NsFd(ns.fd()),
	}))
	address := func(link, addr string) {
		l, err := linkByName(link)
		must(t, err)
		a, err := netlink.ParseAddr(addr)
		must(t, err)
		must(t, errors.Join(netlink.AddrAdd(l, a), netlink.LinkSetUp(l)))
	}
	address("under0", "10.9.0.1/24")
	within(t, world, func() error {
		address("world0", "10.9.0.2/24")
		w, err := linkByName("world0")
		must(t, err)
		for _, to := range []string{"9.0.0.0/16", "9.1.0.0/16"} {
			must(t, netlink.RouteAdd(&netlink.Route{
				LinkIndex: w.Attrs().Index, Dst: ipNet(netip.MustParsePrefix(to)), Gw: net.ParseIP("10.9.0.1"),
			}))
		}
		// It answers for an address of a network too.
		address("world0", "9.1.0.9/32")
		return nil
	})
	under, err := linkByName("under0")
	must(t, err)
	must(t, netlink.RouteAdd(&netlink.Route{
		LinkIndex: under.Attrs().Index, Dst: ipNet(netip.MustParsePrefix("9.1.0.9/32")), Gw: net.ParseIP("10.9.0.2"), Flags: int(netlink.FLAG_ONLINK),
	}))

	task := newTask(t)
	s := spec("web-1", task)
	_, err = Links{}.Ensure(t.Context(), s)
	must(t, err)
	must(t, Links{}.Up(t.Context(), s))
	gateway, err := net.ParseMAC(GatewayMAC)
	must(t, err)
	within(t, task, func() error {
		eth0, err := linkByName("eth0")
		must(t, err)
		return netlink.NeighSet(&netlink.Neigh{
			LinkIndex: eth0.Attrs().Index, State: netlink.NUD_PERMANENT, IP: net.ParseIP(Gateway4), HardwareAddr: gateway,
		})
	})
	seen := func(server string) string {
		var conn net.PacketConn
		within(t, world, func() (err error) { conn, err = net.ListenPacket("udp4", server+":0"); return err })
		defer func() { must(t, conn.Close()) }()
		within(t, task, func() error {
			out, err := net.Dial("udp4", conn.LocalAddr().String())
			must(t, err)
			_, err = out.Write([]byte("x"))
			return errors.Join(err, out.Close())
		})
		must(t, conn.SetDeadline(time.Now().Add(5*time.Second)))
		_, from, err := conn.ReadFrom(make([]byte, 1))
		must(t, err)
		host, _, _ := net.SplitHostPort(from.String())
		return host
	}
	if got := seen("10.9.0.2"); got != "10.9.0.1" {
		t.Errorf("to the world: got source %s, want the node's", got)
	}
	if got := seen("9.1.0.9"); got != "9.0.0.1" {
		t.Errorf("to a network: got source %s, want the task's", got)
	}
	// A new process begins without knowing the networks.
	host, err = NewHost(HostOptions{Underlay: Underlay{MTU: 1500}})
	must(t, err)
	_, _, err = host.Ensure(t.Context())
	must(t, err)
	if got := seen("10.9.0.2"); got != "10.9.0.1" {
		t.Errorf("after a restart: got source %s, want the node's", got)
	}
	must(t, host.SetFirewall(t.Context(), nil, nil))
	if got := seen("10.9.0.2"); got != "9.0.0.1" {
		t.Errorf("network gone: got source %s, want the task's", got)
	}
}

func TestFindUnderlay(t *testing.T) {
	inHost(t)
	if _, err := FindUnderlay("", false); !errors.Is(err, ErrUnderlay) || !strings.Contains(err.Error(), "--underlay") {
		t.Errorf("got %v, want it to say what to do", err)
	}
	for i, name := range []string{"under0", "under1"} {
		must(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name, MTU: 9000}}))
		must(t, setUp(name))
		l, err := linkByName(name)
		must(t, err)
		if i == 0 {
			continue
		}
		a, err := netlink.ParseAddr("10.9.0.1/24")
		must(t, err)
		must(t, netlink.AddrAdd(l, a))
		must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: net.ParseIP("10.9.0.9")}))
	}
	if _, err := FindUnderlay("under0", false); !errors.Is(err, ErrUnderlay) || !strings.Contains(err.Error(), "has no IPv4 and no global IPv6 address") {
		t.Errorf("got %v, want it to miss an address", err)
	}
	if _, err := FindUnderlay("eth7", false); !errors.Is(err, ErrUnderlay) || !strings.Contains(err.Error(), "under0, under1") {
		t.Errorf("got %v, want it to list what there is", err)
	}
	for _, name := range []string{"", "under1"} {
		u, err := FindUnderlay(name, false)
		must(t, err)
		if u.Name != "under1" || u.Addr.String() != "10.9.0.1" || u.MTU != 9000 || u.Prefix.String() != "10.9.0.0/24" {
			t.Errorf("got %+v", u)
		}
	}
}

func TestUnderlayOfIPv6(t *testing.T) {
	inHost(t)
	must(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "under0"}}))
	must(t, setUp("under0"))
	l, err := linkByName("under0")
	must(t, err)
	give := func(prefix string) {
		t.Helper()
		a, err := netlink.ParseAddr(prefix)
		must(t, err)
		a.Flags = unix.IFA_F_NODAD
		must(t, netlink.AddrAdd(l, a))
	}
	find := func(over6 bool) Underlay {
		t.Helper()
		u, err := FindUnderlay("", over6)
		must(t, err)
		return u
	}
	give("2001:db8::1/64")
	must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: net.ParseIP("2001:db8::9")}))
	if u := find(false); u.Addr.String() != "2001:db8::1" || u.Prefix.Bits() != 64 || u.Addr4.IsValid() || u.Overhead() != 70 {
		t.Errorf("without IPv4: got %+v", u)
	}
	give("10.9.0.1/24")
	if u := find(false); u.Addr.String() != "10.9.0.1" || u.Prefix.String() != "10.9.0.0/24" || u.Overhead() != 50 {
		t.Errorf("with both: got %+v", u)
	}
	if u := find(true); u.Addr.String() != "2001:db8::1" || u.Addr4.String() != "10.9.0.1" || u.Prefix.Bits() != 64 {
		t.Errorf("with both, over IPv6: got %+v", u)
	}
}

func TestLinkNameIsOurs(t *testing.T) {
	t.Parallel()
	if n := LinkName("web-1"); len(n) != 12 || !ours(n) || n == LinkName("web-2") {
		t.Errorf("got %s", n)
	}
	for _, n := range []string{"weft-vx0", "weft1234567", "weft123456789", "weft1234567g", "eth0"} {
		if ours(n) {
			t.Errorf("%s: got ours", n)
		}
	}
}
