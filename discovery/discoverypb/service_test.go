// SPDX-License-Identifier: Apache-2.0

package discoverypb_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"weft/discovery"
	"weft/discovery/discoverypb"
)

// connect serves s and returns a client of it.
func connect(t *testing.T, s discovery.Service) discovery.Service {
	t.Helper()
	listener := bufconn.Listen(1 << 16)
	server := grpc.NewServer()
	discoverypb.Register(server, s)
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
	return discoverypb.NewClient(conn)
}

// canned answers what it holds and remembers what it was asked.
type canned struct {
	err     error
	name    discovery.Name
	asked   []string
	records []discovery.Record
	nodes   []discovery.NodeStatus
	rows    []discovery.Row
}

func (c *canned) Announce(_ context.Context, name discovery.Name) error {
	c.name = name
	return c.err
}

func (c *canned) Retract(_ context.Context, task string) error {
	c.asked = append(c.asked, task)
	return c.err
}

func (c *canned) Lookup(_ context.Context, network, name string) ([]discovery.Record, error) {
	c.asked = append(c.asked, network, name)
	return c.records, c.err
}

func (c *canned) Nodes(context.Context) ([]discovery.NodeStatus, error) { return c.nodes, c.err }

func (c *canned) Rows(_ context.Context, kind discovery.Kind) ([]discovery.Row, error) {
	c.asked = append(c.asked, string(kind))
	return c.rows, c.err
}

func TestEverythingArrivesAsItWasSaid(t *testing.T) {
	name := discovery.Name{
		Task: "web.1", Label: "web", Framework: "weft", Network: "prod", Node: "n1",
		Addrs:  []netip.Addr{netip.MustParseAddr("9.0.0.1"), netip.MustParseAddr("fd01::1")},
		Unwell: true, Mapped: true, Ports: []discovery.NamedPort{{Name: "http", Protocol: "tcp", Port: 65535}, {Protocol: "udp", Port: 1}},
	}
	c := &canned{
		records: []discovery.Record{{Name: "web.weft.mesos.", Type: "A", TTL: 5 * time.Second, Data: "9.0.0.1", From: "name/web.1", Writer: "n1"}},
		nodes: []discovery.NodeStatus{
			{
				Node: discovery.Node{
					ID: "n1", Hostname: "host", Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, Peer: "10.0.0.1:7000",
					MTU: 1500, Zone: "z", Version: "v", Warnings: []string{"the path to node n2 carries 1400 bytes, the link 1500", "and 3 more"},
				},
				Alive: true, Admitted: true, Since: time.Unix(1, 2),
			},
			{Node: discovery.Node{ID: "n2"}},
		},
	}
	for i := range 50_000 { // more than a message takes
		c.records = append(c.records, discovery.Record{
			Name: "many.weft.mesos.", Type: "SRV", TTL: 5 * time.Second, Data: fmt.Sprintf("0 1 %d many-%d.weft.mesos.", i, i), From: fmt.Sprintf("name/many/many.%d", i), Writer: "n1",
		})
		c.nodes = append(c.nodes, discovery.NodeStatus{Node: discovery.Node{
			ID: discovery.NodeID(fmt.Sprint("n3-", i)), Hostname: fmt.Sprintf("host-%d.rack.example.com", i), Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, Peer: "10.0.0.1:7000", Version: "v",
		}})
	}
	for i := range 2500 {
		c.rows = append(c.rows, discovery.Row{
			Writer: "n1", Kind: "name", Key: fmt.Sprint(i), Incarnation: 7, Seq: uint64(i), Deleted: i == 3, Value: make([]byte, 2000),
		})
	}
	s := connect(t, c)
	ctx := t.Context()
	same := func(what string, got, want any) {
		t.Helper()
		if reflect.DeepEqual(got, want) { // a tenth of the time, and most are
			return
		}
		if diff := cmp.Diff(got, want, cmp.Comparer(bytes.Equal), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Errorf("%s (-got +want):\n%s", what, diff)
		}
	}
	if err := s.Announce(ctx, name); err != nil {
		t.Error(err)
	}
	same("announced", c.name, name)
	if err := s.Retract(ctx, "web.1"); err != nil {
		t.Error(err)
	}
	records, err := s.Lookup(ctx, "prod", "web.weft.mesos.")
	same("lookup error", err, nil)
	same("records", records, c.records)
	nodes, err := s.Nodes(ctx)
	same("nodes error", err, nil)
	same("nodes", nodes, c.nodes)
	rows, err := s.Rows(ctx, "name")
	same("rows error", err, nil)
	same("rows", rows, c.rows)
	same("asked", c.asked, []string{"web.1", "prod", "web.weft.mesos.", "name"})
}

func TestErrorsKeepTheirTextAndKind(t *testing.T) {
	for _, sentinel := range []error{
		discovery.ErrInvalid, discovery.ErrNotFound, discovery.ErrConflict, context.DeadlineExceeded, context.Canceled, nil,
	} {
		want := errors.New("name web: broken")
		if sentinel != nil {
			want = fmt.Errorf("name web: %w", sentinel)
		}
		s := connect(t, &canned{err: want})
		_, lookup := s.Lookup(t.Context(), "", "x")
		_, nodes := s.Nodes(t.Context())
		_, rows := s.Rows(t.Context(), "")
		all := []error{s.Announce(t.Context(), discovery.Name{}), s.Retract(t.Context(), "x"), lookup, nodes, rows}
		for _, got := range all {
			if got == nil || got.Error() != want.Error() || sentinel != nil && !errors.Is(got, sentinel) {
				t.Errorf("%v, want %v", got, want)
			}
		}
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
	err = discoverypb.NewClient(conn).Retract(t.Context(), "web.1")
	if err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("%v, want that the daemon does not answer", err)
	}
}

func TestBadNumbersAndAddressesAreRefused(t *testing.T) {
	listener := bufconn.Listen(1 << 16)
	server := grpc.NewServer()
	discoverypb.Register(server, &canned{})
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	conn, err := grpc.NewClient("passthrough:///weft",
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return listener.Dial() }),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = conn.Close()
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	_, err = discoverypb.NewDiscoveryClient(conn).Announce(t.Context(), &discoverypb.AnnounceRequest{Name: &discoverypb.Name{
		Addrs: []string{"1.2.3"}, Ports: []*discoverypb.NamedPort{{Port: 65536}},
	}})
	for _, word := range []string{"InvalidArgument", `"1.2.3"`, "65536", "65535"} {
		if err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%v does not tell %s", err, word)
		}
	}
}
