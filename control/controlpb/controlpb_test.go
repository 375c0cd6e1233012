// SPDX-License-Identifier: Apache-2.0

package controlpb_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"weft/control"
	"weft/control/controlpb"
	"weft/discovery"
	"weft/discovery/wire"
	"weft/lb"
	"weft/overlay"
)

var update = flag.Bool("update", false, "rewrite golden files")

var equal = []cmp.Option{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
}

var (
	prod = overlay.Network{
		Name: "prod", VNI: 7, Subnet4: netip.MustParsePrefix("9.0.0.0/16"), Subnet6: netip.MustParsePrefix("fd01:b::/64"),
		Block4: 24, Block6: 112, Ungrouped: overlay.UngroupedOpen,
	}
	network = control.Network{
		Network: prod, Groups: []string{"db", "web"}, Free4: 255, Free6: 1<<31 - 1, GroupSets: 3,
		Blocks: []overlay.Block{{Network: "prod", Node: "n1", Prefix: netip.MustParsePrefix("9.0.0.0/24")}},
		Shares: []control.Share{share},
	}
	share = control.Share{Network: "prod", Node: "n1", Used4: 3, Free4: 251, Used6: 4, Free6: 65531}
	group = control.Group{Group: overlay.Group{Network: "prod", Name: "web"}, Rules: []overlay.RuleID{4}, Tasks: 2}
	rule  = overlay.Rule{
		ID: 4, Network: "prod", From: "web", To: "db", Protocol: "tcp", Action: overlay.Deny, Audit: true,
		Ports: []overlay.PortRange{{First: 1, Last: 65535}},
	}
	node = control.Node{
		Node: discovery.Node{
			ID: "n1", Hostname: "n1.example", Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")},
			Peer: "10.0.0.1:7701", MTU: 1500, Zone: "a", Version: "v1", Warnings: []string{"small path"},
		},
		Alive: true, Admitted: true, VTEP: netip.MustParseAddr("10.0.0.1"), Host4: netip.MustParsePrefix("44.128.0.1/20"),
		Host6: netip.MustParsePrefix("fd01:a::1/64"), Blocks: 1, Refusals: []string{"no block left"},
		Shares: []control.Share{share},
	}
	plain = overlay.PlainNode{
		Node: "old-1", VTEP: netip.MustParseAddr("10.0.0.7"), Network: "prod", Groups: []string{"db"}, MAC: "0a:58:0a:00:00:07", MTU: 1400,
		Blocks: []netip.Prefix{netip.MustParsePrefix("9.0.9.0/24")}, Identity: 17,
	}
	plainNode = control.Node{
		Node: discovery.Node{ID: "old-1", Addrs: []netip.Addr{}}, Admitted: true, VTEP: plain.VTEP, Plain: &plain, Refusals: []string{}, Shares: []control.Share{},
	}
	publication = lb.Publication{
		Addr: netip.MustParseAddr("203.0.113.10"), Port: 443, Affinity: true, QUIC: true, Return: lb.ReturnEdge,
		VIP: lb.Key{Network: "prod", Name: "web.weft", Port: 8443, Protocol: "udp"},
	}
	pin    = lb.Pin{Name: "web.weft", Addr4: netip.MustParseAddr("11.0.0.1"), Addr6: netip.MustParseAddr("fd01:c::1")}
	status = control.Status{
		Answered: "m1",
		Masters:  []control.Master{{Master: discovery.Master{ID: "m1", Addr: netip.MustParseAddr("10.0.0.9"), Port: 7700}, Leads: true}},
		Ledger:   control.Ledger{Problem: "no majority", Revision: 12},
		Counts:   control.Counts{Networks: 1, Groups: 2, Rules: 3, Blocks: 4, Identities: 5, Pins: 6, Endpoints: 7},
		Nodes:    []control.Node{node},
	}
)

// fake answers with the values above, or with err, and keeps what it was asked.
type fake struct {
	err   error
	asked []any
}

func (f *fake) ask(args ...any) error { f.asked = args; return f.err }

func (f *fake) AddNetwork(_ context.Context, n overlay.Network) (overlay.Network, error) {
	return prod, f.ask("AddNetwork", n)
}

func (f *fake) SetNetwork(_ context.Context, n overlay.Network) (overlay.Network, error) {
	return prod, f.ask("SetNetwork", n)
}

func (f *fake) RemoveNetwork(_ context.Context, name string) error {
	return f.ask("RemoveNetwork", name)
}

