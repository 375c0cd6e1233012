// SPDX-License-Identifier: Apache-2.0

package engine_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"weft/bpf/row"
	"weft/bpf/table"
	"weft/discovery"
	"weft/discovery/state"
	"weft/lb"
	"weft/lb/apply"
	"weft/lb/engine"
	"weft/lb/servicetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 30 * time.Second

// members is who lives; everybody unless told otherwise.
type members struct {
	mu      sync.Mutex
	dead    map[discovery.NodeID]bool
	changed chan struct{}
}

func (m *members) Alive(id discovery.NodeID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return !m.dead[id]
}

func (m *members) Changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

func (m *members) kill(id discovery.NodeID, dead bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.dead[id] = dead
	close(m.changed)
	m.changed = make(chan struct{})
}

// node is an engine with what it stands on.
type node struct {
	*engine.Engine
	t        *testing.T
	store    *state.Store
	members  *members
	vips     *table.Memory[row.VIPKey, row.VIP]
	backends *table.Memory[row.BackendKey, row.Backend]
	refuse   atomic.Bool // writes of backends fail
	peers    lb.Peers

	mu  sync.Mutex // guards seq, and the order of what is applied
	seq uint64
}

func open(t *testing.T) *node {
	t.Helper()
	store, err := state.Open(state.Options{Self: "n1"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	n := &node{
		t: t, store: store,
		members: &members{dead: make(map[discovery.NodeID]bool), changed: make(chan struct{})},
		vips:    &table.Memory[row.VIPKey, row.VIP]{},
	}
	n.backends = &table.Memory[row.BackendKey, row.Backend]{Fail: func(row.BackendKey) error {
		if n.refuse.Load() {
			return errors.New("table is full")
		}
		return nil
	}}
	n.ledger(discovery.KindNetwork, "prod", map[string]any{"name": "prod", "vni": 7, "subnet4": "9.0.0.0/16", "subnet6": "fd01:b::/64"})
	n.ledger(discovery.KindNetwork, "dev", map[string]any{"name": "dev", "vni": 8, "subnet4": "10.0.0.0/16"})
	n.Engine = n.engine()
	return n
}

func (n *node) engine() *engine.Engine {
	n.t.Helper()
	e, err := engine.New(engine.Options{
		Store: n.store, Members: n.members, Tables: apply.Tables{VIPs: n.vips, Backends: n.backends, Maglevs: &table.Memory[uint32, row.Maglev]{}},
		Reserved: []netip.Addr{netip.MustParseAddr("198.51.100.1")}, Peers: n.peers,
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return e
}

// run runs f until the test ends or the returned function is called.
func (n *node) run(f func(context.Context) error) (stop func()) {
	n.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				n.t.Error(err)
			}
		})
	}
	n.t.Cleanup(stop)
	return stop
}

// put applies a row of another writer.
func (n *node) put(writer string, kind discovery.Kind, key string, v any) {
	n.t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.seq++
	r := discovery.Row{Writer: writer, Kind: kind, Key: key, Incarnation: 1, Seq: n.seq, Deleted: v == nil}
	if v != nil {
		value, err := json.Marshal(v)
		if err != nil {
			n.t.Fatal(err)
		}
		r.Value = value
	}
	if _, err := n.store.Apply([]discovery.Row{r}); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) ledger(kind discovery.Kind, key string, v any) {
	n.t.Helper()
	n.put(discovery.Ledger, kind, key, v)
}

