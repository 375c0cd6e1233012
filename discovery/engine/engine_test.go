// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"weft/discovery"
	"weft/discovery/dns"
	"weft/discovery/servicetest"
	"weft/discovery/state"
	"weft/discovery/zone"
	"weft/discovery/zone/record"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type tb interface {
	Helper()
	Fatal(args ...any)
	Errorf(format string, args ...any)
}

func openStore(t tb, dir string) *state.Store {
	t.Helper()
	s, err := state.Open(state.Options{Self: "host-a", Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func open(t tb, o Options) *Engine {
	t.Helper()
	e, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func run(t *testing.T, f func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
}

func row(writer string, kind discovery.Kind, key string, incarnation, seq uint64, v any) discovery.Row {
	r := discovery.Row{Writer: writer, Kind: kind, Key: key, Incarnation: incarnation, Seq: seq}
	if v == nil {
		r.Deleted = true
		return r
	}
	r.Value, _ = json.Marshal(v)
	return r
}

func apply(t tb, s *state.Store, rows ...discovery.Row) {
	t.Helper()
	if _, err := s.Apply(rows); err != nil {
		t.Fatal(err)
	}
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// wait waits until the zone is as wanted.
func wait(t *testing.T, e *Engine, what string, ok func(*zone.Zone) bool) {
	t.Helper()
	late := time.After(10 * time.Second)
	for {
		changed := e.Changed()
		if ok(e.Zone()) {
			return
		}
		select {
		case <-changed:
		case <-late:
			t.Fatalf("%s: not after 10 s", what)
		}
	}
}

func TestContract(t *testing.T) {
	servicetest.RunContract(t, func(t *testing.T) discovery.Service {
		t.Helper()
		e := open(t, Options{Store: openStore(t, "")})
		run(t, e.Run)
		return e
	})
}

func TestNamesOfOtherNodesComeAndGo(t *testing.T) {
	s := openStore(t, "")
	e := open(t, Options{Store: s})
	run(t, e.Run)
	has := func(name string, want bool) {
		t.Helper()
		wait(t, e, fmt.Sprint(name, want), func(z *zone.Zone) bool { return z.Lookup("", name).Exists == want })
	}
	name := servicetest.Web("t1", "9.0.1.2")
	apply(t, s, row("host-b", discovery.KindName, "t1", 1, 1, name))
	has("web.weft.mesos.", true)
	name.Label = "api"
	apply(t, s, row("host-b", discovery.KindName, "t1", 1, 2, name))
	has("api.weft.mesos.", true)
	has("web.weft.mesos.", false)
	apply(t, s, row("host-b", discovery.KindName, "t1", 1, 3, nil))
	has("api.weft.mesos.", false)

	apply(t, s, row("host-b", discovery.KindName, "t2", 1, 4, servicetest.Web("t2", "9.0.1.3")))
	has("web.weft.mesos.", true)
	// Its disk was lost: what it said in its earlier life is void.
	apply(t, s, row("host-b", discovery.KindName, "t3", 2, 1, func() discovery.Name { name.Label = "new"; return name }()))
	has("new.weft.mesos.", true)
	has("web.weft.mesos.", false)
	// The masters removed it.
	apply(t, s, row(discovery.Ledger, discovery.KindAdmission, "host-b", 1, 1, discovery.Admission{Node: "host-b", Gone: 2}))
	has("new.weft.mesos.", false)
}

// What a node says of a task as a backend counts for its names too; the task's other VIPs may say otherwise.
func TestUnwellBackendsAreLeftOutOfShortNames(t *testing.T) {
	s := openStore(t, "")
	s.Take(discovery.Topic{Kind: discovery.KindName, Of: discovery.NameTopic("web").Of})
	e := open(t, Options{Store: s})
	run(t, e.Run)
	seq := uint64(10)
	say := func(vip, task, health string, draining bool) {
		t.Helper()
		seq++
		apply(t, s, row("host-b", discovery.KindBackend, vip+" "+task, 1, seq, map[string]any{"task": task, "health": health, "draining": draining}))
	}
	has := func(want ...string) {
		t.Helper()
		wait(t, e, fmt.Sprint(want), func(z *zone.Zone) bool {
			var got []string
			for _, r := range z.Lookup("", "web.prod.weft.").Of(record.A) {
				got = append(got, r.Addr.String())
			}
			return slices.Equal(got, want)
		})
	}
	for i, addr := range []string{"9.0.1.2", "9.0.1.3"} {
		n := servicetest.Web(fmt.Sprint("t", i+1), addr)
		n.Network = "prod"
		apply(t, s, row("host-b", discovery.KindName, n.RowKey(), 1, uint64(i+1), n))
	}
	has("9.0.1.2", "9.0.1.3")
	say("a", "t1", "unknown", false)
	has("9.0.1.3")
	say("b", "t1", "unhealthy", false)
	say("a", "t1", "healthy", false)
	has("9.0.1.3")
	say("b", "t1", "healthy", false)
	has("9.0.1.2", "9.0.1.3")
	say("a", "t2", "healthy", true)
	has("9.0.1.2")
	apply(t, s, row("host-b", discovery.KindBackend, "a t2", 1, 99, nil))
	has("9.0.1.2", "9.0.1.3")
}

func TestMastersNetworksAndServices(t *testing.T) {
	s := openStore(t, "")
	e := open(t, Options{Store: s, Zone: zone.Options{Reverse: []netip.Prefix{netip.MustParsePrefix("11.0.0.0/8")}}})
	apply(t, s,
		row(discovery.Ledger, discovery.KindNetwork, "prod", 1, 1, map[string]any{"name": "prod", "vni": 100, "subnet4": "9.0.0.0/16"}),
		row(discovery.Ledger, discovery.KindLeader, "leader", 1, 2, discovery.Master{ID: "m1", Addr: addr("10.0.0.1")}),
		row(discovery.Ledger, discovery.KindMaster, "m1", 1, 3, discovery.Master{ID: "m1", Addr: addr("10.0.0.1")}),
		row(discovery.Ledger, discovery.KindMaster, "m2", 1, 4, discovery.Master{ID: "m2", Addr: addr("10.0.0.2")}),
		// Nobody but the masters says where the leader is.
		row("host-x", discovery.KindLeader, "leader", 1, 1, discovery.Master{ID: "x", Addr: addr("10.6.6.6")}),
		row("host-b", discovery.KindNode, "host-b", 1, 1, discovery.Node{ID: "host-b", Addrs: []netip.Addr{addr("10.0.0.12")}}),
	)
	e.SetServices(map[string][]discovery.ServiceName{
		"prod": {{Name: "web.weft", Addrs: []netip.Addr{addr("11.0.0.7")}}, {Name: "db.weft", Addrs: []netip.Addr{addr("11.0.0.8")}}},
	})
	e.SetServices(map[string][]discovery.ServiceName{
		"prod": {{Name: "web.weft", Addrs: []netip.Addr{addr("11.0.0.7")}}},
	})
	run(t, e.Run)
	wait(t, e, "rows", func(z *zone.Zone) bool { return z.Lookup("", "host-b.node.thisdcos.directory.").Exists })
	check := func(network, name string, want ...string) {
		t.Helper()
		records, err := e.Lookup(t.Context(), network, name)
		got := map[string]bool{}
		for _, r := range records {
			got[r.Type+" "+r.Data] = true
		}
		for _, w := range want {
			if !got[w] {
				t.Errorf("%s has no %s: %v, %v", name, w, records, err)
			}
		}
		if len(got) != len(want) {
			t.Errorf("%s = %v, want %q", name, records, want)
		}
	}
	check("", "leader.mesos", "A 10.0.0.1")
	check("", "master.mesos", "A 10.0.0.1", "A 10.0.0.2")
	check("prod", "web.weft.l4lb.thisdcos.directory", "A 11.0.0.7")
	check("dev", "web.weft.l4lb.thisdcos.directory")
	check("", "db.weft.l4lb.thisdcos.directory")
	check("", "12.0.0.10.in-addr.arpa", "PTR host-b.node.thisdcos.directory.")
	if n, ok := e.Zone().Network(100); !ok || n.Name != "prod" {
		t.Errorf("network 100 = %v", n)
	}
	for name, part := range map[string]string{"example.com": "no zone of this cluster", "9.9.0.9.in-addr.arpa": "not found"} {
		if _, err := e.Lookup(t.Context(), "", name); !errors.Is(err, discovery.ErrNotFound) || !strings.Contains(err.Error(), part) {
			t.Errorf("%s: %v, want ErrNotFound: %s", name, err, part)
		}
	}
}

// recorder is a server that checks that each diff is between the zones it got.
type recorder struct {
	t     tb
	zones []*zone.Zone
	diffs []zone.Diff
}

func (r *recorder) SetZone(z *zone.Zone, diff zone.Diff) {
	r.zones = append(r.zones, z)
	r.diffs = append(r.diffs, diff)
}

func TestZoneIsCompleteOnceTheMastersRowsAreHere(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	r := &recorder{t: t}
	e := open(t, Options{Store: s, Server: r})
	if len(r.zones) != 1 || r.zones[0].Complete() {
		t.Errorf("server has %d zones at the start, want one that is not complete", len(r.zones))
	}
	if err := e.Announce(t.Context(), servicetest.Web("t1", "9.0.0.2")); err != nil {
		t.Fatal(err)
	}
	if e.Zone().Complete() {
		t.Error("complete by own names")
	}
	_, err := e.Lookup(t.Context(), "", "other.weft.mesos.")
	if !errors.Is(err, discovery.ErrNotFound) || !strings.Contains(err.Error(), "not heard") {
		t.Errorf("look up: %v, want ErrNotFound, not heard", err)
	}
	apply(t, s, row(discovery.Ledger, discovery.KindMaster, "m1", 1, 1, discovery.Master{ID: "m1", Addr: addr("10.0.0.1")}))
	run(t, e.Run)
	wait(t, e, "master", func(z *zone.Zone) bool { return z.Lookup("", "master.mesos.").Exists })
	if e.Zone().Complete() {
		t.Error("complete before the names of nodes had time to follow")
	}
	wait(t, e, "complete", (*zone.Zone).Complete)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	// It stays so over a restart without anyone to ask.
	s = openStore(t, dir)
	defer func() { _ = s.Close() }()
	again := open(t, Options{Store: s})
	if !again.Zone().Complete() || !again.Zone().Lookup("", "web.weft.mesos.").Exists {
		t.Errorf("after a restart: complete %t, %d records", again.Zone().Complete(), again.Zone().Records())
	}
}

func TestSyncedIsAskedUntilItSaysYes(t *testing.T) {
	var mu sync.Mutex
	synced := false
	e := open(t, Options{Store: openStore(t, ""), Synced: func() bool { mu.Lock(); defer mu.Unlock(); return synced }})
	run(t, e.Run)
	mu.Lock()
	synced = true
	mu.Unlock()
	wait(t, e, "complete", (*zone.Zone).Complete)
}

func TestBrokenRowIsLeftOutAndCounted(t *testing.T) {
	s := openStore(t, "")
	bad := row("host-b", discovery.KindName, "t1", 1, 1, "not a name")
	apply(t, s, bad, row("host-b", discovery.KindName, "t2", 1, 2, servicetest.Web("t2", "9.0.0.3")))
	e := open(t, Options{Store: s})
	if got := e.Stats(); got.Broken != 1 || !e.Zone().Lookup("", "web.weft.mesos.").Exists {
		t.Errorf("stats = %+v, want 1 broken, and the other name", got)
	}
}

type members struct {
	mu      sync.Mutex
	alive   map[discovery.NodeID]bool
	mute    map[discovery.NodeID]bool // their kernels answer
	changed chan struct{}
}

func (m *members) Alive(id discovery.NodeID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.alive[id]
}

func (m *members) Dead(id discovery.NodeID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	alive, known := m.alive[id]
	return known && !alive && !m.mute[id]
}

func (m *members) Living() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	living := 0
	for _, alive := range m.alive {
		if alive {
			living++
		}
	}
	return living
}

func (m *members) Changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

func (m *members) set(id discovery.NodeID, alive bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.alive[id] = alive
	close(m.changed)
	m.changed = make(chan struct{})
}

func TestNodesAreSeenByRowsAdmissionsAndMembers(t *testing.T) {
	s := openStore(t, "")
	m := &members{alive: map[discovery.NodeID]bool{"host-a": true, "host-b": true}, changed: make(chan struct{})}
	e := open(t, Options{Store: s, Members: m})
	run(t, e.Run)
	apply(t, s,
		row("host-b", discovery.KindNode, "host-b", 1, 1, discovery.Node{ID: "host-b", Hostname: "b.example"}),
		row("host-c", discovery.KindNode, "host-c", 1, 1, discovery.Node{ID: "host-b", Hostname: "not me"}),
		row(discovery.Ledger, discovery.KindAdmission, "host-b", 1, 1, discovery.Admission{Node: "host-b", VTEP: addr("10.0.0.2")}),
		row(discovery.Ledger, discovery.KindAdmission, "host-d", 1, 2, discovery.Admission{Node: "host-d", VTEP: addr("10.0.0.4")}),
		row(discovery.Ledger, discovery.KindAdmission, "host-e", 1, 3, discovery.Admission{Node: "host-e", Gone: 1}),
	)
	nodes := func() []string {
		t.Helper()
		all, err := e.Nodes(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, n := range all {
			out = append(out, fmt.Sprintf("%s %q alive %t admitted %t", n.ID, n.Hostname, n.Alive, n.Admitted))
		}
		return out
	}
	want := []string{
		`host-a "" alive true admitted false`, `host-b "b.example" alive true admitted true`, `host-d "" alive false admitted true`,
	}
	if d := cmp.Diff(nodes(), want); d != "" {
		t.Errorf("nodes (got -, want +):\n%s", d)
	}
	before, _ := e.Nodes(t.Context())
	m.set("host-b", false)
	after, _ := e.Nodes(t.Context())
	if after[1].Alive || !after[1].Since.After(before[1].Since) || after[0].Since != before[0].Since {
		t.Errorf("host-b %+v, was %+v, want dead since later", after[1], before[1])
	}
}

// The names of a dead node's tasks go, unless it is this node that is cut off: then nobody's death is proven.
func TestNamesOfADeadNodeGo(t *testing.T) {
	s := openStore(t, "")
	m := &members{alive: map[discovery.NodeID]bool{"host-a": true, "host-b": true, "host-c": true, "m1": true}, changed: make(chan struct{})}
	e := open(t, Options{Store: s, Members: m})
	run(t, e.Run)
	web := func(task, addr string) discovery.Name {
		n := servicetest.Web(task, addr)
		n.Network = "prod"
		return n
	}
	for i, host := range []discovery.NodeID{"host-a", "host-b", "host-c"} {
		if host != "host-a" {
			apply(t, s, row(string(host), discovery.KindNode, string(host), 1, 1, discovery.Node{ID: host, Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)})}}))
		}
	}
	if err := state.Put(s, discovery.KindNode, "host-a", discovery.Node{ID: "host-a", Addrs: []netip.Addr{addr("10.0.0.1")}}); err != nil {
		t.Fatal(err)
	}
	only := servicetest.Web("t3", "9.0.1.4")
	only.Label = "only"
	apply(t, s,
		row(discovery.Ledger, discovery.KindMaster, "m1", 1, 3, discovery.Master{ID: "m1", Addr: addr("10.0.0.9")}),
		row(discovery.Ledger, discovery.KindNetwork, "prod", 1, 4, map[string]any{"name": "prod", "vni": 100, "subnet4": "9.0.0.0/16"}),
		row("host-b", discovery.KindName, "t1", 1, 2, web("t1", "9.0.1.2")),
		row("host-c", discovery.KindName, "t2", 1, 2, web("t2", "9.0.1.3")),
		row("host-c", discovery.KindName, "t3", 1, 3, only),
	)
	has := func(name string, want ...string) {
		t.Helper()
		wait(t, e, fmt.Sprint(name, want), func(z *zone.Zone) bool {
			got := []string{}
			for _, r := range z.Lookup("", name).Of(record.A) {
				got = append(got, r.Addr.String())
			}
			return slices.Equal(got, append([]string{}, want...))
		})
	}
	everyone := func() {
		t.Helper()
		has("web.weft.mesos.", "9.0.1.2", "9.0.1.3")
		has("web.prod.weft.", "9.0.1.2", "9.0.1.3")
		has("only.weft.mesos.", "9.0.1.4")
		has("slave.mesos.", "10.0.0.1", "10.0.0.2", "10.0.0.3")
	}
	everyone()
	m.set("host-c", false)
	has("web.weft.mesos.", "9.0.1.2")
	has("web.prod.weft.", "9.0.1.2")
	has("web.weft.autoip.dcos.thisdcos.directory.", "9.0.1.2")
	has("slave.mesos.", "10.0.0.1", "10.0.0.2")
	has("only.weft.mesos.")
	if e.Zone().Lookup("", "only.weft.mesos.").Exists {
		t.Error("a name of nobody but a dead node's task exists")
	}
	has("host-c.node.thisdcos.directory.", "10.0.0.3") // who it is is not in doubt
	// Its kernel answers after all: it is its daemon alone that is away.
	m.mu.Lock()
	m.mute = map[discovery.NodeID]bool{"host-c": true}
	m.mu.Unlock()
	m.set("host-c", false)
	everyone()
	m.mu.Lock()
	m.mute = nil
	m.mu.Unlock()
	m.set("host-c", false)
	has("only.weft.mesos.")
	// Another one: two of four are heard, which are not the most.
	m.set("host-b", false)
	everyone()
	m.set("host-b", true)
	has("web.weft.mesos.", "9.0.1.2")
	m.set("host-c", true)
	everyone()
}

// The rows of a node that is new may be faster than its first word as a member.
func TestNodeThatWasNeverHeardIsDeadAfterAWhile(t *testing.T) {
	s := openStore(t, "")
	m := &members{alive: map[discovery.NodeID]bool{"host-a": true, "m1": true}, changed: make(chan struct{})}
	e := open(t, Options{Store: s, Members: m})
	apply(t, s,
		row("host-b", discovery.KindNode, "host-b", 1, 1, discovery.Node{ID: "host-b"}),
		row("host-b", discovery.KindName, "t1", 1, 2, servicetest.Web("t1", "9.0.1.2")),
	)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.refresh()
	began := time.Now()
	for _, step := range []struct {
		after     time.Duration
		undecided bool
		exists    bool
	}{{0, true, true}, {unseen - 1, true, true}, {unseen, false, false}} {
		undecided := e.judgeNodes(began.Add(step.after))
		if exists := e.Zone().Lookup("", "web.weft.mesos.").Exists; undecided != step.undecided || exists != step.exists {
			t.Errorf("after %v: undecided %t, its name exists %t, want %t and %t", step.after, undecided, exists, step.undecided, step.exists)
		}
	}
}

// Whatever rows come in whatever order, what was followed step by step is what a new engine reads.
func TestFollowedZoneIsThatOfTheRows(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := openStore(t, "")
		s.Take(discovery.Topic{Kind: discovery.KindName, Of: discovery.Every})
		r := &recorder{t: t}
		e := open(t, Options{Store: s, Server: r})
		seq := map[string]uint64{}
		incarnation := map[string]uint64{"host-b": 1, "host-c": 1, discovery.Ledger: 1}
		next := func(w string) uint64 { seq[w]++; return seq[w] }
		host := rapid.SampledFrom([]string{"host-b", "host-c"})
		task := rapid.SampledFrom([]string{"t1", "t2", "t3"})
		name := func(t *rapid.T, id string) discovery.Name {
			n := servicetest.Web(id, fmt.Sprintf("9.0.0.%d", rapid.IntRange(1, 3).Draw(t, "addr")))
			n.Label = rapid.SampledFrom([]string{"web", "db"}).Draw(t, "label")
			return n
		}
		t.Repeat(map[string]func(*rapid.T){
			"name": func(t *rapid.T) {
				w, id := host.Draw(t, "writer"), task.Draw(t, "task")
				apply(t, s, row(w, discovery.KindName, "x/"+id, incarnation[w], next(w), name(t, id)))
			},
			"health": func(t *rapid.T) {
				w, id := host.Draw(t, "writer"), task.Draw(t, "task")
				said := map[string]any{"task": id, "health": rapid.SampledFrom([]string{"", "healthy", "unhealthy", "unknown"}).Draw(t, "health"), "draining": rapid.Bool().Draw(t, "draining")}
				apply(t, s, row(w, discovery.KindBackend, rapid.SampledFrom([]string{"v1", "v2"}).Draw(t, "vip")+" "+id, incarnation[w], next(w), said))
			},
			"withdrawn": func(t *rapid.T) {
				w := host.Draw(t, "writer")
				apply(t, s, row(w, discovery.KindBackend, rapid.SampledFrom([]string{"v1", "v2"}).Draw(t, "vip")+" "+task.Draw(t, "task"), incarnation[w], next(w), nil))
			},
			"gone": func(t *rapid.T) {
				w := host.Draw(t, "writer")
				apply(t, s, row(w, discovery.KindName, "x/"+task.Draw(t, "task"), incarnation[w], next(w), nil))
			},
			"reborn": func(t *rapid.T) {
				w := host.Draw(t, "writer")
				incarnation[w]++
				seq[w] = 0
				apply(t, s, row(w, discovery.KindName, "x/t1", incarnation[w], next(w), name(t, "t1")))
			},
			"removed": func(t *rapid.T) {
				w := host.Draw(t, "writer")
				apply(t, s, row(discovery.Ledger, discovery.KindAdmission, w, 1, next(discovery.Ledger),
					discovery.Admission{Node: discovery.NodeID(w), Gone: incarnation[w]}))
			},
			"own": func(t *rapid.T) {
				if err := e.Announce(context.Background(), name(t, "own")); err != nil {
					t.Fatal(err)
				}
			},
			"retract": func(t *rapid.T) {
				if err := e.Retract(context.Background(), "own"); err != nil {
					t.Fatal(err)
				}
			},
			"": func(t *rapid.T) {
				e.mu.Lock()
				e.refresh()
				e.mu.Unlock()
				got, want := slices.Collect(e.Zone().All), slices.Collect(open(t, Options{Store: s}).Zone().All)
				if d := cmp.Diff(got, want, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
					t.Fatalf("followed -, fresh +:\n%s", d)
				}
			},
		})
		if last := r.zones[len(r.zones)-1]; last != e.Zone() {
			t.Fatal("the server has not the last zone")
		}
	})
}

