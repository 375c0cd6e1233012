// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"weft/bpf"
	"weft/bpf/row"
)

// layoutFolder is where this build pins.
var layoutFolder = fmt.Sprintf("v%d", row.LayoutVersion)

// asAnotherLayout makes what is pinned look as if a build with another layout had left it.
func asAnotherLayout(t *testing.T, pin string) (other string) {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(pin, "v*"))
	must(t, err)
	other = filepath.Join(pin, fmt.Sprintf("v0%d", len(all)))
	must(t, os.Rename(filepath.Join(pin, layoutFolder), other))
	return other
}

// reshape replaces a pinned map by one whose rows have a field more, in front of all others.
func reshape(t *testing.T, dir, source, name string) *ebpf.Map {
	t.Helper()
	specs, err := bpf.Specs()
	must(t, err)
	spec := specs[source].Maps[name].Copy()
	value, ok := btf.As[*btf.Struct](spec.Value)
	if !ok {
		t.Fatalf("map %s has no struct as its rows", name)
	}
	value = &btf.Struct{Name: value.Name, Size: value.Size, Members: slices.Clone(value.Members)}
	const more = 8
	for i := range value.Members {
		value.Members[i].Offset += 8 * more
	}
	first := btf.Member{Name: "earlier", Type: &btf.Int{Name: "__u64", Size: more}}
	value.Members = slices.Concat([]btf.Member{first}, value.Members)
	value.Size += more
	spec.Value, spec.ValueSize, spec.Pinning = value, value.Size, ebpf.PinNone
	must(t, os.Remove(filepath.Join(dir, name)))
	m, err := ebpf.NewMap(spec)
	must(t, err, m.Pin(filepath.Join(dir, name)))
	return m
}

// earlier is a row in the form that reshape gives it.
func earlier(t *testing.T, r any) []byte {
	t.Helper()
	raw, err := binary.Append(make([]byte, 8), binary.NativeEndian, r)
	must(t, err)
	return raw
}

func idOf(t *testing.T, path string) ebpf.MapID {
	t.Helper()
	m, err := ebpf.LoadPinnedMap(path, nil)
	must(t, err)
	defer closing(t, m)
	info, err := m.Info()
	must(t, err)
	id, _ := info.ID()
	return id
}

// TestRowsOfAnotherLayoutAreCarriedOver: maps of the same shape are shared, rows of the others converted,
// written by programs or by Go; what old programs write until they are taken over comes after.
func TestRowsOfAnotherLayoutAreCarriedOver(t *testing.T) {
	anyKernel(t)
	enterNamespace(t)
	requireTCX(t)
	pin := pinFolder(t)
	o := options(pin)
	p := open(t, o)
	must(t, p.AttachUnderlay(1), p.Close())
	other := asAnotherLayout(t, pin)
	verdicts := idOf(t, filepath.Join(other, "verdicts"))
	flows := reshape(t, other, "workload", "flows")
	defer closing(t, flows)
	workloads := reshape(t, other, "workload", "workloads")
	defer closing(t, workloads)
	key := func(n uint32) row.FlowKey { return row.FlowKey{VNI: n, Proto: 6, Sport: 80} }
	for n := range uint32(2000) {
		must(t, flows.Put(key(n), earlier(t, row.Flow{Seen: uint64(n)})))
	}
	w := row.Workload{VNI: 7, Identity: 16, MTU: 1450}
	must(t, workloads.Put(uint32(5), earlier(t, w)))

	p = open(t, o)
	if got := idOf(t, filepath.Join(pin, layoutFolder, "verdicts")); got != verdicts {
		t.Errorf("verdicts are map %d, want the one that was there, %d", got, verdicts)
	}
	got, ok, err := p.Tables().Workloads.Get(5)
	if diff := cmp.Diff(w, got); diff != "" || !ok || err != nil {
		t.Errorf("workload %v, %v (-want +got):\n%s", ok, err, diff)
	}
	must(t, flows.Put(key(4711), earlier(t, row.Flow{Seen: 4711}))) // by a program that is not taken over yet
	must(t, p.TakeOver())
	all, err := p.Tables().Flows.All()
	must(t, err)
	if len(all) != 2001 || all[key(1999)].Seen != 1999 || all[key(4711)].Seen != 4711 {
		t.Errorf("%d flows, the last seen at %d and %d; want all 2001 as they were", len(all), all[key(1999)].Seen, all[key(4711)].Seen)
	}
	if _, err := p.Sweep(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(other); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is still there (%v)", other, err)
	}
	must(t, p.Remove())
}

