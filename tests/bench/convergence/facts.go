// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"weft/discovery"
	"weft/discovery/state"
	"weft/lb"
	"weft/tests/bench/report"
)

// size is that of the simulated cluster.
type size struct {
	nodes, tasks int           // tasks in all
	services     int           // names that tasks share
	uses         int           // services that a node's tasks ask for
	vips         int           // of so many services one is behind a VIP as well
	rate         int           // changes a second
	lasting      time.Duration // of each half
	profile      string        // file; empty: none
}

// patience bounds every wait for a state; the machine may be busy.
const patience = 5 * time.Minute

// task is one task with the service that it is of.
type task struct {
	id      string
	node    int
	service int
	addr    netip.Addr
	vip     bool
}

func serviceName(service int) string { return fmt.Sprintf("app-%d", service) }

func (t task) name(node discovery.NodeID) discovery.Name {
	return discovery.Name{
		Task: t.id, Label: serviceName(t.service), Framework: "weft", Network: prod.Name, Node: node, Addrs: []netip.Addr{t.addr},
		Ports: []discovery.NamedPort{{Name: "http", Protocol: "tcp", Port: 8080}},
	}
}

func (t task) backend(node discovery.NodeID) lb.Backend {
	return lb.Backend{
		VIP:  lb.Key{Network: prod.Name, Name: serviceName(t.service) + ".weft", Port: 80, Protocol: lb.TCP},
		Task: t.id, Node: node, Addrs: []netip.Addr{t.addr}, Port: 8080, Weight: 1,
	}
}

// cluster is the simulated one.
type cluster struct {
	size
	hub   *hub
	nodes []*node
	tasks []task
	next  int   // number of the next task
	order []int // in which tasks are replaced
	users [][]*node
}

// simulateFacts measures how fast tasks of a large cluster become known, and what that costs.
func simulateFacts(ctx context.Context, s size) (lines []report.Line, err error) {
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(roomy))
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	c := &cluster{size: s, users: make([][]*node, s.services)}
	if c.hub, err = openHub(ctx); err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	group, ctx := errgroup.WithContext(ctx)
	defer func() {
		stop()
		err = errors.Join(err, group.Wait())
		for _, n := range c.nodes {
			err = errors.Join(err, n.close())
		}
		err = errors.Join(err, c.hub.close())
	}()
	began := time.Now()
	if err := c.begin(ctx, group); err != nil {
		return nil, fmt.Errorf("begin: %w", err)
	}
	say("%d nodes, %d tasks, after %v", s.nodes, s.tasks, time.Since(began).Round(time.Second))
	half, err := c.measure(ctx, s.rate/2)
	if err != nil {
		return nil, err
	}
	full, err := profiled(s.profile, func() (measured, error) { return c.measure(ctx, s.rate) })
	if err != nil {
		return nil, err
	}
	against := fmt.Sprintf("%d nodes, %d tasks, %d changes a second", s.nodes, s.tasks, s.rate)
	slices.Sort(full.took)
	return []report.Line{
		report.NewLine("running_to_known_p99_ms_simulated", against, []float64{report.Quantile(full.took, 0.99)}, report.Bar{Most: 1000}),
		report.NewLine("running_to_known_p50_ms_simulated", against, []float64{report.Quantile(full.took, 0.5)}, report.Bar{}),
		report.NewLine("bytes_per_change_and_subscribed_node", against, []float64{full.bytes}, report.Bar{}),
		report.NewLine("cpu_us_per_change_and_subscribed_node", against, []float64{full.cpu}, report.Bar{}),
		report.NewLine("bytes_per_change_at_double_rate", "half the rate", []float64{full.bytes / half.bytes}, report.Bar{Most: 1.2}),
	}, nil
}

