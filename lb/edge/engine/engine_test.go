// SPDX-License-Identifier: Apache-2.0

package engine_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"weft/bpf"
	"weft/bpf/row"
	"weft/bpf/table"
	"weft/discovery"
	"weft/discovery/state"
	"weft/lb"
	"weft/lb/edge/engine"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// cluster is everybody alive, and one VIP whose backends tests set.
type cluster struct {
	mu       sync.Mutex
	backends []lb.BackendStatus
	edges    []discovery.NodeID
	changed  chan struct{}
}

// live sets the nodes of the edge that live.
func (c *cluster) live(edges ...discovery.NodeID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.edges = edges
	close(c.changed)
	c.changed = make(chan struct{})
}

func (*cluster) Alive(discovery.NodeID) bool { return true }

func (c *cluster) Edges() []discovery.NodeID {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.edges
}

func (c *cluster) Changed() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

func (c *cluster) VIP(lb.Key) (lb.VIPStatus, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return lb.VIPStatus{Backends: c.backends}, len(c.backends) > 0
}

func (c *cluster) set(addrs ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.backends = nil
	for _, a := range addrs {
		c.backends = append(c.backends, lb.BackendStatus{In: true, Backend: lb.Backend{
			VIP: vip, Task: a, Node: "n1", Addrs: []netip.Addr{netip.MustParseAddr(a)}, Port: 8080, Weight: 1,
		}})
	}
	close(c.changed)
	c.changed = make(chan struct{})
}

var (
	vip = lb.Key{Network: "prod", Name: "web.weft", Port: 80, Protocol: lb.TCP}
	key = row.EdgeVIPKey{Addr: row.AddrOf(netip.MustParseAddr("203.0.113.10")), Port: row.Port(80), Proto: 6}
)

// watched is a table that calls after each write.
type watched[K, V comparable] struct {
	table.Memory[K, V]
	after func()
}

func (w *watched[K, V]) Put(k K, v V) error {
	err := w.Memory.Put(k, v)
	w.after()
	return err
}

func (w *watched[K, V]) Delete(k K) error {
	err := w.Memory.Delete(k)
	w.after()
	return err
}

