// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"weft/bpf/row"
	"weft/bpf/table"
	"weft/discovery"
	"weft/discovery/state"
	"weft/overlay"
	"weft/overlay/apply"
	"weft/overlay/compile"
	"weft/overlay/ipam"
	"weft/overlay/servicetest"
)

const self discovery.NodeID = "n1"

var vtep = netip.MustParseAddr("10.9.0.1")

// errRefused is what a broken effect answers.
var errRefused = errors.New("refused by the test")

// kernel is links, programs and tables without a kernel: what outlives an Engine.
type kernel struct {
	mu       sync.Mutex
	links    map[string]*apply.Link
	next     uint32
	attached map[uint32]bool // ifindexes that have programs
	subnets  []netip.Prefix
	addrs    []netip.Prefix // of the node towards the networks
	routes   []netip.Prefix
	ports    []compile.Port
	held     map[compile.Port]bool
	watches  []chan struct{}

	tables struct {
		workloads table.Memory[uint32, row.Workload]
		endpoints table.Memory[row.EndpointKey, row.Endpoint]
		blocks    table.Memory[row.BlockKey, row.Block]
		prefixes  table.Memory[row.PrefixKey, row.Prefix]
		vteps     table.Memory[row.Addr, row.VTEP]
		verdicts  table.Memory[row.VerdictKey, row.Verdict]
		clauses   table.Memory[row.ClausesKey, row.Clauses]
		sources   table.Memory[row.SourceKey, row.Source]
		spaces    table.Memory[uint64, row.Space]
		openings  table.Memory[row.OpeningKey, row.Opening]
	}
	events chan row.Event

	effectMu sync.Mutex // guards what follows, and calls of it
	effect   func(name string, after bool) error
}

// refuse sets what is asked before and after each effect on kernel or disk; its error is the effect's
// answer. Nil: all is well.
func (k *kernel) refuse(f func(name string, after bool) error) {
	k.effectMu.Lock()
	defer k.effectMu.Unlock()
	k.effect = f
}

func (k *kernel) ask(name string, after bool) error {
	k.effectMu.Lock()
	defer k.effectMu.Unlock()
	if k.effect == nil {
		return nil
	}
	return k.effect(name, after)
}

func newKernel() *kernel {
	k := &kernel{links: make(map[string]*apply.Link), next: 10, attached: make(map[uint32]bool), held: make(map[compile.Port]bool), events: make(chan row.Event)}
	k.tables.workloads.Fail = func(uint32) error { return k.do("workloads", nil) }
	k.tables.endpoints.Fail = func(row.EndpointKey) error { return k.do("endpoints", nil) }
	k.tables.verdicts.Fail = func(row.VerdictKey) error { return k.do("verdicts", nil) }
	k.tables.blocks.Fail = func(row.BlockKey) error { return k.do("blocks", nil) }
	return k
}

// do runs an effect, unless the test refuses it; an effect that was done may be refused all the same.
func (k *kernel) do(name string, f func()) error {
	if err := k.ask(name, false); err != nil {
		return err
	}
	if f == nil {
		return nil
	}
	k.mu.Lock()
	f()
	k.mu.Unlock()
	return k.ask(name, true)
}

func (k *kernel) Tables() apply.Tables {
	t := &k.tables
	return apply.Tables{
		Workloads: &t.workloads, Endpoints: &t.endpoints, Blocks: &t.blocks, Prefixes: &t.prefixes, VTEPs: &t.vteps,
		Verdicts: &t.verdicts, Clauses: &t.clauses, Sources: &t.sources, Spaces: &t.spaces, Openings: &t.openings,
	}
}

func (k *kernel) Ensure(_ context.Context, s apply.Spec) (link apply.Link, err error) {
	err = k.do("ensure", func() {
		l, there := k.links[s.Name]
		if !there {
			k.next++
			l = &apply.Link{Name: s.Name, Ifindex: k.next, Cookie: uint64(k.next) + 1000}
			k.links[s.Name] = l
		}
		link = *l
	})
	return link, err
}

