// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"weft/bpf"
	"weft/bpf/bpftest"
	"weft/bpf/mounts"
	"weft/bpf/probe"
	"weft/bpf/row"
	"weft/overlay/apply"
)

// requireTCX skips what only links can show: filters of clsact go with their device.
func requireTCX(t *testing.T) {
	t.Helper()
	for _, f := range probe.Features() {
		if f.Name == "tcx" && !f.On {
			t.Skip("needs tcx: Linux 6.6")
		}
	}
}

// attached lists the programs on one direction of a link: link id to program id.
func attached(t *testing.T, ifindex uint32, attach ebpf.AttachType) map[link.ID]ebpf.ProgramID {
	t.Helper()
	on, err := link.QueryPrograms(link.QueryOptions{Target: int(ifindex), Attach: attach})
	if err != nil {
		t.Fatal(err)
	}
	programs := make(map[link.ID]ebpf.ProgramID)
	for _, p := range on.Programs {
		id, _ := p.LinkID()
		programs[id] = p.ID
	}
	return programs
}

func linksOn(t *testing.T, ifindex uint32) map[link.ID]ebpf.ProgramID {
	t.Helper()
	all := attached(t, ifindex, ebpf.AttachTCXIngress)
	maps.Copy(all, attached(t, ifindex, ebpf.AttachTCXEgress))
	return all
}

// conversation is a stream of numbered datagrams from a task to its node, each of which the node
// sends back.
type conversation struct {
	t      *testing.T
	socket *net.UDPConn
	done   chan error
	stop   context.CancelFunc
	sent   chan int
}

// converse starts the stream; the sockets are made on this thread, so each in its namespace.
func (n *namespace) converse(inside int) *conversation {
	n.t.Helper()
	ctx, stop := context.WithCancel(n.t.Context())
	echo, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(nodeAddr, 7)))
	n.do(err)
	n.enter(inside)
	ask, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(nodeAddr, 7)))
	n.do(err)
	n.enter(n.own)
	go func() {
		buffer := make([]byte, 64)
		for {
			size, from, err := echo.ReadFromUDPAddrPort(buffer)
			if err != nil {
				return
			}
			_, _ = echo.WriteToUDPAddrPort(buffer[:size], from) // a lost answer fails the asker
		}
	}()
	c := &conversation{t: n.t, socket: ask, done: make(chan error, 1), stop: stop, sent: make(chan int)}
	go func() {
		err := c.run(ctx)
		c.done <- errors.Join(err, echo.Close(), ask.Close())
	}()
	return c
}

// run sends one datagram after the other, each when the answer to the one before it is there. One that
// is lost is never answered; what takes a second is a busy machine.
func (c *conversation) run(ctx context.Context) error {
	defer close(c.sent)
	answer := make([]byte, 64)
	for i := 1; ctx.Err() == nil; i++ {
		if err := c.socket.SetDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
		if _, err := c.socket.Write(binary.BigEndian.AppendUint32(nil, uint32(i))); err != nil {
			return err
		}
		size, err := c.socket.Read(answer)
		if err != nil {
			return err // the one that is lost
		}
		if got := binary.BigEndian.Uint32(answer[:size]); got != uint32(i) {
			return errors.New("an answer that was not asked for")
		}
		select {
		case c.sent <- i:
		default:
		}
	}
	return nil
}

// goesOn waits for a few more exchanges.
func (c *conversation) goesOn() {
	c.t.Helper()
	for range 20 {
		if _, ok := <-c.sent; !ok {
			c.t.Fatalf("conversation ended: %v", <-c.done)
		}
	}
}

func (c *conversation) end() {
	c.t.Helper()
	c.stop()
	if err := <-c.done; err != nil {
		c.t.Errorf("conversation: %v", err)
	}
}

