// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"weft/bpf/row"
)

// farm is a VIP for TCP at vip4, in front of servers that count what they are given.
type farm struct {
	*bed
	vip  row.VIP
	rows []row.Backend

	mu   sync.Mutex
	hits map[string]int // guarded by mu
}

// newFarm publishes the backends; policy and the rest of the VIP's row are set's.
func newFarm(t *testing.T, set func(*row.VIP), backends ...backend) *farm {
	t.Helper()
	f := &farm{bed: newBed(t), hits: make(map[string]int)}
	f.vip, f.rows = vipRows(77, backends)
	f.vip.Policy = row.VIPLeastLatency
	if set != nil {
		set(&f.vip)
	}
	f.write()
	return f
}

func (f *farm) write() {
	f.t.Helper()
	for slot, b := range f.rows {
		f.do(f.tables.Backends.Put(row.BackendKey{VIP: f.vip.ID, Slot: uint16(slot)}, b))
	}
	key := row.VIPKey{VNI: bedVNI, Addr: row.AddrOf(vip4.Addr()), Port: row.Port(vip4.Port()), Proto: unix.IPPROTO_TCP}
	f.do(f.tables.VIPs.Put(key, f.vip))
}

// serve answers each connection with its own address, after a while.
func (f *farm) serve(at string, after time.Duration) {
	f.t.Helper()
	l, err := net.Listen("tcp", at)
	f.do(err)
	var open sync.WaitGroup
	f.t.Cleanup(func() {
		_ = l.Close() // ends the loop below
		open.Wait()
	})
	open.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			f.mu.Lock()
			f.hits[at]++
			f.mu.Unlock()
			open.Go(func() {
				time.Sleep(after) // the service time of a slow backend
				_, _ = c.Write([]byte(at + "\n"))
				_ = c.Close()
			})
		}
	})
}

// askVIP connects, reads the answer and closes.
func askVIP() error {
	c, err := net.DialTimeout("tcp4", vip4.String(), patience)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	_, err = bufio.NewReader(c).ReadString('\n')
	return err
}

// clients runs do n times side by side, each in a thread of the namespace, and waits for them.
func (f *farm) clients(n int, do func()) {
	f.t.Helper()
	var group sync.WaitGroup
	for range n {
		group.Go(func() {
			runtime.LockOSThread() // for good: the thread ends with the goroutine
			if err := unix.Setns(f.own, unix.CLONE_NEWNET); err != nil {
				f.t.Error(err)
				return
			}
			do()
		})
	}
	group.Wait()
}

// askAll lets clients ask side by side, n times together; it returns how many failed.
func (f *farm) askAll(clients, n int) (failed int) {
	f.t.Helper()
	results := make(chan error, n)
	f.clients(clients, func() {
		for range n / clients {
			results <- askVIP()
		}
	})
	close(results)
	for err := range results {
		if err != nil {
			failed++
		}
	}
	return failed
}

func (f *farm) hitsOf(at ...string) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, a := range at {
		n += f.hits[a]
	}
	return n
}

func at4(n int) string { return fmt.Sprintf("10.0.0.%d:8080", n) }

func TestARefusingBackendIsAskedOnce(t *testing.T) {
	timely(t)
	f := newFarm(t, nil, one(at4(1), at4(2), at4(3))...)
	f.serve(at4(1), 0)
	f.serve(at4(2), 0)
	began := time.Now()
	failed := f.askAll(8, 800)
	most := triesWithin(time.Since(began))
	if failed > most {
		t.Errorf("%d connects failed, want at most %d", failed, most)
	}
	tallies, err := f.plane.Tallies()
	f.do(err)
	dead := tallies[f.rows[2].ID]
	if n := int(dead.Refused); n < 1 || n > most || dead.Ejections != dead.Refused || dead.Chosen != dead.Refused {
		t.Errorf("the dead one: %+v, want chosen, refused and ejected as often, at most %d times", dead, most)
	}
}

