// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"net"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"

	"google.golang.org/grpc"

	"weft/agent/sandbox"
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
