// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/netip"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"weft/bpf"
	"weft/bpf/bpftest"
	"weft/bpf/row"
	"weft/bpf/table"
	"weft/discovery"
	"weft/discovery/state"
	"weft/overlay"
	"weft/overlay/apply"
	"weft/overlay/compile"
	"weft/overlay/engine"
)

// The cluster of the corpus: node n1, whose programs run here, n2, and a host without Weft.
var (
	node1, node2 = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	old          = netip.MustParseAddr("192.0.2.3") // a plain node
	stranger     = netip.MustParseAddr("192.0.2.9")
	dns4         = netip.MustParseAddr(apply.NameServer4)
	dns6         = netip.MustParseAddr(apply.NameServer6)
)

// hostLink is the device by which this node's own packets leave for the networks.
const hostLink = 99

const vniProd, vniDev = 0x101, 0x202

// Identities of group sets, as the masters numbered them.
const (
	idWeb = 16 + iota
	idDB
	idPublic
	idAPI
	idLost // known to no row any more
)

var networks = []overlay.Network{
	{Name: "prod", VNI: vniProd, Subnet4: netip.MustParsePrefix("10.1.0.0/16"), Subnet6: netip.MustParsePrefix("fd01:1::/64")},
	{Name: "dev", VNI: vniDev, Subnet4: netip.MustParsePrefix("10.2.0.0/16"), Subnet6: netip.MustParsePrefix("fd01:2::/64")},
}

var sets = []overlay.GroupSet{
	{Network: "prod", Groups: []string{"web"}, Identity: idWeb},
	{Network: "prod", Groups: []string{"db"}, Identity: idDB},
	{Network: "prod", Groups: []string{"public"}, Identity: idPublic},
	{Network: "prod", Groups: []string{"api"}, Identity: idAPI},
}

func port(n uint16) []overlay.PortRange { return []overlay.PortRange{{First: n, Last: n}} }

var rules = []overlay.Rule{
	{ID: 7, Network: "prod", From: "web", To: "db", Protocol: "tcp", Ports: port(5432), Action: overlay.Allow},
	{ID: 8, Network: "prod", From: "web", To: "db", Protocol: "tcp", Ports: port(22), Action: overlay.Deny},
	{ID: 9, Network: "prod", From: "web", To: "db", Protocol: "udp", Ports: port(53), Action: overlay.Deny, Audit: true},
	{ID: 10, Network: "prod", From: "web", To: "db", Protocol: "udp", Ports: port(53), Action: overlay.Allow},
	{ID: 11, Network: "prod", From: "api", To: "db", Protocol: "tcp", Ports: port(80), Action: overlay.Allow},
	{ID: 12, Network: "prod", From: "world", To: "public", Protocol: "tcp", Ports: port(22), Action: overlay.Deny},
	{ID: 13, Network: "prod", From: "web", To: "web", Protocol: "icmp", Action: overlay.Deny},
	{ID: 14, Network: "prod", From: "db", To: "api", Protocol: "udp", Ports: port(99), Action: overlay.Allow},
}

// Tasks of n1, in the order of their links.
var names = []string{"web", "db", "open", "bare", "web2", "dev"}

var groupsOf = map[string][]string{"web": {"web"}, "db": {"db"}, "open": {"public"}, "web2": {"web"}}

// world is the node: the real engine over the real programs, loaded and never attached.
type world struct {
	*bpftest.Set
	tasks  map[string]overlay.Endpoint
	engine *engine.Engine
	links  map[string]uint32 // by task; "nobody" has a link and is no task
	events chan overlay.Event
}