// begin starts the nodes, gives them tasks, and waits until everyone knows what it has to.
func (c *cluster) begin(ctx context.Context, group *errgroup.Group) error {
	addr := c.hub.master.Addr().String()
	for i := range c.size.nodes {
		n, err := openNode(i, addr)
		if err != nil {
			return err
		}
		c.nodes = append(c.nodes, n)
		for len(n.uses) < c.uses {
			if s := rand.N(c.services); !slices.Contains(n.uses, s) {
				n.uses = append(n.uses, s)
				c.users[s] = append(c.users[s], n)
			}
		}
	}
	for i := range c.size.tasks {
		t := c.newTask(i%c.size.nodes, i%c.services)
		if err := c.start(t); err != nil {
			return err
		}
		c.tasks = append(c.tasks, t)
	}
	if err := c.introduce(ctx); err != nil {
		return err
	}
	if err := c.connect(ctx, group); err != nil {
		return err
	}
	for _, n := range c.nodes {
		for _, s := range n.uses {
			if !n.wanted.Use(ctx, discovery.NameTopic(serviceName(s))) {
				return fmt.Errorf("%s holds no %s: %w", n.id, serviceName(s), context.Cause(ctx))
			}
		}
	}
	return until(ctx, "every node is admitted, has a block, and all nodes know it", func() error {
		for _, n := range append(slices.Clone(c.nodes), &node{id: "the master", store: c.hub.store}) {
			for kind, want := range map[discovery.Kind]int{
				discovery.KindNode: len(c.nodes), discovery.KindAdmission: len(c.nodes), discovery.KindBlock: len(c.nodes),
			} {
				if have := len(n.store.Rows(kind)); have < want {
					return fmt.Errorf("%s knows %d of %d rows %s", n.id, have, want, kind)
				}
			}
		}
		return nil
	})
}

// introduce brings what all nodes say to the master at once, and waits for its decisions: nodes that come one after the
// other to a cluster that grows are another measure.
func (c *cluster) introduce(ctx context.Context) error {
	for _, n := range c.nodes {
		for b := range n.store.Since(c.hub.store.Digest()) {
			if _, err := c.hub.store.ApplyBatch(b); err != nil {
				return err
			}
		}
	}
	return until(ctx, "every node is admitted and has a block", func() error {
		for _, kind := range []discovery.Kind{discovery.KindAdmission, discovery.KindBlock} {
			if have := len(c.hub.store.Rows(kind)); have < len(c.nodes) {
				return fmt.Errorf("%d of %d rows %s", have, len(c.nodes), kind)
			}
		}
		return nil
	})
}

// connecting is how many nodes begin at a time: that all come at once is measured elsewhere, and takes a machine of
// its own.
const connecting = 16

