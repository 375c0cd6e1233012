// SPDX-License-Identifier: Apache-2.0

// Package walk takes a lab through a random sequence of operations (networks, groups, rules, tasks, daemons
// that are killed) and after each asks one random pair of tasks three ways whether they may talk: the
// programs that the daemons pinned, by a test run on a packet; the daemon, as `weft why` does; and a plain
// model of what was declared. All three have to agree. The short form is a test, `make walk-overlay` the long one.
package walk

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"weft/control"
	"weft/overlay"
	"weft/tests/lab"
	"weft/tests/lab/labtest"
)

var (
	operations = flag.Int("operations", 200, "of the random walk")
	seed       = flag.Uint64("seed", 1, "of the random walk")
	within     = flag.Duration("within", time.Hour, "end a walk that takes longer, wherever it is")
)

// Limits of what is there at a time.
const (
	maxTasks    = 12 // per host
	maxNetworks = 3
	maxRules    = 12 // per network
)

// settled is how long facts may travel before the three have to agree.
const settled = 20 * time.Second

var groupNames = []string{"web", "db", "api", overlay.GroupPublic}

// walker is the lab, and what was declared so far.
type walker struct {
	*rand.Rand
	t        *testing.T
	lab      *lab.Lab
	control  control.Service
	nodes    []*node
	networks []*declared
	tasks    []*task
	next     int // number of the next network or task
	port     uint16
	waited   []time.Duration // until the three agreed, for each sample
	agreed   map[string]int  // by reason
	counts   map[string]int  // of operations
	took     map[string]time.Duration
}

// declared is a network as the operator has made it.
type declared struct {
	overlay.Network
	groups []string
	rules  []overlay.Rule
}

type task struct {
	overlay.Endpoint
	on *node
	in *declared
	ns *space
}

func TestRandomWalk(t *testing.T) {
	l := labtest.Up(t, lab.Options{Hosts: 2})
	w := newWalker(t, l, rand.New(rand.NewPCG(*seed, 0)))
	began, done := time.Now(), 0
	for i := range *operations {
		start := time.Now()
		if start.Sub(began) > *within {
			break
		}
		done++
		op := w.step()
		w.counts[op]++
		w.took[op] += time.Since(start)
		if len(w.tasks) > 0 {
			if err := w.sample(); err != nil {
				t.Fatalf("operation %d of seed %d (%s): %v", i, *seed, op, err)
			}
		}
	}
	slices.Sort(w.waited)
	if len(w.waited) > 0 {
		t.Logf("%d operations %v in %v; %d pairs agreed %v after %s (median), %s (longest)", done, w.counts, w.took,
			len(w.waited), w.agreed, w.waited[len(w.waited)/2], w.waited[len(w.waited)-1])
	}
	if len(w.waited) < done/2 {
		t.Errorf("%d pairs were sampled in %d operations", len(w.waited), done)
	}
}

// step does one operation and returns its name.
func (w *walker) step() string {
	if len(w.networks) == 0 {
		return w.must("add network", w.addNetwork())
	}
	n := w.networks[w.IntN(len(w.networks))]
	switch p := w.IntN(1000); {
	case p < 330:
		return w.must("attach", w.attach(n))
	case p < 600:
		return w.must("detach", w.detach())
	case p < 780:
		return w.must("add rule", w.addRule(n))
	case p < 920:
		return w.must("remove rule", w.removeRule(n))
	case p < 950:
		return w.must("add group", w.addGroup(n))
	case p < 970:
		return w.must("remove group", w.removeGroup(n))
	case p < 982:
		return w.must("add network", w.addNetwork())
	case p < 994:
		return w.must("remove network", w.removeNetwork(n))
	default:
		return w.must("kill netd", w.restart())
	}
}

func (w *walker) must(op string, err error) string {
	w.t.Helper()
	if err != nil {
		w.t.Fatalf("%s: %v (seed %d)", op, err, *seed)
	}
	return op
}

func (w *walker) addNetwork() error {
	if len(w.networks) >= maxNetworks {
		return nil
	}
	w.next++
	n := overlay.Network{
		Name:      fmt.Sprintf("n%d", w.next),
		Subnet4:   netip.PrefixFrom(netip.AddrFrom4([4]byte{9, byte(w.next%250 + 1), 0, 0}), 16),
		Ungrouped: []overlay.Ungrouped{overlay.UngroupedOwn, overlay.UngroupedOpen}[w.IntN(2)],
	}
	if w.IntN(4) > 0 {
		n.Subnet6 = netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 1, 0, 0x0b, byte(w.next >> 8), byte(w.next)}), 64)
	}
	made, err := w.control.AddNetwork(w.t.Context(), n)
	if err != nil {
		return err
	}
	w.networks = append(w.networks, &declared{Network: made})
	return nil
}

func (w *walker) removeNetwork(n *declared) error {
	if slices.ContainsFunc(w.tasks, func(t *task) bool { return t.in == n }) {
		return nil
	}
	err := w.control.RemoveNetwork(w.t.Context(), n.Name)
	if errors.Is(err, control.ErrInUse) {
		return nil // the masters have not heard yet that its last task ended
	}
	w.networks = slices.DeleteFunc(w.networks, func(o *declared) bool { return o == n })
	return err
}

func (w *walker) addGroup(n *declared) error {
	name := groupNames[w.IntN(len(groupNames)-1)]
	if slices.Contains(n.groups, name) {
		return nil
	}
	n.groups = append(n.groups, name)
	return w.control.AddGroup(w.t.Context(), overlay.Group{Network: n.Name, Name: name})
}

