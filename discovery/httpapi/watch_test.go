// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"weft/discovery/discoverypb"
	"weft/discovery/zone"
)

// reader makes of events what is true, as a reader has to.
type reader struct {
	vips          map[vipKey]VIP
	nodes         map[string]Node
	names         map[string][]watchedRecord
	events, bytes int
	longest       int
	whole         map[string]bool // events of which all that there is was told
}

func newReader() *reader {
	return &reader{vips: map[vipKey]VIP{}, nodes: map[string]Node{}, names: map[string][]watchedRecord{}, whole: map[string]bool{}}
}

func (r *reader) take(event string, document []byte) error {
	r.events++
	r.bytes, r.longest = r.bytes+len(document), max(r.longest, len(document))
	var more bool
	var err error
	switch event {
	case "vips":
		more, err = r.takeVIPs(document)
	case "nodes":
		more, err = r.takeNodes(document)
	case "name":
		more, err = r.takeName(document)
	default:
		err = fmt.Errorf("an event %q", event)
	}
	r.whole[event] = !more
	return err
}

func (r *reader) takeVIPs(document []byte) (more bool, err error) {
	var p struct {
		Changed []vipPart
		Gone    []vipKey
		Anew    bool
		More    bool
	}
	if err := json.Unmarshal(document, &p); err != nil {
		return false, err
	}
	if p.Anew {
		clear(r.vips)
	}
	for _, part := range p.Changed {
		key := vipKey{part.VIP.VIP, part.Protocol, part.Network}
		if part.Continues {
			part.Backends = append(r.vips[key].Backends, part.Backends...)
		}
		r.vips[key] = part.VIP
	}
	for _, key := range p.Gone {
		delete(r.vips, key)
	}
	return p.More, nil
}

func (r *reader) takeNodes(document []byte) (more bool, err error) {
	var p struct {
		Changed []Node
		Gone    []string
		More    bool
	}
	if err := json.Unmarshal(document, &p); err != nil {
		return false, err
	}
	for _, n := range p.Changed {
		r.nodes[n.ID] = n
	}
	for _, id := range p.Gone {
		delete(r.nodes, id)
	}
	return p.More, nil
}

func (r *reader) takeName(document []byte) (more bool, err error) {
	var n watchedName
	if err := json.Unmarshal(document, &n); err != nil {
		return false, err
	}
	if n.Continues {
		n.Records = append(r.names[n.Name], n.Records...)
	}
	if r.names[n.Name] = n.Records; n.Gone {
		delete(r.names, n.Name)
	}
	return n.More, nil
}

// manyVIPs are a hundred thousand backends, most of them ten behind a VIP, 30,000 behind one.
func manyVIPs() []VIP {
	backends := func(n int) []Backend {
		list := make([]Backend, n)
		for i := range list {
			list[i] = Backend{
				IP: netip.AddrFrom4([4]byte{9, byte(i >> 16), byte(i >> 8), byte(i)}), Port: 8080, Task: fmt.Sprintf("task-%07d.5b0a7a1c", i),
				Node: fmt.Sprint("host-", i%1000), Weight: 1, In: true, Health: "healthy",
			}
		}
		return list
	}
	vips := []VIP{{VIP: "wide.marathon.l4lb.thisdcos.directory:80", Protocol: "tcp", Network: "prod", Backends: backends(30_000)}}
	for i := range 7000 {
		vips = append(vips, VIP{
			VIP: fmt.Sprintf("svc-%d.marathon.l4lb.thisdcos.directory:80", i), Protocol: "tcp", Network: "prod",
			Addrs: []netip.Addr{netip.AddrFrom4([4]byte{11, 1, byte(i >> 8), byte(i)})}, Backends: backends(10),
		})
	}
	return vips
}

