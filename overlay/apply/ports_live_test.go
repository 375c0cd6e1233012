// SPDX-License-Identifier: Apache-2.0

package apply

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"weft/overlay"
	"weft/overlay/compile"
)

const portsNode4, portsNode6, portsClient4, portsClient6 = "10.9.0.1", "fd77::1", "10.9.0.2", "fd77::2"

// portsHost is a node with two tasks, 9.0.0.1 and 9.0.0.2, and a client in a namespace beside it. No
// programs are on the links: what they would do, the tests of bpf show.
type portsHost struct {
	*Host
	client string
	tasks  [2]string
}

func newPortsHost(t *testing.T) portsHost {
	t.Helper()
	inHost(t)
	h := portsHost{client: newTask(t)}
	ns, err := openNamespace(h.client)
	must(t, err)
	defer func() { must(t, ns.close()) }()
	must(t, netlink.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: "under0"}, PeerName: "eth0", PeerNamespace: netlink.NsFd(ns.fd()),
	}))
	address := func(link string, addrs ...string) {
		l, err := linkByName(link)
		must(t, err)
		for _, text := range addrs {
			a, err := netlink.ParseAddr(text)
			must(t, err)
			if a.IP.To4() == nil {
				a.Flags = unix.IFA_F_NODAD
			}
			must(t, netlink.AddrAdd(l, a))
		}
		must(t, netlink.LinkSetUp(l))
	}
	address("under0", portsNode4+"/24", portsNode6+"/64", "10.9.0.3/24")
	within(t, h.client, func() error { address("eth0", portsClient4+"/24", portsClient6+"/64"); return nil })
	h.Host, err = NewHost(HostOptions{Underlay: Underlay{
		MTU: 1500, Addr: netip.MustParseAddr(portsNode4), Addr6: netip.MustParseAddr(portsNode6),
	}})
	must(t, err)
	_, _, err = h.Ensure(t.Context())
	must(t, err)
	for i := range h.tasks {
		h.tasks[i] = newTask(t)
		h.link(t, i)
	}
	return h
}

// link joins a task to the node, and does what the packet path would for its neighbours.
func (h portsHost) link(t *testing.T, i int) {
	t.Helper()
	s := spec(fmt.Sprint("task-", i), h.tasks[i])
	s.Addr4, s.Addr6 = netip.MustParseAddr(fmt.Sprint("9.0.0.", i+1)), netip.MustParseAddr(fmt.Sprint("fd01:b::", i+1))
	s.MAC[5] = byte(i + 1)
	s.Published = true
	links := Links{Node4: netip.MustParseAddr(portsNode4), Node6: netip.MustParseAddr(portsNode6)}
	_, err := links.Ensure(t.Context(), s)
	must(t, err)
	must(t, links.Up(t.Context(), s))
	gateway, err := net.ParseMAC(GatewayMAC)
	must(t, err)
	within(t, h.tasks[i], func() error {
		eth0, err := linkByName("eth0")
		must(t, err)
		for _, g := range []string{Gateway4, Gateway6} {
			must(t, netlink.NeighSet(&netlink.Neigh{
				LinkIndex: eth0.Attrs().Index, State: netlink.NUD_PERMANENT, IP: net.ParseIP(g), HardwareAddr: gateway,
			}))
		}
		return nil
	})
}

// serve answers in a task on port 80, tcp and udp, with its word and the client's address.
func (h portsHost) serve(t *testing.T, i int, word string) {
	t.Helper()
	var tcp net.Listener
	var udp net.PacketConn
	within(t, h.tasks[i], func() (err error) {
		if tcp, err = net.Listen("tcp", ":80"); err != nil {
			return err
		}
		udp, err = net.ListenPacket("udp", ":80")
		return err
	})
	done := make(chan struct{}, 2)
	t.Cleanup(func() {
		must(t, errors.Join(tcp.Close(), udp.Close()))
		<-done
		<-done
	})
	host := func(a net.Addr) string {
		addr, _, _ := net.SplitHostPort(a.String())
		return word + " " + netip.MustParseAddr(addr).Unmap().String()
	}
	go func() {
		defer func() { done <- struct{}{} }()
		for {
			c, err := tcp.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte(host(c.RemoteAddr()))) // the client checks what it got
			_ = c.Close()
		}
	}()
	go func() {
		defer func() { done <- struct{}{} }()
		for {
			_, from, err := udp.ReadFrom(make([]byte, 1))
			if err != nil {
				return
			}
			_, _ = udp.WriteTo([]byte(host(from)), from)
		}
	}()
}

