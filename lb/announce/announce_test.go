// SPDX-License-Identifier: Apache-2.0

package announce_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"weft/bpf/bpftest"
	"weft/discovery"
	"weft/discovery/state"
	"weft/lb"
	"weft/lb/announce"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestOneLeads: every node chooses the same, in whatever order it knows the others, and a node that goes moves only the
// addresses that it led.
func TestOneLeads(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		nodes := rapid.SliceOfNDistinct(rapid.StringMatching("h[0-9]{1,3}"), 1, 20, rapid.ID).Draw(t, "nodes")
		var ids []discovery.NodeID
		for _, n := range nodes {
			ids = append(ids, discovery.NodeID(n))
		}
		addr := netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "addr")))
		leader := announce.Leader(addr, ids)
		if got := announce.Leader(addr, rapid.Permutation(ids).Draw(t, "order")); got != leader {
			t.Fatalf("%s and %s lead", leader, got)
		}
		gone := rapid.SampledFrom(ids).Draw(t, "gone")
		rest := slices.DeleteFunc(slices.Clone(ids), func(id discovery.NodeID) bool { return id == gone })
		if got := announce.Leader(addr, rest); gone != leader && got != leader {
			t.Fatalf("without %s, %s leads in place of %s", gone, got, leader)
		}
	})
	if got := announce.Leader(netip.MustParseAddr("203.0.113.1"), nil); got != "" {
		t.Errorf("of no nodes %s leads", got)
	}
}

func TestLeadersAreSpread(t *testing.T) {
	t.Parallel()
	led := make(map[discovery.NodeID]int)
	for i := range 1000 {
		led[announce.Leader(netip.AddrFrom4([4]byte{203, 0, byte(i >> 8), byte(i)}), []discovery.NodeID{"h1", "h2", "h3", "h4"})]++
	}
	for n, count := range led {
		if count < 200 || count > 300 {
			t.Errorf("%s leads %d of 1,000 addresses, want about 250", n, count)
		}
	}
}

func TestFramesAreAsTheRFCsHaveThem(t *testing.T) {
	t.Parallel()
	mac := bpftest.MAC{2, 1, 2, 3, 4, 5}
	four, six := netip.MustParseAddr("203.0.113.10"), netip.MustParseAddr("2001:db8::10")
	arp := bpftest.ARPPacket{
		DstMAC: bpftest.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, SrcMAC: mac, Operation: 1, SenderMAC: mac, SenderAddr: four, TargetAddr: four,
	}
	nd := bpftest.Neighbour(136, six, netip.MustParseAddr("ff02::1"), six, mac)
	nd.SrcMAC, nd.DstMAC, nd.ICMPRest = mac, bpftest.MAC{0x33, 0x33, 0, 0, 0, 1}, [4]byte{0x20}
	for addr, want := range map[netip.Addr][]byte{four: arp.Bytes(), six: nd.Bytes()} {
		if diff := cmp.Diff(want, announce.Gratuitous(addr, mac)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", addr, diff)
		}
	}
}

// link is what is told, and who lives.
type link struct {
	mu      sync.Mutex
	nodes   []discovery.NodeID
	changed chan struct{}
	sent    map[netip.Addr]int
}

func (l *link) Announcers() []discovery.NodeID {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.nodes
}

func (l *link) Changed() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

func (l *link) live(nodes ...discovery.NodeID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.nodes = nodes
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *link) told() map[netip.Addr]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.sent)
}

// TestALeaderThatDiesIsFollowed: a node announces, more than once, what it leads, and what a dead one led.
func TestALeaderThatDiesIsFollowed(t *testing.T) {
	store, err := state.Open(state.Options{Self: "h1"})
	if err != nil {
		t.Fatal(err)
	}
	l := &link{nodes: []discovery.NodeID{"h1", "h2"}, changed: make(chan struct{}), sent: make(map[netip.Addr]int)}
	mine := make(map[netip.Addr]bool)
	var rows []discovery.Row
	for i := range 8 {
		p := lb.Publication{
			Addr: netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}), Port: 80, VIP: lb.Key{Network: "prod", Name: "web.weft", Port: 80, Protocol: lb.TCP},
		}
		value, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		rows = append(rows, discovery.Row{Writer: discovery.Ledger, Kind: discovery.KindPublication, Key: p.Name(), Incarnation: 1, Seq: uint64(i + 1), Value: value})
		mine[p.Addr] = announce.Leader(p.Addr, l.nodes) == "h1"
	}
	if _, err := store.Apply(rows); err != nil {
		t.Fatal(err)
	}
	a, err := announce.NewLinks(announce.LinkOptions{
		Store: store, Members: l, Links: []announce.Link{{Ifindex: 7, MAC: [6]byte{2}}},
		Send: func(ifindex uint32, frame []byte) error {
			addr := netip.AddrFrom4([4]byte(frame[28:32]))
			if ifindex != 7 || !bytes.Equal(frame, announce.Gratuitous(addr, [6]byte{2})) {
				t.Errorf("sent %x to interface %d", frame, ifindex)
			}
			l.mu.Lock()
			defer l.mu.Unlock()
			l.sent[addr]++
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	}()
	led := func(want func(netip.Addr) bool) error {
		told := l.told()
		for addr := range mine {
			if want(addr) != a.Led()[addr] || want(addr) != (told[addr] > 1) {
				return fmt.Errorf("%s: led is %t, told %d times; want %t", addr, a.Led()[addr], told[addr], want(addr))
			}
		}
		return nil
	}
	eventually(t, func() error { return led(func(a netip.Addr) bool { return mine[a] }) })
	l.live("h1")
	eventually(t, func() error { return led(func(netip.Addr) bool { return true }) })
}

func eventually(t *testing.T, f func() error) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}