// The rooms together: a name is answered over a socket when Announce returns, and not when Retract
// does.
func TestAnnouncedNameIsAnsweredAtOnce(t *testing.T) {
	server, err := dns.Open(dns.Options{Listen: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.8:0")}})
	if err != nil {
		t.Fatal(err)
	}
	run(t, server.Run)
	e := open(t, Options{Store: openStore(t, ""), Server: server, Synced: func() bool { return true }})
	resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, server.Addrs()[0].String())
	}}
	ask := func() int {
		t.Helper()
		found, err := resolver.LookupNetIP(t.Context(), "ip4", "web.weft.mesos.")
		if missing := new(net.DNSError); err != nil && (!errors.As(err, &missing) || !missing.IsNotFound) {
			t.Fatal(err)
		}
		return len(found)
	}
	for i := range 50 {
		task := fmt.Sprint("t", i)
		if err := e.Announce(t.Context(), servicetest.Web(task, "9.0.0.2")); err != nil {
			t.Fatal(err)
		}
		if n := ask(); n != 1 {
			t.Fatalf("round %d: %d answers after Announce, want 1", i, n)
		}
		if err := e.Retract(t.Context(), task); err != nil {
			t.Fatal(err)
		}
		if n := ask(); n != 0 {
			t.Fatalf("round %d: %d answers after Retract, want 0", i, n)
		}
	}
}

