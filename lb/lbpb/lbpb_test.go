// SPDX-License-Identifier: Apache-2.0

package lbpb_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"weft/discovery"
	"weft/lb"
	"weft/lb/fake"
	"weft/lb/lbpb"
	"weft/lb/servicetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// connect serves s and returns a client of it.
func connect(t *testing.T, s lb.Service) lb.Service {
	t.Helper()
	return lbpb.NewClient(dial(t, func(server *grpc.Server) { lbpb.Register(server, s) }))
}

// dial connects to a server of what is registered.
func dial(t *testing.T, register func(*grpc.Server)) *grpc.ClientConn {
	t.Helper()
	listener := bufconn.Listen(1 << 16)
	server := grpc.NewServer()
	register(server)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	conn, err := grpc.NewClient("passthrough:///weft",
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return listener.Dial() }),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return conn
}

func TestContract(t *testing.T) {
	servicetest.RunContract(t, func(t *testing.T) lb.Service {
		t.Helper()
		return connect(t, fake.New("prod", "dev"))
	})
}

// refusing answers everything with one error.
type refusing struct{ err error }

func (r refusing) Publish(context.Context, lb.Registration) ([]lb.VIPStatus, error) {
	return nil, r.err
}

func (r refusing) SetState(context.Context, string, lb.State) ([]discovery.NodeID, error) {
	return []discovery.NodeID{"n2"}, r.err
}

func (r refusing) Withdraw(context.Context, string) error { return r.err }

func (r refusing) VIPs(context.Context, string) ([]lb.VIPStatus, error) {
	return nil, r.err
}

func TestErrorsKeepTheirTextAndKind(t *testing.T) {
	for _, sentinel := range []error{lb.ErrInvalid, lb.ErrNotFound, lb.ErrConflict, context.DeadlineExceeded, context.Canceled, nil} {
		want := errors.New("vip web: broken")
		if sentinel != nil {
			want = errors.Join(errors.New("vip web"), sentinel)
		}
		s := connect(t, refusing{want})
		_, publish := s.Publish(t.Context(), lb.Registration{})
		_, state := s.SetState(t.Context(), "t", lb.State{})
		_, vips := s.VIPs(t.Context(), "")
		for _, got := range []error{publish, state, s.Withdraw(t.Context(), "t"), vips} {
			if got == nil || got.Error() != want.Error() || sentinel != nil && !errors.Is(got, sentinel) {
				t.Errorf("%v, want %v", got, want)
			}
		}
	}
}

// listing answers with the VIPs that it has.
type listing struct {
	refusing
	vips []lb.VIPStatus
}

func (l listing) VIPs(context.Context, string) ([]lb.VIPStatus, error) { return l.vips, nil }

// A cluster's VIPs come whole, however many there are: 65,535 backends are more than gRPC takes in one message, and so
// are 5,000 of which as much is told as can be.
func TestManyVIPsComeWhole(t *testing.T) {
	for name, counts := range map[string][]int{
		"none":                   {},
		"one":                    {1},
		"many small":             slices.Repeat([]int{1}, 3000),
		"one large":              {5_000},
		"at the end of messages": {998, 999, 1000, 1001, 0, 1998, 1, 1997},
		"one that is full":       {1, 65_535, 1, 24},
	} {
		var want []lb.VIPStatus
		long, buckets := "", []uint64(nil)
		if name == "one large" {
			long, buckets = strings.Repeat("x", lb.MaxDetail), slices.Repeat([]uint64{1 << 60}, 20)
		}
		for i, n := range counts {
			v := lb.VIPStatus{
				Key:   lb.Key{Network: "prod", Name: fmt.Sprintf("vip%d.weft", i), Port: 80, Protocol: lb.TCP},
				Addrs: []netip.Addr{netip.AddrFrom4([4]byte{11, 0, byte(i >> 8), byte(i)}), netip.MustParseAddr("fd01:c::1")}, DNS: "vip.weft.l4lb",
			}
			for j := range n {
				v.Backends = append(v.Backends, lb.BackendStatus{
					Backend: lb.Backend{
						VIP: v.Key, Task: fmt.Sprintf("web.%d.%d", i, j), Node: "n1", Port: 8080, Weight: 1, Health: lb.Unhealthy, Detail: long,
						Addrs: []netip.Addr{netip.AddrFrom4([4]byte{9, byte(j >> 16), byte(j >> 8), byte(j)}), netip.MustParseAddr("fd01:b::1")},
					},
					Reason: "unhealthy: " + long, Traffic: lb.Traffic{Chosen: uint64(j), Buckets: buckets},
				})
			}
			want = append(want, v)
		}
		got, err := connect(t, listing{vips: want}).VIPs(t.Context(), "")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if len(got) != len(want) {
			t.Errorf("%s: %d VIPs, want %d", name, len(got), len(want))
			continue
		}
		for i := range want {
			if !reflect.DeepEqual(got[i], want[i]) {
				t.Errorf("%s: VIP %d came with %d backends, and not as it was, with %d", name, i, len(got[i].Backends), len(want[i].Backends))
				break
			}
		}
	}
}