// triesWithin is how often a backend may be asked that fails each time: bars last 5, 10, 20 s (bpf/src/lib/feedback.h),
// and the machine may take longer for a test.
func triesWithin(d time.Duration) int {
	tries := 1
	for bar := 5 * time.Second; d > bar; bar *= 2 {
		d -= bar
		tries++
	}
	return tries
}

func TestAllRefusingAreAskedOnAndOn(t *testing.T) {
	timely(t)
	f := newFarm(t, nil, one(at4(1), at4(2), at4(3))...)
	if failed := f.askAll(1, 30); failed != 30 {
		t.Errorf("%d of 30 connects failed, want all", failed)
	}
	tallies, err := f.plane.Tallies()
	f.do(err)
	for _, b := range f.rows {
		if tallies[b.ID].Chosen == 0 {
			t.Errorf("backend %d was never asked: %+v", b.ID, tallies)
		}
	}
	f.serve(at4(3), 0) // it came back; others are tried in vain meanwhile
	if failed := f.askAll(1, 100); failed > 50 {
		t.Errorf("%d of 100 connects failed after one came back", failed)
	}
}

// A backend that nobody answers for: one connect waits for it, the others go past it.
func TestASilentBackendHoldsOneConnect(t *testing.T) {
	timely(t)
	f := newFarm(t, nil, one(at4(1), at4(2), "10.0.9.9:8080")...)
	f.do(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "void"}, PeerName: "dev0"}))
	for _, name := range []string{"void", "dev0"} {
		l, err := netlink.LinkByName(name)
		f.do(err)
		f.do(netlink.LinkSetUp(l))
		if name == "void" {
			f.addr(l.Attrs().Index, netip.MustParsePrefix("10.0.9.1/24"))
		}
	}
	f.serve(at4(1), 0)
	f.serve(at4(2), 0)
	stuck := make(chan error, 8) // one a client
	began := time.Now()
	f.clients(cap(stuck), func() {
		for range 50 {
			c, err := net.DialTimeout("tcp4", vip4.String(), 1500*time.Millisecond)
			if err != nil {
				stuck <- err
				return
			}
			_ = c.Close()
		}
	})
	most := triesWithin(time.Since(began))
	if n := len(stuck); n < 1 || n > most {
		t.Errorf("%d clients were stuck, want 1 to %d", n, most)
	}
	tallies, err := f.plane.Tallies()
	f.do(err)
	if n := tallies[f.rows[2].ID]; n.Timeouts < 1 || int(n.Timeouts) > most || n.Ejections != n.Timeouts || n.Refused != 0 {
		t.Errorf("the silent one: %+v, want as many time-outs as ejections, 1 to %d", n, most)
	}
}

// TestSlowBackendsGetLittle wants at most 1 of 50 connections to go to the slow ones. What else the machine
// does makes others slow too, so the best of three tries counts.
func TestSlowBackendsGetLittle(t *testing.T) {
	timely(t)
	for _, slow := range []int{1, 2} {
		const asked, tries = 4000, 3
		least := asked
		for range tries {
			least = min(least, askSlow(t, slow, asked))
			if least <= asked/50 {
				break
			}
		}
		if least > asked/50 {
			t.Errorf("%d slow of 4 got %d of %d connections in the best of %d tries, want at most 1 of 50", slow, least, asked, tries)
		}
	}
}

// askSlow returns how many of the connections went to the slow ones of four backends.
func askSlow(t *testing.T, slow, asked int) int {
	t.Helper()
	all := []string{at4(1), at4(2), at4(3), "10.0.0.100:8080"}
	f := newFarm(t, nil, one(all...)...)
	for i, at := range all {
		after := time.Duration(0)
		if i < slow {
			after = 5 * time.Millisecond
		}
		f.serve(at, after)
	}
	if failed := f.askAll(4, asked); failed > 0 {
		t.Fatalf("%d connects failed", failed)
	}
	f.leavesNothingInFlight()
	return f.hitsOf(all[:slow]...)
}