// ask returns what is answered to a socket of the calling thread's namespace.
func ask(network, to string) (string, error) {
	c, err := net.DialTimeout(network, to, 2*time.Second)
	if err != nil {
		return "", err
	}
	return talk(c, c.Close)
}

func talk(c net.Conn, end func() error) (string, error) {
	b := make([]byte, 100)
	err := c.SetDeadline(time.Now().Add(2 * time.Second))
	if err == nil && strings.HasPrefix(c.LocalAddr().Network(), "udp") {
		_, err = c.Write([]byte("?"))
	}
	n := 0
	if err == nil {
		n, err = c.Read(b)
	}
	return string(b[:n]), errors.Join(err, end())
}

func port(proto uint8, host, task string) compile.Port {
	return compile.Port{Proto: proto, Host: netip.MustParseAddrPort(host), Task: netip.MustParseAddrPort(task)}
}

func everyPort(task string) []compile.Port {
	var ports []compile.Port
	for _, proto := range []uint8{compile.TCP, compile.UDP} {
		ports = append(ports, port(proto, "0.0.0.0:8080", "9.0.0."+task+":80"), port(proto, "[::]:8080", "[fd01:b::"+task+"]:80"))
	}
	return ports
}

var portsSubnets = []netip.Prefix{netip.MustParsePrefix("9.0.0.0/16"), netip.MustParsePrefix("fd01:b::/64")}

func TestPortsLeadToTasksFromEverywhere(t *testing.T) {
	h := newPortsHost(t)
	must(t, h.SetFirewall(t.Context(), portsSubnets, everyPort("1")))
	h.serve(t, 0, "one")
	for _, c := range []struct{ what, from, to, want string }{
		{"another machine", h.client, portsNode4, portsClient4},
		{"another machine, a second address of the node", h.client, "10.9.0.3", portsClient4},
		{"another machine", h.client, portsNode6, portsClient6},
		{"the node itself", "", portsNode4, portsNode4},
		{"the node itself", "", portsNode6, portsNode6},
		{"loopback", "", "127.0.0.1", portsNode4},
		{"another task", h.tasks[1], portsNode4, portsNode4},
		{"another task", h.tasks[1], portsNode6, portsNode6},
		{"the task itself", h.tasks[0], portsNode4, portsNode4},
		{"the task itself", h.tasks[0], portsNode6, portsNode6},
	} {
		for _, network := range []string{"tcp", "udp"} {
			var got string
			one := func() (err error) { got, err = ask(network, net.JoinHostPort(c.to, "8080")); return err }
			var err error
			if c.from == "" {
				err = one()
			} else {
				within(t, c.from, func() error { err = one(); return nil })
			}
			if err != nil || got != "one "+c.want {
				t.Errorf("from %s to %s by %s: got %q %v, want the task to see %s", c.what, c.to, network, got, err, c.want)
			}
		}
	}
	if _, err := ask("tcp", "[::1]:8080"); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("IPv6 loopback: got %v, want it refused at once", err)
	}
	// Inside the networks nothing is changed, also where the port is the same.
	within(t, h.tasks[1], func() error {
		got, err := ask("tcp", "9.0.0.1:80")
		if err != nil || got != "one 9.0.0.2" {
			t.Errorf("between tasks: got %q %v, want the source untouched", got, err)
		}
		return nil
	})
	_, err := h.Remove(t.Context())
	must(t, err)
	if got, err := ask("tcp", portsNode4+":8080"); err == nil {
		t.Errorf("after Remove: got %q", got)
	}
}

func TestPortOfOneAddress(t *testing.T) {
	h := newPortsHost(t)
	h.serve(t, 0, "one")
	h.serve(t, 1, "two")
	must(t, h.SetFirewall(t.Context(), portsSubnets, []compile.Port{
		port(compile.TCP, "10.9.0.3:8080", "9.0.0.1:80"), port(compile.TCP, "127.0.0.1:8081", "9.0.0.2:80"),
	}))
	within(t, h.client, func() error {
		if got, err := ask("tcp", "10.9.0.3:8080"); err != nil || got != "one "+portsClient4 {
			t.Errorf("got %q %v", got, err)
		}
		for _, to := range []string{portsNode4 + ":8080", portsNode4 + ":8081"} {
			if got, err := ask("tcp", to); err == nil {
				t.Errorf("%s leads to %q, want nowhere", to, got)
			}
		}
		return nil
	})
	if got, err := ask("tcp", "127.0.0.1:8081"); err != nil || got != "two "+portsNode4 {
		t.Errorf("loopback: got %q %v", got, err)
	}
}

