// SPDX-License-Identifier: Apache-2.0

// Package netd wires the node daemon, by hand, top to bottom in the order in which later parts need
// earlier ones. What each part does is its room's.
package netd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/credentials"

	"weft/bpf"
	"weft/bpf/row"
	"weft/cmd/weft/netd/names"
	"weft/cmd/weft/process"
	"weft/discovery"
	"weft/discovery/discoverypb"
	"weft/discovery/dns"
	"weft/discovery/dns/foreign"
	discoveryengine "weft/discovery/engine"
	"weft/discovery/gossip"
	"weft/discovery/interest"
	"weft/discovery/peers"
	"weft/discovery/state"
	"weft/discovery/wire"
	"weft/discovery/zone"
	"weft/lb/announce"
	"weft/lb/announce/bgp"
	lbapply "weft/lb/apply"
	edgeengine "weft/lb/edge/engine"
	lbengine "weft/lb/engine"
	"weft/overlay/apply"
	"weft/overlay/compile"
	overlayengine "weft/overlay/engine"
	"weft/overlay/paths"
	"weft/overlay/watch"
)

// daemon is a node daemon with all its parts.
type daemon struct {
	o            Options
	log          *slog.Logger
	secret       []byte
	otherSecrets [][]byte                         // that are accepted as well
	wire         credentials.TransportCredentials // of connections to masters and nodes
	alone        net.Listener                     // held as long as this daemon has the namespace
	hostname     string
	underlay     apply.Underlay
	host         *apply.Host
	self         compile.Host
	plane        *bpf.Plane
	store        *state.Store
	gossip       *gossip.Gossip
	syncer       *discoverypb.Syncer
	peers        *peers.Peers
	asker        *asker
	interest     *interest.Interest
	names        *dns.Server
	static       names.Static
	resolvers    []netip.AddrPort
	prober       *paths.UDPProber

	pinsLost atomic.Uint64 // pins that somebody removed
	halfLost atomic.Uint64 // starts that found no kernel half, though there should have been one

	overlay   *overlayengine.Engine
	lb        *lbengine.Engine
	edge      *edgeengine.Engine
	links     *announce.Links // nil: neighbours are not told
	bgp       *bgp.Speaker    // nil: routers are not told
	discovery *discoveryengine.Engine
}

// Run is a node daemon until ctx ends. What it put into the kernel stays there.
func Run(ctx context.Context, o Options, log *slog.Logger) error {
	for {
		if err := run(ctx, o, log); !errors.Is(err, errMoved) {
			return err
		}
	}
}

// run is a node daemon until ctx ends or the node moves.
func run(ctx context.Context, o Options, log *slog.Logger) (err error) {
	d := &daemon{o: o, log: log}
	secrets, err := process.Secrets(o.SecretFile)
	if err != nil {
		return err
	}
	d.secret, d.otherSecrets = process.First(secrets)
	if d.wire, err = wire.Credentials(secrets...); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.close()) }()
	if d.alone, err = claimNamespace(ctx); err != nil {
		return err
	}
	for _, part := range []struct {
		name string
		make func(context.Context) error
	}{
		{"names", d.readNames},
		{"rows", d.openRows},
		{"host", d.prepareHost},
		{"kernel half", d.openPlane},
		{"overlay", d.makeOverlay},
		{"load balancing", d.makeLB},
		{"edge", d.makeEdge},
		{"names", d.makeNames},
		{"discovery", d.makeDiscovery},
	} {
		if err := part.make(ctx); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	return d.run(ctx)
}