// told has publications.
type told []lb.PublicationStatus

func (p told) Published(_ context.Context, edges bool) ([]lb.PublicationStatus, error) {
	if !edges {
		p = slices.Clone(p)
		for i := range p {
			p[i].Edges = nil
		}
	}
	return p, nil
}

func TestPublicationsComeWhole(t *testing.T) {
	var want told
	edges := []lb.EdgeStatus{{Node: "n1", Applied: true}, {Node: "n2"}}
	for i := range 2500 { // more than a message takes
		want = append(want, lb.PublicationStatus{Edges: edges, Publication: lb.Publication{
			Addr: netip.AddrFrom4([4]byte{203, 0, byte(i >> 8), byte(i)}), Port: 443, Affinity: i%2 == 0, QUIC: i%3 == 0, Return: lb.ReturnEdge,
			VIP: lb.Key{Network: "prod", Name: fmt.Sprintf("vip%d.weft", i), Port: 80, Protocol: lb.UDP},
		}})
	}
	want[1].VIP.Name, want[1].VIP.Addr = "", netip.MustParseAddr("198.51.100.7")
	for name, list := range map[string]told{"many": want, "one": want[:1], "none": nil} {
		for _, asked := range []bool{true, false} {
			expected, _ := list.Published(t.Context(), asked)
			got, err := lbpb.NewPublished(dial(t, func(s *grpc.Server) { lbpb.RegisterPublications(s, list) })).Published(t.Context(), asked)
			if err != nil || !reflect.DeepEqual(got, expected) {
				t.Errorf("%s, edges %t: %d came, or not as they were, of %d: %v", name, asked, len(got), len(expected), err)
			}
		}
	}
	got, err := lbpb.NewPublished(dial(t, func(*grpc.Server) {})).Published(t.Context(), true)
	if err != nil || len(got) > 0 {
		t.Errorf("a daemon of an earlier version: %v, %v", got, err)
	}
}

func TestLateNodesAreTold(t *testing.T) {
	late, err := connect(t, refusing{}).SetState(t.Context(), "t", lb.State{Draining: true})
	if err != nil || !slices.Equal(late, []discovery.NodeID{"n2"}) {
		t.Errorf("late %v, %v; want n2", late, err)
	}
}

// waiting answers when its context ends, with what it waited for.
type waiting struct{ refusing }

func (waiting) Publish(ctx context.Context, _ lb.Registration) ([]lb.VIPStatus, error) {
	<-ctx.Done()
	return nil, errors.Join(errors.New("no master gave an address"), ctx.Err())
}

func TestADeadlineTellsWhatWasWaitedFor(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second) // a tenth of it is for the answer
	defer cancel()
	_, err := connect(t, waiting{}).Publish(ctx, lb.Registration{})
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "no master gave an address") {
		t.Errorf("%v, want DeadlineExceeded and what was waited for", err)
	}
}

func TestADaemonThatDoesNotAnswer(t *testing.T) {
	conn, err := grpc.NewClient("unix:"+t.TempDir()+"/none.sock", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}()
	if err := lbpb.NewClient(conn).Withdraw(t.Context(), "web.1"); err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("%v, want that the daemon does not answer", err)
	}
}