func TestEngineNeedsAStore(t *testing.T) {
	if _, err := New(Options{}); err == nil || !strings.Contains(err.Error(), "store") {
		t.Errorf("New without a store: %v", err)
	}
}

// everything is an interest that holds all.
type everything struct{}

// Use implements Interest.
func (everything) Use(context.Context, ...discovery.Topic) bool { return true }

// Holds implements Interest.
func (everything) Holds(...discovery.Topic) bool { return true }

// asksMeanwhile is a server that is asked while it gets a zone.
type asksMeanwhile struct {
	e    *Engine
	held []bool
}

// SetZone implements Server.
func (a *asksMeanwhile) SetZone(*zone.Zone, zone.Diff) {
	if a.e != nil {
		a.held = append(a.held, a.e.Held("web.weft.mesos."))
	}
}

// Rows that are here, and not in the zone yet, are no proof that a name is missing.
func TestANameIsHeldWhenItsRowsAreInTheZone(t *testing.T) {
	s, server := openStore(t, ""), &asksMeanwhile{}
	e := open(t, Options{Store: s, Server: server, Interest: everything{}})
	server.e = e
	apply(t, s, row("host-b", discovery.KindName, "t1", 1, 1, discovery.Name{Task: "t1", Label: "web", Addrs: []netip.Addr{addr("9.1.0.1")}}))
	before := e.Held("web.weft.mesos.")
	if !e.Hold(t.Context(), "web.weft.mesos.") || !e.Zone().Lookup("", "web.weft.mesos.").Exists || !e.Held("web.weft.mesos.") {
		t.Error("the name is not held in the end")
	}
	if before || !slices.Equal(server.held, []bool{false}) {
		t.Errorf("held before the zone has it: %t, and while the server gets that: %v", before, server.held)
	}
}

