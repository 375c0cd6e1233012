// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"weft/bpf/row"
	"weft/discovery"
	"weft/overlay"
	"weft/overlay/apply"
	"weft/overlay/servicetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func task(id, network string, groups ...string) overlay.Attachment {
	return overlay.Attachment{ID: id, Task: id, Name: id, Network: network, Groups: groups, NetNS: "/run/netns/" + id}
}

func TestContract(t *testing.T) {
	servicetest.RunContract(t, func(t *testing.T) servicetest.Node {
		t.Helper()
		n := start(t, options{})
		return servicetest.Node{Service: n, Drop: func() { n.drop(t) }}
	})
}

// drop lets the kernel report the packet of servicetest.Node.
func (n *node) drop(t *testing.T) {
	t.Helper()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		t.Error(err)
	}
	ev := row.Event{
		Time: uint64(now.Nano()), VNI: 2, Len: 74, Proto: 6, Reason: uint8(row.ReasonNoCommonGroup),
		Src: row.AddrOf(netip.MustParseAddr("9.0.0.1")), Dst: row.AddrOf(netip.MustParseAddr("9.0.0.2")),
		Sport: row.Port(40000), Dport: row.Port(80),
	}
	select {
	case n.kernel.events <- ev:
	case <-t.Context().Done():
	}
}

func (n *node) attach(t *testing.T, a overlay.Attachment) overlay.Endpoint {
	t.Helper()
	e, err := n.Attach(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// A refusal names what could have been meant, and stays readable where that is much.
func TestARefusalNamesTheFirstOfManyGroups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, options{})
		for i := range 30 {
			name := fmt.Sprintf("a%02d", i)
			n.masters.say(discovery.KindGroup, "prod/"+name, overlay.Group{Network: "prod", Name: name})
		}
		synctest.Wait()
		_, err := n.Attach(t.Context(), task("x", "prod", "nosuch"))
		if !errors.Is(err, overlay.ErrNotFound) || !strings.Contains(err.Error(), "declared are a00, a01, ") || !strings.Contains(err.Error(), "a11 and 2") {
			t.Errorf("got %v, want the first 12 groups, and how many more there are", err)
		}
	})
}

func TestAttachFillsEveryTable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, options{})
		n.masters.say(discovery.KindAdmission, "n2", discovery.Admission{Node: "n2", VTEP: netip.MustParseAddr("10.9.0.2")})
		n.masters.say(discovery.KindBlock, "9.0.7.0/24", overlay.Block{Network: "prod", Node: "n2", Prefix: netip.MustParsePrefix("9.0.7.0/24")})
		n.attach(t, task("web-1", "prod", "web"))
		n.attach(t, task("db-1", "prod", "db"))
		synctest.Wait()
		n.check(t, "db-1", "web-1")
		blocks, _ := n.kernel.tables.blocks.All()
		vteps, _ := n.kernel.tables.vteps.All()
		if len(blocks) != 3 || len(vteps) != 1 { // own IPv4 and IPv6, one of n2
			t.Errorf("got blocks %v, vteps %v", blocks, vteps)
		}
		if want := 5; len(n.kernel.subnets) != want {
			t.Errorf("got networks %v told to the host, want %d", n.kernel.subnets, want)
		}
		verdicts, _ := n.kernel.tables.verdicts.All()
		want := map[row.VerdictKey]row.Verdict{
			{VNI: 2, Src: 16, Dst: 16}: {Action: row.VerdictAllow},
			{VNI: 2, Src: 17, Dst: 17}: {Action: row.VerdictAllow},
			{VNI: 2, Src: 16, Dst: 17}: {Clauses: row.ClausesID([]row.Clause{
				row.ClauseOf(0, 0, row.VerdictNone, 0), row.ClauseOf(6, 5432, row.VerdictAllow, 7), row.ClauseOf(6, 5433, row.VerdictNone, 0),
			})},
		}
		if diff := cmp.Diff(want, verdicts, cmp.Comparer(func(a, b row.Verdict) bool { return a == b })); diff != "" {
			t.Errorf("-want +got\n%s", diff)
		}
	})
}