func TestRestartKeepsMapsLinksAndTraffic(t *testing.T) {
	n := enterNamespace(t)
	inside := n.task("weft0")
	ifindex := n.index("weft0")
	o := options(pinFolder(t))
	p := open(t, o)
	fill(t, p, ifindex)
	must(t, p.AttachWorkload(ifindex))
	talk := n.converse(inside)
	talk.goesOn()
	tcx := hasTCX()
	var before map[link.ID]ebpf.ProgramID
	if tcx {
		before = linksOn(t, ifindex)
		if len(before) != 2 {
			t.Fatalf("links %v, want 2", before)
		}
	}
	restarts := 10
	if testing.Short() {
		restarts = 1
	}
	for range restarts {
		must(t, p.Close())
		talk.goesOn() // with no process holding anything
		p = open(t, o)
		talk.goesOn() // with the earlier process's programs
		must(t, p.AttachWorkload(ifindex))
		talk.goesOn() // with this one's
	}
	talk.end()
	if tcx {
		after := linksOn(t, ifindex)
		for id, program := range before {
			if now, ok := after[id]; !ok || now == program {
				t.Errorf("link %d: program %d, then %d; want the same link with another program", id, program, now)
			}
		}
		if len(after) != 2 {
			t.Errorf("links %v, want 2", after)
		}
	}
	all, err := p.Tables().Workloads.All()
	if err != nil || len(all) != 1 {
		t.Errorf("workloads after restart: %v, %v; want the one written before", all, err)
	}
	if swept, err := p.Sweep(); swept != 0 || err != nil {
		t.Errorf("swept %d, %v; want nothing", swept, err)
	}
	must(t, p.Remove())
}

func TestRestartWithAnotherConfig(t *testing.T) {
	anyKernel(t)
	n := enterNamespace(t)
	n.task("weft0")
	ifindex := n.index("weft0")
	o := options(pinFolder(t))
	p := open(t, o)
	must(t, p.AttachUnderlay(ifindex), p.Close())
	o.Config.TunnelPort = 64000
	o.Config.NodeAddr = netip.MustParseAddr("192.0.2.9")
	p = open(t, o)
	must(t, p.AttachUnderlay(ifindex))
	must(t, p.DetachUnderlay(ifindex), p.DetachUnderlay(ifindex))
	must(t, p.Remove())
}

func TestAttachTwiceIsOneLink(t *testing.T) {
	n := enterNamespace(t)
	n.task("weft0")
	ifindex := n.index("weft0")
	for _, pin := range []string{"", pinFolder(t)} {
		p := open(t, options(pin))
		must(t, p.AttachWorkload(ifindex), p.AttachWorkload(ifindex))
		must(t, p.AttachTunnel(ifindex+0), p.AttachHost(1))
		if hasTCX() {
			// from_workload, from_tunnel and to_workload.
			if links := linksOn(t, ifindex); len(links) != 3 {
				t.Errorf("links %v, want 3", links)
			}
		}
		must(t, p.DetachWorkload(ifindex), p.DetachWorkload(ifindex))
		if hasTCX() {
			if links := linksOn(t, ifindex); len(links) != 1 {
				t.Errorf("links %v, want from_tunnel alone", links)
			}
		}
		must(t, p.Remove())
		if hasTCX() {
			if links := linksOn(t, ifindex); len(links) != 0 {
				t.Errorf("links %v, want none", links)
			}
		}
	}
}

func TestAttachToNothingSaysSo(t *testing.T) {
	enterNamespace(t)
	requireTCX(t)
	p := bpftest.BorrowPlane(t, options(""))
	if err := p.AttachWorkload(4711); !errors.Is(err, bpf.ErrNoLink) || !strings.Contains(err.Error(), "4711") {
		t.Errorf("error %v, want %v that names the interface", err, bpf.ErrNoLink)
	}
	must(t, p.DetachWorkload(4711))
}

func TestLinksOfGoneInterfacesAreSwept(t *testing.T) {
	n := enterNamespace(t)
	requireTCX(t)
	n.task("weft0")
	ifindex := n.index("weft0")
	pin := pinFolder(t)
	p := open(t, options(pin))
	must(t, p.AttachWorkload(ifindex), p.AttachUnderlay(1))
	n.do(netlink.LinkDel(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: int(ifindex)}}))
	swept, err := p.Sweep()
	if err != nil || swept != 2 {
		t.Errorf("swept %d, %v; want 2", swept, err)
	}
	want := []string{"1-from_underlay"}
	if diff := cmp.Diff(want, names(t, filepath.Join(pin, layoutFolder, "link"))); diff != "" {
		t.Errorf("pinned links (-want +got):\n%s", diff)
	}
	must(t, p.DetachWorkload(ifindex), p.Remove())
}

// TestInterfaceWithAReusedNumber: an interface goes and another comes under its number, before any
// sweep.
func TestInterfaceWithAReusedNumber(t *testing.T) {
	n := enterNamespace(t)
	requireTCX(t)
	p := open(t, options(pinFolder(t)))
	for range 2 {
		veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "weft0", Index: 77}, PeerName: "peer"}
		n.do(netlink.LinkAdd(veth))
		must(t, p.AttachWorkload(77))
		if links := linksOn(t, 77); len(links) != 2 {
			t.Errorf("links %v, want 2", links)
		}
		n.do(netlink.LinkDel(veth))
	}
	must(t, p.Remove())
}