// claimNamespace makes sure that this is the only node daemon of its network namespace, before
// anything is touched: two would take each other's programs, addresses and ports. Abstract sockets are
// per network namespace and go with their process (unix(7)): one that was killed just now may take a moment.
func claimNamespace(ctx context.Context) (net.Listener, error) {
	for deadline := time.Now().Add(dying); ; {
		l, err := new(net.ListenConfig).Listen(ctx, "unix", "@weft-netd")
		if !errors.Is(err, unix.EADDRINUSE) {
			return l, err
		}
		if time.Now().After(deadline) {
			return nil, errors.New("a node daemon runs in this network namespace already: one netd per namespace")
		}
		select {
		case <-time.After(dying / 40):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// dying is how long a killed daemon may take to be gone.
const dying = 2 * time.Second

// readNames reads what an operator wrote of names, before anything of the host is changed: it may be wrong.
func (d *daemon) readNames(context.Context) (err error) {
	if d.static, err = names.Read(d.o.Names); err != nil {
		return err
	}
	if len(d.o.Resolvers) == 0 {
		d.resolvers, err = foreign.SystemResolvers("/etc/resolv.conf")
		return err
	}
	for _, text := range d.o.Resolvers {
		addr, err := names.Resolver(text)
		if err != nil {
			return err
		}
		d.resolvers = append(d.resolvers, addr)
	}
	return nil
}

// openRows reads the facts that the node knew last and prepares to hear of new ones.
func (d *daemon) openRows(ctx context.Context) (err error) {
	if err := d.findUnderlay(ctx); err != nil {
		return err
	}
	if err := os.MkdirAll(d.o.State, 0o700); err != nil {
		return err
	}
	d.store, err = state.Open(state.Options{Self: d.o.Node, Dir: filepath.Join(d.o.State, "rows"), Log: d.log.WithGroup("rows")})
	if err != nil {
		return err
	}
	d.gossip, err = gossip.Open(gossip.Options{
		ID: discovery.NodeID(d.o.Node), Role: gossip.RoleNode, Bind: d.underlay.Addr, Port: d.o.Gossip, Join: d.o.Join,
		Secret: d.secret, Others: d.otherSecrets, Tags: d.tags(), Dir: d.o.State, Log: d.log.WithGroup("gossip"),
	})
	if err != nil {
		return err
	}
	d.syncer, err = discoverypb.NewSyncer(discoverypb.SyncOptions{
		Store: d.store, Log: d.log.WithGroup("sync"),
		Applied: func(ctx context.Context, known map[discovery.Stream]discovery.Position) error { // served once d.lb is there
			return d.lb.Applied(ctx, known)
		},
	})
	if err != nil {
		return err
	}
	d.peers, err = peers.New(peers.Options{
		Masters: func() []string { return d.o.Masters }, Peers: d.livingPeers, Exchange: d.exchange, Log: d.log.WithGroup("peers"),
	})
	if err != nil {
		return err
	}
	d.interest, err = interest.New(interest.Options{
		Store: d.store, Answers: d.syncer, Master: func() bool { return d.peers.Stats().Master != "" },
		Cool: d.forgetAnswers, Left: func() { d.discovery.Left() }, Log: d.log.WithGroup("interest"),
	})
	return err
}

// prepareHost makes what a node needs once: tunnel device, name server's address, forwarding.
func (d *daemon) prepareHost(context.Context) (err error) {
	d.host, err = apply.NewHost(apply.HostOptions{Underlay: d.underlay, Port: d.o.Tunnel, Port2: d.o.Tunnel2, Dir: d.o.State, NameServers: d.o.moreNameServers(), Log: d.log.WithGroup("host")})
	return err
}

// openPlane loads the programs and puts them where packets are met, the links of tasks excepted.
func (d *daemon) openPlane(ctx context.Context) error {
	tunnel, second, err := d.host.Ensure(ctx)
	if err != nil {
		return err
	}
	d.plane, err = bpf.Open(bpf.Options{
		Pin: d.o.Pin, Classic: apply.Classic{}, Log: d.log.WithGroup("bpf"),
		Config: bpf.Config{
			NodeAddr: d.underlay.Addr, Underlay: d.underlay.Ifindex, Neighbours: d.underlay.Prefix.Bits(),
			Tunnel: tunnel, TunnelPort: d.o.Tunnel, Tunnel2: second, TunnelPort2: d.o.Tunnel2,
			DNS4: netip.MustParseAddr(apply.NameServer4), DNS6: netip.MustParseAddr(apply.NameServer6), NoRecursion: !forwards(d.resolvers, d.o.listen()),
			SlowEncap: d.o.SlowEncap, SlowDecap: d.o.SlowDecap, EventsPerSecond: d.o.Events, EdgeSeed: edgeSeed(d.secret),
		},
		Edge: len(d.o.Edge) > 0,
	})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(d.o.Cgroup, 0o755); err != nil {
		return fmt.Errorf("make cgroup: %w", err)
	}
	// Before the others: a build with another layout may have left links of all kinds, which change over together.
	if err := d.plane.TakeOver(); err != nil {
		return err
	}
	if d.self, err = d.host.EnsureNode(ctx); err != nil {
		return err
	}
	d.checkPins(ctx)
	if second != 0 {
		if err := d.plane.AttachTunnel(second); err != nil {
			return err
		}
	}
	return errors.Join(
		d.plane.AttachUnderlay(d.underlay.Ifindex),
		d.plane.AttachTunnel(tunnel),
		d.plane.AttachNode(d.self.Ifindex),
		d.plane.AttachHost(loopback),
		d.attachSockets(),
		d.attachEdge(ctx),
	)
}

// attachSockets shows processes the VIPs. At the tasks' folder programs of an earlier build may be, below those for all:
// together they would take a socket's backend for what it asked for.
func (d *daemon) attachSockets() error {
	if d.o.sockets == "" || d.o.sockets == d.o.Cgroup {
		return d.plane.AttachCgroup(d.o.Cgroup)
	}
	return errors.Join(d.plane.AttachCgroup(d.o.sockets), d.plane.DetachCgroup(d.o.Cgroup))
}

// loopback is the ifindex of lo, the first interface of every network namespace.
const loopback = 1

func (d *daemon) makeOverlay(ctx context.Context) (err error) {
	if d.prober, err = paths.OpenProber(ctx, d.underlay.Addr, [2]uint16{d.o.Tunnel, d.o.Tunnel2}); err != nil {
		return err
	}
	t := d.plane.Tables()
	d.overlay, err = overlayengine.New(overlayengine.Options{
		Node: discovery.NodeID(d.o.Node), Underlay: d.underlay, Rows: d.store, Eager: d.o.Preset == process.PresetDCOS,
		Tables: apply.Tables{
			Workloads: t.Workloads, Endpoints: t.Endpoints, Blocks: t.Blocks, Prefixes: t.Prefixes,
			VTEPs: t.VTEPs, Verdicts: t.Verdicts, Clauses: t.Clauses, Sources: t.Sources, Spaces: t.Spaces, Openings: t.Openings,
		},
		Attacher: d.plane, Links: apply.Links{Node4: d.underlay.Addr4, Node6: d.underlay.Addr6}, Host: d.host, Self: d.self, Source: d.plane, Finder: finder{d},
		Tracer: &watch.Tracer{Table: t.Traces, Switch: d.plane.SetTracing, Send: apply.SendFrame},
		Prober: d.prober, Alive: d.gossip.Alive, OwnMAC: d.ownMAC,
		Log: d.log.WithGroup("overlay"),
	})
	return err
}

func (d *daemon) makeLB(context.Context) (err error) {
	d.asker = &asker{daemon: d}
	t := d.plane.Tables()
	d.lb, err = lbengine.New(lbengine.Options{
		Store: d.store, Members: d.gossip, Tables: lbapply.Tables{VIPs: t.VIPs, Backends: t.Backends, Maglevs: t.Maglevs}, Traffic: d.plane,
		Peers: d.asker, RefuseUnhealthy: d.o.Preset == process.PresetDCOS,
		Follow:   func(ctx context.Context) error { return d.edge.Follow(ctx) },
		Reserved: d.o.nameServers(),
		Log:      d.log.WithGroup("lb"),
	})
	return err
}

// makeNames opens the name server of the node.
func (d *daemon) makeNames(context.Context) (err error) {
	d.names, err = dns.Open(dns.Options{
		Listen:    d.o.listen(),
		Resolvers: d.resolvers, ZoneResolvers: d.static.Forward, Rate: d.static.Rate, Fixed: d.static.Fixed, Cache: d.plane.Answers(), CacheLimit: row.DNSLongData,
		Hold:    func(ctx context.Context, name string) bool { return d.discovery.Hold(ctx, name) },
		Held:    func(name string) bool { return d.discovery.Held(name) },
		Journal: filepath.Join(d.o.State, "dns-answers"), Log: d.log.WithGroup("dns"),
	})
	return err
}

// listen is where names are answered.
func (o *Options) listen() []netip.AddrPort {
	listen := slices.Clone(o.dns)
	for _, a := range o.nameServers() {
		listen = append(listen, netip.AddrPortFrom(a, 53))
	}
	return listen
}

// forwards tells whether foreign names are answered: by resolvers that are not this server, as it says of itself.
func forwards(resolvers, own []netip.AddrPort) bool {
	return slices.ContainsFunc(resolvers, func(a netip.AddrPort) bool { return !slices.Contains(own, a) })
}

// makeDiscovery makes the room that answers for names, and tells the cluster who this node is.
func (d *daemon) makeDiscovery(ctx context.Context) (err error) {
	d.discovery, err = discoveryengine.New(discoveryengine.Options{
		Store: d.store, Members: d.gossip, Server: d.names, Interest: d.interest, Log: d.log.WithGroup("names"),
		Zone: zone.Options{
			TTL: d.static.TTL, TTLs: d.static.TTLs, Heeding: d.static.Heeding, Zones: d.static.Zones, Static: d.static.Records, Key: d.static.Key,
			Servers: []netip.Addr{netip.MustParseAddr(apply.NameServer4), netip.MustParseAddr(apply.NameServer6)},
			Reverse: []netip.Prefix{netip.MustParsePrefix("11.0.0.0/8"), netip.MustParsePrefix("fd01:c::/64")}, // VIPs
		},
		Synced: func() bool {
			select {
			case <-d.syncer.CaughtUp():
				return d.interest.Settled()
			default:
				return false
			}
		},
	})
	if err != nil {
		return err
	}
	d.adoptAnswers()
	if d.hostname, err = os.Hostname(); err != nil {
		return err
	}
	for _, w := range d.o.warnings() {
		d.log.WarnContext(ctx, "flags don't go together", "warning", w)
	}
	return d.tell(d.underlay)
}

// run starts every part that runs, and ends them all when one fails or ctx ends.
func (d *daemon) run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, run := range []func(context.Context) error{
		d.gossip.Run, d.peers.Run, d.interest.Run, d.overlay.Run, d.lb.Run, d.edge.Run, d.announce, d.discovery.Run, d.names.Run,
		d.followTasks, d.followVIPs, d.checkTasks, d.keepPins, d.followUnderlay, d.prober.Run, d.serve, d.serveMetrics, d.serveHTTP,
		d.serveDCOS,
	} {
		group.Go(func() error { return run(ctx) })
	}
	return group.Wait()
}

func (d *daemon) close() error {
	var errs []error
	if d.alone != nil {
		errs = append(errs, d.alone.Close())
	}
	if d.syncer != nil {
		d.syncer.Close()
	}
	if d.asker != nil {
		errs = append(errs, d.asker.close())
	}
	if d.plane != nil {
		errs = append(errs, d.plane.Close())
	}
	if d.store != nil {
		errs = append(errs, d.store.Close())
	}
	return errors.Join(errs...)
}