// newWorld builds it in a network namespace of its own. The calling test is bound to its thread.
func newWorld(t *testing.T) *world {
	t.Helper()
	runtime.LockOSThread() // for good: the thread ends with the test, and its namespace with it
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	w := &world{tasks: make(map[string]overlay.Endpoint), links: make(map[string]uint32), events: make(chan overlay.Event, 1)}
	ip(t, "link set lo up")
	for i, name := range append(names, "nobody") {
		w.links[name] = uint32(100 + i)
		ip(t, fmt.Sprintf("link add name t%d index %d type bridge", i, 100+i))
	}
	ip(t, fmt.Sprintf("link add name n0 index %d type bridge", hostLink))
	w.load(t)
	store, err := state.Open(state.Options{Self: "n1", Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	say(t, store)
	e, err := engine.New(engine.Options{
		Node: "n1", Underlay: apply.Underlay{Addr: node1, MTU: 1500}, Rows: store, Tables: w.tables(t), Attacher: w, Links: w, Source: w,
		Finder: elsewhere{}, Self: compile.Host{Ifindex: hostLink, Cookie: 1 << 40},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := e.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		cancel()
		running.Wait()
		w.Close()
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	w.engine = e
	for _, name := range names {
		network := "prod"
		if name == "dev" {
			network = "dev"
		}
		w.tasks[name], err = e.Attach(t.Context(), overlay.Attachment{
			ID: name, Task: name, Name: name, Network: network, Groups: groupsOf[name], NetNS: "/proc/self/ns/net", Interface: "eth0",
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	running.Go(func() {
		_ = e.Events(ctx, overlay.Filter{}, func(ev overlay.Event) error { // ends with ctx
			select {
			case w.events <- ev:
			case <-ctx.Done():
			}
			return nil
		})
	})
	return w
}

func ip(t *testing.T, args string) {
	t.Helper()
	if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v: %s", args, err, out)
	}
}

// load loads the packet programs onto one set of maps.
func (w *world) load(t *testing.T) {
	t.Helper()
	specs, err := bpf.Specs()
	if err != nil {
		t.Fatal(err)
	}
	config := bpf.Config{
		NodeAddr: node1, Underlay: 1, Tunnel: 1, TunnelPort: bpf.DefaultTunnelPort, DNS4: dns4, DNS6: dns6, EventsPerSecond: 100000,
	}
	for _, name := range []string{"workload", "tunnel", "node", "edge"} {
		if err := bpf.Configure(specs[name], config); err != nil {
			t.Fatal(err)
		}
	}
	if err := bpftest.GiveTunnelKey(specs["tunnel"].Programs["from_tunnel"]); err != nil {
		t.Fatal(err)
	}
	if w.Set, err = bpftest.Load(specs["workload"]); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"tunnel", "node", "edge"} {
		if err := w.Add(specs[name]); err != nil {
			t.Fatal(err)
		}
	}
}

func kernel[K comparable, V comparable](t *testing.T, w *world, name string) table.Table[K, V] {
	t.Helper()
	k, err := table.NewKernel[K, V](w.Maps[name], name)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (w *world) tables(t *testing.T) apply.Tables {
	t.Helper()
	return apply.Tables{
		Workloads: kernel[uint32, row.Workload](t, w, "workloads"), Endpoints: kernel[row.EndpointKey, row.Endpoint](t, w, "endpoints"),
		Blocks: kernel[row.BlockKey, row.Block](t, w, "blocks"), Prefixes: kernel[row.PrefixKey, row.Prefix](t, w, "prefixes"),
		VTEPs: kernel[row.Addr, row.VTEP](t, w, "vteps"), Verdicts: kernel[row.VerdictKey, row.Verdict](t, w, "verdicts"),
		Clauses: kernel[row.ClausesKey, row.Clauses](t, w, "clauses"), Sources: kernel[row.SourceKey, row.Source](t, w, "sources"),
		Spaces: kernel[uint64, row.Space](t, w, "spaces"), Openings: kernel[row.OpeningKey, row.Opening](t, w, "openings"),
	}
}

// say writes what masters and n2 have told.
func say(t *testing.T, store *state.Store) {
	t.Helper()
	var rows []discovery.Row
	add := func(writer string, kind discovery.Kind, key string, v any) {
		value, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		rows = append(rows, discovery.Row{Writer: writer, Kind: kind, Key: key, Incarnation: 1, Seq: 1, Value: value})
	}
	for i, n := range networks {
		add(discovery.Ledger, discovery.KindNetwork, n.Name, n.Normal())
		for at, node := range []discovery.NodeID{"n1", "n2"} {
			for _, prefix := range []string{fmt.Sprintf("10.%d.%d.0/24", i+1, at+1), fmt.Sprintf("fd01:%d::%d:0/112", i+1, at+1)} {
				p := netip.MustParsePrefix(prefix)
				add(discovery.Ledger, discovery.KindBlock, prefix, overlay.Block{Network: n.Name, Node: node, Prefix: p})
			}
		}
	}
	plain := overlay.PlainNode{
		Node: "old", VTEP: old, Network: "prod", Groups: []string{"api"}, Identity: idAPI,
		Blocks: []netip.Prefix{netip.MustParsePrefix("10.1.3.0/24"), netip.MustParsePrefix("fd01:1::3:0/112")},
	}.Normal()
	add(discovery.Ledger, discovery.KindPlain, "old", plain)
	for _, p := range plain.Blocks {
		add(discovery.Ledger, discovery.KindBlock, p.String(), overlay.Block{Network: "prod", Node: "old", Prefix: p})
	}
	for _, g := range []string{"web", "db", "api"} {
		add(discovery.Ledger, discovery.KindGroup, "prod/"+g, overlay.Group{Network: "prod", Name: g})
	}
	for _, s := range sets {
		add(discovery.Ledger, discovery.KindIdentity, fmt.Sprintf("prod/%d", s.Identity), s)
	}
	for _, r := range rules {
		add(discovery.Ledger, discovery.KindRule, fmt.Sprintf("prod/%d", r.ID), r)
	}
	for i, at := range []netip.Addr{node1, node2} {
		a := discovery.Admission{Node: discovery.NodeID(fmt.Sprint("n", i+1)), VTEP: at}
		a.Host4, a.Host6 = overlay.NodeAddrs(uint32(i) + 1)
		add(discovery.Ledger, discovery.KindAdmission, string(a.Node), a)
	}
	add("n2", discovery.KindNode, "n2", discovery.Node{ID: "n2", Addrs: []netip.Addr{node2}, MTU: 1500})
	if _, err := store.Apply(rows); err != nil {
		t.Fatal(err)
	}
}

// far are the tasks of n2.
var far = []overlay.Endpoint{
	remote("rweb", "10.1.2.1", "fd01:1::2:1", idWeb, "web"), remote("rdb", "10.1.2.2", "fd01:1::2:2", idDB, "db"),
	remote("rapi", "10.1.2.3", "fd01:1::2:3", idAPI, "api"), remote("rbare", "10.1.2.4", "fd01:1::2:4", row.IdentityUngrouped),
}

func remote(name, addr4, addr6 string, identity overlay.Identity, groups ...string) overlay.Endpoint {
	return overlay.Endpoint{
		Attachment: overlay.Attachment{ID: name, Task: name, Name: name, Network: "prod", Groups: groups},
		Node:       "n2", VNI: vniProd, Addr4: netip.MustParseAddr(addr4), Addr6: netip.MustParseAddr(addr6), Identity: identity,
	}
}

// elsewhere answers for n2.
type elsewhere struct{}

func (elsewhere) Find(_ context.Context, _ discovery.NodeID, kind discovery.Kind, text string) ([]discovery.Row, error) {
	var rows []discovery.Row
	for _, e := range far {
		value, err := json.Marshal(e)
		if err != nil {
			return nil, err
		}
		if kind == discovery.KindEndpoint && bytes.Contains(value, []byte(`"`+text+`"`)) {
			rows = append(rows, discovery.Row{Writer: "n2", Kind: kind, Key: e.ID, Incarnation: 1, Seq: 1, Value: value})
		}
	}
	return rows, nil
}

// Events reads the programs' ring.
func (w *world) Events(ctx context.Context, emit func(row.Event) error) error {
	ring, err := ringbuf.NewReader(w.Maps["events"])
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = ring.Close() }) // what is lost is of a test that has ended
	defer stop()
	for {
		record, err := ring.Read()
		if err != nil {
			return err
		}
		var e row.Event
		if err := binary.Read(bytes.NewReader(record.RawSample), binary.NativeEndian, &e); err != nil {
			return err
		}
		if err := emit(e); err != nil {
			return err
		}
	}
}

// next returns the event of the packet that was just run.
func (w *world) next(t *testing.T) overlay.Event {
	t.Helper()
	select {
	case e := <-w.events:
		return e
	case <-time.After(10 * time.Second):
		t.Fatal("no event was reported")
		return overlay.Event{}
	}
}

// Links of tasks are there already.

func (w *world) Ensure(_ context.Context, s apply.Spec) (apply.Link, error) {
	return apply.Link{Name: s.Name, Ifindex: w.link(s.Name), Cookie: 1, Up: true}, nil
}

func (w *world) link(hostInterface string) uint32 {
	for name, ifindex := range w.links {
		if apply.LinkName(name) == hostInterface {
			return ifindex
		}
	}
	return 0
}

func (w *world) Up(context.Context, apply.Spec) error { return nil }
func (w *world) Remove(context.Context, string) error { return nil }
func (w *world) AttachWorkload(uint32) error          { return nil }
func (w *world) DetachWorkload(uint32) error          { return nil }
func (w *world) List(context.Context) ([]apply.Link, error) {
	var links []apply.Link
	for _, name := range names {
		links = append(links, apply.Link{Name: apply.LinkName(name), Ifindex: w.links[name], Up: true})
	}
	return links, nil
}

func (w *world) Watch(ctx context.Context) (<-chan struct{}, error) {
	c := make(chan struct{}) // closed when ctx ends; nothing ever changes
	context.AfterFunc(ctx, func() { close(c) })
	return c, nil
}

// mac is a task's own.
func (w *world) mac(name string) bpftest.MAC {
	e := w.tasks[name]
	return bpftest.MAC(compile.MAC(e.Addr4, e.Addr6))
}