// leavesNothingInFlight waits for the last FIN.
func (f *farm) leavesNothingInFlight() {
	f.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		feedbacks, err := f.plane.Feedbacks()
		f.do(err)
		open := 0
		for _, b := range feedbacks {
			open += int(b.InFlight) + int(b.Connecting)
		}
		if open == 0 && len(feedbacks) > 0 {
			return
		}
		if time.Now().After(deadline) {
			f.t.Fatalf("in flight after the end: %+v", feedbacks)
		}
	}
}

// evenly is a service time beside which it does not count how long the machine usually lets a thread wait, so that
// backends that are equal are measured so.
const evenly = 20 * time.Millisecond

// One that a busy machine lets wait for longer is slow for the seconds after it, and gets little: the best of some tries
// counts. On 18 times as much load as there are processors 1 of 19 tries failed.
func TestEqualBackendsShare(t *testing.T) {
	timely(t)
	const tries = 5
	for try := 1; ; try++ {
		f := newFarm(t, nil, one(at4(1), at4(2), at4(3))...)
		for i := range 3 {
			f.serve(at4(i+1), evenly)
		}
		if failed := f.askAll(6, 240); failed > 0 {
			t.Fatalf("%d connects failed", failed)
		}
		least := min(f.hitsOf(at4(1)), f.hitsOf(at4(2)), f.hitsOf(at4(3)))
		if least >= 40 {
			return
		}
		if try == tries {
			t.Fatalf("one got %d of 240 connections in the last of %d tries: %v", least, tries, f.hits)
		}
	}
}

func TestRoundRobinTakesTurns(t *testing.T) {
	anyKernel(t)
	f := newFarm(t, func(v *row.VIP) { v.Policy = row.VIPRoundRobin }, one(at4(1), at4(2), at4(3))...)
	for i := range 3 {
		f.serve(at4(i+1), 0)
	}
	f.askAll(1, 99)
	for i := range 3 {
		if got := f.hitsOf(at4(i + 1)); got != 33 {
			t.Errorf("%s got %d of 99 connections, want 33", at4(i+1), got)
		}
	}
}

// A connection that is held counts: the other backend takes what comes.
func TestLeastConnectionsGoesWhereFewAre(t *testing.T) {
	anyKernel(t)
	f := newFarm(t, func(v *row.VIP) { v.Policy = row.VIPLeastConnections }, one(at4(1), at4(2))...)
	f.serve(at4(1), 0)
	f.serve(at4(2), 0)
	for range 20 {
		c, err := net.Dial("tcp4", vip4.String())
		f.do(err)
		f.t.Cleanup(func() { _ = c.Close() })
		feedbacks, err := f.plane.Feedbacks()
		f.do(err)
		if a, b := feedbacks[f.rows[0].ID].InFlight, feedbacks[f.rows[1].ID].InFlight; a-b > 2 || b-a > 2 {
			t.Fatalf("in flight: %d and %d, want them level", a, b)
		}
	}
}

func TestWeightsAreShares(t *testing.T) {
	anyKernel(t)
	f := newFarm(t, func(v *row.VIP) { v.Policy = row.VIPRandom; v.Flags = row.VIPWeighted }, one(at4(1), at4(2))...)
	f.serve(at4(1), 0)
	f.serve(at4(2), 0)
	// 1 to 3: the light one keeps half of its draws.
	f.rows[0].Weight, f.rows[0].Share, f.rows[0].Other = 1, 1<<15, 1
	f.rows[1].Weight, f.rows[1].Share, f.rows[1].Other = 3, 1<<16-1, 1
	f.write()
	const asked = 800
	f.askAll(1, asked)
	if got := f.hitsOf(at4(1)); got < asked/4-80 || got > asked/4+80 { // 6 standard deviations
		t.Errorf("weight 1 of 4 got %d of %d connections, want a quarter", got, asked)
	}
}