func (k *kernel) Up(_ context.Context, s apply.Spec) error {
	var missing error
	err := k.do("up", func() {
		l, there := k.links[s.Name]
		if !there {
			missing = errors.New("no such link")
			return
		}
		if !k.attached[l.Ifindex] {
			panic("a link without programs is let up")
		}
		l.Up = true
	})
	return errors.Join(missing, err)
}

func (k *kernel) Remove(_ context.Context, name string) error {
	return k.do("remove", func() { k.drop(name) })
}

func (k *kernel) List(context.Context) ([]apply.Link, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var list []apply.Link
	for _, l := range k.links {
		link := *l
		link.Cookie = 0
		list = append(list, link)
	}
	return list, nil
}

func (k *kernel) Watch(ctx context.Context) (<-chan struct{}, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	c := make(chan struct{}, 1)
	k.watches = append(k.watches, c)
	context.AfterFunc(ctx, func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.watches = slices.DeleteFunc(k.watches, func(o chan struct{}) bool { return o == c })
		close(c)
	})
	return c, nil
}

// drop removes a link; its programs go with it. The caller holds k.mu.
func (k *kernel) drop(name string) {
	if l, there := k.links[name]; there {
		delete(k.attached, l.Ifindex)
		delete(k.links, name)
	}
}

// vanish takes a link away as the end of its namespace does.
func (k *kernel) vanish(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.drop(name)
	for _, c := range k.watches {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

func (k *kernel) AttachWorkload(ifindex uint32) error {
	return k.do("attach", func() { k.attached[ifindex] = true })
}

func (k *kernel) DetachWorkload(ifindex uint32) error {
	return k.do("detach", func() { delete(k.attached, ifindex) })
}

func (k *kernel) SetFirewall(_ context.Context, subnets []netip.Prefix, ports []compile.Port) error {
	return k.do("firewall", func() { k.subnets, k.ports = slices.Clone(subnets), slices.Clone(ports) })
}

func (k *kernel) SetNode(_ context.Context, addrs, subnets []netip.Prefix) error {
	return k.do("node", func() { k.addrs, k.routes = slices.Clone(addrs), slices.Clone(subnets) })
}

func (k *kernel) Hold(_ context.Context, ports []compile.Port) error {
	return k.do("hold", func() {
		for _, p := range ports {
			k.held[p] = true
		}
	})
}

func (k *kernel) Release(_ context.Context, ports []compile.Port) error {
	return k.do("release", func() {
		for _, p := range ports {
			delete(k.held, p)
		}
	})
}

func (k *kernel) Events(ctx context.Context, emit func(row.Event) error) error {
	for {
		select {
		case ev := <-k.events:
			if err := emit(ev); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// disk is a row store whose own rows may be refused.
type disk struct {
	*state.Store
	k *kernel
}

func (d disk) Put(kind discovery.Kind, key string, value []byte) error {
	var failed error
	err := d.k.do("put "+string(kind), func() { failed = d.Store.Put(kind, key, value) })
	return errors.Join(failed, err)
}

func (d disk) Delete(kind discovery.Kind, key string) error {
	var failed error
	err := d.k.do("delete "+string(kind), func() { failed = d.Store.Delete(kind, key) })
	return errors.Join(failed, err)
}

// masters answer wants as a leader does, from rows to rows.
type masters struct {
	store *state.Store
	mu    sync.Mutex
	seq   uint64
	next  overlay.Identity
}

func newMasters(store *state.Store) *masters {
	m := &masters{store: store, next: row.IdentityFirst}
	for _, n := range servicetest.Networks() {
		m.say(discovery.KindNetwork, n.Name, n.Normal())
	}
	for _, g := range servicetest.Groups() {
		m.say(discovery.KindGroup, g.Network+"/"+g.Name, g)
	}
	for _, r := range servicetest.Rules() {
		m.say(discovery.KindRule, fmt.Sprint(r.Network, "/", r.ID), r)
	}
	m.say(discovery.KindAdmission, string(self), discovery.Admission{Node: self, VTEP: vtep})
	return m
}

func (m *masters) apply(rows ...discovery.Row) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seq++
	for i := range rows {
		rows[i].Writer, rows[i].Incarnation, rows[i].Seq = discovery.Ledger, 1, m.seq
	}
	if _, err := m.store.Apply(rows); err != nil {
		panic(err)
	}
}

func (m *masters) say(kind discovery.Kind, key string, v any) {
	value, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	m.apply(discovery.Row{Kind: kind, Key: key, Value: value})
}

// withdraw takes back, at once, all that the masters said and that which is true for.
func (m *masters) withdraw(which func(discovery.Row) bool) {
	var rows []discovery.Row
	for _, r := range m.store.Rows("") {
		if r.Writer == discovery.Ledger && which(r) {
			rows = append(rows, discovery.Row{Kind: r.Kind, Key: r.Key, Deleted: true})
		}
	}
	m.apply(rows...)
}

// run answers until ctx ends.
func (m *masters) run(ctx context.Context) {
	for {
		changed := m.store.Changed(discovery.KindWant)
		wants, err := state.All[overlay.Want](m.store, discovery.KindWant)
		if err != nil {
			panic(err)
		}
		for _, w := range wants {
			m.answer(w)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

func (m *masters) answer(w overlay.Want) {
	networks, _ := state.All[overlay.Network](m.store, discovery.KindNetwork)
	i := slices.IndexFunc(networks, func(n overlay.Network) bool { return n.Name == w.Network })
	if i < 0 {
		return
	}
	for _, p := range w.Return {
		m.apply(discovery.Row{Kind: discovery.KindBlock, Key: p.String(), Deleted: true})
	}
	for _, a := range w.Addrs {
		p := networks[i].Normal().BlockOf(a)
		m.say(discovery.KindBlock, p.String(), overlay.Block{Network: w.Network, Node: self, Prefix: p})
	}
	for _, subnet := range networks[i].Subnets() {
		wanted := w.Blocks6
		if subnet.Addr().Is4() {
			wanted = w.Blocks4
		}
		for {
			blocks, _ := state.All[overlay.Block](m.store, discovery.KindBlock)
			taken := slices.Clone(w.Return) // given again at once, the node would not see that it had gone
			held := 0
			for _, b := range blocks {
				if b.Network == w.Network && subnet.Overlaps(b.Prefix) {
					taken = append(taken, b.Prefix)
					if b.Node == self {
						held++
					}
				}
			}
			free, ok := ipam.LowestBlock(subnet, networks[i].BlockBits(subnet.Addr()), taken)
			if held >= wanted || !ok {
				break
			}
			m.say(discovery.KindBlock, free.String(), overlay.Block{Network: w.Network, Node: self, Prefix: free})
		}
	}
	sets, _ := state.All[overlay.GroupSet](m.store, discovery.KindIdentity)
	known := slices.ContainsFunc(sets, func(s overlay.GroupSet) bool {
		return s.Network == w.Network && slices.Equal(s.Groups, w.Groups)
	})
	if w.Groups != nil && !known {
		id := m.next
		m.next++
		m.say(discovery.KindIdentity, fmt.Sprint(w.Network, "/", id), overlay.GroupSet{Network: w.Network, Groups: w.Groups, Identity: id})
	}
}

// owners are processes that end when told to.
type owners struct {
	mu   sync.Mutex
	live map[int]chan struct{}
}

func (o *owners) of(pid int) chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.live == nil {
		o.live = make(map[int]chan struct{})
	}
	if o.live[pid] == nil {
		o.live[pid] = make(chan struct{})
	}
	return o.live[pid]
}

func (o *owners) wait(ctx context.Context, pid int, _ uint64) error {
	select {
	case <-o.of(pid):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// node is an Engine over a kernel and a disk that outlive it.
type node struct {
	*Engine
	kernel   *kernel
	store    *state.Store
	masters  *masters
	owners   *owners
	underlay apply.Underlay
	ownNetNS func(string) (bool, error)
	dir      string
	stop     func() // ends the Engine as kill -9 does: what it did stays
}

// options of start.
type options struct {
	silent bool // no master answers
}

// start makes a node with an empty disk.
func start(t *testing.T, o options) *node {
	t.Helper()
	n := &node{kernel: newKernel(), owners: new(owners), underlay: apply.Underlay{Addr: vtep, Addr4: vtep, MTU: 1500}, dir: t.TempDir()}
	n.boot(t, o)
	return n
}

// boot starts the processes of a node: a row store over its folder, masters, an Engine.
func (n *node) boot(t *testing.T, o options) {
	t.Helper()
	store, err := state.Open(state.Options{Self: string(self), Dir: n.dir})
	if err != nil {
		t.Fatal(err)
	}
	n.store = store
	if n.masters == nil {
		n.masters = newMasters(store)
	}
	n.masters.store = store
	n.Engine, err = New(Options{
		Node: self, Underlay: n.underlay, Rows: disk{store, n.kernel}, Tables: n.kernel.Tables(),
		Attacher: n.kernel, Links: n.kernel, Host: n.kernel, Source: n.kernel, WaitOwner: n.owners.wait, OwnNetNS: n.ownNetNS,
		Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := n.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	if !o.silent {
		wg.Go(func() { n.masters.run(ctx) })
	}
	n.stop = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
		if err := store.Close(); err != nil {
			t.Errorf("close store: %v", err)
		}
	})
	t.Cleanup(func() { n.stop() })
}

// check compares everything that the node holds with the endpoints that it says it has.
func (n *node) check(t interface {
	Helper()
	Fatalf(string, ...any)
}, ids ...string,
) []overlay.Endpoint {
	t.Helper()
	list, err := n.Endpoints(context.Background())
	if err != nil {
		t.Fatalf("%v", err)
	}
	var got, rows, links []string
	workloads, _ := n.kernel.tables.workloads.All()
	endpoints, _ := n.kernel.tables.endpoints.All()
	spaces, _ := n.kernel.tables.spaces.All()
	used := make(map[netip.Addr]bool)
	addrs := 0
	for _, e := range list {
		got = append(got, e.ID)
		l := n.kernel.links[e.HostInterface]
		if l == nil || !l.Up || !n.kernel.attached[l.Ifindex] {
			t.Fatalf("%s: link %+v", e.ID, l)
		}
		if w := workloads[l.Ifindex]; w.Addr4.Netip() != e.Addr4 || w.Addr6.Netip() != e.Addr6 {
			t.Fatalf("%s: workload %+v, want its addresses", e.ID, w)
		}
		for _, a := range e.Addrs() {
			if used[a] {
				t.Fatalf("%s has %s, which another has too", e.ID, a)
			}
			used[a] = true
			addrs++
			if r := endpoints[row.EndpointKey{VNI: uint32(e.VNI), Addr: row.AddrOf(a)}]; r.Ifindex != l.Ifindex {
				t.Fatalf("%s: endpoint %+v, want link %d", e.ID, r, l.Ifindex)
			}
		}
	}
	for _, r := range n.store.Own(discovery.KindEndpoint) {
		rows = append(rows, r.Key)
	}
	for name := range n.kernel.links {
		links = append(links, name)
	}
	if !slices.Equal(got, ids) || !slices.Equal(rows, ids) {
		t.Fatalf("got endpoints %v, rows %v, want %v", got, rows, ids)
	}
	if len(links) != len(ids) || len(workloads) != len(ids) || len(spaces) != len(ids) || len(endpoints) != addrs ||
		len(n.kernel.attached) != len(ids) {
		t.Fatalf("got links %v, workloads %v, endpoints %v, programs on %v; want those of %v",
			links, slices.Collect(maps.Keys(workloads)), endpoints, n.kernel.attached, ids)
	}
	return list
}
