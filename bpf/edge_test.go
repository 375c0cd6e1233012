// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"weft/bpf"
	"weft/bpf/row"
)

// TestEdgeIsLoadedWhenAsked: a node without that duty has neither its programs nor its maps.
func TestEdgeIsLoadedWhenAsked(t *testing.T) {
	anyKernel(t)
	requireTCX(t)
	n := enterNamespace(t)
	n.task("w1")
	index := n.index("w1")
	pin := pinFolder(t)
	plain := open(t, options(pin))
	if plain.Tables().Edge != nil {
		t.Error("tables of the edge are open, though nobody asked")
	}
	for _, name := range names(t, filepath.Join(pin, layoutFolder)) {
		if strings.HasPrefix(name, "edge") {
			t.Errorf("%s is pinned, though nobody asked", name)
		}
	}
	if _, err := plain.AttachEdge(index, true); !errors.Is(err, bpf.ErrInvalid) {
		t.Errorf("attach without the option: got %v, want %v", err, bpf.ErrInvalid)
	}
	closing(t, plain)

	o := options(pin)
	o.Edge = true
	p := open(t, o)
	tables := p.Tables().Edge
	key := row.EdgeVIPKey{Port: row.Port(80), Proto: 6}
	must(t, tables.VIPs.Put(key, row.EdgeVIP{Slots: 7}), tables.Slots.Put(3, row.EdgeSlot{Current: 5, Previous: 5}),
		tables.Backends.Put(5, row.EdgeBackend{VNI: 9}))
	for range 2 { // doing it again is no change
		fast, err := p.AttachEdge(index, true)
		must(t, err)
		if !fast {
			t.Fatal("a veth has native XDP, but the edge has not")
		}
	}
	if on := attached(t, index, ebpf.AttachTCXIngress); len(on) != 1 {
		t.Errorf("%d programs at ingress, want edge_tc alone", len(on))
	}
	closing(t, p)

	again := open(t, o)
	slot, _, err := again.Tables().Edge.Slots.Get(3)
	must(t, err)
	if diff := cmp.Diff(row.EdgeSlot{Current: 5, Previous: 5}, slot); diff != "" {
		t.Errorf("slot after a restart (-want +got):\n%s", diff)
	}
	if !hasXDP(t, "w1") {
		t.Error("between the processes the edge was not attached")
	}
	must(t, again.DetachEdges(index))
	if !hasXDP(t, "w1") {
		t.Error("DetachEdges took the edge off an interface that keeps it")
	}
	closing(t, again)
	without := open(t, options(pin)) // the node has lost the duty
	must(t, without.DetachEdges())
	if hasXDP(t, "w1") || len(attached(t, index, ebpf.AttachTCXIngress)) != 0 {
		t.Error("the edge is still attached after DetachEdges")
	}
	for _, name := range names(t, filepath.Join(pin, layoutFolder)) {
		if strings.HasPrefix(name, "edge") {
			t.Errorf("%s is still pinned after DetachEdges", name)
		}
	}
	closing(t, without)
	again = open(t, o)
	_, err = again.AttachEdge(index, true)
	must(t, err, again.DetachEdge(index), again.DetachEdge(index))
	if hasXDP(t, "w1") || len(attached(t, index, ebpf.AttachTCXIngress)) != 0 {
		t.Error("the edge is still attached after DetachEdge")
	}
	must(t, again.Remove())
	if _, err := os.Stat(filepath.Join(pin, layoutFolder)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after Remove: %v, want %v", err, fs.ErrNotExist)
	}
}

// TestEdgeOfAGoneDeviceIsSwept removes a device under the attached edge.
func TestEdgeOfAGoneDeviceIsSwept(t *testing.T) {
	anyKernel(t)
	requireTCX(t)
	n := enterNamespace(t)
	n.task("w1")
	o := options(pinFolder(t))
	o.Edge = true
	p := open(t, o)
	_, err := p.AttachEdge(n.index("w1"), true)
	must(t, err)
	device, err := netlink.LinkByName("w1")
	must(t, err)
	must(t, netlink.LinkDel(device))
	swept, err := p.Sweep()
	must(t, err)
	if swept != 2 {
		t.Errorf("swept %d links, want those of edge and edge_tc", swept)
	}
}

func hasXDP(t *testing.T, name string) bool {
	t.Helper()
	l, err := netlink.LinkByName(name)
	must(t, err)
	return l.Attrs().Xdp != nil && l.Attrs().Xdp.Attached
}