// lead is the leading master: it pins every name that a backend row has.
func (n *node) lead(ctx context.Context) error {
	for {
		changed := n.store.Changed(discovery.KindBackend)
		for _, r := range n.store.Rows(discovery.KindBackend) {
			b, err := state.Value[lb.Backend](r)
			if err != nil {
				continue
			}
			pins, err := state.All[lb.Pin](n.store, discovery.KindPin)
			if err != nil {
				return err
			}
			if b.VIP.Name == "" {
				continue
			}
			pin, err := lb.Assign(pins, b.VIP.Name)
			if err != nil {
				return err
			}
			n.ledger(discovery.KindPin, pin.Name, pin)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// remote puts a backend of web.weft on another node.
func (n *node) remote(id discovery.NodeID, addr string) {
	n.t.Helper()
	n.ledger(discovery.KindAdmission, string(id), discovery.Admission{Node: id})
	b := lb.Backend{
		VIP: lb.Key{Network: "prod", Name: "web.weft", Port: 80, Protocol: lb.TCP}, Task: "web." + string(id), Node: "liar",
		Addrs: []netip.Addr{netip.MustParseAddr(addr)}, Port: 8080, Weight: 1,
	}
	n.put(string(id), discovery.KindBackend, b.RowKey(), b)
}

// wait waits until the VIPs are in the given lines: key, then TASK=REASON.
func (n *node) wait(want ...string) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), patience)
	defer cancel()
	for {
		changed := n.Changed()
		var got []string
		if s := n.Snapshot(); s != nil && s.Err == nil {
			for _, v := range s.VIPs {
				line := v.String()
				for _, b := range v.Backends {
					line += " " + b.Task + "=" + b.Reason
				}
				got = append(got, line)
			}
		}
		diff := cmp.Diff(want, got)
		if diff == "" {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			n.t.Fatalf("(-want +got):\n%s", diff)
		}
	}
}

// slots returns how many backends the table counts for web.weft in prod, -1 without the VIP.
func (n *node) slots() int {
	n.t.Helper()
	key := row.VIPKey{VNI: 7, Addr: row.AddrOf(lb.HashAddr4("web.weft")), Port: row.Port(80), Proto: 6}
	vip, ok, err := n.vips.Get(key)
	if err != nil {
		n.t.Fatal(err)
	}
	if !ok {
		return -1
	}
	return int(vip.Backends)
}

func web(task, addr string) lb.Registration {
	return lb.Registration{
		Task: task, Network: "prod", Addrs: []netip.Addr{netip.MustParseAddr(addr)}, Labels: []string{"/web:80=8080/tcp"},
	}
}

func (n *node) publish(r lb.Registration) []lb.VIPStatus {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), patience)
	defer cancel()
	vips, err := n.Publish(ctx, r)
	if err != nil {
		n.t.Fatal(err)
	}
	return vips
}

func TestContract(t *testing.T) {
	servicetest.RunContract(t, func(t *testing.T) lb.Service {
		t.Helper()
		n := open(t)
		n.run(n.lead)
		n.run(n.Run)
		return n
	})
}

func TestPublishedIsServed(t *testing.T) {
	n := open(t)
	n.run(n.lead)
	n.run(n.Run)
	n.publish(web("web.1", "9.0.0.5"))
	if got := n.slots(); got != 1 {
		t.Errorf("the table counts %d backends when Publish returned, want 1", got)
	}
	if err := n.Withdraw(t.Context(), "web.1"); err != nil {
		t.Fatal(err)
	}
	if got := n.slots(); got != 0 {
		t.Errorf("the table counts %d backends when Withdraw returned, want 0: the VIP refuses", got)
	}
}

func TestBackendsOfOtherNodes(t *testing.T) {
	n := open(t)
	n.run(n.lead)
	n.run(n.Run)
	n.publish(web("web.n1", "9.0.0.5"))
	n.remote("n2", "9.0.1.5")
	n.remote("n3", "9.0.2.5")
	n.wait("prod/web.weft:80/tcp web.n1=serving web.n2=serving web.n3=serving")
	n.members.kill("n2", true)
	n.wait("prod/web.weft:80/tcp web.n1=serving web.n2=node n2 is down web.n3=serving")
	n.ledger(discovery.KindAdmission, "n3", nil)
	n.wait("prod/web.weft:80/tcp web.n1=serving web.n2=node n2 is down web.n3=node n3 is not admitted to the cluster")
	if got := n.slots(); got != 1 {
		t.Errorf("%d backends, want 1", got)
	}
	n.members.kill("n2", false)
	n.wait("prod/web.weft:80/tcp web.n1=serving web.n2=serving web.n3=node n3 is not admitted to the cluster")
	if err := n.Withdraw(t.Context(), "web.n1"); err != nil {
		t.Fatal(err)
	}
	n.members.kill("n2", true)
	n.wait("prod/web.weft:80/tcp web.n2=node n2 is down, kept because no other backend is up" +
		" web.n3=node n3 is not admitted to the cluster, kept because no other backend is up")
	if got := n.slots(); got != 2 {
		t.Errorf("%d backends, want 2", got)
	}
}

