// SPDX-License-Identifier: Apache-2.0

package node

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	grpchealth "google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"weft/lb"
	lbfake "weft/lb/fake"
)

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestGRPCHealthIsAsked(t *testing.T) {
	t.Parallel()
	l, server, answers := listen(t), grpc.NewServer(), grpchealth.NewServer()
	grpc_health_v1.RegisterHealthServer(server, answers)
	go server.Serve(l) //nolint:errcheck // ends with Stop
	t.Cleanup(server.Stop)
	answers.SetServingStatus("sick", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	for service, want := range map[string]string{"": "", "sick": "status NOT_SERVING", "nosuch": "NotFound"} {
		err := Serving(t.Context(), new(net.Dialer).DialContext, l.Addr().String(), service)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("service %q: %v, want %q", service, err, want)
		}
	}
}

// A task drains when its connections end, or at the deadline.
func TestDrainWaitsForConnections(t *testing.T) {
	t.Parallel()
	l := listen(t)
	t.Cleanup(func() { l.Close() }) //nolint:errcheck // the test is over
	port := netip.MustParseAddrPort(l.Addr().String()).Port()
	balancer := lbfake.New("prod")
	vips, err := balancer.Publish(t.Context(), lb.Registration{
		Task: "web-1", Network: "prod", Addrs: []netip.Addr{netip.MustParseAddr("9.0.0.5")},
		Labels: []string{"/web:80=" + netip.AddrPortFrom(netip.IPv4Unspecified(), port).String()[len("0.0.0.0:"):] + "/tcp,wait=30s"},
	})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	task := behindOf("web-1", vips)
	start := func(b behind) (out *bytes.Buffer, done chan struct{}) {
		out, done = new(bytes.Buffer), make(chan struct{})
		go func() {
			defer close(done)
			drain(context.WithoutCancel(t.Context()), &Daemon{LB: balancer}, out, os.Getpid(), []behind{b})
		}()
		return out, done
	}
	out, done := start(task)
	for deadline := time.Now().Add(20 * time.Second); ; {
		vips, err := balancer.VIPs(t.Context(), "prod")
		if err != nil {
			t.Fatal(err)
		}
		if vips[0].Backends[0].Draining {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the backend does not drain")
		}
	}
	select {
	case <-done:
		t.Error("drained with a connection open")
	default:
	}
	short := task
	short.wait = 50 * time.Millisecond
	_, shortDone := start(short)
	<-shortDone // the connection is still open
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	<-done
	if out.Len() > 0 {
		t.Errorf("said %q, want nothing", out)
	}
}