func (f *fake) Networks(_ context.Context, name string) ([]control.Network, error) {
	return []control.Network{network}, f.ask("Networks", name)
}
func (f *fake) AddGroup(_ context.Context, g overlay.Group) error { return f.ask("AddGroup", g) }
func (f *fake) RemoveGroup(_ context.Context, g overlay.Group) error {
	return f.ask("RemoveGroup", g)
}

func (f *fake) Groups(_ context.Context, name string) ([]control.Group, error) {
	return []control.Group{group}, f.ask("Groups", name)
}

func (f *fake) AddRule(_ context.Context, r overlay.Rule) (overlay.Rule, error) {
	return rule, f.ask("AddRule", r)
}

func (f *fake) RemoveRule(_ context.Context, network string, id overlay.RuleID) error {
	return f.ask("RemoveRule", network, id)
}

func (f *fake) Rules(_ context.Context, name string) ([]overlay.Rule, error) {
	return []overlay.Rule{rule}, f.ask("Rules", name)
}

func (f *fake) Nodes(context.Context) ([]control.Node, error) {
	return []control.Node{node, plainNode}, f.ask("Nodes")
}

func (f *fake) AddPlainNode(_ context.Context, n overlay.PlainNode) (overlay.PlainNode, error) {
	return plain, f.ask("AddPlainNode", n)
}

func (f *fake) RemoveNode(_ context.Context, id discovery.NodeID, force bool) error {
	return f.ask("RemoveNode", id, force)
}

func (f *fake) Publish(_ context.Context, p lb.Publication) error { return f.ask("Publish", p) }
func (f *fake) Unpublish(_ context.Context, name string) error    { return f.ask("Unpublish", name) }

func (f *fake) Publications(_ context.Context, network string) ([]lb.Publication, error) {
	return []lb.Publication{publication}, f.ask("Publications", network)
}

func (f *fake) Pins(context.Context) ([]lb.Pin, error)         { return []lb.Pin{pin}, f.ask("Pins") }
func (f *fake) Status(context.Context) (control.Status, error) { return status, f.ask("Status") }

// serve runs s until the test ends and returns a connection to it.
func serve(t *testing.T, s control.Service) *grpc.ClientConn {
	t.Helper()
	listener := bufconn.Listen(1 << 16)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- controlpb.Serve(ctx, listener, nil, controlpb.Operators(s)) }()
	conn, err := grpc.NewClient("passthrough:///bufconn", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close() //nolint:errcheck // the test is over
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return conn
}

func TestTheClientIsTheServiceItself(t *testing.T) {
	f := &fake{}
	c := controlpb.NewClient(serve(t, f))
	ctx := t.Context()
	g := group.Group
	for name, tt := range map[string]struct {
		call  func() (any, error)
		want  any
		asked []any
	}{
		"SetNetwork":    {func() (any, error) { return c.SetNetwork(ctx, prod) }, prod, []any{"SetNetwork", prod}},
		"AddNetwork":    {func() (any, error) { return c.AddNetwork(ctx, prod) }, prod, []any{"AddNetwork", prod}},
		"RemoveNetwork": {func() (any, error) { return nil, c.RemoveNetwork(ctx, "prod") }, nil, []any{"RemoveNetwork", "prod"}},
		"Networks":      {func() (any, error) { return c.Networks(ctx, "prod") }, []control.Network{network}, []any{"Networks", "prod"}},
		"AddGroup":      {func() (any, error) { return nil, c.AddGroup(ctx, g) }, nil, []any{"AddGroup", g}},
		"RemoveGroup":   {func() (any, error) { return nil, c.RemoveGroup(ctx, g) }, nil, []any{"RemoveGroup", g}},
		"Groups":        {func() (any, error) { return c.Groups(ctx, "") }, []control.Group{group}, []any{"Groups", ""}},
		"AddRule":       {func() (any, error) { return c.AddRule(ctx, rule) }, rule, []any{"AddRule", rule}},
		"RemoveRule":    {func() (any, error) { return nil, c.RemoveRule(ctx, "prod", 4) }, nil, []any{"RemoveRule", "prod", overlay.RuleID(4)}},
		"Rules":         {func() (any, error) { return c.Rules(ctx, "prod") }, []overlay.Rule{rule}, []any{"Rules", "prod"}},
		"Nodes":         {func() (any, error) { return c.Nodes(ctx) }, []control.Node{node, plainNode}, []any{"Nodes"}},
		"AddPlainNode":  {func() (any, error) { return c.AddPlainNode(ctx, plain) }, plain, []any{"AddPlainNode", plain}},
		"RemoveNode":    {func() (any, error) { return nil, c.RemoveNode(ctx, "n1", true) }, nil, []any{"RemoveNode", discovery.NodeID("n1"), true}},
		"Publish":       {func() (any, error) { return nil, c.Publish(ctx, publication) }, nil, []any{"Publish", publication}},
		"Unpublish":     {func() (any, error) { return nil, c.Unpublish(ctx, "203.0.113.10:443/udp") }, nil, []any{"Unpublish", "203.0.113.10:443/udp"}},
		"Publications":  {func() (any, error) { return c.Publications(ctx, "prod") }, []lb.Publication{publication}, []any{"Publications", "prod"}},
		"Pins":          {func() (any, error) { return c.Pins(ctx) }, []lb.Pin{pin}, []any{"Pins"}},
		"Status":        {func() (any, error) { return c.Status(ctx) }, status, []any{"Status"}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := tt.call()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got, equal...); diff != "" {
				t.Errorf("answer: %s", diff)
			}
			if diff := cmp.Diff(tt.asked, f.asked, equal...); diff != "" {
				t.Errorf("asked: %s", diff)
			}
			for _, sentinel := range []error{
				control.ErrInvalid, control.ErrExists, control.ErrNotFound, control.ErrInUse, control.ErrUnavailable,
			} {
				f.err = fmt.Errorf("%w: field, value, what is allowed", sentinel)
				_, err := tt.call()
				if !errors.Is(err, sentinel) || err.Error() != f.err.Error() {
					t.Errorf("error %v, want %v", err, f.err)
				}
			}
			f.err = nil
		})
	}
}