// TestRowsThatHadAnotherNameAreCarriedOver: what tasks serve was a peer in layout 3, and goes by the edge node of none.
func TestRowsThatHadAnotherNameAreCarriedOver(t *testing.T) {
	anyKernel(t)
	enterNamespace(t)
	pin := pinFolder(t)
	p := open(t, options(pin))
	must(t, p.Close())
	other := asAnotherLayout(t, pin)
	specs, err := bpf.Specs()
	must(t, err)
	spec := specs["tunnel"].Maps["served"].Copy()
	var peer *btf.Struct
	must(t, specs["tunnel"].Types.TypeByName("peer", &peer))
	spec.Value, spec.ValueSize, spec.Pinning = peer, peer.Size, ebpf.PinNone
	must(t, os.Remove(filepath.Join(other, "served")))
	served, err := ebpf.NewMap(spec)
	must(t, err, served.Pin(filepath.Join(other, "served")))
	defer closing(t, served)
	key := row.EdgeServedKey{VNI: 7, Task: [8]uint8{7: 9}}
	at := netip.MustParseAddrPort("9.1.0.2:8080")
	must(t, served.Put(key, row.PeerOf(at)))
	p = open(t, options(pin))
	got, _, err := p.Tables().Served.Get(key)
	must(t, err)
	if diff := cmp.Diff(row.EdgeServed{Addr: row.AddrOf(at.Addr()), Port: row.Port(8080)}, got); diff != "" {
		t.Errorf("served (-want +got):\n%s", diff)
	}
	must(t, p.Remove())
}

// TestAnswersOfLayout4AreCarriedOver: rows had room for long answers. Those that fit are given, the rest is left to the
// server; and what was deleted meanwhile does not come back with a later start.
func TestAnswersOfLayout4AreCarriedOver(t *testing.T) {
	anyKernel(t)
	enterNamespace(t)
	pin := pinFolder(t)
	p := open(t, options(pin))
	must(t, p.Close())
	other := asAnotherLayout(t, pin)
	specs, err := bpf.Specs()
	must(t, err)
	spec := specs["dns"].Maps["dns_long"].Copy()
	was, _ := btf.As[*btf.Struct](spec.Value)
	spec.Name, spec.Pinning, spec.Value = "dns_answers", ebpf.PinNone, &btf.Struct{Name: "dns_answer", Size: was.Size, Members: was.Members}
	must(t, os.Remove(filepath.Join(other, "dns_answers")), os.Remove(filepath.Join(other, "dns_long")))
	old, err := ebpf.NewMap(spec)
	must(t, err, old.Pin(filepath.Join(other, "dns_answers")))
	defer closing(t, old)
	gone, short, long := wire("gone.mesos."), wire("short.mesos."), wire("long.mesos.")
	for i, name := range [][]byte{gone, short, long} {
		a := records(typeA, i+1)
		a.Seal(row.DNSKeyOf(0, name, typeA), 7)
		must(t, old.Put(row.DNSKeyOf(0, name, typeA), a))
	}

	p = open(t, options(pin))
	must(t, p.Answers().Delete(0, gone, typeA), p.Close())
	p = open(t, options(pin))
	must(t, p.TakeOver())
	now, err := ebpf.LoadPinnedMap(filepath.Join(pin, layoutFolder, "dns_answers"), nil)
	must(t, err)
	defer closing(t, now)
	n := newNames(t)
	count := 0
	var key row.DNSKey
	var value row.DNSAnswer
	for rows := now.Iterate(); rows.Next(&key, &value); count++ {
		must(t, n.maps["dns_answers"].Put(key, value))
	}
	if count != 2 {
		t.Errorf("%d answers were carried over, want the two that were not deleted", count)
	}
	n.answered(ask("short.mesos.", typeA))
	n.left(ask("long.mesos.", typeA).frame())
	a := records(typeA, 3)
	must(t, n.answers.Put(0, long, typeA, 0, 3, 0, 0, a.Rotate, a.Data[:a.Len]))
	n.answered(ask("long.mesos.", typeA))
	must(t, p.Remove())
}

// TestTrafficGoesOnOverALayout: a conversation never waits, from the old layout's programs to this one's.
func TestTrafficGoesOnOverALayout(t *testing.T) {
	anyKernel(t)
	n := enterNamespace(t)
	requireTCX(t)
	inside := n.task("weft0")
	ifindex := n.index("weft0")
	pin := pinFolder(t)
	o := options(pin)
	p := open(t, o)
	fill(t, p, ifindex)
	must(t, p.AttachWorkload(ifindex))
	talk := n.converse(inside)
	for range 3 {
		must(t, p.Close())
		m := reshapeWith(t, asAnotherLayout(t, pin), "workloads", ifindex)
		talk.goesOn()
		p = open(t, o)
		talk.goesOn()
		must(t, p.TakeOver())
		talk.goesOn()
		must(t, p.AttachWorkload(ifindex))
		if _, err := p.Sweep(); err != nil {
			t.Error(err)
		}
		closing(t, m)
		talk.goesOn()
	}
	talk.end()
	if links := linksOn(t, ifindex); len(links) != 2 {
		t.Errorf("links %v, want 2", links)
	}
	must(t, p.Remove())
}