func TestWithoutMasterPublishSaysWhatItWaitsFor(t *testing.T) {
	n := open(t)
	n.run(n.Run)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err := n.Publish(ctx, web("web.1", "9.0.0.5"))
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "waiting for a master to give web.weft an address") {
		t.Errorf("%v, want DeadlineExceeded and what was waited for", err)
	}
	// The wish stays: it is served as soon as a master answers.
	n.run(n.lead)
	n.wait("prod/web.weft:80/tcp web.1=serving")
}

func TestARestartChangesNothingInTheTables(t *testing.T) {
	n := open(t)
	n.run(n.lead)
	stop := n.run(n.Run)
	n.publish(web("web.1", "9.0.0.5"))
	n.remote("n2", "9.0.1.5")
	n.wait("prod/web.weft:80/tcp web.1=serving web.n2=serving")
	stop()
	n.refuse.Store(true) // any write would fail
	n.Engine = n.engine()
	n.run(n.Run)
	n.wait("prod/web.weft:80/tcp web.1=serving web.n2=serving")
	if wrote := n.Snapshot().Stats.Wrote; wrote.Changed() {
		t.Errorf("wrote %+v, want nothing", wrote)
	}
	if got := n.Published(); !cmp.Equal(got, []string{"web.1"}) {
		t.Errorf("published here: %v, want web.1", got)
	}
}

func TestFailedWritesAreTriedAgain(t *testing.T) {
	n := open(t)
	n.run(n.lead)
	n.run(n.Run)
	n.refuse.Store(true)
	publish := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		_, err := n.Publish(ctx, web("web.1", "9.0.0.5"))
		return err
	}
	err := publish()
	for began := time.Now(); err != nil && !strings.Contains(err.Error(), "table is full"); err = publish() { // the leader has to pin it first
		if time.Since(began) > patience {
			break
		}
	}
	if err == nil || !strings.Contains(err.Error(), "table is full") {
		t.Errorf("%v, want what the table said", err)
	}
	n.refuse.Store(false)
	n.wait("prod/web.weft:80/tcp web.1=serving")
	if got := n.slots(); got != 1 {
		t.Errorf("%d backends, want 1", got)
	}
	if n.Snapshot().Stats.Failures == 0 {
		t.Error("no failure was counted")
	}
}

func TestRemovedNetworkTakesItsVIPsAlong(t *testing.T) {
	n := open(t)
	n.run(n.lead)
	n.run(n.Run)
	n.publish(web("web.1", "9.0.0.5"))
	n.ledger(discovery.KindNetwork, "prod", nil)
	n.wait("prod/web.weft:80/tcp web.1=network prod is not known")
	if got := n.slots(); got != -1 {
		t.Errorf("%d backends, want no VIP", got)
	}
	if names := n.Snapshot().Names; len(names) != 0 {
		t.Errorf("%v, want no names", names)
	}
}

