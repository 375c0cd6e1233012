// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"weft/discovery"
	"weft/overlay"
)

func (n *node) part(t *testing.T, network string) overlay.NetworkStatus {
	t.Helper()
	list, err := n.Networks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range list {
		if s.Name == network {
			return s
		}
	}
	t.Fatalf("no network %s", network)
	return overlay.NetworkStatus{}
}

func TestAnEmptyBlockGoesBackAfterAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, options{})
		for _, id := range []string{"a", "b", "c"} { // blocks of two addresses
			n.attach(t, task(id, "tiny"))
		}
		synctest.Wait()
		if s := n.part(t, "tiny"); len(s.Blocks) != 2 {
			t.Fatalf("got blocks %v, want both of the network", s.Blocks)
		}
		for _, id := range []string{"b", "c"} {
			if err := n.Detach(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		}
		// The block of c is empty; one free address beside a is not enough to do without.
		time.Sleep(2 * returnAfter)
		synctest.Wait()
		if s := n.part(t, "tiny"); len(s.Blocks) != 2 {
			t.Errorf("got blocks %v, want both", s.Blocks)
		}
		if err := n.Detach(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(returnAfter - 2*auditEvery)
		synctest.Wait()
		if s := n.part(t, "tiny"); len(s.Blocks) == 0 {
			t.Errorf("the block of a went back before its time")
		}
		time.Sleep(4 * auditEvery)
		synctest.Wait()
		if s := n.part(t, "tiny"); len(s.Blocks) != 0 {
			t.Errorf("got blocks %v, want none: no task has been here for long", s.Blocks)
		}
		if e := n.attach(t, task("d", "tiny")); e.Addr4.String() != "9.2.0.1" {
			t.Errorf("got %s, want the lowest address again", e.Addr4)
		}
	})
}

// TestABlockThatGoesBackIsNotUsed offers a block while no master answers, and restarts.
func TestABlockThatGoesBackIsNotUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, options{})
		n.attach(t, task("a", "dev"))
		n.stop()
		n.boot(t, options{silent: true})
		if err := n.Detach(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(returnAfter + 2*auditEvery)
		synctest.Wait()
		for range 2 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if e, err := n.Attach(ctx, task("b", "dev")); err == nil {
				t.Errorf("got %s of a block that the masters may have given away", e.Addr4)
			}
			cancel()
			if s := n.part(t, "dev"); s.Free != 0 {
				t.Errorf("%d addresses are said to be free, want none", s.Free)
			}
			n.stop()
			n.boot(t, options{silent: true})
		}
		n.stop()
		n.boot(t, options{})
		synctest.Wait() // the masters have taken it back
		if e := n.attach(t, task("b", "dev")); e.Addr4.String() != "9.1.0.1" {
			t.Errorf("got %s, want the lowest address once masters answer", e.Addr4)
		}
	})
}

func TestAFixedAddressOfAnotherNodeIsRefusedByName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, options{})
		n.masters.say(discovery.KindBlock, "9.0.7.0/24", overlay.Block{Network: "prod", Node: "n2", Prefix: netip.MustParsePrefix("9.0.7.0/24")})
		a := task("a", "prod")
		a.Fixed = []netip.Addr{netip.MustParseAddr("9.0.7.9")}
		_, err := n.Attach(t.Context(), a)
		if !errors.Is(err, overlay.ErrConflict) || !strings.Contains(err.Error(), "9.0.7.9 lies in block 9.0.7.0/24 of node n2") {
			t.Errorf("got %v, want whose block that is", err)
		}
	})
}

func TestAFixedAddressWithoutMastersTellsWhatIsMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, options{silent: true})
		a := task("a", "prod")
		a.Fixed = []netip.Addr{netip.MustParseAddr("9.0.7.9")}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := n.Attach(ctx, a); err == nil || !strings.Contains(err.Error(), "block 9.0.7.0/24 of 9.0.7.9") {
			t.Errorf("got %v, want what no master answered with", err)
		}
	})
}
