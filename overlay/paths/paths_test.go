// SPDX-License-Identifier: Apache-2.0

package paths

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"weft/discovery"
	"weft/discovery/state"
	"weft/overlay/compile"
	"weft/overlay/facts"
)

// wires is what the two ports to a node carry, bytes.
type wires [2]int

func (w wires) Fits(_ context.Context, _ netip.Addr, second bool, size int) (bool, error) {
	carries := w[0]
	if second {
		carries = w[1]
	}
	return size <= carries, nil
}

func TestTheSecondPortIsForWhatTheFirstDoesNotReach(t *testing.T) {
	t.Parallel()
	vtep := netip.MustParseAddr("10.0.0.2")
	p := New(Options{MTU: 1500})
	p.keep([]compile.Node{{ID: "h2", VTEP: vtep}})
	for _, tt := range []struct {
		wires
		want   compile.Path
		second int
		warns  []string
	}{
		{wires{1500, 1500}, compile.Path{MTU: 1500}, 0, nil},
		{wires{0, 1500}, compile.Path{MTU: 1500, Second: true}, 1, []string{"node h2 is not reached by the tunnel's port: the second one is used"}},
		{wires{0, 1400}, compile.Path{MTU: 1400, Second: true}, 1, []string{"node h2 is not reached by the tunnel's port: the second one is used"}},
		{wires{1450, 1500}, compile.Path{MTU: 1450}, 0, []string{"the path to node h2 carries 1450 bytes, the link 1500"}},
	} {
		p.o.Prober = tt.wires
		got, err := p.find(t.Context(), vtep, 1500)
		if err != nil || got != tt.want {
			t.Errorf("%v: got %+v, %v; want %+v", tt.wires, got, err, tt.want)
		}
		changed := p.Changed()
		if !p.set(vtep, got) || p.set(vtep, got) {
			t.Errorf("%v: it is news once", tt.wires)
		}
		select {
		case <-changed:
		default:
			t.Errorf("%v: who waits for a change is not told", tt.wires)
		}
		if mtu, second := p.Path(vtep); mtu != tt.want.MTU || second != tt.want.Second {
			t.Errorf("%v: the path is %d, %t", tt.wires, mtu, second)
		}
		if _, second, _ := p.Counts(); second != tt.second || !slices.Equal(p.Warnings(), tt.warns) {
			t.Errorf("%v: got %d and %q, want %d and %q", tt.wires, second, p.Warnings(), tt.second, tt.warns)
		}
	}
	p.o.Prober = wires{0, 0}
	if got, err := p.find(t.Context(), vtep, 1500); err != nil || got.MTU != 0 {
		t.Errorf("a node that says nothing: got %+v, %v", got, err)
	}
	p.keep([]compile.Node{{ID: discovery.NodeID("h3"), VTEP: netip.MustParseAddr("10.0.0.3")}})
	if found := p.Found(); len(found) != 0 {
		t.Errorf("a node that went is remembered: %v", found)
	}
}

// ways is what the way to each node carries, bytes, and changes.
type ways struct {
	mu    sync.Mutex
	bytes map[netip.Addr]int
}

func (w *ways) set(vtep netip.Addr, bytes int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.bytes[vtep] = bytes
}

func (w *ways) Fits(_ context.Context, vtep netip.Addr, _ bool, size int) (bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return size <= w.bytes[vtep], nil
}

// A node that lives and answers nothing is told of, be it so from the first moment or later; one that is dead, or that
// says that it answers nobody, is not.
func TestANodeThatLivesAndAnswersNothingIsToldOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, err := state.Open(state.Options{Self: "n1", Dir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		defer store.Close() //nolint:errcheck // nothing is read again
		at := func(id string) netip.Addr { return netip.MustParseAddr("10.0.0." + id[1:]) }
		var rows []discovery.Row
		put := func(kind discovery.Kind, writer, id string, v any) {
			value, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			rows = append(rows, discovery.Row{Writer: writer, Kind: kind, Key: id, Incarnation: 1, Seq: uint64(len(rows) + 1), Value: value})
		}
		for _, id := range []string{"n2", "n3", "n4", "n5"} {
			put(discovery.KindAdmission, discovery.Ledger, id, discovery.Admission{Node: discovery.NodeID(id), VTEP: at(id)})
			put(discovery.KindNode, id, id, discovery.Node{ID: discovery.NodeID(id), MTU: 1500, Unprobed: id == "n5"})
		}
		if _, err := store.Apply(rows); err != nil {
			t.Fatal(err)
		}
		w := &ways{bytes: map[netip.Addr]int{at("n2"): 1500}}
		log := slog.New(slog.DiscardHandler)
		p := New(Options{
			Node: "n1", VTEP: at("n1"), MTU: 1500, Facts: facts.New(store, log), Prober: w, Log: log,
			Alive: func(id discovery.NodeID) bool { return id != "n4" },
		})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- p.Run(ctx) }()
		silent := func(when string, ids ...string) {
			t.Helper()
			synctest.Wait()
			var want []string
			for _, id := range ids {
				want = append(want, "node "+id+" lives, but answers nothing by the tunnel's UDP port: is that let through, in both directions?")
			}
			if _, _, n := p.Counts(); n != len(ids) || !slices.Equal(p.Warnings(), want) {
				t.Errorf("%s: got %d and %q, want %q", when, n, p.Warnings(), want)
			}
		}
		silent("at first")
		time.Sleep(silentAfter + time.Second) // the bubble's time
		silent("from the first moment", "n3")
		w.set(at("n2"), 0)
		w.set(at("n3"), 1500)
		time.Sleep(every)
		silent("one is back, the other has just gone")
		time.Sleep(silentAfter)
		silent("later", "n2")
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Run ended with %v", err)
		}
	})
}

// TestRunSaysWhatIsNew has a node that comes, and is asked at once.
func TestRunSaysWhatIsNew(t *testing.T) {
	t.Parallel()
	store, err := state.Open(state.Options{Self: "n1", Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	vtep := netip.MustParseAddr("10.0.0.2")
	log := slog.New(slog.DiscardHandler)
	p := New(Options{
		Node: "n1", VTEP: netip.MustParseAddr("10.0.0.1"), MTU: 1500, Facts: facts.New(store, log), Prober: wires{1400, 1400}, Log: log,
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	value, err := json.Marshal(discovery.Admission{Node: "n2", VTEP: vtep})
	if err != nil {
		t.Fatal(err)
	}
	r := discovery.Row{Writer: discovery.Ledger, Kind: discovery.KindAdmission, Key: "n2", Incarnation: 1, Seq: 1, Value: value}
	if _, err := store.Apply([]discovery.Row{r}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.News():
	case <-time.After(10 * time.Second):
		t.Fatal("nothing is said of a node that came")
	}
	if found := p.Found(); found[vtep] != (compile.Path{MTU: 1400}) {
		t.Errorf("got %v, want 1400 to %s", found, vtep)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("Run ended with %v", err)
	}
	if err := store.Close(); err != nil {
		t.Error(err)
	}
}
