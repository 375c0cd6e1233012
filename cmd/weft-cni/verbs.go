// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"weft/discovery"
	"weft/lb"
	"weft/overlay"
)

// add joins the container: address, then VIPs and name. When those fail the address goes again, and
// with it what there is of them; when the address fails, nothing was begun.
func (p *plugin) add(ctx context.Context) error {
	e, err := p.overlay.Attach(ctx, overlay.Attachment{
		ID: p.id(), Task: p.id(), Name: cmp.Or(p.label, p.container),
		Network: p.Network, Groups: p.Groups, NetNS: p.netns, Interface: p.ifname, Ports: p.ports,
		Fixed: p.fixed,
	})
	if err != nil {
		return err
	}
	reached, err := p.reached(ctx, e)
	if err == nil {
		err = p.publish(ctx, e)
	}
	if err == nil {
		err = types.PrintResult(result(e, reached), p.CNIVersion)
	}
	if err != nil {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
		defer cancel()
		return errors.Join(err, p.leave(undo, p.id()))
	}
	return nil
}

// everything is what the first interface of a container, by name, reaches.
func everything() []netip.Prefix {
	return []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}
}

// reached returns where the container gets by this interface: everywhere, or, when it is not its first,
// to the network.
func (p *plugin) reached(ctx context.Context, e overlay.Endpoint) ([]netip.Prefix, error) {
	endpoints, err := p.overlay.Endpoints(ctx)
	if err != nil {
		return nil, err
	}
	later := slices.ContainsFunc(endpoints, func(o overlay.Endpoint) bool {
		first := len(o.Interface) < len(e.Interface) || len(o.Interface) == len(e.Interface) && o.Interface < e.Interface
		return o.NetNS == e.NetNS && o.Cookie == e.Cookie && first
	})
	if !later {
		return everything(), nil
	}
	networks, err := p.overlay.Networks(ctx)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(networks, func(n overlay.NetworkStatus) bool { return n.Name == e.Network })
	if i < 0 {
		return nil, fmt.Errorf("network %s: %w", e.Network, overlay.ErrNotFound)
	}
	return networks[i].Subnets(), nil
}

// publish makes the container be found by VIP and name.
func (p *plugin) publish(ctx context.Context, e overlay.Endpoint) error {
	var ports []discovery.NamedPort
	if len(p.VIPs) > 0 {
		r := lb.Registration{Task: p.id(), Network: p.Network, Framework: lb.DefaultFramework, Addrs: e.Addrs(), Labels: p.VIPs, Check: p.Health}
		if r.Check != "" {
			r.Health = lb.Unknown
		}
		vips, err := p.lb.Publish(ctx, r)
		if err != nil {
			return err
		}
		ports = portsOf(vips, p.id())
	}
	if p.label == "" {
		return nil
	}
	return p.discovery.Announce(ctx, discovery.Name{
		Task: p.id(), Label: p.label, Framework: discovery.DefaultFramework, Network: p.Network,
		Node: e.Node, Addrs: e.Addrs(), Ports: ports, Mapped: len(e.Ports) > 0,
	})
}

// portsOf returns the task's ports behind its VIPs, for SRV records.
func portsOf(vips []lb.VIPStatus, task string) []discovery.NamedPort {
	var ports []discovery.NamedPort
	for _, v := range vips {
		for _, b := range v.Backends {
			port := discovery.NamedPort{Protocol: v.Protocol, Port: b.Port}
			if b.Task == task && !slices.Contains(ports, port) {
				ports = append(ports, port)
			}
		}
	}
	return ports
}

// leave undoes a join, as far as it went; what is not there is no error.
func (p *plugin) leave(ctx context.Context, id string) error {
	return errors.Join(p.lb.Withdraw(ctx, id), p.discovery.Retract(ctx, id), p.overlay.Detach(ctx, id))
}

// del takes the container out. The address first leaves VIPs and names, then stops to work.
func (p *plugin) del(ctx context.Context) error { return p.leave(ctx, p.id()) }

// check compares what there is with what ADD told.
func (p *plugin) check(ctx context.Context) error {
	broken := func(format string, args ...any) error {
		return types.NewError(types.ErrUnknownContainer, fmt.Sprintf("container %s: ", p.container)+fmt.Sprintf(format, args...), "")
	}
	endpoints, err := p.overlay.Endpoints(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(endpoints, func(e overlay.Endpoint) bool { return e.ID == p.id() })
	if i < 0 {
		return broken("it has no address in network %s on this node", p.Network)
	}
	e := endpoints[i]
	if e.Network != p.Network {
		return broken("it is in network %s, not in %s", e.Network, p.Network)
	}
	told, err := addressesOf(p.PrevResult)
	if err != nil {
		return err
	}
	if have := e.Addrs(); !slices.Equal(told, have) {
		return broken("it has the addresses %v, and ADD told %v", have, told)
	}
	if want := (overlay.Attachment{Ports: p.ports}).Normal().Ports; !slices.Equal(want, e.Ports) {
		return broken("it has the port mappings %v, not %v", e.Ports, want)
	}
	if len(p.VIPs) == 0 {
		return nil
	}
	vips, err := p.lb.VIPs(ctx, p.Network)
	if err != nil {
		return err
	}
	if served := portsOf(vips, p.id()); len(served) == 0 {
		return broken("it is behind none of its VIPs %s", strings.Join(p.VIPs, ", "))
	}
	return nil
}

// collect (GC) takes out what the runtime no longer knows, of this network configuration alone.
func (p *plugin) collect(ctx context.Context) error {
	valid := make(map[string]bool, len(p.ValidAttachments))
	for _, a := range p.ValidAttachments {
		valid[config{PluginConf: p.PluginConf, container: a.ContainerID, ifname: a.IfName}.id()] = true
	}
	endpoints, err := p.overlay.Endpoints(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range endpoints {
		if strings.HasPrefix(e.ID, p.idPrefix()) && !valid[e.ID] {
			errs = append(errs, p.leave(ctx, e.ID))
		}
	}
	return errors.Join(errs...)
}

// status tells whether ADD can be expected to work.
func (p *plugin) status(ctx context.Context) error {
	networks, err := p.overlay.Networks(ctx)
	if err != nil {
		return types.NewError(types.ErrPluginNotAvailable, err.Error(), "")
	}
	names := make([]string, len(networks))
	for i, n := range networks {
		if n.Name == p.Network {
			return nil
		}
		names[i] = n.Name
	}
	return types.NewError(types.ErrPluginNotAvailable,
		fmt.Sprintf("network %q is not known to this node; known are: %s", p.Network, cmp.Or(strings.Join(names, ", "), "none")), "")
}
