// SPDX-License-Identifier: Apache-2.0

package edge_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"weft/bpf/row"
	"weft/discovery"
	"weft/lb"
	"weft/lb/edge"
)

var (
	vip    = lb.Key{Network: "prod", Name: "web.weft", Port: 80, Protocol: lb.TCP}
	public = lb.Publication{Addr: netip.MustParseAddr("203.0.113.10"), Port: 443, VIP: vip}
	key    = row.EdgeVIPKey{Addr: row.AddrOf(public.Addr), Port: row.Port(443), Proto: 6}
)

// world is what a plan is made of, as it changes.
type world struct {
	now      time.Duration
	backends map[string]lb.BackendStatus
	dead     map[discovery.NodeID]bool
}

func newWorld(n int) *world {
	w := &world{now: time.Hour, backends: make(map[string]lb.BackendStatus), dead: make(map[discovery.NodeID]bool)}
	for i := range n {
		w.add(i)
	}
	return w
}

// slotsInTests is enough for tables to be told apart, and quick.
const slotsInTests = 251

func task(i int) string { return fmt.Sprintf("t%02d", i) }

func (w *world) add(i int) {
	w.backends[task(i)] = lb.BackendStatus{In: true, Backend: lb.Backend{
		VIP: vip, Task: task(i), Node: discovery.NodeID(fmt.Sprintf("n%d", i%4)), Port: 8080, Weight: 1,
		Addrs: []netip.Addr{netip.AddrFrom4([4]byte{9, 1, byte(i % 4), byte(i)}), netip.MustParseAddr(fmt.Sprintf("fd01:b::%d:%d", i%4, i))},
	}}
}

func (w *world) drain(i int) {
	b := w.backends[task(i)]
	b.In, b.Weight = false, 0
	w.backends[task(i)] = b
}

func (w *world) facts() edge.Facts {
	f := edge.Facts{
		Publications: []lb.Publication{public}, VIPs: make(map[lb.Key]lb.VIPStatus), Networks: map[string]uint32{"prod": 7},
		Nodes: make(map[discovery.NodeID]edge.Node), Self: "n1", Now: w.now,
	}
	status := lb.VIPStatus{Key: vip}
	for i := range 64 {
		if b, ok := w.backends[task(i)]; ok {
			status.Backends = append(status.Backends, b)
		}
	}
	if len(status.Backends) > 0 {
		f.VIPs[vip] = status
	}
	for i := range 4 {
		id := discovery.NodeID(fmt.Sprintf("n%d", i))
		f.Nodes[id] = edge.Node{Addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}), MTU: 1450, Alive: !w.dead[id]}
	}
	return f
}

func compile(t rapid.TB, p *edge.Plan, w *world) edge.Rows {
	t.Helper()
	rows, _, err := p.Compile(w.facts())
	if err != nil {
		t.Fatal(err)
	}
	check(t, rows)
	return rows
}

// check wants each slot of each VIP to lead to backends that are there.
func check(t rapid.TB, rows edge.Rows) {
	t.Helper()
	for key, vip := range rows.VIPs {
		slots := rows.Slots[vip.First]
		if vip.Slots != 0 && len(slots) != int(vip.Slots) {
			t.Fatalf("VIP %v has %d slots of %d", key, len(slots), vip.Slots)
		}
		if vip.Slots == 0 {
			continue
		}
		for i, s := range slots {
			for _, index := range []uint32{s.Current, s.Previous &^ row.EdgeSlotKept} {
				if _, ok := rows.Backends[index]; !ok || index == 0 {
					t.Fatalf("slot %d of %v leads to backend %d, which is not there", i, key, index)
				}
			}
		}
	}
}

// tasks returns, by slot, the task that new flows go to, and that unknown ones do.
func tasks(rows edge.Rows) (current, previous []row.EdgeBackend) {
	for _, s := range rows.Slots[rows.VIPs[key].First] {
		current = append(current, rows.Backends[s.Current])
		previous = append(previous, rows.Backends[s.Previous&^row.EdgeSlotKept])
	}
	return current, previous
}