// A hundred thousand rows come in pieces that a reader by gRPC takes as it is, then each change alone.
func TestManyRowsAreWatchedByGRPC(t *testing.T) {
	t.Parallel()
	vips, tasks := manyVIPs(), []zone.Change{}
	var served atomic.Pointer[[]VIP]
	served.Store(&vips)
	for i := range 5000 {
		tasks = append(tasks, taskFact(fmt.Sprint("many-", i), "many", fmt.Sprintf("9.2.%d.%d", i>>8, i&255)))
	}
	z, _ := zone.New(zone.Options{}).Completed().With(tasks)
	changed := make(chan struct{})
	conn := watchOver(t, NodeOptions{
		Zone: func() *zone.Zone { return z }, VIPs: func() []VIP { return *served.Load() },
		Nodes: func() []Node { return []Node{{ID: "host-a"}, {ID: "host-b"}} },
		Changed: func() (names, vips, nodes <-chan struct{}) {
			select {
			case <-changed:
				return nil, nil, nil // there is one change
			default:
				return nil, changed, nil
			}
		},
	})
	r := newReader()
	enough := errors.New("enough")
	step, first := 0, 0
	err := discoverypb.Watch(t.Context(), conn, &discoverypb.WatchRequest{Names: []string{"many.marathon.mesos"}, Vips: true, Nodes: true}, func(event string, document []byte) error {
		if err := r.take(event, document); err != nil {
			return err
		}
		if !r.whole["vips"] || !r.whole["nodes"] || !r.whole["name"] {
			return nil
		}
		switch step++; step {
		case 1:
			if d := gocmp.Diff(r.list(), sortedVIPs(vips), addrs()); d != "" || len(r.nodes) != 2 || len(r.names["many.marathon.mesos."]) != 5000 {
				t.Errorf("%d nodes, %d records, VIPs (got -, want +):\n%s", len(r.nodes), len(r.names["many.marathon.mesos."]), d)
			}
			first, r.events, r.bytes = r.events, 0, 0
			later := slices.Concat(vips[:100], vips[101:]) // one goes, one changes, one comes
			later[7].Backends = later[7].Backends[1:]
			later = append(later, VIP{VIP: "new:80", Protocol: "udp", Backends: []Backend{}})
			served.Store(&later)
			close(changed)
			return nil
		default:
			if d := gocmp.Diff(r.list(), sortedVIPs(*served.Load()), addrs()); d != "" {
				t.Errorf("after the change (got -, want +):\n%s", d)
			}
			return enough
		}
	})
	if !errors.Is(err, enough) {
		t.Fatal(err)
	}
	if r.longest > 1<<20 || first < 50 {
		t.Errorf("the longest of %d events has %d bytes, want a mebibyte at most", first, r.longest)
	}
	if r.events != 1 || r.bytes > 4000 {
		t.Errorf("three rows of %d changed: %d events with %d bytes", len(vips), r.events, r.bytes)
	}
}

// Who watches what is empty hears that it is, once.
func TestNothingIsToldOfAsWell(t *testing.T) {
	t.Parallel()
	vips, nodes := newTold[vipKey]("vips"), newTold[string]("nodes")
	var got []string
	send := func(event string, document []byte) error {
		got = append(got, event+" "+string(document))
		return nil
	}
	for range 2 {
		if err := errors.Join(vips.tell(vipRows(nil), send), nodes.tell(nodeRows(nil), send)); err != nil {
			t.Fatal(err)
		}
	}
	if d := gocmp.Diff(got, []string{`vips {"changed":[],"anew":true}`, `nodes {"changed":[],"anew":true}`}); d != "" {
		t.Errorf("(got -, want +):\n%s", d)
	}
}

// What went while a reader was away is gone for it, although no event says so; that it begins anew is said once, in the first of
// many pieces.
func TestWhoConnectsAgainKeepsNothingThatIsGone(t *testing.T) {
	t.Parallel()
	r, all := newReader(), manyVIPs()[1:1001]
	for _, vips := range [][]VIP{all, all[:500], nil, all[900:]} {
		if err := newTold[vipKey]("vips").tell(vipRows(vips), r.take); err != nil {
			t.Fatal(err)
		}
		if d := gocmp.Diff(r.list(), sortedVIPs(vips), addrs()); d != "" {
			t.Fatalf("of %d VIPs (got -, want +):\n%s", len(vips), d)
		}
	}
}

func (r *reader) list() []VIP {
	var list []VIP
	for _, v := range r.vips {
		list = append(list, v)
	}
	return sortedVIPs(list)
}

func sortedVIPs(vips []VIP) []VIP {
	return slices.SortedFunc(slices.Values(vips), func(a, b VIP) int { return strings.Compare(a.VIP, b.VIP) })
}

func addrs() gocmp.Option {
	return gocmp.Comparer(func(a, b netip.Addr) bool { return a == b })
}

// watchOver serves a node's watch as the daemon does, with the limits that gRPC has by itself.
func watchOver(t *testing.T, o NodeOptions) *grpc.ClientConn {
	t.Helper()
	l := bufconn.Listen(1 << 16)
	server := grpc.NewServer()
	discoverypb.RegisterWatch(server, func(ctx context.Context, names []string, vips, nodes bool, send func(string, []byte) error) error {
		return Follow(ctx, o, Watched{names, vips, nodes}, send)
	}, MaxWatchers)
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
	conn, err := grpc.NewClient("passthrough:x", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}