// newStore returns that of n1, and how the masters write into it.
func newStore(t *testing.T) (store *state.Store, ledger func(kind discovery.Kind, name string, v any)) {
	t.Helper()
	store, err := state.Open(state.Options{Self: "n1"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	seq := uint64(0)
	return store, func(kind discovery.Kind, name string, v any) {
		value, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		seq++
		if _, err := store.Apply([]discovery.Row{{Writer: discovery.Ledger, Kind: kind, Key: name, Incarnation: 1, Seq: seq, Value: value}}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestNoPacketMeetsWhatIsNotThere looks at the tables after every single write, while backends come and go and writes
// fail: slots of a VIP lead to backends that are there, and no VIP stays that programs may keep as it was.
func TestNoPacketMeetsWhatIsNotThere(t *testing.T) {
	store, ledger := newStore(t)
	c := &cluster{changed: make(chan struct{})}
	var refuse atomic.Bool
	var vips watched[row.EdgeVIPKey, row.EdgeVIP]
	var slots watched[uint32, row.EdgeSlot]
	var backends watched[uint32, row.EdgeBackend]
	var served watched[row.EdgeServedKey, row.EdgeServed]
	var generation watched[uint32, uint32]
	var wrong atomic.Pointer[string]
	look := func() {
		v, ok, _ := vips.Get(key)
		if !ok || v.Slots == 0 {
			return
		}
		for i := range v.Slots {
			s, _, _ := slots.Get(v.First + i)
			if b, _, _ := backends.Get(s.Current); b == (row.EdgeBackend{}) {
				text := "a slot leads to a backend that is not there"
				wrong.Store(&text)
				return
			}
		}
	}
	vips.after, backends.after, served.after, generation.after = look, look, func() {}, func() {}
	slots.after = func() {} // thousands: what they lead to is looked at with the next write of another table
	slots.Fail = func(uint32) error {
		if refuse.Load() {
			return errors.New("no memory")
		}
		return nil
	}
	e, err := engine.New(engine.Options{Store: store, Members: c, VIPs: c, Served: &served, Relays: &table.Memory[row.EndpointKey, uint32]{}, Answers: noAnswers(), Edge: &bpf.EdgeTables{
		VIPs: &vips, Slots: &slots, Backends: &backends, Flows: &table.Memory[row.EdgeFlowKey, row.EdgeFlow]{},
		Connections: &table.Memory[row.EdgeConnectionKey, uint32]{}, Generation: &generation,
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	ledger(discovery.KindNetwork, "prod", map[string]any{"name": "prod", "vni": 7})
	ledger(discovery.KindAdmission, "n1", discovery.Admission{Node: "n1", VTEP: netip.MustParseAddr("10.0.0.1")})
	ledger(discovery.KindPublication, "p", lb.Publication{Addr: netip.MustParseAddr("203.0.113.10"), Port: 80, VIP: vip})
	for i, addrs := range [][]string{{"9.1.0.1"}, {"9.1.0.1", "9.1.0.2"}, {"9.1.0.2", "9.1.0.3"}, {"9.1.0.4"}} {
		refuse.Store(i%2 == 1)
		c.set(addrs...)
		if refuse.Load() {
			wait(t, func() bool { return e.Stats().Err != nil })
			refuse.Store(false)
		}
		wait(t, func() bool {
			rows, _ := served.All()
			have := make(map[string]bool)
			for _, p := range rows {
				have[p.Addr.Netip().String()] = true
			}
			for _, a := range addrs {
				if !have[a] {
					return false
				}
			}
			return e.Stats().Err == nil && e.Stats().Served >= len(addrs)
		})
		if text := wrong.Load(); text != nil {
			t.Fatalf("%v: %s", addrs, *text)
		}
	}
	if !e.Serving()[netip.MustParseAddr("203.0.113.10")] {
		t.Errorf("serving %v, want the published address", e.Serving())
	}
	if n, _, _ := generation.Get(0); n == 0 {
		t.Error("what programs keep of VIPs was never made void")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestFollowWaitsForTheTables: what was changed before the call is written when it returns, and it does not return as
// long as it can't be.
func TestFollowWaitsForTheTables(t *testing.T) {
	store, ledger := newStore(t)
	c := &cluster{changed: make(chan struct{})}
	var refuse atomic.Bool
	served := &table.Memory[row.EdgeServedKey, row.EdgeServed]{Fail: func(row.EdgeServedKey) error {
		if refuse.Load() {
			return errors.New("no memory")
		}
		return nil
	}}
	e, err := engine.New(engine.Options{Store: store, Members: c, VIPs: c, Served: served, Relays: &table.Memory[row.EndpointKey, uint32]{}, Answers: noAnswers()})
	if err != nil {
		t.Fatal(err)
	}
	ledger(discovery.KindNetwork, "prod", map[string]any{"name": "prod", "vni": 7})
	ledger(discovery.KindPublication, "p", lb.Publication{Addr: netip.MustParseAddr("203.0.113.10"), Port: 80, VIP: vip})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	serves := func(addr string) bool {
		rows, err := served.All()
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range rows {
			if p.Addr.Netip().String() == addr {
				return true
			}
		}
		return false
	}
	for _, addr := range []string{"9.1.0.1", "9.1.0.2", "9.1.0.3"} {
		c.set(addr)
		if err := e.Follow(t.Context()); err != nil || !serves(addr) {
			t.Fatalf("%s is served: %t, after Follow returned %v", addr, serves(addr), err)
		}
	}
	refuse.Store(true)
	c.set("9.1.0.4")
	soon, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer stop()
	if err := e.Follow(soon); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("with tables that can't be written: got %v, want %v", err, context.DeadlineExceeded)
	}
	refuse.Store(false)
	if err := e.Follow(t.Context()); err != nil || !serves("9.1.0.4") {
		t.Errorf("9.1.0.4 is served: %t, after Follow returned %v", serves("9.1.0.4"), err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func noAnswers() table.Table[row.FlowKey, row.Translation] {
	return &table.Memory[row.FlowKey, row.Translation]{}
}

// TestAnswersOfADeadEdgeMove: a client that says nothing gets its answers by an edge node that lives, when its own died.
func TestAnswersOfADeadEdgeMove(t *testing.T) { synctest.Test(t, answersMove) }

func answersMove(t *testing.T) {
	store, ledger := newStore(t)
	c := &cluster{changed: make(chan struct{})}
	answers := &table.Memory[row.FlowKey, row.Translation]{}
	host := func(node int) uint32 { return row.Word(netip.AddrFrom4([4]byte{44, 128, 0, byte(node)})) }
	flow := func(port uint16) row.FlowKey { return row.FlowKey{VNI: 7, Sport: port, Proto: 6} }
	for port, slot := range []uint32{0, host(2), host(3), host(9)} { // 9: died while no daemon ran
		if err := answers.Put(flow(uint16(port)), row.Translation{Slot: slot, Since: 5}); err != nil {
			t.Fatal(err)
		}
	}
	e, err := engine.New(engine.Options{
		Store: store, Members: c, VIPs: c, Served: &table.Memory[row.EdgeServedKey, row.EdgeServed]{},
		Relays: &table.Memory[row.EndpointKey, uint32]{}, Answers: answers,
	})
	if err != nil {
		t.Fatal(err)
	}
	ledger(discovery.KindNetwork, "prod", map[string]any{"name": "prod", "vni": 7})
	for i := range 3 {
		id := discovery.NodeID(fmt.Sprintf("n%d", i+1))
		ledger(discovery.KindAdmission, string(id), discovery.Admission{
			Node: id, VTEP: netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}),
			Host4: netip.PrefixFrom(netip.AddrFrom4([4]byte{44, 128, 0, byte(i + 1)}), 20),
		})
	}
	p := lb.Publication{Addr: netip.MustParseAddr("203.0.113.10"), Port: 80, VIP: vip, Return: lb.ReturnEdge}
	ledger(discovery.KindPublication, "p", p)
	c.set("9.1.0.1") // of n1, this node
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	for _, step := range []struct {
		name  string
		edges []discovery.NodeID
		want  []uint32
	}{
		{"none is known yet", nil, []uint32{0, host(2), host(3), host(9)}},
		{"all live", []discovery.NodeID{"n1", "n2", "n3"}, []uint32{0, host(2), host(3), 0}}, // one of two
		{"one died", []discovery.NodeID{"n1", "n3"}, []uint32{0, host(3), host(3), host(3)}},
		{"all died but this one", []discovery.NodeID{"n1"}, []uint32{0, host(3), host(3), host(3)}},
		{"another comes", []discovery.NodeID{"n2"}, []uint32{0, host(2), host(2), host(2)}},
		{"and the first one, again", []discovery.NodeID{"n2", "n3"}, []uint32{0, host(2), host(2), host(2)}},
	} {
		c.live(step.edges...)
		if err := e.Follow(t.Context()); err != nil {
			t.Fatal(err)
		}
		for port, want := range step.want {
			a, _, err := answers.Get(flow(uint16(port)))
			if err != nil || a.Since != 5 {
				t.Fatal(a, err)
			}
			if a.Slot != want && (want != 0 || port == 0 || a.Slot != host(2) && a.Slot != host(3)) {
				t.Errorf("%s: answer %d goes by %x, want %x", step.name, port, a.Slot, want)
			}
		}
	}
	// A client came by one that nobody knows, and no member changes.
	if err := answers.Put(flow(4), row.Translation{Slot: host(9)}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(11 * time.Second) // of the bubble
	synctest.Wait()
	if a, _, err := answers.Get(flow(4)); err != nil || a.Slot != host(2) && a.Slot != host(3) {
		t.Errorf("the answer to who came by a dead edge node goes by %x (%v), want a living one", a.Slot, err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// way is the path to n2, which tests change.
type way struct {
	mu      sync.Mutex
	mtu     int
	second  bool
	changed chan struct{}
}

func (w *way) Path(node netip.Addr) (mtu int, second bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if node != netip.MustParseAddr("10.0.0.2") {
		return 0, false
	}
	return w.mtu, w.second
}

func (w *way) Changed() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.changed
}

func (w *way) set(mtu int, second bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mtu, w.second = mtu, second
	close(w.changed)
	w.changed = make(chan struct{})
}

// TestEdgeFollowsPathsAndPublications: what is found of the way to a node is so of its backends; answers are taken back
// as long as a publication wants it, and by nodes of the edge alone.
func TestEdgeFollowsPathsAndPublications(t *testing.T) {
	for _, isEdge := range []bool{true, false} {
		store, ledger := newStore(t)
		c, paths := &cluster{changed: make(chan struct{})}, &way{changed: make(chan struct{})}
		relays, backends := &table.Memory[row.EndpointKey, uint32]{}, &table.Memory[uint32, row.EdgeBackend]{}
		stale := row.EndpointKey{VNI: 9} // of an earlier process
		if err := relays.Put(stale, 1); err != nil {
			t.Fatal(err)
		}
		o := engine.Options{
			Store: store, Members: c, VIPs: c, Paths: paths, Relays: relays, Served: &table.Memory[row.EdgeServedKey, row.EdgeServed]{},
			Answers: noAnswers(),
		}
		if isEdge {
			o.Edge = &bpf.EdgeTables{
				VIPs: &table.Memory[row.EdgeVIPKey, row.EdgeVIP]{}, Slots: &table.Memory[uint32, row.EdgeSlot]{}, Backends: backends,
				Flows: &table.Memory[row.EdgeFlowKey, row.EdgeFlow]{}, Connections: &table.Memory[row.EdgeConnectionKey, uint32]{},
				Generation: &table.Memory[uint32, uint32]{},
			}
		}
		e, err := engine.New(o)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- e.Run(ctx) }()
		p := lb.Publication{Addr: netip.MustParseAddr("203.0.113.10"), Port: 80, VIP: vip, Return: lb.ReturnEdge}
		ledger(discovery.KindNetwork, "prod", map[string]any{"name": "prod", "vni": 7})
		ledger(discovery.KindAdmission, "n1", discovery.Admission{Node: "n1", VTEP: netip.MustParseAddr("10.0.0.1")})
		ledger(discovery.KindAdmission, "n2", discovery.Admission{Node: "n2", VTEP: netip.MustParseAddr("10.0.0.2")})
		ledger(discovery.KindPublication, "p", p)
		c.mu.Lock()
		c.backends = []lb.BackendStatus{{In: true, Backend: lb.Backend{
			VIP: vip, Task: "t", Node: "n2", Addrs: []netip.Addr{netip.MustParseAddr("9.1.0.2")}, Port: 8080, Weight: 1,
		}}}
		c.mu.Unlock()
		holds := func(back bool, mtu, flags uint16) {
			t.Helper()
			if err := e.Follow(t.Context()); err != nil {
				t.Fatal(err)
			}
			rows, err := relays.All()
			if err != nil {
				t.Fatal(err)
			}
			want := make(map[row.EndpointKey]uint32)
			if back && isEdge {
				want[row.EndpointKey{VNI: 7, Addr: row.AddrOf(p.Addr)}] = 1
			}
			if diff := cmp.Diff(want, rows); diff != "" {
				t.Errorf("relays (-want +got):\n%s", diff)
			}
			if b, _, _ := backends.Get(1); isEdge && (b.MTU != mtu || b.Flags != flags) {
				t.Errorf("the way to the backend is %d bytes, flags %d, want %d, %d", b.MTU, b.Flags, mtu, flags)
			}
		}
		holds(true, 1450, 0)
		passes := e.Stats().Passes
		paths.set(1400, true)
		wait(t, func() bool { return e.Stats().Passes > passes }) // of itself
		holds(true, 1350, row.EdgeBackendSecondPort)
		p.Return = lb.ReturnDirect
		ledger(discovery.KindPublication, "p", p)
		holds(false, 1350, row.EdgeBackendSecondPort)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func wait(t *testing.T, reached func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !reached(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not reached in 30 s")
		}
	}
}
