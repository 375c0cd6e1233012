// SPDX-License-Identifier: Apache-2.0

package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft/control/ledger"
	"weft/control/ledger/ledgertest"
)

// patience bounds every wait for a state.
const patience = 30 * time.Second

// start runs a ledger until the test ends or stop is called.
func start(t *testing.T, o ledger.Options) (l *ledger.Ledger, stop func()) {
	t.Helper()
	o.Heartbeat, o.Election, o.Lease = 50*time.Millisecond, 500*time.Millisecond, time.Second
	l, err := ledger.New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("run %s: %v", o.ID, err)
			}
		case <-time.After(patience):
			t.Errorf("ledger %s does not end", o.ID)
		}
	})
	t.Cleanup(stop)
	return l, stop
}

func ready(t *testing.T, l *ledger.Ledger) {
	t.Helper()
	select {
	case <-l.Ready():
	case <-time.After(patience):
		t.Fatal("the ledger does not get ready")
	}
}

func put(base uint64, pairs ...string) ledger.Change {
	c := ledger.Change{Base: base, Put: map[string][]byte{}}
	for i := 0; i < len(pairs); i += 2 {
		c.Put[pairs[i]] = []byte(pairs[i+1])
	}
	return c
}

func commit(t *testing.T, l *ledger.Ledger, c ledger.Change) uint64 {
	t.Helper()
	revision, err := l.Commit(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return revision
}

// everything returns what a new watch tells first.
func everything(t *testing.T, l *ledger.Ledger) (version uint64, values map[string]string) {
	t.Helper()
	enough := errors.New("enough")
	values = map[string]string{}
	err := l.Watch(t.Context(), func(u ledger.Update) error {
		version = u.Version
		for _, e := range u.Entries {
			values[e.Key] = string(e.Value)
		}
		return enough
	})
	if !errors.Is(err, enough) {
		t.Fatal(err)
	}
	return version, values
}

func TestOnlyOneOfTwoDecisionsOnTheSameBaseIsMade(t *testing.T) {
	l, _ := start(t, ledger.Options{Dir: t.TempDir()})
	first := commit(t, l, put(0, "network/a", "1"))
	if revision, err := l.Commit(t.Context(), put(0, "network/b", "1")); !errors.Is(err, ledger.ErrConflict) || revision != first {
		t.Fatalf("second commit on base 0: %d, %v, want %d, a conflict", revision, err, first)
	}
	second := commit(t, l, put(first, "network/b", "2"))
	if version, err := l.Version(t.Context()); err != nil || version != second {
		t.Fatalf("version %d, %v, want %d", version, err, second)
	}
	_, values := everything(t, l)
	if diff := cmp.Diff(map[string]string{"network/a": "1", "network/b": "2"}, values); diff != "" {
		t.Error(diff)
	}
}

func TestManyWritersLoseNothing(t *testing.T) {
	l, _ := start(t, ledger.Options{Dir: t.TempDir()})
	const writers, each = 8, 10
	var group sync.WaitGroup
	for w := range writers {
		group.Go(func() {
			base := uint64(0)
			for i := 0; i < each; {
				revision, err := l.Commit(t.Context(), put(base, fmt.Sprintf("pin/%d-%d", w, i), "x"))
				if base = revision; err == nil {
					i++
				} else if !errors.Is(err, ledger.ErrConflict) {
					t.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	if _, values := everything(t, l); len(values) != writers*each {
		t.Errorf("%d keys, want %d", len(values), writers*each)
	}
}

func TestWatchTellsARevisionWhole(t *testing.T) {
	l, _ := start(t, ledger.Options{Dir: t.TempDir()})
	base := commit(t, l, put(0, "network/a", "1", "group/a/web", "1", "group/a/db", "1", "group/ab/web", "1"))
	updates := make(chan ledger.Update, 10)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- l.Watch(ctx, func(u ledger.Update) error { updates <- u; return nil })
	}()
	if u := <-updates; !u.Reset || u.Version != base || len(u.Entries) != 4 {
		t.Fatalf("first update: %+v, want all four keys at version %d", u, base)
	}
	last := commit(t, l, ledger.Change{
		Base: base, Put: map[string][]byte{"gone/1": []byte("[]")}, Delete: []string{"network/a"}, DeleteAll: []string{"group/a/"},
	})
	u := <-updates
	if u.Reset || u.Revision != last || u.Version != last {
		t.Errorf("update %+v, want one of revision %d", u, last)
	}
	got := map[string]bool{}
	for _, e := range u.Entries {
		got[e.Key] = e.Deleted
		if e.Modified != last {
			t.Errorf("%s modified at %d, want %d", e.Key, e.Modified, last)
		}
	}
	want := map[string]bool{"gone/1": false, "network/a": true, "group/a/web": true, "group/a/db": true}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("watch ended with %v", err)
	}
}

func TestWhatWasDecidedSurvivesARestart(t *testing.T) {
	dir := t.TempDir()
	l, stop := start(t, ledger.Options{Dir: dir})
	base := commit(t, l, put(0, "pin/web.weft", "11.0.0.1"))
	stop()
	if _, err := l.Version(t.Context()); !errors.Is(err, ledger.ErrClosed) {
		t.Errorf("after the end: %v, want %v", err, ledger.ErrClosed)
	}
	l, _ = start(t, ledger.Options{Dir: dir})
	version, values := everything(t, l)
	if version != base || values["pin/web.weft"] != "11.0.0.1" {
		t.Errorf("after a restart: version %d, %v, want %d and the pin", version, values, base)
	}
}

func TestALeaderThatLostItsLeaseWritesNothing(t *testing.T) {
	l, _ := start(t, ledger.Options{Dir: t.TempDir()})
	var old ledger.Fence
	base := commit(t, l, put(0, "a", "1"))
	err := l.Lead(t.Context(), func(ctx context.Context, f ledger.Fence) error {
		old = f
		c := put(base, "a", "2")
		c.Fence = f
		revision, err := l.Commit(ctx, c)
		base = revision
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	c := put(base, "a", "3")
	c.Fence = old
	if _, err := l.Commit(t.Context(), c); !errors.Is(err, ledger.ErrFenced) {
		t.Fatalf("commit of a former leader: %v, want %v", err, ledger.ErrFenced)
	}
	err = l.Lead(t.Context(), func(ctx context.Context, f ledger.Fence) error {
		if f.Epoch <= old.Epoch {
			t.Errorf("epoch %d after %d", f.Epoch, old.Epoch)
		}
		if _, err := l.Commit(ctx, c); !errors.Is(err, ledger.ErrFenced) {
			t.Errorf("commit of a former leader under the next: %v, want %v", err, ledger.ErrFenced)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func three(t *testing.T) (all map[string]*ledger.Ledger, stop map[string]func(), restart func(id string)) {
	t.Helper()
	addrs := ledgertest.Ports(t, 3)
	initial := map[string]string{"m1": addrs[0], "m2": addrs[1], "m3": addrs[2]}
	all, stop = map[string]*ledger.Ledger{}, map[string]func(){}
	dirs := map[string]string{}
	for id := range initial {
		dirs[id] = t.TempDir()
	}
	restart = func(id string) { all[id], stop[id] = start(t, ledger.Options{ID: id, Dir: dirs[id], Initial: initial}) }
	for id := range initial {
		restart(id)
	}
	for _, l := range all {
		ready(t, l)
	}
	return all, stop, restart
}

func TestOfThreeMastersOneMayBeLost(t *testing.T) {
	all, stop, restart := three(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	type reign struct {
		id    string
		epoch uint64
	}
	reigns := make(chan reign, 100) // more than there can be elections in this test
	var group sync.WaitGroup
	for id, l := range all {
		group.Go(func() {
			for ctx.Err() == nil {
				err := l.Lead(ctx, func(ctx context.Context, f ledger.Fence) error {
					reigns <- reign{id, f.Epoch}
					<-ctx.Done()
					return ctx.Err()
				})
				if errors.Is(err, ledger.ErrClosed) {
					return
				}
			}
		})
	}
	next := func(not string) reign {
		t.Helper()
		for deadline := time.After(patience); ; {
			select {
			case r := <-reigns:
				if r.id != not {
					return r
				}
			case <-deadline:
				t.Fatal("nobody leads")
			}
		}
	}
	first := next("")
	base := commit(t, all[first.id], put(0, "a", "1"))
	began := time.Now()
	stop[first.id]()
	second := next(first.id)
	t.Logf("the next leader reigned after %s", time.Since(began).Round(time.Millisecond))
	if second.epoch <= first.epoch {
		t.Fatalf("leaders %v, then %v", first, second)
	}
	last := commit(t, all[second.id], put(base, "b", "1"))
	restart(first.id)
	version, values := everything(t, all[first.id])
	if version != last || len(values) != 2 {
		t.Errorf("the lost master came back with version %d, %v, want %d", version, values, last)
	}
	cancel()
	group.Wait()
}

func TestWithoutAMajorityNothingIsDecided(t *testing.T) {
	all, stop, _ := three(t)
	ids := slices.Sorted(maps.Keys(all))
	base := commit(t, all[ids[0]], put(0, "a", "1"))
	stop[ids[1]]()
	stop[ids[2]]()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if _, err := all[ids[0]].Commit(ctx, put(base, "a", "2")); !errors.Is(err, ledger.ErrUnavailable) {
		t.Errorf("commit alone: %v, want %v", err, ledger.ErrUnavailable)
	}
}

func TestBadOptionsAreNamed(t *testing.T) {
	for name, tt := range map[string]struct {
		options ledger.Options
		want    string
	}{
		"nothing":       {ledger.Options{}, "a folder for the embedded store"},
		"two masters":   {ledger.Options{ID: "a", Dir: "d", Initial: map[string]string{"a": "h:1", "b": "h:2"}}, "2 masters: 1, 3 or 5"},
		"not itself":    {ledger.Options{ID: "b", Dir: "d", Initial: map[string]string{"a": "h:1"}}, `must contain this master, "b"`},
		"no port":       {ledger.Options{ID: "a", Dir: "d", Initial: map[string]string{"a": "h"}}, `"h" of master a: must be HOST:PORT`},
		"same address":  {ledger.Options{ID: "a", Dir: "d", Initial: map[string]string{"a": "h:1", "b": "h:1", "c": "h:2"}}, "given to both a and b"},
		"both kinds":    {ledger.Options{ID: "a", Endpoints: []string{"h:1"}, Initial: map[string]string{"a": "h:1"}}, "excludes an initial cluster"},
		"short lease":   {ledger.Options{Dir: "d", Lease: time.Millisecond}, "lease 1ms: whole seconds"},
		"broken prefix": {ledger.Options{Dir: "d", Prefix: "/weft"}, "must end in /"},
		"broken id":     {ledger.Options{Dir: "d", ID: "a=b"}, `master id "a=b"`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ledger.New(tt.options)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
}

func TestAFolderOrPortInUseIsSaid(t *testing.T) {
	dir := t.TempDir()
	l, _ := start(t, ledger.Options{Dir: dir})
	ready(t, l)
	second, err := ledger.New(ledger.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "another master uses this folder") {
		t.Errorf("same folder: %v", err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close() //nolint:errcheck // nothing was written
	third, err := ledger.New(ledger.Options{ID: "m", Dir: t.TempDir(), Initial: map[string]string{"m": listener.Addr().String()}})
	if err != nil {
		t.Fatal(err)
	}
	if err := third.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("same port: %v", err)
	}
}

func TestAnExistingClusterIsUsed(t *testing.T) {
	endpoint := existing(t)
	l, stop := start(t, ledger.Options{Endpoints: []string{endpoint}})
	base := commit(t, l, put(0, "a", "1"))
	if version, values := everything(t, l); version != base || values["a"] != "1" {
		t.Errorf("version %d, %v", version, values)
	}
	if err := l.Lead(t.Context(), func(context.Context, ledger.Fence) error { return nil }); err != nil {
		t.Error(err)
	}
	stop()
	other, _ := start(t, ledger.Options{Endpoints: []string{endpoint}, Prefix: "/other/"})
	if version, values := everything(t, other); version != 0 || len(values) != 0 {
		t.Errorf("another prefix sees version %d, %v", version, values)
	}
}
