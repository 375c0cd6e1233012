// SPDX-License-Identifier: Apache-2.0

package bpftest_test

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"weft/bpf/bpftest"
	"weft/bpf/row"
)

// uplinks is a namespace with two devices whose neighbours a test sets, and the edge in it.
type uplinks struct {
	*lan
	*edgeBench
}

// newUplinks makes them in the calling thread. No subtests: their goroutines would be on other threads, in other
// namespaces.
func newUplinks(t *testing.T, at netip.Addr) *uplinks {
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
	l.namespace()
	for _, device := range []struct{ name, addr, addr6 string }{
		{"u0", "192.0.2.1/24", "2001:db8:a::1/64"}, {"u1", "198.18.0.1/24", "2001:db8:b::1/64"},
	} {
		l.do(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: device.name}, PeerName: device.name + "p"}))
		l.do(netlink.LinkSetUp(l.link(device.name + "p")))
		l.give(l.link(device.name), netip.MustParsePrefix(device.addr))
		l.give(l.link(device.name), netip.MustParsePrefix(device.addr6))
		l.do(netlink.LinkSetUp(l.link(device.name)))
	}
	for _, family := range []string{"ipv4", "ipv6"} {
		l.do(os.WriteFile("/proc/sys/net/"+family+"/conf/all/forwarding", []byte("1"), 0o644))
	}
	return &uplinks{l, newEdgeBenchAt(t, at, true)}
}

func (u *uplinks) neighbour(device, addr string, mac bpftest.MAC) *netlink.Neigh {
	return &netlink.Neigh{LinkIndex: u.link(device).Attrs().Index, IP: net.ParseIP(addr), HardwareAddr: mac[:], State: netlink.NUD_PERMANENT}
}

// send gives a packet of a client to XDP at u0, for a task on a node that the model knows no hop for.
func (u *uplinks) send(node string) (action bpftest.XDP, in, out []byte) {
	u.t.Helper()
	u.Backends[backendRouted].VTEP = row.AddrOf(netip.MustParseAddr(node))
	u.do(u.Maps["edge_backends"].Put(uint32(backendRouted), u.Backends[backendRouted]))
	in = edgeFamilies["ipv4"].to(portRouted, bpftest.TCP, bpftest.ACK).Bytes()
	context := make([]byte, 24) // struct xdp_md
	binary.NativeEndian.PutUint32(context[4:], uint32(len(in)))
	binary.NativeEndian.PutUint32(context[12:], uint32(u.link("u0").Attrs().Index))
	opts := &ebpf.RunOptions{Data: in, DataOut: make([]byte, len(in)+256), Context: context, ContextOut: make([]byte, 24)}
	got, err := u.Programs["edge"].Run(opts)
	u.do(err)
	return bpftest.XDP(got), in, opts.DataOut
}

// TestEdgeAsksTheKernelsRoutes sends to nodes whose MAC only the kernel knows: out of the interface that the packet came
// in by, out of another, and, where the kernel knows no neighbour either, by way of edge_tc.
func TestEdgeAsksTheKernelsRoutes(t *testing.T) {
	for _, r := range []struct {
		at    netip.Addr // of this node
		nodes [4]string  // by u0, by u1, without a neighbour, without a route
	}{
		{node, [4]string{"192.0.2.99", "198.18.0.99", "192.0.2.98", "203.0.113.200"}},
		{node6, [4]string{"2001:db8:a::99", "2001:db8:b::99", "2001:db8:a::98", "2001:db8:c::1"}},
	} {
		askRoutes(t, r.at, r.nodes)
	}
}

func askRoutes(t *testing.T, at netip.Addr, nodes [4]string) {
	t.Helper()
	u := newUplinks(t, at)
	hop := bpftest.MAC{2, 0xaa}
	u.do(netlink.NeighSet(u.neighbour("u0", nodes[0], hop)))
	u.do(netlink.NeighSet(u.neighbour("u1", nodes[1], hop)))
	for _, r := range []struct {
		name, node string
		out        string // interface; empty: left to edge_tc
		action     bpftest.XDP
	}{
		{"back where it came from", nodes[0], "u0", bpftest.XDPTX},
		{"by what is known", nodes[0], "u0", bpftest.XDPTX},
		{"another interface", nodes[1], "u1", bpftest.XDPRedirect},
		{"by what is known of another interface", nodes[1], "u1", bpftest.XDPRedirect},
		{"no neighbour yet", nodes[2], "", bpftest.XDPPass},
		{"no route", nodes[3], "", bpftest.XDPPass},
	} {
		action, frame, out := u.send(r.node)
		if action != r.action {
			t.Errorf("%s: got %s, want %s", r.name, action, r.action)
			continue
		}
		outcome := u.Steer(frame, 0)
		u.moved(t, frame, row.ReasonEncapsulated, r.out != "")
		want := frame
		if r.out != "" {
			device, err := net.InterfaceByName(r.out)
			u.do(err)
			want = u.Wrapped(frame, outcome)
			copy(want, hop[:])
			copy(want[6:], device.HardwareAddr)
		}
		if diff := cmp.Diff(want, out); diff != "" {
			t.Errorf("%s: left (-want +got):\n%s", r.name, diff)
		}
	}
}

// TestEdgeFollowsItsNeighbours: a hop that is known is followed when its MAC changes, left to the kernel when it goes or
// when its link does, and shown to the kernel now and then, for what nothing uses is never found dead.
func TestEdgeFollowsItsNeighbours(t *testing.T) {
	anyKernel(t)
	u := newUplinks(t, node)
	const node = "192.0.2.99"
	first, second := bpftest.MAC{2, 0xaa}, bpftest.MAC{2, 0xbb}
	// until sends packets until so many in a row go as they should.
	until := func(what string, in int, want func(action bpftest.XDP, to bpftest.MAC) bool) {
		t.Helper()
		straight := 0
		for deadline := time.Now().Add(20 * time.Second); straight < in; {
			if time.Now().After(deadline) {
				t.Fatalf("%s: not in 20 s", what)
			}
			action, _, out := u.send(node)
			straight++
			if !want(action, bpftest.MAC(out)) {
				straight = 0
			}
		}
	}
	sentTo := func(mac bpftest.MAC) func(bpftest.XDP, bpftest.MAC) bool {
		return func(action bpftest.XDP, to bpftest.MAC) bool { return action == bpftest.XDPTX && to == mac }
	}
	left := func(action bpftest.XDP, _ bpftest.MAC) bool { return action == bpftest.XDPPass }
	u.do(netlink.NeighSet(u.neighbour("u0", node, first)))
	until("a neighbour that is there", 10, sentTo(first))
	u.do(netlink.NeighSet(u.neighbour("u0", node, second)))
	until("another MAC", 10, sentTo(second))
	u.do(netlink.NeighDel(u.neighbour("u0", node, second)))
	until("no neighbour", 10, left)
	u.do(netlink.NeighSet(u.neighbour("u0", node, first)))
	until("it is back", 10, sentTo(first))
	until("the kernel's turn, once in seconds", 1, left)
	until("and on", 10, sentTo(first))
	u.do(netlink.LinkSetDown(u.link("u0")))
	until("no link", 10, left)
}
