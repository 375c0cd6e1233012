// SPDX-License-Identifier: Apache-2.0

package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"weft/agent/sandbox"
	"weft/cmd/weft/show"
	"weft/discovery"
	"weft/discovery/dnsname"
	"weft/lb"
	"weft/overlay"
)

// membership is one network of a task, and what it wants there.
type membership struct {
	network      string
	groups, vips []string
	ports        []overlay.PortMapping
	fixed        []netip.Addr
}

// flag is a repeatable flag whose values belong to the network named before it.
type flag func(value string) error

// Set implements pflag.Value, as do String and Type.
func (f flag) Set(value string) error { return f(value) }
func (f flag) String() string         { return "" }
func (f flag) Type() string           { return "string" }

// last is the network that flags are of: the one named last. Flags before any are of the first.
func (w *wish) last() *membership {
	if len(w.joins) == 0 {
		w.joins = append(w.joins, membership{})
	}
	return &w.joins[len(w.joins)-1]
}

func (w *wish) join(network string) error {
	if network == "" {
		return errors.New("a network has a name")
	}
	if slices.ContainsFunc(w.joins, func(m membership) bool { return m.network == network }) {
		return fmt.Errorf("network %s is named twice: once is allowed", network)
	}
	if m := w.last(); m.network == "" {
		m.network = network
	} else {
		w.joins = append(w.joins, membership{network: network})
	}
	return nil
}

func (w *wish) group(name string) error {
	m := w.last()
	m.groups = append(m.groups, name)
	return nil
}

func (w *wish) vip(label string) error {
	if _, err := lb.ParseLabel(label); err != nil {
		return err
	}
	m := w.last()
	m.vips = append(m.vips, label)
	return nil
}

func (w *wish) ip(text string) error {
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return errors.New("an IPv4 or IPv6 address is allowed, such as 9.0.0.7")
	}
	m := w.last()
	m.fixed = append(m.fixed, addr)
	return nil
}

func (w *wish) publish(text string) error {
	mapping, err := overlay.ParsePortMapping(text)
	if err != nil {
		return err
	}
	m := w.last()
	m.ports = append(m.ports, mapping)
	return nil
}

// validate reports what no single flag shows.
func (w *wish) validate() error {
	if len(w.joins) == 0 || w.joins[0].network == "" {
		return fmt.Errorf("%w: --network is needed: the virtual network to join, or %s for the node's own", show.ErrUsage, discovery.HostNetwork)
	}
	if label := dnsname.Label(w.name); label != w.name {
		return fmt.Errorf("%w: --name is %q: 1 to 63 of a-z, 0-9 and -, with no - at either end, are allowed, such as %q",
			show.ErrUsage, w.name, cmp.Or(label, "web"))
	}
	var all []overlay.PortMapping
	for _, m := range w.joins {
		for _, p := range m.ports {
			for _, o := range all {
				if p.Clashes(o) {
					return fmt.Errorf("%w: --publish %s and --publish %s take the same port of the node", show.ErrUsage, o, p)
				}
			}
			all = append(all, p)
		}
	}
	return w.checkHost()
}

// checkHost refuses what a task in its node's own network can't have.
func (w *wish) checkHost() error {
	refuse := func(flag, value, why string) error {
		return fmt.Errorf("%w: --%s %s: a task in network %s %s", show.ErrUsage, flag, value, discovery.HostNetwork, why)
	}
	i := slices.IndexFunc(w.joins, func(m membership) bool { return m.network == discovery.HostNetwork })
	if i < 0 {
		return nil
	}
	switch m := w.joins[i]; {
	case len(w.joins) > 1:
		return refuse("network", w.joins[(i+1)%len(w.joins)].network, "is in no other one")
	case len(m.groups) > 0:
		return refuse("group", m.groups[0], "is in no group: who reaches it is its node's firewall's to say")
	case len(m.ports) > 0:
		return refuse("publish", m.ports[0].String(), "has its node's ports already")
	case len(m.fixed) > 0:
		return refuse("ip", m.fixed[0].String(), "has its node's addresses")
	}
	w.inHost = true
	return nil
}

// attachment is the id of the i-th network's, and its interface.
func (w *wish) attachment(i int) (id, link string) {
	if w.inHost {
		return w.id, ""
	}
	link = "eth" + strconv.Itoa(i)
	if i == 0 {
		return w.id, link
	}
	return w.id + "/" + link, link
}

// join makes the waiting task reachable in every network, the first one first: its link gets the
// default route.
func join(ctx context.Context, d *Daemon, task *sandbox.Task, w wish) (endpoints []overlay.Endpoint, all []behind, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout+lb.MaxWait)
	defer cancel()
	for i := range w.joins {
		e, b, err := joinOne(ctx, d, task, w, i)
		if err != nil {
			return nil, nil, err
		}
		endpoints, all = append(endpoints, e), append(all, b)
	}
	return endpoints, all, nil
}

func joinOne(ctx context.Context, d *Daemon, task *sandbox.Task, w wish, i int) (endpoint overlay.Endpoint, b behind, err error) {
	m := w.joins[i]
	id, link := w.attachment(i)
	endpoint, err = d.Overlay.Attach(ctx, overlay.Attachment{
		ID: id, Task: w.id, Name: w.name, Network: m.network, Groups: m.groups, Interface: link, Ports: m.ports, Fixed: m.fixed,
		NetNS: task.NetNS, OwnerPID: task.PID, OwnerStart: task.StartTime, Cgroup: task.Cgroup,
	})
	if err != nil {
		return endpoint, b, err
	}
	named := slices.Clone(w.named)
	if len(m.vips) > 0 {
		vips, err := d.LB.Publish(ctx, lb.Registration{Task: id, Network: m.network, Framework: Framework, Addrs: endpoint.Addrs(), Labels: m.vips, Health: w.firstHealth()})
		if err != nil {
			return endpoint, b, err
		}
		named = append(named, vipPorts(vips, id)...)
		b = behindOf(id, vips)
	}
	name := discovery.Name{
		Task: id, Label: w.name, Framework: Framework, Network: m.network, Node: endpoint.Node, Addrs: endpoint.Addrs(), Ports: named, Mapped: len(m.ports) > 0,
	}
	if len(m.vips) == 0 { // else its VIPs say how it is
		name.Unwell = w.health != nil
		b = behind{id: id, name: &name}
	}
	return endpoint, b, d.Discovery.Announce(ctx, name)
}

// leave takes the task out of VIPs, names and networks, if the daemon answers within patience.
func leave(ctx context.Context, d *Daemon, w wish, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var errs []error
	for i := range w.joins {
		id, _ := w.attachment(i)
		errs = append(errs, d.LB.Withdraw(ctx, id), d.Discovery.Retract(ctx, id), d.Overlay.Detach(ctx, id))
	}
	return errors.Join(errs...)
}