// many has as many pins as a cluster may have, with names as long as they may be.
type many struct {
	fake
	pins []lb.Pin
}

func (m *many) Pins(context.Context) ([]lb.Pin, error) { return m.pins, nil }

// TestManyPinsComeWhole wants them all, in answers that each are less than what gRPC's clients take.
func TestManyPinsComeWhole(t *testing.T) {
	long := strings.Repeat("a", 220)
	for _, n := range []int{0, 1, 9_999, 10_000, 10_001, 65_536} {
		m := &many{}
		for i := range n {
			p := pin
			p.Name = fmt.Sprintf("%05d%s.weft", i, long)
			m.pins = append(m.pins, p)
		}
		got, err := controlpb.NewClient(serve(t, m)).Pins(t.Context())
		if err != nil || !slices.Equal(got, m.pins) {
			t.Errorf("%d of %d pins came, %v", len(got), n, err)
		}
	}
}

func TestMalformedMessagesNameTheField(t *testing.T) {
	c := controlpb.NewFabricClient(serve(t, &fake{}))
	_, err := c.AddNetwork(t.Context(), &controlpb.Network{Name: "prod", Subnet4: "9.0.0.0"})
	if err == nil || !strings.Contains(err.Error(), `subnet4 "9.0.0.0": ADDRESS/LENGTH is allowed`) {
		t.Errorf("subnet: %v", err)
	}
	_, err = c.AddRule(t.Context(), &controlpb.Rule{Ports: []*controlpb.PortRange{{First: 1, Last: 70000}}})
	if err == nil || !strings.Contains(err.Error(), "ports last 70000: 0 to 65535 are allowed") {
		t.Errorf("ports: %v", err)
	}
}

// transcript asks a handler and returns what was said on both sides.
func transcript(t *testing.T, url string, requests [][3]string) string {
	t.Helper()
	var b strings.Builder
	for _, r := range requests {
		fmt.Fprintln(&b, strings.TrimSpace(strings.Join(r[:], " ")))
		req, err := http.NewRequestWithContext(t.Context(), r[0], url+r[1], strings.NewReader(r[2]))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err := errors.Join(err, resp.Body.Close()); err != nil {
			t.Fatal(err)
		}
		// protobuf varies its blanks on purpose; what counts is the value.
		body = bytes.ReplaceAll(body, []byte("\u00a0"), []byte(" "))
		var indented bytes.Buffer
		if json.Indent(&indented, body, "", "  ") != nil {
			indented.Reset()
			indented.Write(bytes.TrimSpace(body))
		}
		fmt.Fprintf(&b, "-> %d\n%s\n\n", resp.StatusCode, indented.String())
	}
	return b.String()
}