// TestUDPClientFollowsThePort keeps one client socket while the port leads nowhere, to one task, and
// to another.
func TestUDPClientFollowsThePort(t *testing.T) {
	h := newPortsHost(t)
	h.serve(t, 0, "one")
	h.serve(t, 1, "two")
	must(t, h.SetFirewall(t.Context(), portsSubnets, nil))
	var c net.Conn
	within(t, h.client, func() (err error) { c, err = net.Dial("udp", portsNode4+":8080"); return err })
	t.Cleanup(func() { must(t, c.Close()) })
	stay := func() error { return nil }
	if got, err := talk(c, stay); err == nil {
		t.Errorf("got %q from nowhere", got)
	}
	for i, want := range []string{"one", "two"} {
		must(t, h.SetFirewall(t.Context(), portsSubnets, everyPort(fmt.Sprint(i+1))))
		got, err := talk(c, stay)
		if errors.Is(err, unix.ECONNREFUSED) { // of the datagram before
			got, err = talk(c, stay)
		}
		if err != nil || got != want+" "+portsClient4 {
			t.Errorf("got %q %v, want %s", got, err, want)
		}
	}
}

func TestPortsOutliveTheProcess(t *testing.T) {
	h := newPortsHost(t)
	h.serve(t, 0, "one")
	must(t, h.SetFirewall(t.Context(), portsSubnets, everyPort("1")))
	next, err := NewHost(h.o)
	must(t, err)
	for range 2 { // before and after the new process knows what they are
		_, _, err = next.Ensure(t.Context())
		must(t, err)
		within(t, h.client, func() error {
			got, err := ask("tcp", portsNode4+":8080")
			if err != nil || got != "one "+portsClient4 {
				t.Errorf("got %q %v", got, err)
			}
			return nil
		})
		must(t, next.SetFirewall(t.Context(), portsSubnets, everyPort("1")))
	}
}

func TestHeldPortIsRefusedToBothSides(t *testing.T) {
	inHost(t)
	host, err := NewHost(HostOptions{Underlay: Underlay{MTU: 1500}})
	must(t, err)
	for network, proto := range map[string]uint8{"tcp": compile.TCP, "udp": compile.UDP} {
		listen := func(to string) (func() error, error) {
			if network == "tcp" {
				l, err := net.Listen(network, to)
				if err != nil {
					return nil, err
				}
				return l.Close, nil
			}
			l, err := net.ListenPacket(network, to)
			if err != nil {
				return nil, err
			}
			return l.Close, nil
		}
		free, err := listen("127.0.0.1:8081")
		must(t, err)
		both := []compile.Port{port(proto, "0.0.0.0:8080", "9.0.0.1:80"), port(proto, "0.0.0.0:8081", "9.0.0.1:81")}
		err = host.Hold(t.Context(), both)
		if !errors.Is(err, overlay.ErrConflict) || !strings.Contains(err.Error(), "port 8081/"+network+" of this node is in use") {
			t.Errorf("got %v, want it to name the port", err)
		}
		must(t, free())
		must(t, host.Hold(t.Context(), both))
		must(t, host.Hold(t.Context(), both))
		if _, err := listen("127.0.0.1:8080"); !errors.Is(err, unix.EADDRINUSE) {
			t.Errorf("a program gets the port of a task: %v", err)
		}
		must(t, host.Release(t.Context(), both))
		free, err = listen("127.0.0.1:8080")
		must(t, err)
		must(t, free())
	}
	err = host.Hold(t.Context(), []compile.Port{port(compile.TCP, "192.0.2.1:8080", "9.0.0.1:80")})
	if !errors.Is(err, overlay.ErrInvalid) || !strings.Contains(err.Error(), "192.0.2.1: this node has no such address") {
		t.Errorf("got %v, want it to name the address", err)
	}
}