func BenchmarkOneOf20000Names(b *testing.B) {
	s, err := state.Open(state.Options{Self: "host-a"})
	if err != nil {
		b.Fatal(err)
	}
	rows := make([]discovery.Row, 20000)
	one := func(i int, seq uint64) discovery.Row {
		n := servicetest.Web(fmt.Sprint("t", i), fmt.Sprintf("9.%d.%d.%d", seq>>16&255, seq>>8&255, seq&255))
		n.Label = fmt.Sprint("app-", i)
		return row("host-b", discovery.KindName, n.Task, 1, seq, n)
	}
	for i := range rows {
		rows[i] = one(i, uint64(i+1))
	}
	if _, err := s.Apply(rows); err != nil {
		b.Fatal(err)
	}
	e, err := New(Options{Store: s})
	if err != nil {
		b.Fatal(err)
	}
	seq := uint64(len(rows))
	for b.Loop() {
		seq++
		if _, err := s.Apply([]discovery.Row{one(int(seq)%len(rows), seq)}); err != nil {
			b.Fatal(err)
		}
		e.mu.Lock()
		e.refresh()
		e.mu.Unlock()
	}
	if got := e.Stats(); got.Changes < uint64(b.N) {
		b.Fatalf("stats = %+v", got)
	}
}

func TestFirstRowsAreWaitedForButNotForEver(t *testing.T) {
	at := time.Unix(1000, 0)
	check := func(e *Engine, want bool) {
		t.Helper()
		if got := e.quiet(at); got != want {
			t.Errorf("heard %v ago, last row %v ago, from disk %t: complete %t, want %t",
				at.Sub(e.heard), at.Sub(e.last), e.restored, got, want)
		}
	}
	ago := func(d time.Duration) time.Time { return at.Add(-d) }
	check(&Engine{last: ago(time.Hour)}, false)
	check(&Engine{heard: ago(time.Second), last: ago(pause - 1)}, false)
	check(&Engine{heard: ago(time.Second), last: ago(pause)}, true)
	check(&Engine{heard: ago(patience), last: at}, true)
	check(&Engine{heard: at, last: at, restored: true}, true)
}