func TestNamesHaveTheFamiliesThatHaveABackend(t *testing.T) {
	n := open(t)
	n.run(n.lead)
	n.run(n.Run)
	n.publish(web("web.1", "9.0.0.5"))
	r := web("api.1", "9.0.0.6")
	r.Network, r.Labels = "dev", []string{"/api:80=8080", "/api:81=8081", "198.51.100.9:80=80"}
	r.Addrs = append(r.Addrs, netip.MustParseAddr("fd01:b::6"))
	n.publish(r)
	want := map[string][]discovery.ServiceName{
		"prod": {{Name: "web.weft", Addrs: []netip.Addr{lb.HashAddr4("web.weft")}}},
		"dev":  {{Name: "api.weft", Addrs: []netip.Addr{lb.HashAddr4("api.weft"), lb.HashAddr6("api.weft")}}},
	}
	if d := cmp.Diff(want, n.Snapshot().Names, servicetest.Compare()); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// A task in its node's own network is where its node is, also when that moves.
func TestReaddressedBackendsAreServedThere(t *testing.T) {
	n := open(t)
	n.run(n.lead)
	n.run(n.Run)
	r := web("web.1", "10.0.0.1")
	r.Network = discovery.HostNetwork
	n.publish(r)
	n.publish(web("web.2", "9.0.0.5"))
	if _, err := n.SetState(t.Context(), "web.1", lb.State{Health: lb.Healthy}); err != nil {
		t.Fatal(err)
	}
	next := []netip.Addr{netip.MustParseAddr("10.0.0.7"), netip.MustParseAddr("fd0a::7")}
	for range 2 {
		if err := n.Readdress("web.1", next); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.Readdress("nosuch", next); err != nil {
		t.Error(err)
	}
	n.wait("host/web.weft:80/tcp web.1=serving, healthy", "prod/web.weft:80/tcp web.2=serving")
	for changed := n.Changed(); ; changed = n.Changed() {
		vips, err := n.VIPs(t.Context(), discovery.HostNetwork)
		if err != nil {
			t.Fatal(err)
		}
		if slices.Equal(vips[0].Backends[0].Addrs, next) && len(vips[0].Addrs) == 2 {
			break
		}
		select {
		case <-changed:
		case <-time.After(patience):
			t.Fatalf("%+v, want %v", vips, next)
		}
	}
	want := map[string][]discovery.ServiceName{
		"":     {{Name: "web.weft", Addrs: []netip.Addr{lb.HashAddr4("web.weft"), lb.HashAddr6("web.weft")}}},
		"prod": {{Name: "web.weft", Addrs: []netip.Addr{lb.HashAddr4("web.weft")}}},
	}
	if d := cmp.Diff(want, n.Snapshot().Names, servicetest.Compare()); d != "" {
		t.Errorf("names (-want +got):\n%s", d)
	}
}

func TestLiteralsThatAreSomethingElse(t *testing.T) {
	n := open(t)
	n.run(n.lead)
	n.run(n.Run)
	n.publish(web("web.1", "9.0.0.5"))
	for label, want := range map[string]error{
		"9.0.3.4:80=80":                                     lb.ErrInvalid,
		"[fd01:b::77]:80=80":                                lb.ErrInvalid,
		"198.51.100.1:53=53":                                lb.ErrInvalid,
		lb.HashAddr4("web.weft").String() + ":81=80":        lb.ErrConflict,
		"[" + lb.HashAddr6("web.weft").String() + "]:81=80": lb.ErrConflict,
	} {
		r := web("web.2", "9.0.0.6")
		r.Addrs = append(r.Addrs, netip.MustParseAddr("fd01:b::6"))
		r.Labels = []string{label}
		if _, err := n.Publish(t.Context(), r); !errors.Is(err, want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want %v, said once for both protocols", label, err, want)
		}
	}
	n.wait("prod/web.weft:80/tcp web.1=serving")
}

func TestRowsThatNobodyCanReadHideNothing(t *testing.T) {
	n := open(t)
	n.run(n.lead)
	n.run(n.Run)
	n.publish(web("web.1", "9.0.0.5"))
	key := lb.Key{Network: "prod", Name: "web.weft", Port: 80, Protocol: lb.TCP}
	bad := []lb.Key{key, key, key, key}
	bad[0].Protocol, bad[1].Port, bad[2].Name, bad[3].Addr = "sctp", 0, "", netip.MustParseAddr("1.2.3.4")
	n.ledger(discovery.KindAdmission, "n2", discovery.Admission{Node: "n2"})
	for i, k := range bad {
		n.put("n2", discovery.KindBackend, string(rune('a'+i)), lb.Backend{VIP: k, Task: "bad", Addrs: []netip.Addr{netip.MustParseAddr("9.0.1.5")}, Port: 1, Weight: 1})
	}
	n.put("n2", discovery.KindBackend, "e", "text")
	n.remote("n3", "9.0.2.5")
	n.wait("prod/web.weft:80/tcp web.1=serving web.n3=serving")
	for _, b := range n.Snapshot().VIPs[0].Backends {
		if b.Task == "web.n3" && b.Node != "n3" {
			t.Errorf("the backend is of node %s, want the writer of its row: n3", b.Node)
		}
	}
}

func TestAnEndedEngineSaysSo(t *testing.T) {
	n := open(t)
	n.run(n.Run)()
	if _, err := n.Publish(t.Context(), web("web.1", "9.0.0.5")); err == nil || !strings.Contains(err.Error(), "stopping") {
		t.Errorf("%v, want that it is stopping", err)
	}
}

func TestNewNamesWhatIsMissing(t *testing.T) {
	_, err := engine.New(engine.Options{})
	for _, want := range []string{"Store", "Members", "Tables"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s in it", err, want)
		}
	}
}
