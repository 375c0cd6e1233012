// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"weft/overlay"
)

// TestAnyWalkWithCrashesLosesNothingAndGivesNothingTwice attaches, detaches and waits in random order; the
// daemon dies before or after a random effect, and starts again. What was acknowledged holds.
func TestAnyWalkWithCrashesLosesNothingAndGivesNothingTwice(t *testing.T) {
	for seed := range uint64(40) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { walk(t, rand.New(rand.NewPCG(seed, 1))) })
		})
	}
}

func walk(t *testing.T, random *rand.Rand) {
	t.Helper()
	n := start(t, options{})
	had := make(map[string]overlay.Endpoint) // acknowledged
	unsure := make(map[string]bool)          // the daemon died before it answered
	for range 30 {
		crash := random.IntN(3) == 0
		if crash {
			e := &effects{from: 1 + random.IntN(12), after: random.IntN(2) == 0}
			n.kernel.refuse(e.next)
		}
		id := fmt.Sprint("t", random.IntN(6))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // what is refused for good has no end
		switch op := random.IntN(8); {
		case op < 4:
			a := task(id, []string{"prod", "tiny", "dev"}[int(id[1])%3])
			if a.Network == "dev" { // always the same, so that it is asked for while it may be there
				a.Fixed = []netip.Addr{netip.MustParseAddr(fmt.Sprintf("9.1.%c.7", id[1]))}
			}
			if ep, err := n.Attach(ctx, a); err != nil {
				unsure[id] = true
			} else {
				if old, there := had[id]; there && (old.Addr4 != ep.Addr4 || old.Addr6 != ep.Addr6) {
					t.Fatalf("%s had %v and has %v", id, old.Addrs(), ep.Addrs())
				}
				had[id] = ep
				delete(unsure, id)
			}
		case op < 7:
			if err := n.Detach(ctx, id); err != nil {
				unsure[id] = true
			} else {
				delete(had, id)
				delete(unsure, id)
			}
		default:
			time.Sleep(returnAfter / 2)
		}
		cancel()
		if crash {
			n.stop()
			n.kernel.refuse(nil)
			n.boot(t, options{})
		}
		holds(t, n, had, unsure)
	}
}

// holds compares what the node says and has with what it acknowledged.
func holds(t *testing.T, n *node, had map[string]overlay.Endpoint, unsure map[string]bool) {
	t.Helper()
	if _, err := n.Endpoints(t.Context()); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
	list, err := n.Endpoints(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	there := make(map[string]overlay.Endpoint)
	var ids []string
	for _, ep := range list {
		ids = append(ids, ep.ID)
		there[ep.ID] = ep
		if _, known := had[ep.ID]; !known && !unsure[ep.ID] {
			t.Fatalf("%s is there and was detached", ep.ID)
		}
	}
	for id, ep := range had {
		now, ok := there[id]
		if !ok && !unsure[id] || ok && (now.Addr4 != ep.Addr4 || now.Addr6 != ep.Addr6) {
			t.Fatalf("%s had %v and has %v", id, ep.Addrs(), now.Addrs())
		}
		if !ok {
			delete(had, id)
		}
	}
	n.check(t, ids...)
	for _, network := range []string{"prod", "tiny", "dev"} {
		used := 0
		for _, ep := range list {
			if ep.Network == network {
				used++
			}
		}
		if s := n.part(t, network); s.Used != used {
			t.Fatalf("%s: %d addresses are used by %d tasks", network, s.Used, used)
		}
	}
}