func TestAChangeKeepsWhereFlowsAre(t *testing.T) {
	t.Parallel()
	w, p := newWorld(10), &edge.Plan{Slots: slotsInTests}
	before, _ := tasks(compile(t, p, w))
	w.now += time.Second
	w.drain(3)
	rows, due, err := p.Compile(w.facts())
	if err != nil || due != w.now+edge.Settle {
		t.Fatalf("due is %s (%v), want %s", due, err, w.now+edge.Settle)
	}
	now, kept := tasks(rows)
	if diff := cmp.Diff(before, kept); diff != "" {
		t.Errorf("unknown flows go elsewhere (-want +got):\n%s", diff)
	}
	for i, b := range now {
		if b.Task[7] == 3 {
			t.Fatalf("slot %d gives new flows to a backend that drains", i)
		}
	}
	w.now += edge.Settle
	rows = compile(t, p, w)
	if _, kept := tasks(rows); !cmp.Equal(now, kept) {
		t.Error("unknown flows don't follow a change that is over")
	}
	if !p.Pending() {
		t.Error("nothing is pending, though flows are known")
	}
	p.Merge(map[row.EdgeVIPKey]bool{key: true})
	for _, s := range rows.Slots[0] {
		if s.Previous&row.EdgeSlotKept != 0 {
			p.Merge(nil)
			for i, s := range compile(t, p, w).Slots[0] {
				if s.Current != s.Previous {
					t.Fatalf("slot %d is %+v after Merge", i, s)
				}
			}
			return
		}
	}
	t.Error("no slot was kept while flows of it were known")
}

func TestBackendsLeave(t *testing.T) {
	t.Parallel()
	has := func(rows edge.Rows, task byte) bool {
		for _, b := range rows.Backends {
			if b.Task[7] == task {
				return true
			}
		}
		return false
	}
	w, p := newWorld(8), &edge.Plan{Slots: slotsInTests}
	compile(t, p, w)
	delete(w.backends, task(3))
	w.now += time.Second
	if !has(compile(t, p, w), 3) {
		t.Error("a backend that was withdrawn lost its flows at once")
	}
	w.now += edge.Linger
	if has(compile(t, p, w), 3) {
		t.Error("a backend that was withdrawn stays for good")
	}
	w.dead["n1"] = true
	for _, i := range []int{1, 5} {
		b := w.backends[task(i)]
		b.In = false
		w.backends[task(i)] = b
	}
	w.now += time.Second
	if rows := compile(t, p, w); has(rows, 1) || has(rows, 5) {
		t.Error("backends of a dead node stay")
	}
	for i := range 8 {
		delete(w.backends, task(i))
	}
	w.now += time.Second
	compile(t, p, w)
	w.now += edge.Linger
	rows := compile(t, p, w)
	want := map[row.EdgeVIPKey]row.EdgeVIP{key: {}, {Addr: key.Addr}: {}}
	if diff := cmp.Diff(want, rows.VIPs); diff != "" || len(rows.Backends) != 0 {
		t.Errorf("a VIP without backends (-want +got):\n%s%v", diff, rows.Backends)
	}
}

// TestAnIndexIsNotGivenAnewBeforeItsFlowsAreForgotten: a flow that is known must not go to another task.
func TestAnIndexIsNotGivenAnewBeforeItsFlowsAreForgotten(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w, p := newWorld(4), &edge.Plan{Slots: slotsInTests}
		owner := make(map[uint32][8]uint8) // of indexes that flows may know
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			w.now += rapid.SampledFrom([]time.Duration{time.Second, edge.Linger, edge.Settle}).Draw(t, "pause")
			i := rapid.IntRange(0, 15).Draw(t, "backend")
			switch rapid.IntRange(0, 4).Draw(t, "step") {
			case 0:
				delete(w.backends, task(i))
			case 1:
				p.Purged(w.now)
				clear(owner)
			case 2:
				if _, ok := w.backends[task(i)]; ok {
					w.drain(i)
				}
			default:
				w.add(i)
			}
			for index, b := range compile(t, p, w).Backends {
				if old, ok := owner[index]; ok && old != b.Task {
					t.Fatalf("index %d is %v's and was %v's", index, b.Task, old)
				}
				owner[index] = b.Task
			}
		}
	})
}