// TestNamespaceMadeAnew: the daemon's namespace is another one than that of the links pinned, which
// still live, under the same numbers.
func TestNamespaceMadeAnew(t *testing.T) {
	anyKernel(t)
	n := enterNamespace(t)
	requireTCX(t)
	o := options(pinFolder(t))
	p := open(t, o)
	must(t, p.AttachUnderlay(1), p.Close())
	n.others = append(n.others, n.unshare())
	p = open(t, o)
	must(t, p.AttachUnderlay(1))
	if links := linksOn(t, 1); len(links) != 1 {
		t.Errorf("links %v, want 1 in the new namespace", links)
	}
	n.enter(n.own)
	if links := linksOn(t, 1); len(links) != 0 {
		t.Errorf("links %v, want none left in the old namespace", links)
	}
	must(t, p.Remove())
}

func TestRemoveLeavesNothing(t *testing.T) {
	n := enterNamespace(t)
	n.task("weft0")
	pin := pinFolder(t)
	p := open(t, options(pin))
	must(t, p.AttachWorkload(n.index("weft0")), p.AttachUnderlay(1))
	must(t, p.Remove())
	if _, err := os.Stat(pin); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s: %v, want it gone, and not mounted", pin, err)
	}
	if hasTCX() {
		if links := linksOn(t, n.index("weft0")); len(links) != 0 {
			t.Errorf("links %v, want none", links)
		}
		return
	}
	out, err := netlink.FilterList(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: int(n.index("weft0"))}},
		netlink.HANDLE_MIN_INGRESS)
	if err != nil || len(out) != 0 {
		t.Errorf("filters %v, %v; want none", out, err)
	}
}

// TestRemoveKeepsAnothersMount: bpffs that the system mounted stays, and what is in it.
func TestRemoveKeepsAnothersMount(t *testing.T) {
	anyKernel(t)
	enterNamespace(t)
	mount := pinFolder(t)
	must(t, os.MkdirAll(mount, 0o700), unix.Mount("bpf", mount, "bpf", 0, ""), os.Mkdir(filepath.Join(mount, "others"), 0o700))
	p := open(t, options(filepath.Join(mount, "weft")))
	must(t, p.Remove())
	if diff := cmp.Diff([]string{"others"}, names(t, mount)); diff != "" {
		t.Errorf("left (-want +got):\n%s", diff)
	}
}

// TestAnotherLayoutIsRetired: links that a build with other rows left pinned are replaced one by one,
// and what is left of it goes when the last is.
func TestAnotherLayoutIsRetired(t *testing.T) {
	anyKernel(t)
	n := enterNamespace(t)
	requireTCX(t)
	n.task("weft0")
	ifindex := n.index("weft0")
	pin := pinFolder(t)
	o := options(pin)
	p := open(t, o)
	must(t, p.AttachUnderlay(ifindex), p.AttachHost(1))
	must(t, p.Close(), os.Rename(filepath.Join(pin, layoutFolder), filepath.Join(pin, "v0")))
	p = open(t, o)
	old := linksOn(t, ifindex)
	must(t, p.AttachUnderlay(ifindex))
	now := linksOn(t, ifindex)
	for id := range old {
		if _, ok := now[id]; ok || len(now) != 1 {
			t.Errorf("links %v, then %v; want another one", old, now)
		}
	}
	if swept, err := p.Sweep(); swept != 0 || err != nil {
		t.Errorf("swept %d, %v; want nothing: one link of the old layout lives", swept, err)
	}
	must(t, p.AttachHost(1))
	if _, err := p.Sweep(); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{layoutFolder}, names(t, pin)); diff != "" {
		t.Errorf("layouts (-want +got):\n%s", diff)
	}
	must(t, p.Remove())
}

func TestPinFolderWithOtherThingsIsRefused(t *testing.T) {
	enterNamespace(t)
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "precious"), nil, 0o600))
	_, err := bpf.Open(options(dir))
	if !errors.Is(err, mounts.ErrOccupied) || !strings.Contains(err.Error(), dir) {
		t.Errorf("error %v, want one that names the folder", err)
	}
}

