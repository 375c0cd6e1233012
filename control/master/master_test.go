// SPDX-License-Identifier: Apache-2.0

package master_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"weft/control"
	"weft/control/controlpb"
	"weft/control/ledger"
	"weft/control/master"
	"weft/discovery"
	"weft/overlay"
)

// patience bounds every wait for a state.
const patience = 30 * time.Second

func options(id, dir string) master.Options {
	return master.Options{
		ID: id, Addr: netip.MustParseAddr("127.0.0.1"), Listen: "127.0.0.1:0",
		Ledger: ledger.Options{Dir: dir, Heartbeat: 50 * time.Millisecond, Election: 500 * time.Millisecond, Lease: time.Second},
		Facts:  &facts{}, Emit: func([]discovery.Row) error { return nil },
	}
}

// run runs a master until the test ends or stop is called.
func run(t *testing.T, o master.Options) (m *master.Master, stop func()) {
	t.Helper()
	m, err := master.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("run: %v", err)
			}
		case <-time.After(patience):
			t.Error("the master does not end")
		}
	}
	t.Cleanup(stop)
	return m, stop
}

// eventually waits until f is content.
func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		}
	}
}

func prod() overlay.Network {
	return overlay.Network{Name: "prod", Subnet4: netip.MustParsePrefix("9.0.0.0/16")}
}

func TestAMasterRestartsWithWhatItDecided(t *testing.T) {
	dir := t.TempDir()
	f := &facts{}
	f.node("n1", "10.0.0.1")
	f.want("n1", overlay.Want{Network: "prod", Blocks4: 2, Groups: []string{"public"}})
	rows := &sink{}
	o := options("m1", dir)
	o.Facts, o.Emit = f, rows.take
	m, stop := run(t, o)
	if _, err := m.Service().AddNetwork(t.Context(), prod()); err != nil {
		t.Fatal(err)
	}
	blocks := func(rows *sink) func() error {
		return func() error {
			got := rows.live(discovery.KindBlock)
			if strings.Join(got, " ") != "9.0.0.0/24 9.0.1.0/24" {
				return fmt.Errorf("blocks %q", got)
			}
			return nil
		}
	}
	eventually(t, "blocks are given", blocks(rows))
	eventually(t, "and an identity", func() error {
		if got := rows.live(discovery.KindIdentity); strings.Join(got, " ") != "prod/16" {
			return fmt.Errorf("identities %q", got)
		}
		return nil
	})
	stop()
	rows = &sink{}
	o.Facts, o.Emit = &facts{}, rows.take
	m, _ = run(t, o)
	eventually(t, "blocks are known again, though no node says anything", blocks(rows))
	st, err := m.Service().Status(t.Context())
	if err != nil || !st.Ledger.Healthy || st.Counts.Networks != 1 || st.Counts.Blocks != 2 {
		t.Errorf("status %+v, %v", st, err)
	}
}

func TestOperatorsAskByGRPCAndByHTTP(t *testing.T) {
	o := options("m1", t.TempDir())
	o.HTTP, o.Secret = "127.0.0.1:0", "s"
	m, _ := run(t, o)
	c, err := controlpb.Dial([]string{m.Addr().String()}, "s")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close() //nolint:errcheck // the test is over
	n, err := c.AddNetwork(t.Context(), prod())
	if err != nil || n.VNI != 1 {
		t.Fatalf("add network: %+v, %v", n, err)
	}
	_, err = c.AddNetwork(t.Context(), overlay.Network{Name: "bad", Subnet4: netip.MustParsePrefix("9.0.128.0/17")})
	if !errors.Is(err, control.ErrExists) || !strings.Contains(err.Error(), `overlaps 9.0.0.0/16 of network "prod"`) {
		t.Errorf("overlap: %v", err)
	}
	ask := func(method, path, body string) int {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, "http://"+m.HTTPAddr().String()+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer s")
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close() //nolint:errcheck // only the status counts
		return resp.StatusCode
	}
	for _, tt := range []struct {
		method, path, body string
		want               int
	}{
		{"POST", "/v1/networks/prod/groups", `{"name":"web"}`, 200},
		{"POST", "/v1/networks/prod/rules", `{"from":"world","to":"web"}`, 200},
		{"DELETE", "/v1/networks/prod/groups/web", "", 400},
		{"DELETE", "/v1/networks/prod/rules/1", "", 200},
		{"DELETE", "/v1/networks/prod/groups/web", "", 200},
		{"DELETE", "/v1/networks/prod", "", 200},
		{"DELETE", "/v1/networks/prod", "", 404},
	} {
		if got := ask(tt.method, tt.path, tt.body); got != tt.want {
			t.Errorf("%s %s: %d, want %d", tt.method, tt.path, got, tt.want)
		}
	}
	if list, err := c.Networks(t.Context(), ""); err != nil || len(list) != 0 {
		t.Errorf("networks at the end: %v, %v", list, err)
	}
}

func TestAPortInUseIsSaidBeforeAnythingRuns(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close() //nolint:errcheck // nothing was written
	for name, change := range map[string]func(*master.Options){
		"gRPC": func(o *master.Options) { o.Listen = listener.Addr().String() },
		"HTTP": func(o *master.Options) { o.HTTP = listener.Addr().String() },
	} {
		o := options("m1", t.TempDir())
		change(&o)
		_, err := master.Open(o)
		if err == nil || !strings.Contains(err.Error(), "master m1: open the port for "+name) || !strings.Contains(err.Error(), "address already in use") {
			t.Errorf("%s: %v", name, err)
		}
	}
	o := options("m1", t.TempDir())
	o.Ledger.Initial = map[string]string{"m1": listener.Addr().String()}
	m, err := master.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("peers: %v", err)
	}
}

func TestOnlyDeadNodesAreRemovedWithoutForce(t *testing.T) {
	f := &facts{alive: map[discovery.NodeID]bool{"n1": true}}
	f.node("n1", "10.0.0.1")
	f.node("n2", "10.0.0.2")
	o := options("m1", t.TempDir())
	o.Facts, o.Members = f, f
	m, _ := run(t, o)
	s := m.Service()
	admitted := func(want string) func() error {
		return func() error {
			nodes, err := s.Nodes(t.Context())
			var got []string
			for _, n := range nodes {
				if n.Admitted {
					got = append(got, fmt.Sprintf("%s %s %t", n.ID, n.VTEP, n.Alive))
				}
			}
			if strings.Join(got, ", ") != want {
				return fmt.Errorf("admitted are %q, %w", got, errors.Join(err, errors.New("want "+want)))
			}
			return nil
		}
	}
	eventually(t, "both nodes are admitted", admitted("n1 10.0.0.1 true, n2 10.0.0.2 false"))
	if err := s.RemoveNode(t.Context(), "n1", false); !errors.Is(err, control.ErrInUse) {
		t.Errorf("remove a node that is alive: %v, want %v", err, control.ErrInUse)
	}
	for id, force := range map[discovery.NodeID]bool{"n1": true, "n2": false} {
		if err := s.RemoveNode(t.Context(), id, force); err != nil {
			t.Error(err)
		}
	}
	eventually(t, "none is", admitted(""))
}
