// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"weft/discovery"
	"weft/overlay"
)

// others answer for n2, and for the masters unless those are dead.
type others struct {
	mu          sync.Mutex
	dead        bool
	endpoints   []overlay.Endpoint
	asked       int
	unreachable bool
}

func (o *others) Find(_ context.Context, node discovery.NodeID, kind discovery.Kind, text string) (rows []discovery.Row, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.asked++
	if o.unreachable || node == "" && o.dead {
		return nil, errors.New("no answer")
	}
	for _, e := range o.endpoints {
		value, err := json.Marshal(e)
		if err != nil {
			return nil, err
		}
		if kind == discovery.KindEndpoint && bytes.Contains(value, []byte(`"`+text+`"`)) {
			rows = append(rows, discovery.Row{Writer: string(e.Node), Kind: kind, Key: e.ID, Value: value})
		}
	}
	return rows, nil
}

// startBeside makes a node with a task "web", and a finder that knows a task "far" of node n2.
func startBeside(t *testing.T) (*node, *others, netip.Addr) {
	t.Helper()
	far := netip.MustParseAddr("9.0.7.1")
	o := &others{endpoints: []overlay.Endpoint{{
		Attachment: overlay.Attachment{ID: "far-1", Task: "far-1", Name: "far", Network: "prod"}, Node: "n2", Addr4: far,
	}}}
	n := start(t, o, map[string][]string{"web": nil})
	n.facts.Blocks = []overlay.Block{{Network: "prod", Node: "n2", Prefix: netip.MustParsePrefix("9.0.7.0/24")}}
	return n, o, far
}

func (n *node) ask(t *testing.T, dst string) (overlay.Verdict, error) {
	t.Helper()
	return n.Explain(t.Context(), overlay.Question{Source: "web", Destination: dst, Protocol: "tcp", Port: 80})
}

func TestTasksOfOtherNodesAreAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, o, far := startBeside(t)
		for _, dst := range []string{"far", "far-1", far.String()} {
			if v, err := n.ask(t, dst); err != nil || v.Destination.Name != "far" {
				t.Errorf("%s: got %+v, %v; want the task far", dst, v.Destination, err)
			}
		}
		o.dead = true // the node that has the address still answers
		if v, err := n.ask(t, far.String()); err != nil || v.Destination.Name != "far" {
			t.Errorf("without masters, by address: got %+v, %v", v.Destination, err)
		}
		if _, err := n.ask(t, "far"); err == nil || !strings.Contains(err.Error(), "named far") {
			t.Errorf("without masters, by name: got %v, want why it is not known", err)
		}
		if _, err := n.ask(t, "web"); err != nil {
			t.Errorf("without masters, a task of this node: %v", err)
		}
		value, err := json.Marshal(discovery.Name{Task: "far-1", Label: "far", Node: "n2"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := n.store.Apply([]discovery.Row{
			{Writer: "n2", Kind: discovery.KindName, Key: "far-1", Incarnation: 1, Seq: 1, Value: value},
		}); err != nil {
			t.Fatal(err)
		}
		if v, err := n.ask(t, "far"); err != nil || v.Destination.Name != "far" {
			t.Errorf("without masters, by an announced name: got %+v, %v", v.Destination, err)
		}
		o.unreachable = true
		if _, err := n.ask(t, far.String()); err == nil || !strings.Contains(err.Error(), "9.0.7.1 is an address of node n2") {
			t.Errorf("got %v, want whose address that is", err)
		}
	})
}

func TestNamesOfAddressesAreKeptForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, o, far := startBeside(t)
		for range 100 {
			if ep, ok := n.elsewhere.At(t.Context(), n.facts, far); !ok || ep.Name != "far" {
				t.Fatalf("got %+v, %v", ep, ok)
			}
		}
		if o.asked != 1 {
			t.Errorf("asked %d times for one address, want 1", o.asked)
		}
	})
}
