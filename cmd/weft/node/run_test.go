// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"weft/agent/sandbox"
	"weft/cmd/weft/show"
	"weft/discovery"
	"weft/discovery/discoverypb"
	discoveryfake "weft/discovery/fake"
	lbfake "weft/lb/fake"
	"weft/lb/lbpb"
	"weft/overlay"
	overlayfake "weft/overlay/fake"
	"weft/overlay/overlaypb"
)

// mortal is a node daemon's socket whose server is killed when told, and started anew.
type mortal struct {
	t      *testing.T
	socket string
	server *grpc.Server

	overlay   overlay.Service
	discovery discovery.Service
	balancer  *lbfake.Service
}

func (m *mortal) start() {
	m.t.Helper()
	l, err := new(net.ListenConfig).Listen(m.t.Context(), "unix", m.socket)
	if err != nil {
		m.t.Fatal(err)
	}
	m.server = grpc.NewServer()
	overlaypb.Register(m.server, m.overlay)
	lbpb.Register(m.server, m.balancer)
	discoverypb.Register(m.server, m.discovery)
	go m.server.Serve(l) //nolint:errcheck // ends when it is killed
}

// dying has its daemon killed before the first Attach is answered.
type dying struct {
	overlay.Service
	kill chan struct{} // closed by the first Attach, which never answers
	once sync.Once
}

func (d *dying) Attach(ctx context.Context, a overlay.Attachment) (overlay.Endpoint, error) {
	e, err := d.Service.Attach(ctx, a)
	d.once.Do(func() {
		close(d.kill)
		<-ctx.Done()
	})
	return e, err
}

func TestATaskInTheNodesNetworkHasNothingOfANetwork(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		give func(w *wish) error
		says string
	}{
		{func(w *wish) error { return w.join("prod") }, "--network prod: a task in network host is in no other one"},
		{func(w *wish) error { return w.group("web") }, "--group web: a task in network host is in no group"},
		{func(w *wish) error { return w.publish("80:80") }, "--publish 80:80/tcp: a task in network host has its node's ports"},
		{func(w *wish) error { return w.ip("9.0.0.7") }, "--ip 9.0.0.7: a task in network host has its node's addresses"},
		{func(w *wish) error { return w.vip("/web:80=8080") }, ""},
	} {
		for _, order := range []string{"before", "after"} {
			w := wish{name: "web"}
			host := func(w *wish) error { return w.join("host") }
			steps := []func(*wish) error{host, c.give}
			if order == "before" {
				slices.Reverse(steps)
			}
			for _, step := range steps {
				if err := step(&w); err != nil {
					t.Fatal(err)
				}
			}
			err := w.validate()
			if c.says == "" && (err != nil || !w.inHost) {
				t.Errorf("got %v, want a task in the node's network", err)
			}
			if c.says != "" && (!errors.Is(err, show.ErrUsage) || !strings.Contains(err.Error(), c.says)) {
				t.Errorf("%s: got %v, want %q", order, err, c.says)
			}
		}
	}
}

// A task in the node's own network is told of at the node's addresses, in the same way as any other.
func TestJoinTheNodesNetwork(t *testing.T) {
	t.Parallel()
	overlays, names := overlayfake.New(overlayfake.Options{}), discoveryfake.New("fake")
	m := &mortal{t: t, socket: filepath.Join(t.TempDir(), "netd.sock"), overlay: overlays, discovery: names, balancer: lbfake.New()}
	m.start()
	t.Cleanup(func() { m.server.Stop() })
	daemon, err := DialPatient(m.socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { daemon.Close() }) //nolint:errcheck // nothing is sent any more
	w := wish{name: "web", id: "web-1", joins: []membership{{network: discovery.HostNetwork, vips: []string{"/web:80=31000/tcp"}}}}
	if err := w.validate(); err != nil {
		t.Fatal(err)
	}
	endpoints, behind, err := join(t.Context(), daemon, &sandbox.Task{NetNS: "/proc/self/ns/net", PID: 4711, StartTime: 7}, w)
	if err != nil || len(endpoints) != 1 || len(behind) != 1 || !slices.Equal(behind[0].ports, []uint16{31000}) {
		t.Fatalf("got %+v behind %+v, %v", endpoints, behind, err)
	}
	vips, err := daemon.LB.VIPs(t.Context(), discovery.HostNetwork)
	if err != nil || len(vips) != 1 || len(vips[0].Backends) != 1 || !slices.Equal(vips[0].Backends[0].Addrs, []netip.Addr{overlayfake.Addr}) {
		t.Errorf("got %+v, %v, want one backend at the node's address", vips, err)
	}
	found, err := daemon.Discovery.Lookup(t.Context(), "", "web.weft.mesos.")
	if err != nil || len(found) != 1 || found[0].Data != overlayfake.Addr.String() {
		t.Errorf("got %v, %v, want the node's address", found, err)
	}
	if err := leave(t.Context(), daemon, w, callTimeout); err != nil {
		t.Error(err)
	}
	if left, err := daemon.Overlay.Endpoints(t.Context()); err != nil || len(left) > 0 {
		t.Errorf("got %v, %v, want none", left, err)
	}
}

