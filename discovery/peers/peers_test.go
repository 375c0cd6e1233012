// SPDX-License-Identifier: Apache-2.0

package peers

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is all there is to talk to: up answers, hung takes the call and says nothing, the rest
// refuses.
type world struct {
	mu   sync.Mutex
	up   map[string]bool
	hung map[string]bool
	ends map[string][]context.CancelCauseFunc
	open map[string]int // exchanges going on
}

func newWorld(up ...string) *world {
	w := &world{up: map[string]bool{}, hung: map[string]bool{}, ends: map[string][]context.CancelCauseFunc{}, open: map[string]int{}}
	for _, addr := range up {
		w.up[addr] = true
	}
	return w
}

func (w *world) exchange(ctx context.Context, addr string, met func()) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	w.mu.Lock()
	up, hung := w.up[addr], w.hung[addr]
	if up {
		w.ends[addr] = append(w.ends[addr], cancel)
		w.open[addr]++
	}
	w.mu.Unlock()
	switch {
	case up:
		met()
		defer func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.open[addr]--
		}()
	case !hung:
		return errors.New("refused")
	}
	<-ctx.Done()
	return context.Cause(ctx)
}

func (w *world) start(addr string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.up[addr], w.hung[addr] = true, false
}

// kill ends what goes on with addr; hung says what happens to those who call later.
func (w *world) kill(addr string, hung bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.up[addr], w.hung[addr] = false, hung
	for _, end := range w.ends[addr] {
		end(errors.New("killed"))
	}
	w.ends[addr] = nil
}

func (w *world) talking() (addrs []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for addr, n := range w.open {
		for range n {
			addrs = append(addrs, addr)
		}
	}
	slices.Sort(addrs)
	return addrs
}

// run starts a Peers in the bubble of t and returns it with what ends it.
func run(t *testing.T, w *world, masters, nodes []string) (*Peers, func()) {
	t.Helper()
	p, err := New(Options{
		Masters: func() []string { return masters }, Peers: func() []string { return nodes }, Exchange: w.exchange,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	return p, func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
		if got := w.talking(); got != nil {
			t.Errorf("exchanges that outlived Run: %v", got)
		}
	}
}

// until waits for a state of p and returns how long it took.
func until(t *testing.T, p *Peers, what string, ok func(s Stats) bool) time.Duration {
	t.Helper()
	begin := time.Now()
	deadline := time.After(time.Hour)
	for {
		changed := p.Changed()
		if ok(p.Stats()) {
			return time.Since(begin)
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("%s: never; %+v", what, p.Stats())
		}
	}
}

func aMaster(s Stats) bool    { return strings.HasPrefix(s.Master, "m") && len(s.Peers) == 0 }
func threeNodes(s Stats) bool { return s.Master == "" && len(s.Peers) == 3 }

var (
	masters = []string{"m1", "m2", "m3"}
	nodes   = []string{"n1", "n2", "n3", "n4", "n5"}
)

func TestOneMasterIsEnough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(slices.Concat(masters, nodes)...)
		p, stop := run(t, w, masters, nodes)
		defer stop()
		until(t, p, "a master", aMaster)
		<-time.After(time.Hour)
		if got := w.talking(); len(got) != 1 || !strings.HasPrefix(got[0], "m") {
			t.Errorf("talking to %v, want one master", got)
		}
		if s := p.Stats(); s.Attempts != 1 || s.Failures != 0 {
			t.Errorf("%+v, want one attempt", s)
		}
	})
}

func TestNextMasterWithoutNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(slices.Concat(masters, nodes)...)
		p, stop := run(t, w, masters, nodes)
		defer stop()
		until(t, p, "a master", aMaster)
		for range 20 {
			old := p.Stats().Master
			w.kill(old, false)
			until(t, p, "its end", func(s Stats) bool { return s.Master == "" })
			if took := until(t, p, "another master", aMaster); took > DefaultGrace {
				t.Errorf("another master after %v", took)
			}
			if got := w.talking(); len(got) != 1 || !strings.HasPrefix(got[0], "m") || got[0] == old {
				t.Errorf("talking to %v after %s was killed, want another master", got, old)
			}
			w.start(old)
		}
	})
}

