// SPDX-License-Identifier: Apache-2.0

package engine_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"weft/discovery"
	"weft/lb"
)

// peers answers for other nodes: each when it is told to.
type peers struct {
	mu     sync.Mutex
	asked  map[string]chan struct{} // by address; closed when the node was asked for the first time
	answer map[string]chan error
}

func newPeers(nodes ...string) *peers {
	p := &peers{asked: make(map[string]chan struct{}), answer: make(map[string]chan error)}
	for _, n := range nodes {
		p.asked[n], p.answer[n] = make(chan struct{}), make(chan error, 8)
	}
	return p
}

// Applied implements lb.Peers.
func (p *peers) Applied(ctx context.Context, addr string, _ map[discovery.Stream]discovery.Position) error {
	p.mu.Lock()
	select {
	case <-p.asked[addr]:
	default:
		close(p.asked[addr])
	}
	p.mu.Unlock()
	select {
	case err := <-p.answer[addr]:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// await waits until a node was asked.
func (p *peers) await(t *testing.T, node string) {
	t.Helper()
	select {
	case <-p.asked[node]:
	case <-time.After(patience):
		t.Fatalf("%s was not asked", node)
	}
}

// cluster is a node with living peers, which answer at their names.
func cluster(t *testing.T, nodes ...string) (*node, *peers) {
	t.Helper()
	n, p := open(t), newPeers(nodes...)
	n.peers = p
	n.Engine = n.engine()
	for _, id := range nodes {
		n.ledger(discovery.KindAdmission, id, discovery.Admission{Node: discovery.NodeID(id)})
		n.put(id, discovery.KindNode, id, discovery.Node{ID: discovery.NodeID(id), Peer: id})
	}
	n.run(n.lead)
	n.run(n.Run)
	return n, p
}

// call runs f beside the test; the channel has its result.
func call[T any](f func() T) <-chan T {
	done := make(chan T, 1)
	go func() { done <- f() }()
	return done
}

func pending[T any](t *testing.T, done <-chan T, what string) {
	t.Helper()
	select {
	case got := <-done:
		t.Fatalf("%s: it returned %v", what, got)
	default:
	}
}

func result[T any](t *testing.T, done <-chan T) T {
	t.Helper()
	select {
	case got := <-done:
		return got
	case <-time.After(patience):
		t.Fatal("it does not return")
		panic("unreachable")
	}
}

func patientWeb() lb.Registration {
	r := web("web.1", "9.0.0.5")
	r.Labels = []string{"/web:80=8080/tcp,wait=1m"}
	return r
}

func TestPublishedIsAcknowledgedByEveryNode(t *testing.T) {
	n, p := cluster(t, "n2", "n3")
	done := call(func() error { _, err := n.Publish(t.Context(), patientWeb()); return err })
	p.await(t, "n2")
	p.await(t, "n3")
	p.answer["n2"] <- nil
	p.answer["n3"] <- errors.New("not reached") // it is asked again
	pending(t, done, "n3 has not answered")
	p.answer["n3"] <- nil
	if err := result(t, done); err != nil {
		t.Error(err)
	}
}

func TestNodesThatAreLateAreNamed(t *testing.T) {
	n, p := cluster(t, "n2", "n3", "n4")
	p.answer["n2"] <- nil
	p.answer["n3"] <- nil
	p.answer["n4"] <- fmt.Errorf("old: %w", errors.ErrUnsupported)
	r := web("web.1", "9.0.0.5")
	r.Labels = []string{"/web:80=8080/tcp,wait=500ms"}
	n.publish(r)
	p.answer["n2"] <- nil
	p.answer["n4"] <- errors.ErrUnsupported
	late, err := n.SetState(t.Context(), "web.1", lb.State{Draining: true})
	if want := []discovery.NodeID{"n3", "n4"}; err != nil || !slices.Equal(late, want) {
		t.Errorf("late %v, %v; want %v", late, err, want)
	}
	n.wait("prod/web.weft:80/tcp web.1=draining: its task ends")
}

func TestADeadNodeDoesNotHoldUp(t *testing.T) {
	n, p := cluster(t, "n2", "n3")
	done := call(func() error { _, err := n.Publish(t.Context(), patientWeb()); return err })
	p.await(t, "n3")
	p.answer["n2"] <- nil
	pending(t, done, "n3 lives")
	n.members.kill("n3", true)
	if err := result(t, done); err != nil {
		t.Error(err)
	}
	p.answer["n2"] <- nil
	if late, err := n.SetState(t.Context(), "web.1", lb.State{Draining: true}); err != nil || len(late) > 0 {
		t.Errorf("late %v, %v; want nobody: who is dead is not asked", late, err)
	}
}

// Applied is what the other side answers by: the rows are in its tables, whatever kind the last of them is.
func TestAppliedWaitsForRowsAndTables(t *testing.T) {
	n := open(t)
	n.run(n.lead)
	n.run(n.Run)
	n.refuse.Store(true)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	known := map[discovery.Stream]discovery.Position{
		{Writer: "n2"}:             {Incarnation: 1, Seq: 103},
		{Writer: discovery.Ledger}: {Incarnation: 1, Seq: 101},
	}
	n.seq = 99
	done := call(func() error { return n.Applied(ctx, known) })
	n.remote("n2", "9.0.1.5") // admission and backend, to which the pin comes
	pending(t, done, "the name has not come")
	n.await(func() bool { return n.Snapshot() != nil && n.Snapshot().Err != nil })
	n.put("n2", discovery.KindName, "web", map[string]string{"task": "web"})
	pending(t, done, "the tables refuse")
	n.refuse.Store(false)
	if err := result(t, done); err != nil {
		t.Error(err)
	}
	if got := n.slots(); got != 1 {
		t.Errorf("%d backends in the table, want 1", got)
	}
}

// await waits until a snapshot comes of which ok is true.
func (n *node) await(ok func() bool) {
	n.t.Helper()
	for deadline := time.After(patience); ; {
		changed := n.Changed()
		if ok() {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			n.t.Fatal("it does not come about")
		}
	}
}