func TestPinnedMapOfAnotherShapeIsNamed(t *testing.T) {
	anyKernel(t)
	enterNamespace(t)
	pin := pinFolder(t)
	p := open(t, options(pin))
	must(t, p.Close(), os.Remove(filepath.Join(pin, layoutFolder, "endpoints")))
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	must(t, err, m.Pin(filepath.Join(pin, layoutFolder, "endpoints")))
	defer closing(t, m)
	_, err = bpf.Open(options(pin))
	if !errors.Is(err, ebpf.ErrMapIncompatible) || !strings.Contains(err.Error(), "map endpoints") {
		t.Errorf("error %v, want one that names the map", err)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	_, err := bpf.Open(bpf.Options{Config: bpf.Config{
		NodeAddr: nodeAddr, Neighbours: 33, DNS4: netip.MustParseAddr("::1"), DNS6: nodeAddr,
	}})
	if !errors.Is(err, bpf.ErrInvalid) {
		t.Fatalf("error %v, want %v", err, bpf.ErrInvalid)
	}
	for _, field := range []string{"prefix length 33: invalid", "DNS4 ::1", "DNS6 192.0.2.1"} {
		if !strings.Contains(err.Error(), field) {
			t.Errorf("error %v does not name %q", err, field)
		}
	}
}

func TestCountersAreSummedOverCPUs(t *testing.T) {
	anyKernel(t)
	enterNamespace(t)
	p := bpftest.BorrowPlane(t, options(""))
	perCPU := make([]row.Counter, ebpf.MustPossibleCPU())
	for i := range perCPU {
		perCPU[i] = row.Counter{Packets: uint64(i) + 1, Bytes: 100}
	}
	must(t, p.Maps()["counters"].Put(uint32(row.ReasonDenied), perCPU))
	got, err := p.Counters()
	must(t, err)
	cpus := uint64(len(perCPU))
	want := map[row.Reason]row.Counter{row.ReasonDenied: {Packets: cpus * (cpus + 1) / 2, Bytes: 100 * cpus}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("counters (-want +got):\n%s", diff)
	}
}

// TestEventsAreHandedOut writes events as a program does, before and while they are read.
func TestEventsAreHandedOut(t *testing.T) {
	enterNamespace(t)
	p := bpftest.BorrowPlane(t, options(""))
	want := row.Event{
		Time: 1, Ifindex: 2, VNI: 3, Rule: 4, Len: 5, Proto: 6, Reason: uint8(row.ReasonDenied), Sport: 7,
		Src: row.AddrOf(taskAddr), Dst: row.AddrOf(nodeAddr),
	}
	emit := eventWriter(t, p.Maps()["events"], want)
	emit()
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan row.Event, 1)
	done := make(chan error, 1)
	go func() {
		done <- p.Events(ctx, func(e row.Event) error { got <- e; return nil })
	}()
	for range 3 {
		if diff := cmp.Diff(want, <-got); diff != "" {
			t.Errorf("event (-want +got):\n%s", diff)
		}
		emit()
	}
	<-got
	cancel()
	if err := <-done; err != nil {
		t.Errorf("events: %v; want none at the end of the context", err)
	}
	refused := errors.New("refused")
	emit()
	if err := p.Events(t.Context(), func(row.Event) error { return refused }); !errors.Is(err, refused) {
		t.Errorf("events: %v, want %v", err, refused)
	}
}

// eventWriter returns a function that runs a program which puts e into the ring.
func eventWriter(t *testing.T, ring *ebpf.Map, e row.Event) func() {
	t.Helper()
	raw, err := binary.Append(nil, binary.NativeEndian, e)
	must(t, err)
	var body asm.Instructions
	for at := 0; at < len(raw); at += 8 {
		word := int64(binary.NativeEndian.Uint64(raw[at:]))
		body = append(body, asm.LoadImm(asm.R1, word, asm.DWord),
			asm.StoreMem(asm.RFP, int16(at-len(raw)), asm.R1, asm.DWord))
	}
	body = append(body,
		asm.LoadMapPtr(asm.R1, ring.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -int32(len(raw))),
		asm.Mov.Imm(asm.R3, int32(len(raw))), asm.Mov.Imm(asm.R4, 0),
		asm.FnRingbufOutput.Call(), asm.Return())
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "Dual BSD/GPL", Instructions: body})
	must(t, err)
	t.Cleanup(func() { must(t, program.Close()) })
	return func() {
		code, err := program.Run(&ebpf.RunOptions{Data: make([]byte, 64)})
		if err != nil || code != 0 {
			t.Fatalf("write event: %d, %v", code, err)
		}
	}
}

