// SPDX-License-Identifier: Apache-2.0

package netd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"weft/cmd/weft/process"
	"weft/discovery"
	"weft/discovery/httpapi"
	"weft/discovery/zone"
	"weft/lb"
)

// refreshEvery is what /v1/axfr tells those who copy the zone: it changes with the facts.
const refreshEvery = time.Second

// serveHTTP answers for names, VIPs and nodes on the ports of Mesos-DNS and dcos-net. Who holds such a
// port already is left alone: names themselves need none of this.
func (d *daemon) serveHTTP(ctx context.Context) error {
	pages, err := process.Metrics(d.report)
	if err != nil {
		return err
	}
	mesos := httpapi.New(httpapi.Options{
		Snapshot: func() httpapi.Snapshot {
			d.discovery.HoldAll(ctx)
			z := d.discovery.Zone()
			return httpapi.Snapshot{Zone: z, Listing: z.Listing()}
		},
		Service: "Mesos-DNS", URL: "https://github.com/mesosphere/mesos-dns", Version: d.o.Version,
		Config: func() any { return d.o }, Enumeration: true, Refresh: refreshEvery, Log: d.log.WithGroup("http"),
	})
	node := httpapi.NewNode(d.pages(pages))
	failed := make(chan error, 2) // one per server
	for addr, handler := range map[string]http.Handler{d.o.MesosHTTP: mesos, d.o.HTTP: node} {
		go func() { failed <- d.serveAt(ctx, addr, handler) }()
	}
	return errors.Join(<-failed, <-failed)
}

// hold waits for a name, for all names when it is empty. What does not come in time is left out.
func (d *daemon) hold(ctx context.Context, name string) bool {
	if name == "" {
		return d.discovery.HoldAll(ctx)
	}
	return d.discovery.Hold(ctx, name)
}

// pages is what the pages, and watches by gRPC, tell of.
func (d *daemon) pages(metrics http.Handler) httpapi.NodeOptions {
	return httpapi.NodeOptions{
		Zone: func() *zone.Zone { return d.discovery.Zone() }, Hold: d.hold, VIPs: d.listVIPs, Nodes: d.listNodes,
		Changed: func() (names, vips, nodes <-chan struct{}) {
			return d.discovery.Changed(), d.lb.Changed(), d.gossip.Changed()
		},
		Metrics: metrics, Version: d.o.Version, Log: d.log.WithGroup("http"),
	}
}

// watch follows names, VIPs and nodes for a client of the socket.
func (d *daemon) watch(ctx context.Context, names []string, vips, nodes bool, send func(event string, document []byte) error) error {
	return httpapi.Follow(ctx, d.pages(nil), httpapi.Watched{Names: names, VIPs: vips, Nodes: nodes}, send)
}

func (d *daemon) serveAt(ctx context.Context, addr string, handler http.Handler) error {
	if addr == "" {
		return nil
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		d.log.ErrorContext(ctx, "http pages not served", "address", addr, "error", err)
		return nil
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() }) // nothing is lost: readers come again
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve http at %s: %w", addr, err)
	}
	return nil
}

func (d *daemon) listVIPs() []httpapi.VIP {
	all, err := d.lb.VIPs(context.Background(), "")
	if err != nil {
		d.log.Error("VIPs not listed", "error", err)
	}
	return foldHost(listed(all))
}

// listed are VIPs as dcos-net lists them, all backends in whatever state. Behind an address are those of its family alone.
func listed(all []lb.VIPStatus) []httpapi.VIP {
	list := make([]httpapi.VIP, 0, len(all))
	for _, v := range all {
		one := httpapi.VIP{Protocol: v.Protocol, Network: v.Network, Addrs: v.Addrs, Backends: []httpapi.Backend{}}
		if one.VIP = fmt.Sprintf("%s:%d", v.DNS, v.Port); v.DNS == "" {
			one.VIP = netip.AddrPortFrom(v.Addr, v.Port).String()
		}
		for _, b := range v.Backends {
			for _, a := range b.Addrs {
				if v.Addr.IsValid() && v.Addr.Is4() != a.Is4() {
					continue
				}
				one.Backends = append(one.Backends, httpapi.Backend{
					IP: a, Port: b.Port, Task: b.Task, Node: string(b.Node), Weight: b.Weight, In: b.In, Reason: b.Reason, Health: string(b.Health),
				})
			}
		}
		list = append(list, one)
	}
	return list
}

// foldHost puts the backends of VIPs of network host behind the same VIPs of other networks, as they are for clients there. dcos-net,
// whose VIPs have no network, lists one VIP once.
func foldHost(vips []httpapi.VIP) []httpapi.VIP {
	type key struct{ vip, protocol string }
	host := map[key]httpapi.VIP{}
	folded := map[key]bool{}
	for _, v := range vips {
		if v.Network == discovery.HostNetwork {
			host[key{v.VIP, v.Protocol}] = v
		}
	}
	for i, v := range vips {
		of := key{v.VIP, v.Protocol}
		if h, there := host[of]; there && v.Network != discovery.HostNetwork {
			vips[i].Backends, folded[of] = slices.Concat(v.Backends, h.Backends), true
			vips[i].Addrs = slices.Concat(v.Addrs, slices.DeleteFunc(slices.Clone(h.Addrs), func(a netip.Addr) bool { return slices.Contains(v.Addrs, a) }))
		}
	}
	return slices.DeleteFunc(vips, func(v httpapi.VIP) bool {
		return v.Network == discovery.HostNetwork && folded[key{v.VIP, v.Protocol}]
	})
}

func (d *daemon) listNodes() []httpapi.Node {
	all, err := d.discovery.Nodes(context.Background())
	if err != nil {
		d.log.Error("nodes not listed", "error", err)
	}
	list := []httpapi.Node{}
	for _, n := range all {
		one := httpapi.Node{Hostname: n.Hostname, Updated: httpapi.Moment{Time: n.Since}, ID: string(n.ID), Alive: n.Alive, Public: []netip.Addr{}}
		if len(n.Addrs) > 0 {
			one.Private = n.Addrs[0]
		}
		list = append(list, one)
	}
	return list
}