// What an operator added just now may be news to the node: a task that is early waits a little, by whatever it comes.
func TestAttachWaitsForNews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, options{})
		go func() {
			time.Sleep(time.Second)
			fresh := overlay.Network{Name: "fresh", VNI: 77, Subnet4: netip.MustParsePrefix("9.77.0.0/16")}
			n.masters.say(discovery.KindNetwork, fresh.Name, fresh.Normal())
			time.Sleep(time.Second)
			n.masters.say(discovery.KindGroup, "fresh/new", overlay.Group{Network: "fresh", Name: "new"})
		}()
		bare := n.attach(t, task("bare", "fresh"))
		grouped := n.attach(t, task("grouped", "fresh", "new"))
		if bare.VNI != 77 || grouped.Identity == bare.Identity {
			t.Errorf("got %+v and %+v", bare, grouped)
		}
		began := time.Now()
		if _, err := n.Attach(t.Context(), task("late", "never")); !errors.Is(err, overlay.ErrNotFound) || time.Since(began) > 2*time.Second {
			t.Errorf("got %v after %s, want ErrNotFound within two seconds", err, time.Since(began))
		}
	})
}

func TestAttachWithoutMastersTellsSo(t *testing.T) {
	for name, row := range map[string]struct {
		groups []string
		want   string
	}{
		"identity": {[]string{"web"}, "no master answered what the identity of groups web is"},
		"block":    {nil, "no free address in 9.0.0.0/16, and no master answered"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := start(t, options{silent: true})
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				_, err := n.Attach(ctx, task("a", "prod", row.groups...))
				if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), row.want) {
					t.Errorf("got %v, want %q", err, row.want)
				}
				synctest.Wait()
				n.check(t)
				if wants := n.store.Own(discovery.KindWant); len(wants) != 0 {
					t.Errorf("got wants %v, want none: nobody waits any more", wants)
				}
			})
		})
	}
}

func TestARefusalEndsTheWaiting(t *testing.T) {
	for kind, groups := range map[string][]string{"groups/prod/web": {"web"}, "blocks/prod": nil} {
		synctest.Test(t, func(t *testing.T) {
			n := start(t, options{silent: true})
			done := make(chan error, 1)
			go func() {
				_, err := n.Attach(t.Context(), task("a", "prod", groups...))
				done <- err
			}()
			synctest.Wait()
			refusal := discovery.Refusal{Node: "other", Kind: discovery.KindWant, Key: kind, Reason: "none is left"}
			n.masters.say(discovery.KindRefusal, "other/want/"+kind, refusal)
			synctest.Wait()
			select {
			case err := <-done:
				t.Fatalf("%s: another node's refusal ended the waiting: %v", kind, err)
			default:
			}
			refusal.Node = n.o.Node
			n.masters.say(discovery.KindRefusal, string(n.o.Node)+"/want/"+kind, refusal)
			if err := <-done; !errors.Is(err, overlay.ErrExhausted) || !strings.Contains(err.Error(), "none is left") {
				t.Errorf("%s: got %v, want the masters' reason", kind, err)
			}
			synctest.Wait()
			n.check(t)
		})
	}
}

func TestAttachWaitsForMasters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, options{silent: true})
		done := make(chan error, 1)
		go func() {
			_, err := n.Attach(t.Context(), task("a", "prod", "web"))
			done <- err
		}()
		synctest.Wait()
		select {
		case err := <-done:
			t.Fatalf("Attach came back before a master answered: %v", err)
		default:
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { n.masters.run(ctx); close(ended) }()
		if err := <-done; err != nil {
			t.Error(err)
		}
		synctest.Wait()
		n.check(t, "a")
		cancel()
		<-ended
	})
}