// TestEveryNodeMakesTheSameTable: a flow may move between edge nodes of different pasts, and over a restart.
func TestEveryNodeMakesTheSameTable(t *testing.T) {
	t.Parallel()
	w, old, fresh := newWorld(12), &edge.Plan{Slots: slotsInTests}, &edge.Plan{Slots: slotsInTests}
	compile(t, old, w)
	for _, i := range []int{2, 7} {
		delete(w.backends, task(i))
		w.now += edge.Linger + time.Second
		compile(t, old, w)
		w.now += edge.Linger + edge.Settle
		compile(t, old, w)
	}
	w.add(2)
	w.now += time.Second
	compile(t, old, w)
	w.now += edge.Settle
	have := compile(t, old, w)
	want, _ := tasks(have)
	got, _ := tasks(compile(t, fresh, w))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("a node that starts now (-want +got):\n%s", diff)
	}
	again := edge.Restore(have, w.now)
	again.Slots = slotsInTests
	w.now += time.Second
	if diff := cmp.Diff(have, compile(t, again, w)); diff != "" {
		t.Errorf("after a restart (-before +after):\n%s", diff)
	}
}

// TestRestoreTrustsWholeTablesAlone: where backends were lost, their indexes are given anew, and nothing that slots say of
// them is kept. Slots lead to the same tasks as before.
func TestRestoreTrustsWholeTablesAlone(t *testing.T) {
	t.Parallel()
	w, p := newWorld(0), &edge.Plan{Slots: slotsInTests}
	for i := range 8 { // whose indexes are in another order than their addresses
		w.add(7 - i)
		compile(t, p, w)
		w.now += time.Second
	}
	before := compile(t, p, w)
	have := before
	have.Backends = make(map[uint32]row.EdgeBackend)
	for index, b := range before.Backends {
		b.VTEP = row.Addr{}
		have.Backends[index] = b
	}
	again := edge.Restore(have, w.now)
	again.Slots = slotsInTests
	w.now += time.Second
	after := compile(t, again, w)
	for i, s := range after.Slots[after.VIPs[key].First] {
		if s.Previous != s.Current {
			t.Fatalf("slot %d has a previous backend, %d, that was another one's index", i, s.Previous)
		}
		was, is := before.Backends[before.Slots[before.VIPs[key].First][i].Current], after.Backends[s.Current]
		if was != is {
			t.Fatalf("slot %d led to %v, and leads to %v", i, was, is)
		}
	}
}

func TestALedAddressIsAnswered(t *testing.T) {
	t.Parallel()
	f := newWorld(1).facts()
	f.Led = map[netip.Addr]bool{public.Addr: true}
	rows, _, err := (&edge.Plan{Slots: slotsInTests}).Compile(f)
	if err != nil {
		t.Fatal(err)
	}
	if got := rows.VIPs[row.EdgeVIPKey{Addr: key.Addr}]; got != (row.EdgeVIP{Flags: row.EdgeVIPLed}) {
		t.Errorf("the address has %+v", got)
	}
}

func TestServed(t *testing.T) {
	t.Parallel()
	w := newWorld(3)
	w.drain(1)
	f := w.facts()
	for way, flags := range map[lb.Return]uint16{lb.ReturnDirect: 0, lb.ReturnEdge: row.EdgeServedRelayed} {
		f.Publications[0].Return = way
		got := edge.Served(f) // of n1: task 1
		want := map[row.EdgeServedKey]row.EdgeServed{
			{VNI: 7, VIP: key, Task: [8]uint8{0, 0, 0xff, 0xff, 9, 1, 1, 1}}: {
				Addr: row.AddrOf(netip.MustParseAddr("9.1.1.1")), Port: row.Port(8080), Flags: flags,
			},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("served, answers %s (-want +got):\n%s", way, diff)
		}
	}
}

// TestRelays: answers are taken back of publications that want it, each in its own network, backends or not.
func TestRelays(t *testing.T) {
	t.Parallel()
	f := newWorld(0).facts()
	f.Networks["dev"] = 8
	relayed, twice, other, unknown := public, public, public, public
	relayed.Return, twice.Return, other.Return, unknown.Return = lb.ReturnEdge, lb.ReturnEdge, lb.ReturnEdge, lb.ReturnEdge
	relayed.Port, twice.Port = 80, 81
	other.VIP.Network, unknown.VIP.Network = "dev", "gone"
	other.Addr = netip.MustParseAddr("2001:db8::10")
	f.Publications = []lb.Publication{public, relayed, twice, other, unknown}
	want := map[row.EndpointKey]uint32{
		{VNI: 7, Addr: row.AddrOf(public.Addr)}: 1, {VNI: 8, Addr: row.AddrOf(other.Addr)}: 1,
	}
	if diff := cmp.Diff(want, edge.Relays(f)); diff != "" {
		t.Errorf("relays (-want +got):\n%s", diff)
	}
	f.Publications = []lb.Publication{public}
	if got := edge.Relays(f); len(got) != 0 {
		t.Errorf("answers go straight, but are taken back from %v", got)
	}
}