func TestNodesStandInWithinASecondAndGiveWay(t *testing.T) {
	for _, hung := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(slices.Concat(masters, nodes)...)
			p, stop := run(t, w, masters, nodes)
			defer stop()
			until(t, p, "a master", aMaster)
			for _, m := range masters {
				w.kill(m, hung)
			}
			until(t, p, "its end", func(s Stats) bool { return s.Master == "" })
			if took := until(t, p, "three nodes", threeNodes); took > DefaultGrace+200*time.Millisecond {
				t.Errorf("hung %v: nodes after %v, want about %v", hung, took, DefaultGrace)
			}
			<-time.After(time.Minute)
			if got := w.talking(); len(got) != 3 || slices.Compact(got)[0][0] != 'n' || len(slices.Compact(got)) != 3 {
				t.Errorf("hung %v: talking to %v, want three different nodes", hung, got)
			}
			w.start("m2")
			if took := until(t, p, "m2", aMaster); took > 15*time.Second {
				t.Errorf("hung %v: master after %v", hung, took)
			}
			synctest.Wait()
			if diff := cmp.Diff(w.talking(), []string{"m2"}); diff != "" {
				t.Errorf("hung %v: talking to (-got +want):\n%s", hung, diff)
			}
		})
	}
}

func TestDeadNodeIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(nodes...)
		p, stop := run(t, w, masters, nodes)
		defer stop()
		until(t, p, "three nodes", threeNodes)
		for range 20 {
			dead := p.Stats().Peers[0]
			w.kill(dead, true)
			until(t, p, "its end", func(s Stats) bool { return !slices.Contains(s.Peers, dead) })
			until(t, p, "three nodes", threeNodes)
			if got := p.Stats().Peers; slices.Contains(got, dead) {
				t.Errorf("%s is dead, talking to %v", dead, got)
			}
			w.start(dead)
		}
	})
}

func TestFewNodesAreEnough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld("n1")
		p, stop := run(t, w, nil, []string{"n1", "n2"})
		defer stop()
		until(t, p, "one node", func(s Stats) bool { return cmp.Equal(s.Peers, []string{"n1"}) })
		<-time.After(time.Minute)
		if diff := cmp.Diff(w.talking(), []string{"n1"}); diff != "" {
			t.Errorf("talking to (-got +want):\n%s", diff)
		}
	})
}

func TestEveryMasterKnowsAllOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(masters...)
		var mu sync.Mutex
		others := []string{"m1", "m2"}
		p, err := New(Options{Every: true, Exchange: w.exchange, Masters: func() []string {
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(others)
		}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx) }()
		want := func(addrs ...string) {
			t.Helper()
			took := until(t, p, strings.Join(addrs, " "), func(s Stats) bool { return slices.Equal(s.Peers, addrs) })
			if took > 10*time.Second {
				t.Errorf("%v answer after %v", addrs, took)
			}
			synctest.Wait()
			if diff := cmp.Diff(w.talking(), addrs); diff != "" {
				t.Errorf("talking to (-got +want):\n%s", diff)
			}
		}
		want("m1", "m2")
		w.kill("m1", true)
		want("m2")
		w.start("m1")
		want("m1", "m2")
		mu.Lock()
		others = []string{"m2", "m3"}
		mu.Unlock()
		want("m2", "m3")
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
		if got := w.talking(); got != nil {
			t.Errorf("exchanges that outlived Run: %v", got)
		}
	})
}

func TestPausesGrowAndDiffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		p, stop := run(t, w, []string{"m1"}, nil)
		defer stop()
		<-time.After(10 * time.Minute)
		// 100 ms doubled up to 5 s: about 6 attempts, then one each 5 s (2.5 to 7.5).
		if n := p.Stats().Attempts; n < 90 || n > 200 {
			t.Errorf("%d attempts in ten minutes, want about 125", n)
		}
	})
}

func TestOptionsAreChecked(t *testing.T) {
	if _, err := New(Options{Fanout: -1}); err == nil || !strings.Contains(err.Error(), "-1") || !strings.Contains(err.Error(), "masters") {
		t.Errorf("new: %v, want all that is wrong", err)
	}
}