func (w *walker) removeGroup(n *declared) error {
	if len(n.groups) == 0 {
		return nil
	}
	name := n.groups[w.IntN(len(n.groups))]
	err := w.control.RemoveGroup(w.t.Context(), overlay.Group{Network: n.Name, Name: name})
	if err == nil {
		n.groups = slices.DeleteFunc(n.groups, func(g string) bool { return g == name })
	} else if errors.Is(err, control.ErrInUse) {
		return nil
	}
	return err
}

func (w *walker) addRule(n *declared) error {
	if len(n.rules) >= maxRules || len(n.groups) == 0 {
		return nil
	}
	all := append(slices.Clone(n.groups), overlay.GroupPublic)
	r := overlay.Rule{
		Network: n.Name, From: all[w.IntN(len(all))], To: all[w.IntN(len(all))],
		Protocol: []string{"", "tcp", "tcp", "udp", "icmp"}[w.IntN(5)],
		Action:   []overlay.Action{overlay.Allow, overlay.Allow, overlay.Deny}[w.IntN(3)],
	}
	if w.IntN(5) == 0 {
		r.From = []string{overlay.World, "203.0.113.0/24", "203.0.113.0/28"}[w.IntN(3)]
	}
	r.Audit = r.Action == overlay.Deny && w.IntN(3) == 0
	if (r.Protocol == "tcp" || r.Protocol == "udp") && w.IntN(4) > 0 {
		first := ports[w.IntN(len(ports))]
		r.Ports = []overlay.PortRange{{First: first, Last: first + uint16(w.IntN(3)*50)}}
	}
	made, err := w.control.AddRule(w.t.Context(), r)
	// The same rule again is the one that is there.
	if err == nil && !slices.ContainsFunc(n.rules, func(o overlay.Rule) bool { return o.ID == made.ID }) {
		n.rules = append(n.rules, made)
	}
	return err
}

func (w *walker) removeRule(n *declared) error {
	if len(n.rules) == 0 {
		return nil
	}
	i := w.IntN(len(n.rules))
	err := w.control.RemoveRule(w.t.Context(), n.Name, n.rules[i].ID)
	n.rules = slices.Delete(n.rules, i, i+1)
	return err
}

// attach starts a task; it has heard of the network and its groups when it answers.
func (w *walker) attach(n *declared) error {
	on := w.nodes[w.IntN(len(w.nodes))]
	ns := on.free()
	if ns == nil {
		return w.detach()
	}
	w.next++
	id := fmt.Sprintf("t%d", w.next)
	var groups []string
	for _, g := range append(slices.Clone(n.groups), overlay.GroupPublic) {
		if w.IntN(3) == 0 && (g != overlay.GroupPublic || w.IntN(3) == 0) {
			groups = append(groups, g)
		}
	}
	slices.Sort(groups)
	a := overlay.Attachment{ID: id, Task: id, Name: id, Network: n.Name, Groups: groups, NetNS: ns.path, Interface: "eth0"}
	e, err := on.attach(w.t.Context(), a)
	if err != nil {
		return err
	}
	ns.used = true
	w.tasks = append(w.tasks, &task{Endpoint: e, on: on, in: n, ns: ns})
	return nil
}

func (w *walker) detach() error {
	if len(w.tasks) == 0 {
		return nil
	}
	i := w.IntN(len(w.tasks))
	t := w.tasks[i]
	w.tasks = slices.Delete(w.tasks, i, i+1)
	t.ns.used = false
	ctx, cancel := context.WithTimeout(w.t.Context(), settled)
	defer cancel()
	return t.on.daemon.Overlay.Detach(ctx, t.ID)
}

// restart kills a node daemon; the samples that follow are asked of the next one.
func (w *walker) restart() error {
	n := w.nodes[w.IntN(len(w.nodes))]
	if err := n.host.Signal("netd", syscall.SIGKILL); err != nil {
		return err
	}
	if err := n.host.StartNetd(); err != nil {
		return err
	}
	return n.host.WaitReady(w.t.Context())
}

// sample asks about one pair until the three agree.
func (w *walker) sample() error {
	q := w.question()
	start := time.Now()
	ctx, cancel := context.WithTimeout(w.t.Context(), 2*settled)
	defer cancel()
	for {
		want := q.model()
		why, err := q.why(ctx)
		if err != nil {
			why = err.Error()
		}
		w.port++
		kernel, err := q.kernel(40000+w.port%20000, why)
		if err != nil {
			return fmt.Errorf("%s: %w", q, err)
		}
		if kernel && sameVerdict(want, why) {
			w.waited = append(w.waited, time.Since(start))
			w.agreed[why]++
			return nil
		}
		if time.Since(start) > settled {
			return fmt.Errorf("%s: the model says %s, weft why %s, and that the kernel agrees with it is %v\nrules: %s", q, want, why, kernel, q.rules())
		}
		time.Sleep(5 * time.Millisecond) // the facts are on their way
	}
}

// sameVerdict compares what the model says with a reason of the packet path: audits pass.
func sameVerdict(model, why string) bool {
	if model == pass {
		return slices.Contains([]string{"delivered", "audited", "from_host"}, why)
	}
	return slices.Contains([]string{"denied", "no_common_group", "not_public", "no_endpoint"}, why)
}

func (q question) rules() string {
	var list []string
	for _, r := range q.dst.in.rules {
		list = append(list, fmt.Sprintf("%d: %s %s to %s %s %v audit=%v", r.ID, r.Action, r.From, r.To, r.Protocol, r.Ports, r.Audit))
	}
	return strings.Join(list, "; ")
}