// TestMove: answers go by living ways, a client's all by the same; those that do, or go straight, stay.
func TestMove(t *testing.T) {
	t.Parallel()
	f := newWorld(0).facts()
	f.Nodes["n0"] = edge.Node{Edge: true, Host: 30}
	f.Nodes["n1"] = edge.Node{Edge: true, Host: 10} // this node
	f.Nodes["n2"] = edge.Node{Edge: true, Host: 20}
	f.Nodes["n3"] = edge.Node{Edge: true} // has no number
	f.Nodes["n4"] = edge.Node{Host: 40}
	ways := edge.Ways(f)
	if diff := cmp.Diff([]uint32{20, 30}, ways); diff != "" {
		t.Fatalf("ways (-want +got):\n%s", diff)
	}
	rapid.Check(t, func(t *rapid.T) {
		answers := make(map[row.FlowKey]row.Translation)
		for port := range uint16(rapid.IntRange(0, 40).Draw(t, "answers")) {
			client := netip.AddrFrom4([4]byte{203, 0, 113, rapid.Uint8().Draw(t, "client")})
			answers[row.FlowKey{Dst: row.AddrOf(client), Dport: port}] = row.Translation{
				Slot: rapid.SampledFrom([]uint32{0, 20, 30, 40, 50}).Draw(t, "way"), To: row.Peer{Port: port}, Since: 5,
			}
		}
		moved := edge.Move(answers, ways)
		by := make(map[row.Addr]uint32)
		for key, a := range answers {
			m, is := moved[key]
			if should := a.Slot > 30; is != should {
				t.Fatalf("an answer by %d moves: %t, want %t", a.Slot, is, should)
			}
			if !is {
				continue
			}
			if m.Slot != 20 && m.Slot != 30 || by[key.Dst] != 0 && by[key.Dst] != m.Slot {
				t.Fatalf("it moves to %d, another of its client to %d", m.Slot, by[key.Dst])
			}
			by[key.Dst] = m.Slot
			if m.Slot = a.Slot; m != a {
				t.Fatalf("%+v became %+v", a, m)
			}
		}
		if len(edge.Move(answers, nil)) != 0 {
			t.Fatal("answers move without a way")
		}
	})
}

// TestPortOfANode: frames to the backends of a node go by the port that reaches it, also once they are in slots.
func TestPortOfANode(t *testing.T) {
	t.Parallel()
	w := newWorld(2)
	p := &edge.Plan{Slots: slotsInTests}
	f := w.facts()
	for _, second := range []bool{false, true, false} {
		n := f.Nodes["n1"]
		n.Second = second
		f.Nodes["n1"] = n
		rows, _, err := p.Compile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range rows.Backends {
			if want := second && b.VTEP == row.AddrOf(n.Addr); (b.Flags == row.EdgeBackendSecondPort) != want {
				t.Errorf("backend %v by the second port: %t, want %t", b, !want, want)
			}
		}
	}
}

// TestOptionsOfAPublication: what a node has is not the VIP's alone; names of QUIC connections lead to their tasks.
func TestOptionsOfAPublication(t *testing.T) {
	t.Parallel()
	w := newWorld(2)
	f := w.facts()
	p := public
	p.QUIC, p.Affinity, p.VIP.Protocol = true, true, lb.UDP
	status := f.VIPs[vip]
	f.VIPs[p.VIP], f.Publications, f.Own = status, []lb.Publication{p}, map[netip.Addr]bool{p.Addr: true}
	rows, _, err := (&edge.Plan{Slots: slotsInTests}).Compile(f)
	if err != nil {
		t.Fatal(err)
	}
	udp := key
	udp.Proto = 17
	want := map[row.EdgeVIPKey]row.EdgeVIP{udp: {Slots: slotsInTests, Flags: row.EdgeVIPAffinity | row.EdgeVIPQUIC}}
	if diff := cmp.Diff(want, rows.VIPs); diff != "" {
		t.Errorf("VIPs (-want +got):\n%s", diff)
	}
	for k, index := range rows.Connections {
		if k.VIP != udp || rows.Backends[index].Task != k.Task {
			t.Errorf("connection %v leads to %v", k, rows.Backends[index])
		}
	}
	if len(rows.Connections) != 2 {
		t.Errorf("%d backends have names, want 2", len(rows.Connections))
	}
}
