// SPDX-License-Identifier: Apache-2.0

package bpftest_test

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"weft/bpf/bpftest"
	"weft/bpf/row"
)

// TestEdgeAsksTheKernelsRoutes sends to nodes whose MAC only the kernel knows: out of the interface that the packet came
// in by, out of another, and, where the kernel knows no neighbour either, by way of edge_tc.
func TestEdgeAsksTheKernelsRoutes(t *testing.T) {
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
	for _, device := range []struct{ name, addr string }{{"u0", "192.0.2.1/24"}, {"u1", "198.18.0.1/24"}} {
		l.do(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: device.name}, PeerName: device.name + "p"}))
		l.do(netlink.LinkSetUp(l.link(device.name + "p")))
		l.give(l.link(device.name), netip.MustParsePrefix(device.addr))
		l.do(netlink.LinkSetUp(l.link(device.name)))
	}
	hop := bpftest.MAC{2, 0xaa}
	neighbour := func(device, addr string) {
		l.do(netlink.NeighSet(&netlink.Neigh{
			LinkIndex: l.link(device).Attrs().Index, IP: net.ParseIP(addr), HardwareAddr: hop[:], State: netlink.NUD_PERMANENT,
		}))
	}
	neighbour("u0", "192.0.2.99")
	neighbour("u1", "198.18.0.99")
	l.do(os.WriteFile("/proc/sys/net/ipv4/conf/all/forwarding", []byte("1"), 0o644))

	b := newEdgeBench(t, true)
	a := edgeFamilies["ipv4"]
	frame := a.to(portRouted, bpftest.TCP, bpftest.ACK).Bytes()
	for _, r := range []struct {
		name, node string
		out        string // interface; empty: left to edge_tc
		action     bpftest.XDP
	}{
		{"back where it came from", "192.0.2.99", "u0", bpftest.XDPTX},
		{"another interface", "198.18.0.99", "u1", bpftest.XDPRedirect},
		{"no neighbour yet", "192.0.2.98", "", bpftest.XDPPass},
		{"no route", "203.0.113.200", "", bpftest.XDPPass},
	} {
		// No subtest: its goroutine would be on another thread, in another namespace.
		b.Backends[backendRouted].Node = netip.MustParseAddr(r.node).As4()
		l.do(b.Maps["edge_backends"].Put(uint32(backendRouted), b.Backends[backendRouted]))
		context := make([]byte, 24) // struct xdp_md
		binary.NativeEndian.PutUint32(context[4:], uint32(len(frame)))
		binary.NativeEndian.PutUint32(context[12:], uint32(l.link("u0").Attrs().Index))
		opts := &ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+256), Context: context, ContextOut: make([]byte, 24)}
		action, err := b.Programs["edge"].Run(opts)
		l.do(err)
		if bpftest.XDP(action) != r.action {
			t.Errorf("%s: got %s, want %s", r.name, bpftest.XDP(action), r.action)
			continue
		}
		want := b.Steer(frame, 0)
		b.moved(t, frame, row.ReasonEncapsulated, r.out != "")
		out := frame
		if r.out != "" {
			device, err := net.InterfaceByName(r.out)
			l.do(err)
			out = b.Wrapped(frame, want)
			copy(out, hop[:])
			copy(out[6:], device.HardwareAddr)
		}
		if diff := cmp.Diff(out, opts.DataOut); diff != "" {
			t.Errorf("%s: left (-want +got):\n%s", r.name, diff)
		}
	}
}