func TestRefusalShowsTheVerifiersLastLines(t *testing.T) {
	enterNamespace(t)
	_, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SchedCLS, License: "MIT",
		Instructions: asm.Instructions{
			asm.Mov.Imm(asm.R2, 1), asm.Mov.Imm(asm.R2, 2), asm.Mov.Imm(asm.R2, 3), asm.Mov.Imm(asm.R2, 4),
			asm.Mov.Imm(asm.R2, 5), asm.Mov.Imm(asm.R2, 6), asm.Mov.Imm(asm.R2, 7), asm.Mov.Imm(asm.R2, 8),
			asm.Mov.Reg(asm.R0, asm.R9), asm.Return(),
		},
	})
	refusal := error(&bpf.RefusedError{Object: "program from_nowhere", Err: err})
	short, long := refusal.Error(), strings.TrimSpace(sprintPlus(refusal))
	if !strings.HasPrefix(short, "program from_nowhere: ") || !strings.Contains(short, "R9 !read_ok") ||
		!strings.Contains(short, "lines before)") || strings.Contains(short, "r2 = 2") {
		t.Errorf("%%v is %q, want the name and the last lines", short)
	}
	if !strings.HasPrefix(long, "program from_nowhere: ") || !strings.Contains(long, "r2 = 2") {
		t.Errorf("%%+v is %q, want the whole log", long)
	}
	if !errors.Is(refusal, unix.EACCES) {
		t.Errorf("refusal hides its cause %v", err)
	}
}

func TestProbeFindsWhatLoadingNeeds(t *testing.T) {
	enterNamespace(t)
	seen := make(map[string]bool)
	for _, f := range probe.Features() {
		if seen[f.Name] || f.Why == "" {
			t.Errorf("feature %+v: twice, or without a reason", f)
		}
		seen[f.Name] = true
		if f.Needed && !f.On {
			t.Errorf("%s is off (%s), yet programs load here", f.Name, f.Why)
		}
		t.Logf("%-20s %-5v %s", f.Name, f.On, f.Why)
	}
	bpftest.BorrowPlane(t, options(""))
	if hasTCX() {
		if links := linksOn(t, 1); len(links) != 0 {
			t.Errorf("the probe left links %v", links)
		}
	}
}

// TestKernelWithoutTCXNeedsClassic holds on kernels that have neither.
func TestKernelWithoutTCXNeedsClassic(t *testing.T) {
	enterNamespace(t)
	if hasTCX() {
		t.Skip("this kernel has tcx (Linux 6.6)")
	}
	o := options("")
	o.Classic = nil
	if _, err := bpf.Open(o); !errors.Is(err, bpf.ErrUnsupported) {
		t.Errorf("error %v, want %v", err, bpf.ErrUnsupported)
	}
}

// TestClassicAttachesReplacesAndRemoves also runs where tcx is used in its place.
func TestClassicAttachesReplacesAndRemoves(t *testing.T) {
	n := enterNamespace(t)
	n.task("weft0")
	ifindex := n.index("weft0")
	on := func() (names []string) {
		for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
			filters, err := netlink.FilterList(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: int(ifindex)}}, parent)
			must(t, err)
			for _, f := range filters {
				if b, ok := f.(*netlink.BpfFilter); ok {
					names = append(names, b.Name)
				}
			}
		}
		return names
	}
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SchedCLS, License: "MIT",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()},
	})
	must(t, err)
	defer closing(t, program)
	var c apply.Classic
	must(t, c.Detach(ifindex, false, "weft_a"), c.Detach(4711, false, "weft_a"), c.Remove("weft_"))
	for range 2 {
		must(t, c.Attach(ifindex, false, "weft_a", program.FD()), c.Attach(ifindex, true, "weft_b", program.FD()))
	}
	if diff := cmp.Diff([]string{"weft_a", "weft_b"}, on()); diff != "" {
		t.Errorf("filters (-want +got):\n%s", diff)
	}
	must(t, c.Detach(ifindex, false, "weft_other"), c.Detach(ifindex, false, "weft_a"), c.Detach(ifindex, false, "weft_a"))
	if diff := cmp.Diff([]string{"weft_b"}, on()); diff != "" {
		t.Errorf("filters (-want +got):\n%s", diff)
	}
	must(t, c.Remove("weft_"))
	if left := on(); len(left) != 0 {
		t.Errorf("filters left: %v", left)
	}
}

func hasTCX() bool {
	for _, f := range probe.Features() {
		if f.Name == "tcx" {
			return f.On
		}
	}
	return false
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		if filepath.Ext(e.Name()) != ".debug" { // the kernel's own in a new bpffs
			all = append(all, e.Name())
		}
	}
	return all
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func closing(t *testing.T, c io.Closer) {
	t.Helper()
	must(t, c.Close())
}

func sprintPlus(err error) string { return fmt.Sprintf("%+v", err) }