func TestJSONOverHTTP(t *testing.T) {
	f := &fake{}
	handler, err := controlpb.Handler(t.Context(), f, "")
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(handler)
	defer server.Close()
	got := transcript(t, server.URL, [][3]string{
		{"POST", "/v1/networks", `{"name":"prod","subnet4":"9.0.0.0/16","subnet6":"fd01:b::/64"}`},
		{"GET", "/v1/networks", ""},
		{"GET", "/v1/networks/prod", ""},
		{"DELETE", "/v1/networks/prod", ""},
		{"POST", "/v1/networks/prod/groups", `{"name":"web"}`},
		{"GET", "/v1/networks/prod/groups", ""},
		{"DELETE", "/v1/networks/prod/groups/web", ""},
		{"POST", "/v1/networks/prod/rules", `{"from":"web","to":"db","protocol":"tcp","ports":[{"first":5432,"last":5432}]}`},
		{"GET", "/v1/networks/prod/rules", ""},
		{"DELETE", "/v1/networks/prod/rules/4", ""},
		{"GET", "/v1/nodes", ""},
		{"DELETE", "/v1/nodes/n1?force=true", ""},
		{"POST", "/v1/publications", `{"addr":"203.0.113.10","port":443,"network":"prod","vip":"web.weft:8443/udp"}`},
		{"GET", "/v1/publications", ""},
		{"DELETE", "/v1/publications/203.0.113.10:443/udp", ""},
		{"POST", "/v1/publications", `{"addr":"203.0.113.10","network":"prod","vip":"web.weft"}`},
		{"POST", "/v1/publications", `{"addr":"203.0.113.10","port":443,"network":"prod","vip":"web.weft:443","return":"snat"}`},
		{"GET", "/v1/pins", ""},
		{"GET", "/v1/status", ""},
		{"POST", "/v1/networks", `{"title":"prod"}`},
		{"POST", "/v1/networks", `{"name":"prod","subnet4":"9"}`},
		{"GET", "/v1/unknown", ""},
	})
	f.err = fmt.Errorf("%w: no network %q; there are prod", control.ErrNotFound, "dev")
	got += transcript(t, server.URL, [][3]string{{"DELETE", "/v1/networks/dev", ""}})
	golden(t, "http.txt", got)
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("differs from %s (-update writes it anew):\n%s", path, diff)
	}
}

func TestHTTPAnswersAreTheNouns(t *testing.T) {
	handler, err := controlpb.Handler(t.Context(), &fake{}, "")
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/v1/networks", nil))
	var got struct{ Networks []control.Network }
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]control.Network{network}, got.Networks, equal...); diff != "" {
		t.Error(diff)
	}
}

func TestWithoutTheSecretNothingIsAnswered(t *testing.T) {
	f := &fake{}
	creds, err := wire.Credentials([]byte("open sesame"))
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- controlpb.Serve(ctx, listener, creds, controlpb.Operators(f)) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	for secret, says := range map[string]string{"": "--secret-file", "open": "another secret", "open sesame": ""} {
		c, err := controlpb.Dial([]string{listener.Addr().String()}, secret)
		if err != nil {
			t.Fatal(err)
		}
		err = c.RemoveNetwork(t.Context(), "prod")
		if (err == nil) != (says == "") || err != nil && (!errors.Is(err, control.ErrUnavailable) || !strings.Contains(err.Error(), says)) {
			t.Errorf("gRPC with secret %q: %v, want %q", secret, err, says)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	handler, err := controlpb.Handler(t.Context(), f, "open sesame")
	if err != nil {
		t.Fatal(err)
	}
	for secret, want := range map[string]int{"": 403, "Bearer open": 403, "Bearer open sesame": 200} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/v1/status", nil)
		if secret != "" {
			r.Header.Set("Authorization", secret)
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("HTTP with %q: %d, want %d", secret, w.Code, want)
		}
	}
}

func TestTheNextMasterIsAsked(t *testing.T) {
	addrs := []string{"127.0.0.1:1"} // nobody listens there
	for _, f := range []*fake{{err: fmt.Errorf("%w: no majority", control.ErrUnavailable)}, {}} {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- controlpb.Serve(ctx, listener, nil, controlpb.Operators(f)) }()
		defer func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}()
		addrs = append(addrs, listener.Addr().String())
	}
	c, err := controlpb.Dial(addrs, "")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close() //nolint:errcheck // the test is over
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if list, err := c.Networks(ctx, ""); err != nil || len(list) != 1 {
		t.Errorf("three masters, the last of them well: %v, %v", list, err)
	}
	down, err := controlpb.Dial(addrs[:2], "")
	if err != nil {
		t.Fatal(err)
	}
	defer down.Close() //nolint:errcheck // the test is over
	_, err = down.Networks(ctx, "")
	if !errors.Is(err, control.ErrUnavailable) || !strings.Contains(err.Error(), addrs[0]) || !strings.Contains(err.Error(), "no majority") {
		t.Errorf("two masters, both unwell: %v, want each with its reason", err)
	}
}