func TestTheNextBlockIsWantedBeforeTheLastAddressIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, options{})
		n.attach(t, task("a", "tiny"))
		synctest.Wait()
		list, err := n.Networks(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		tiny := list[3]
		if len(tiny.Blocks) != 1 || tiny.Free != 1 {
			t.Errorf("got %d blocks, %d free, want 1, 1", len(tiny.Blocks), tiny.Free)
		}
		n.attach(t, task("b", "tiny"))
		synctest.Wait()
		if list, err = n.Networks(t.Context()); err != nil {
			t.Fatal(err)
		}
		if tiny = list[3]; len(tiny.Blocks) != 2 || tiny.Free != 2 {
			t.Errorf("got %d blocks, %d free, want 2, 2", len(tiny.Blocks), tiny.Free)
		}
	})
}

func TestTaskThatEndsIsDetached(t *testing.T) {
	for name, end := range map[string]func(n *node, e overlay.Endpoint){
		"link":  func(n *node, e overlay.Endpoint) { n.kernel.vanish(e.HostInterface) },
		"owner": func(n *node, _ overlay.Endpoint) { close(n.owners.of(4711)) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := start(t, options{})
				n.attach(t, task("stays", "prod"))
				a := task("goes", "prod")
				a.OwnerPID = 4711
				e := n.attach(t, a)
				ctx, cancel := context.WithCancel(t.Context())
				snapshots := n.Watch(ctx)
				if got := <-snapshots; len(got) != 2 {
					t.Errorf("got %v, want both", got)
				}
				synctest.Wait()
				before := time.Now()
				end(n, e)
				if got := <-snapshots; len(got) != 1 || got[0].ID != "stays" {
					t.Errorf("got %v, want the one that stays", got)
				}
				synctest.Wait()
				n.check(t, "stays")
				if took := time.Since(before); took > 0 {
					t.Errorf("took %v of waiting", took)
				}
				if s := n.Stats(); s.Ended != 1 || s.Endpoints != 1 {
					t.Errorf("got %+v", s)
				}
				cancel()
				for range snapshots {
				}
			})
		})
	}
}

func TestAnIDIsFreeOnceItsTaskHasEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, options{})
		e := n.attach(t, task("a", "prod", "web"))
		synctest.Wait()
		// Nobody has noticed yet that the first one ended.
		n.kernel.mu.Lock()
		n.kernel.drop(e.HostInterface)
		n.kernel.mu.Unlock()
		next := task("a", "prod", "db")
		next.NetNS = "/run/netns/other"
		n.attach(t, next)
		synctest.Wait()
		n.check(t, "a")
	})
}

// TestDetachDoesNotDependOnOtherRows fills a table: what goes still goes.
func TestDetachDoesNotDependOnOtherRows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, options{})
		n.attach(t, task("keep", "prod"))
		n.attach(t, task("x", "prod", "web"))
		synctest.Wait()
		n.kernel.refuse(func(name string, _ bool) error {
			if name == "verdicts" {
				return errRefused
			}
			return nil
		})
		n.masters.say(discovery.KindRule, "prod/9", overlay.Rule{
			ID: 9, Network: "prod", From: "world", To: "web", Protocol: "tcp", Action: overlay.Allow,
		})
		synctest.Wait()
		if err := n.Detach(t.Context(), "x"); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		n.check(t, "keep")
	})
}

func TestNetworkRemovedAtRunTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, options{})
		n.attach(t, task("prod-1", "prod", "web"))
		n.attach(t, task("dev-1", "dev", "web"))
		n.masters.withdraw(func(r discovery.Row) bool {
			return strings.HasPrefix(r.Key, "dev") || strings.HasPrefix(r.Key, "9.1.")
		})
		synctest.Wait()
		n.check(t, "prod-1")
		for _, a := range n.kernel.subnets {
			if a.Overlaps(netip.MustParsePrefix("9.1.0.0/16")) {
				t.Errorf("%s is still masqueraded", a)
			}
		}
		prefixes, _ := n.kernel.tables.prefixes.All()
		blocks, _ := n.kernel.tables.blocks.All()
		verdicts, _ := n.kernel.tables.verdicts.All()
		for key := range verdicts {
			if key.VNI == 1 {
				t.Errorf("verdict %+v is left", key)
			}
		}
		for key := range blocks {
			if key.VNI == 1 {
				t.Errorf("block %+v is left", key)
			}
		}
		for _, p := range prefixes {
			if p.VNI == 1 {
				t.Errorf("prefix %+v is left", p)
			}
		}
	})
}

func TestAllMastersWordLostTouchesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, options{})
		n.attach(t, task("a", "prod", "web"))
		synctest.Wait()
		before, _ := n.kernel.tables.verdicts.All()
		n.masters.withdraw(func(discovery.Row) bool { return true })
		synctest.Wait()
		n.check(t, "a")
		after, _ := n.kernel.tables.verdicts.All()
		if diff := cmp.Diff(before, after, cmp.Comparer(func(a, b row.Verdict) bool { return a == b })); diff != "" || len(after) == 0 {
			t.Errorf("-before +after\n%s", diff)
		}
		if err := n.Detach(t.Context(), "a"); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		n.check(t)
	})
}

func TestRestartKeepsWhatIsAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, options{})
		alive := n.attach(t, task("alive", "prod", "web"))
		dead := n.attach(t, task("dead", "prod"))
		synctest.Wait()
		n.stop()
		link := *n.kernel.links[alive.HostInterface]
		n.kernel.vanish(dead.HostInterface)
		n.kernel.links["weft00000000"] = &apply.Link{Name: "weft00000000", Ifindex: 9} // of nobody
		// Nobody may take away what is alive, not for a moment.
		n.kernel.tables.workloads.Fail = func(ifindex uint32) error {
			if ifindex == link.Ifindex {
				t.Errorf("the workload of a living task was written")
			}
			return nil
		}
		n.boot(t, options{silent: true})
		synctest.Wait()
		got := n.check(t, "alive")
		if diff := cmp.Diff([]overlay.Endpoint{alive}, got, servicetest.Compare()); diff != "" {
			t.Errorf("-before +after\n%s", diff)
		}
		if *n.kernel.links[alive.HostInterface] != link {
			t.Errorf("the link was made anew")
		}
		// The address of the dead one is free again, and no master is needed for what is known.
		again := n.attach(t, task("next", "prod", "web"))
		if again.Addr4 != dead.Addr4 || again.Identity != alive.Identity {
			t.Errorf("got %s, identity %d, want %s, %d", again.Addr4, again.Identity, dead.Addr4, alive.Identity)
		}
		synctest.Wait()
	})
}

func TestNewNamesWhatIsMissing(t *testing.T) {
	t.Parallel()
	_, err := New(Options{})
	if err == nil || !strings.Contains(err.Error(), "no Node") || !strings.Contains(err.Error(), "no table verdicts") {
		t.Errorf("got %v, want every missing option", err)
	}
}

// effects counts effects, and from one on refuses all: what a crash there looks like from outside.
type effects struct {
	count, from int
	after       bool // the effect at from is done, but its answer is lost
	names       []string
}

func (e *effects) next(name string, after bool) error {
	if !after {
		e.count++
		e.names = append(e.names, name)
	}
	if e.count > e.from || e.count == e.from && (after || !e.after) {
		return errRefused
	}
	return nil
}