// TestTwoLayoutsAreTakenOverAtOnce: an upgrade that was killed left some links to its predecessor, and a third build
// comes.
func TestTwoLayoutsAreTakenOverAtOnce(t *testing.T) {
	anyKernel(t)
	n := enterNamespace(t)
	requireTCX(t)
	n.task("weft1")
	inside := n.task("weft0") // the last one has the route
	ifindex, other := n.index("weft0"), n.index("weft1")
	pin := pinFolder(t)
	o := options(pin)
	p := open(t, o)
	fill(t, p, ifindex)
	must(t, p.AttachWorkload(ifindex), p.Close())
	first := asAnotherLayout(t, pin)
	p = open(t, o)
	must(t, p.AttachWorkload(other), p.Close())
	second := asAnotherLayout(t, pin)
	talk := n.converse(inside)

	p = open(t, o)
	before := []map[link.ID]ebpf.ProgramID{linksOn(t, ifindex), linksOn(t, other)}
	must(t, p.TakeOver())
	talk.goesOn()
	for i, links := range []map[link.ID]ebpf.ProgramID{linksOn(t, ifindex), linksOn(t, other)} {
		for id := range links {
			if _, old := before[i][id]; old || len(links) != 2 {
				t.Errorf("task %d has links %v, want two of this build; before: %v", i, links, before[i])
			}
		}
	}
	if _, err := p.Sweep(); err != nil {
		t.Error(err)
	}
	for _, dir := range []string{first, second} {
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there (%v)", dir, err)
		}
	}
	talk.end()
	must(t, p.Remove())
}

// reshapeWith is reshape of a map that programs use: they keep theirs, the pin leads to a copy of another shape.
func reshapeWith(t *testing.T, dir, name string, key uint32) *ebpf.Map {
	t.Helper()
	was, err := ebpf.LoadPinnedMap(filepath.Join(dir, name), nil)
	must(t, err)
	defer closing(t, was)
	var w row.Workload
	must(t, was.Lookup(key, &w))
	m := reshape(t, dir, "workload", name)
	must(t, m.Put(key, earlier(t, w)))
	return m
}

// TestLostPinsAreMadeAgain: with a process that holds them, programs and maps live without pins; it makes
// them again, be it that files were removed or that bpffs was unmounted.
func TestLostPinsAreMadeAgain(t *testing.T) {
	anyKernel(t)
	n := enterNamespace(t)
	requireTCX(t)
	inside := n.task("weft0")
	ifindex := n.index("weft0")
	pin := pinFolder(t)
	o := options(pin)
	p := open(t, o)
	if !p.Fresh() {
		t.Error("a first start found something pinned")
	}
	fill(t, p, ifindex)
	must(t, p.AttachWorkload(ifindex))
	talk := n.converse(inside)
	before := names(t, filepath.Join(pin, layoutFolder))
	for name, wipe := range map[string]func() error{
		"files":  func() error { return os.RemoveAll(filepath.Join(pin, layoutFolder)) },
		"bpffs":  func() error { return unix.Unmount(pin, unix.MNT_DETACH) },
		"a link": func() error { return os.RemoveAll(filepath.Join(pin, layoutFolder, "link")) },
	} {
		must(t, wipe())
		talk.goesOn()
		if n, err := p.Repair(); n == 0 || err != nil {
			t.Errorf("%s: repaired %d, %v; want all", name, n, err)
		}
		if n, err := p.Repair(); n != 0 || err != nil {
			t.Errorf("%s: repaired %d more, %v; want nothing", name, n, err)
		}
		if diff := cmp.Diff(before, names(t, filepath.Join(pin, layoutFolder))); diff != "" {
			t.Errorf("%s: pins (-want +got):\n%s", name, diff)
		}
	}
	must(t, p.Close())
	talk.goesOn() // by the pins alone
	p = open(t, o)
	if p.Fresh() {
		t.Error("a second start found nothing pinned")
	}
	must(t, p.AttachWorkload(ifindex))
	talk.goesOn()
	talk.end()
	if links := linksOn(t, ifindex); len(links) != 2 {
		t.Errorf("links %v, want 2", links)
	}
	must(t, p.Remove())
}

func TestALayoutWithoutTheMapsFieldsIsLeftBehind(t *testing.T) {
	anyKernel(t)
	enterNamespace(t)
	pin := pinFolder(t)
	p := open(t, options(pin))
	must(t, p.Close())
	other := asAnotherLayout(t, pin)
	must(t, os.Remove(filepath.Join(other, "endpoints")))
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 20, ValueSize: 16, MaxEntries: 10}) // no types
	must(t, err, m.Pin(filepath.Join(other, "endpoints")))
	defer closing(t, m)
	var said strings.Builder
	o := options(pin)
	o.Log = slog.New(slog.NewTextHandler(&said, nil))
	p = open(t, o)
	if !strings.Contains(said.String(), "map=endpoints") {
		t.Errorf("the log does not name the map: %s", said.String())
	}
	must(t, p.Remove())
}