func TestAClientStaysAtItsBackend(t *testing.T) {
	timely(t)
	f := newFarm(t, func(v *row.VIP) { v.Affinity = 60 }, one(at4(1), at4(2), at4(3))...)
	for i := range 3 {
		f.serve(at4(i+1), 0)
	}
	f.askAll(1, 1) // connections that come first at once may find different ones
	f.askAll(4, 100)
	first := -1
	for i := range 3 {
		if f.hitsOf(at4(i+1)) == 101 {
			first = i
		}
	}
	if first < 0 {
		t.Fatalf("%v, want all at one backend", f.hits)
	}
	// It drains: the client finds another, and stays there.
	f.vip.Draining = 1
	f.rows[first], f.rows[2] = f.rows[2], f.rows[first]
	f.rows[2].Weight = 0
	f.write()
	before := f.hitsOf(at4(first + 1))
	f.askAll(1, 20)
	if got := f.hitsOf(at4(first+1)) - before; got != 0 {
		t.Errorf("the draining backend got %d connections", got)
	}
}

func TestNearBackendsAreAskedFirst(t *testing.T) {
	timely(t)
	f := newFarm(t, func(v *row.VIP) { v.Near = 1 }, one(at4(1), at4(2), at4(3))...)
	f.serve(at4(2), 0)
	f.serve(at4(3), 0)
	began := time.Now()
	failed := f.askAll(1, 100)
	if most := triesWithin(time.Since(began)); failed < 1 || failed > most {
		t.Errorf("%d connects failed, want 1 to %d: the near one refuses, then others are asked", failed, most)
	}
	// A near one that the machine lets wait is slow, and others are asked: the best of some tries counts.
	most := 0
	for range 5 {
		g := newFarm(t, func(v *row.VIP) { v.Near = 1 }, one(at4(1), at4(2), at4(3))...)
		for i := range 3 {
			g.serve(at4(i+1), 0)
		}
		g.askAll(1, 100)
		if most = max(most, g.hitsOf(at4(1))); most > 50 {
			return
		}
	}
	t.Errorf("the near one got %d of 100 connections at best, want most", most)
}

func monotonicSeconds(t *testing.T) uint32 {
	t.Helper()
	return uint32(monotonic(t) / uint64(time.Second))
}

// monotonic is the kernel's clock, ns.
func monotonic(t *testing.T) uint64 {
	t.Helper()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		t.Fatal(err)
	}
	return uint64(now.Nano())
}

func TestTrafficOfGoneBackendsIsForgotten(t *testing.T) {
	anyKernel(t)
	f := newFarm(t, nil, one(at4(1), at4(2))...)
	f.serve(at4(1), 0)
	f.serve(at4(2), 0)
	f.askAll(1, 50)
	keep := f.rows[0].ID
	f.do(f.plane.Forget(func(id uint32) bool { return id == keep }, func(uint32) bool { return false }))
	feedbacks, err := f.plane.Feedbacks()
	f.do(err)
	tallies, err := f.plane.Tallies()
	f.do(err)
	if _, ok := feedbacks[keep]; !ok || len(feedbacks) != 1 || len(tallies) != 1 {
		t.Errorf("%v and %v, want those of %d alone", feedbacks, tallies, keep)
	}
	if err := askVIP(); err != nil {
		t.Errorf("ask after it: %v", err)
	}
}

// Connections that are cut before the backend said a word are failures, when there are several.
func TestResetsEject(t *testing.T) {
	timely(t)
	f := newFarm(t, nil, one(at4(1), at4(2))...)
	f.serve(at4(1), 0)
	l, err := net.Listen("tcp", at4(2))
	f.do(err)
	done := make(chan struct{})
	t.Cleanup(func() {
		_ = l.Close() // ends the loop below
		<-done
	})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if tcp, ok := c.(*net.TCPConn); ok {
				_ = tcp.SetLinger(0) // RST in place of FIN
			}
			_ = c.Close()
		}
	}()
	failed, began := 0, time.Now()
	for range 200 {
		if err := askVIP(); errors.Is(err, unix.ECONNRESET) || err != nil && strings.Contains(err.Error(), "EOF") {
			failed++
		}
	}
	if failed == 0 || failed > 5+triesWithin(time.Since(began)) {
		t.Errorf("%d of 200 connections were reset, want a few: the backend is left out then", failed)
	}
}