// A task joins although its daemon is killed while it attaches and comes back later.
func TestJoinOutlivesTheDaemon(t *testing.T) {
	t.Parallel()
	overlays := overlayfake.New(overlayfake.Options{
		Networks: []overlay.Network{{Name: "prod", Subnet4: netip.MustParsePrefix("9.1.0.0/16")}},
	})
	d := &dying{Service: overlays, kill: make(chan struct{})}
	names := discoveryfake.New("fake")
	m := &mortal{
		t: t, socket: filepath.Join(t.TempDir(), "netd.sock"),
		overlay: d, discovery: names, balancer: lbfake.New("prod"),
	}
	m.start()
	t.Cleanup(func() { m.server.Stop() })
	daemon, err := DialPatient(m.socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { daemon.Close() }) //nolint:errcheck // nothing is sent any more
	joined := make(chan error, 1)
	go func() {
		_, _, err := join(t.Context(), daemon, &sandbox.Task{NetNS: "/proc/self/ns/net"}, wish{
			joins: []membership{{network: "prod", vips: []string{"/web:80=8080"}}}, name: "web", id: "web-1",
		})
		joined <- err
	}()
	<-d.kill
	m.server.Stop()
	select {
	case err := <-joined:
		t.Fatalf("join ended while the daemon was away: %v", err)
	default:
	}
	m.start()
	if err := <-joined; err != nil {
		t.Fatalf("join: %v", err)
	}
	endpoints, err := overlays.Endpoints(t.Context())
	if err != nil || len(endpoints) != 1 {
		t.Errorf("%d endpoints (%v), want 1", len(endpoints), err)
	}
	found, err := daemon.Discovery.Lookup(t.Context(), "", "web.weft.mesos.")
	if err != nil || len(found) == 0 {
		t.Errorf("the name is not there: %v %v", found, err)
	}
}

// A task whose daemon does not answer tells so, and ends at the first signal.
func TestATaskThatWaitsCanBeEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out, err := os.Create(filepath.Join(t.TempDir(), "out"))
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close() //nolint:errcheck // what was written is read below
		c := &client{env: Env{Stderr: out}, socket: "/run/none"}
		signals := make(chan os.Signal, 1)
		time.AfterFunc(tellAfter+time.Second, func() { signals <- unix.SIGINT })
		err = c.await(t.Context(), "web-1", signals, func(ctx context.Context) error {
			<-ctx.Done()
			return ctx.Err()
		})
		if !errors.Is(err, errInterrupted) {
			t.Errorf("got %v, want that a signal ended it", err)
		}
		said, err := os.ReadFile(out.Name())
		if err != nil || !strings.Contains(string(said), "task web-1 waits: the node daemon at /run/none") {
			t.Errorf("it said %q, %v", said, err)
		}
	})
}

func TestANameIsALabel(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"web": "", "Web_1": `such as "web-1"`, strings.Repeat("a", 64): "1 to 63", "-": `such as "web"`, "a b": `such as "ab"`,
	} {
		w := wish{name: name, joins: []membership{{network: "prod"}}}
		if err := w.validate(); (err == nil) != (want == "") || err != nil && (!errors.Is(err, show.ErrUsage) || !strings.Contains(err.Error(), want)) {
			t.Errorf("name %q: %v, want %q", name, err, want)
		}
	}
}

func TestFlowsOfNothingSaySo(t *testing.T) {
	t.Parallel()
	m := &mortal{t: t, socket: filepath.Join(t.TempDir(), "netd.sock"), overlay: overlayfake.New(overlayfake.Options{}), discovery: discoveryfake.New("fake"), balancer: lbfake.New()}
	m.start()
	t.Cleanup(func() { m.server.Stop() })
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close() //nolint:errcheck // what was written is read below
	cmd := (&client{env: Env{Stderr: out, Getenv: func(string) string { return m.socket }}}).flows()
	cmd.SetArgs([]string{"--task", "nothere"})
	if err := cmd.ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	if said, err := os.ReadFile(out.Name()); err != nil || !strings.Contains(string(said), "no packet that matches") {
		t.Errorf("it said %q, %v", said, err)
	}
}