// TestCrashAtEveryStepLeaksNothing ends the daemon before and after each effect of an operation, starts
// it again, and compares all there is.
func TestCrashAtEveryStepLeaksNothing(t *testing.T) {
	attach := func(ctx context.Context, n *node) error {
		_, err := n.Attach(ctx, task("x", "prod", "web", "db"))
		return err
	}
	for name, op := range map[string]struct {
		prepare, do func(ctx context.Context, n *node) error
	}{
		"attach": {
			func(context.Context, *node) error { return nil },
			attach,
		},
		"detach": {
			attach,
			func(ctx context.Context, n *node) error { return n.Detach(ctx, "x") },
		},
	} {
		for _, after := range []bool{false, true} {
			steps := 0
			for from := 1; from == steps+1; from++ {
				t.Run(fmt.Sprint(name, "/", from, "/after=", after), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						n := start(t, options{})
						keep := n.attach(t, task("keep", "prod", "web"))
						if err := op.prepare(t.Context(), n); err != nil {
							t.Fatal(err)
						}
						synctest.Wait()
						link := n.kernel.links[keep.HostInterface]
						e := &effects{from: from, after: after}
						n.kernel.refuse(e.next)
						err := op.do(t.Context(), n)
						n.stop()
						if err != nil || e.count >= from {
							steps = from // there was such an effect
						}
						n.kernel.refuse(nil)
						n.boot(t, options{})
						if _, err := n.Endpoints(t.Context()); err != nil {
							t.Fatal(err)
						}
						synctest.Wait()
						list, err := n.Endpoints(t.Context())
						if err != nil {
							t.Fatal(err)
						}
						ids := []string{"keep"}
						if len(list) == 2 {
							ids = append(ids, "x") // whole, or not at all
						}
						n.check(t, ids...)
						if n.kernel.links[keep.HostInterface] != link {
							t.Errorf("the link of another task was made anew")
						}
						// The caller, who had no answer, tries again.
						if err := op.do(t.Context(), n); err != nil {
							t.Fatal(err)
						}
						synctest.Wait()
						if name == "attach" {
							got := n.check(t, "keep", "x")
							if got[1].Addr4.String() != "9.0.0.2" {
								t.Errorf("got %s: an address has leaked", got[1].Addr4)
							}
						} else {
							n.check(t, "keep")
						}
						if wants := n.store.Own(discovery.KindWant); len(wants) != 1 || wants[0].Key != "blocks/prod" {
							t.Errorf("got wants %v", wants)
						}
					})
				})
			}
			if steps < 6 {
				t.Errorf("%s: only %d effects were met", name, steps)
			}
		}
	}
}

// TestRefusedEffectIsUndone refuses one effect once: the daemon lives on, the attachment is not there.
func TestRefusedEffectIsUndone(t *testing.T) {
	for _, bad := range []string{"put endpoint", "ensure", "attach", "workloads", "endpoints", "verdicts", "up"} {
		t.Run(bad, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := start(t, options{})
				n.attach(t, task("keep", "prod", "web"))
				synctest.Wait()
				once := true
				n.kernel.refuse(func(name string, after bool) error {
					if name == bad && once && !after {
						once = false
						return errRefused
					}
					return nil
				})
				if _, err := n.Attach(t.Context(), task("x", "prod", "db")); !errors.Is(err, errRefused) {
					t.Fatalf("got %v, want the refusal", err)
				}
				synctest.Wait()
				n.check(t, "keep")
				if e := n.attach(t, task("x", "prod", "db")); e.Addr4.String() != "9.0.0.2" {
					t.Errorf("got %s: an address has leaked", e.Addr4)
				}
				synctest.Wait()
				n.check(t, "keep", "x")
			})
		})
	}
}

// TestWhatFailsIsTriedAgain refuses effects of taking down for a while.
func TestWhatFailsIsTriedAgain(t *testing.T) {
	for _, bad := range []string{"delete endpoint", "remove", "detach", "workloads", "endpoints"} {
		t.Run(bad, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := start(t, options{})
				n.attach(t, task("keep", "prod"))
				n.attach(t, task("x", "prod"))
				synctest.Wait()
				broken := time.Now().Add(3 * time.Second)
				n.kernel.refuse(func(name string, _ bool) error {
					if name == bad && time.Now().Before(broken) {
						return errRefused
					}
					return nil
				})
				if err := n.Detach(t.Context(), "x"); !errors.Is(err, errRefused) {
					t.Fatalf("got %v, want the refusal", err)
				}
				// What is half there is not handed out.
				if list, err := n.Endpoints(t.Context()); err != nil || len(list) != 1 {
					t.Errorf("got %v %v, want keep only", list, err)
				}
				time.Sleep(2 * lastRetry)
				synctest.Wait()
				n.check(t, "keep")
				if s := n.Stats(); slices.Contains([]string{"workloads", "endpoints"}, bad) && s.SyncErrors == 0 {
					t.Errorf("got %+v, want errors counted", s)
				}
			})
		})
	}
}