func (c *cluster) connect(ctx context.Context, group *errgroup.Group) error {
	free := make(chan struct{}, connecting)
	for _, n := range c.nodes {
		select {
		case free <- struct{}{}:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		group.Go(func() error { return n.run(ctx) })
		group.Go(func() error {
			defer func() { <-free }()
			select {
			case <-n.syncer.CaughtUp():
			case <-ctx.Done():
			}
			return nil
		})
	}
	return nil
}

func (c *cluster) newTask(node, service int) task {
	c.next++
	return task{
		id: fmt.Sprintf("task-%d", c.next), node: node, service: service, vip: service%c.vips == 0,
		addr: netip.AddrFrom4([4]byte{9, byte(c.next >> 16), byte(c.next >> 8), byte(c.next)}),
	}
}

// start says that a task runs, as its node does.
func (c *cluster) start(t task) error {
	n := c.nodes[t.node]
	name := t.name(n.id)
	err := state.Put(n.store, discovery.KindName, name.RowKey(), name)
	if t.vip {
		b := t.backend(n.id)
		err = errors.Join(err, state.Put(n.store, discovery.KindBackend, b.RowKey(), b))
	}
	return err
}

func (c *cluster) end(t task) error {
	n := c.nodes[t.node]
	err := n.store.Delete(discovery.KindName, t.name(n.id).RowKey())
	if t.vip {
		err = errors.Join(err, n.store.Delete(discovery.KindBackend, t.backend(n.id).RowKey()))
	}
	return err
}

// measured is what a number of changes came to.
type measured struct {
	took  []float64 // ms until the last node that has to know a task knew it
	lost  uint64    // streams that broke meanwhile
	bytes float64   // that the master sent, for each change and node that takes it
	cpu   float64   // us of the whole simulation for the same
}

// measure replaces tasks at a rate: another begins, and the old one goes.
func (c *cluster) measure(ctx context.Context, rate int) (m measured, err error) {
	runtime.GC()
	collected := collections()
	var changes []*change
	before, deliveries := c.hub.syncer.Stats().Wire, 0
	began, between, busy := time.Now(), time.Second/time.Duration(rate), cpuTime()
	for n := range int(c.lasting / between) {
		select {
		case <-time.After(time.Until(began.Add(time.Duration(n) * between))):
		case <-ctx.Done():
			return m, context.Cause(ctx)
		}
		// No task twice in a row: what is replaced before everyone knew it never has to be known.
		if len(c.order) == 0 {
			c.order = rand.Perm(len(c.tasks))
		}
		i := c.order[0]
		c.order = c.order[1:]
		old := c.tasks[i]
		t := c.newTask(old.node, old.service)
		who := c.users[t.service]
		if t.vip {
			who = c.nodes
		}
		// What replaces the other goes with it: one change.
		deliveries += len(who)
		if len(who) == 0 {
			continue
		}
		one := &change{}
		for _, n := range c.users[t.service] {
			n.await(t, one, c.nodes[t.node].id)
			one.left.Add(1)
		}
		if t.vip {
			for _, n := range c.nodes {
				n.awaitVIP(t, one, c.nodes[t.node].id)
				one.left.Add(1)
			}
		}
		one.began = time.Now()
		if err := errors.Join(c.start(t), c.end(old)); err != nil {
			return m, err
		}
		c.tasks[i] = t
		changes = append(changes, one)
	}
	err = until(ctx, "every change is known", func() error {
		for i, one := range changes {
			if left := one.left.Load(); left > 0 {
				return fmt.Errorf("change %d of %d: %d nodes do not know", i, len(changes), left)
			}
		}
		return nil
	})
	for _, one := range changes {
		m.took = append(m.took, float64(one.last.Load())/1e6)
	}
	m.bytes = float64(c.hub.syncer.Stats().Wire-before) / float64(deliveries)
	m.cpu = float64((cpuTime() - busy).Microseconds()) / float64(deliveries)
	for _, n := range c.nodes {
		m.lost += n.lost.Swap(0)
	}
	say("%d changes a second: %d changes, %d deliveries, %.0f bytes and %.0f us each; %d streams broke, %d collections of garbage",
		rate, len(changes), deliveries, m.bytes, m.cpu, m.lost, collections()-collected)
	return m, err
}

// profiled writes where f spends processor time to a file, if there is a name for one.
func profiled(path string, f func() (measured, error)) (m measured, err error) {
	if path == "" {
		return f()
	}
	out, err := os.Create(path)
	if err != nil {
		return m, err
	}
	if err := pprof.StartCPUProfile(out); err != nil {
		return m, errors.Join(err, out.Close())
	}
	m, err = f()
	pprof.StopCPUProfile()
	return m, errors.Join(err, out.Close())
}

// cpuTime is what this process has taken of processors.
func cpuTime() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &ts) // the clock is there
	return time.Duration(ts.Nano())
}

// collections is how often garbage was collected so far.
func collections() uint32 {
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return s.NumGC
}

// until waits for a state that is not measured.
func until(ctx context.Context, what string, problem func() error) error {
	return each(ctx, 20*time.Millisecond, what, problem)
}

// each waits for a state, looking so often.
func each(ctx context.Context, every time.Duration, what string, problem func() error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		err := problem()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%s: not after %v: %w", what, patience, err)
		}
	}
}
