// SPDX-License-Identifier: Apache-2.0

// Package mesosdns is `weft mesos-dns`: the names of a Mesos cluster by DNS and HTTP, with the
// configuration file, the flags and the answers of Mesos-DNS. It needs no other process of Weft; what
// names there are and how they are answered is discovery's.
package mesosdns

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"weft/cmd/weft/node"
	"weft/cmd/weft/process"
	"weft/cmd/weft/show"
	"weft/discovery/dns"
	"weft/discovery/dns/foreign"
	"weft/discovery/httpapi"
	"weft/discovery/mesos"
	"weft/discovery/zone"
)

const (
	// untilFirst is how long to wait after a failure as long as nothing is answered.
	untilFirst  = time.Second
	hostConfig  = "/etc/resolv.conf"
	readHeaders = 10 * time.Second
	// changesAtOnce is how many changes of the state become records at a time.
	changesAtOnce = 1024
	serviceName   = "Mesos-DNS" // what clients ask for in /v1/version
	serviceURL    = "https://github.com/mesosphere/mesos-dns"
)

// Command returns `weft mesos-dns`. Its flags are Mesos-DNS's, with one dash or two.
func Command(env node.Env, version string) *cobra.Command {
	return &cobra.Command{
		Use:   "mesos-dns -config FILE",
		Short: "the names of a Mesos cluster, in place of Mesos-DNS",
		Long: "Mesos-dns reads the state of a Mesos master and answers by DNS and HTTP as Mesos-DNS does, with the same\n" +
			"configuration file. What Mesos-DNS gets wrong is put right, unless the file says \"strict\": true.",
		Example:            "  weft mesos-dns -config /etc/mesos-dns/config.json",
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := parseFlags(args)
			switch {
			case errors.Is(err, flag.ErrHelp):
				return cmd.Help()
			case err != nil:
				return fmt.Errorf("%w: %w", show.ErrUsage, err)
			case f.version:
				_, err := fmt.Fprintln(env.Stdout, version)
				return err
			}
			c, err := Load(f.config, env.Getenv("HOME"))
			if err != nil {
				return err
			}
			d, err := New(c, version, process.Log(env.Stderr, f.debug))
			if err != nil {
				return err
			}
			return d.Run(cmd.Context())
		},
	}
}

type flags struct {
	config         string
	version, debug bool
}

// parseFlags reads the flags of Mesos-DNS; those of its log are taken and mean nothing, but for -v.
func parseFlags(args []string) (flags, error) {
	var f flags
	set := flag.NewFlagSet("mesos-dns", flag.ContinueOnError)
	set.SetOutput(io.Discard)
	set.StringVar(&f.config, "config", "config.json", "configuration file (JSON)")
	set.BoolVar(&f.version, "version", false, "print the version")
	level := set.Int("v", 0, "how much is logged: 0, or more")
	for _, name := range []string{"logtostderr", "alsologtostderr"} {
		set.Bool(name, false, "taken for compatibility")
	}
	for _, name := range []string{"log_dir", "stderrthreshold", "vmodule", "log_backtrace_at"} {
		set.String(name, "", "taken for compatibility")
	}
	if err := set.Parse(args); err != nil {
		return f, err
	}
	f.debug = *level > 0
	return f, nil // what follows the flags means nothing to Mesos-DNS either
}

// Daemon is a running `weft mesos-dns`.
type Daemon struct {
	config  Config
	version string
	log     *slog.Logger
	source  *source
	every   time.Duration // the state is read
	ready   chan struct{} // closed by Run when questions are answered

	detector *detector                    // nil: the masters are those that are listed
	local    func() ([]netip.Addr, error) // addresses of this host, but for loopback

	now    atomic.Pointer[httpapi.Snapshot] // written by Run
	server *dns.Server                      // nil unless DNSOn and ready
	http   net.Listener                     // nil unless HTTPOn and ready
}

// New returns a daemon; nothing runs before Run.
func New(c Config, version string, log *slog.Logger) (*Daemon, error) {
	s, err := newSource(c, log)
	if err != nil {
		return nil, fmt.Errorf("mesos-dns: %w", err)
	}
	if c.ExternalOn && len(c.Resolvers) == 0 {
		if c.Resolvers, err = hostResolvers(hostConfig); err != nil {
			return nil, fmt.Errorf("mesos-dns: resolvers: %w", err)
		}
	}
	d := &Daemon{
		config: c, version: version, log: log, source: s, every: time.Duration(c.RefreshSeconds) * time.Second, ready: make(chan struct{}),
		local: func() ([]netip.Addr, error) { return localAddrs(true) },
	}
	if c.Zk != "" {
		e, err := parseEnsemble(c.Zk)
		if err != nil {
			return nil, fmt.Errorf("mesos-dns: %w", err)
		}
		d.detector = newDetector(e, log.WithGroup("zookeeper"))
	}
	return d, nil
}

// awaitLeader errs when ZooKeeper has no leader within zkDetectionTimeout, as Mesos-DNS ends then: who
// watches it starts it elsewhere or tells somebody. 0 and less wait for ever.
func (d *Daemon) awaitLeader(ctx context.Context) error {
	if d.config.ZkDetectionTimeout <= 0 {
		return nil
	}
	timer := time.NewTimer(time.Duration(d.config.ZkDetectionTimeout) * time.Second)
	defer timer.Stop()
	for {
		masters, changed := d.detector.now()
		if len(masters) > 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-timer.C:
			return fmt.Errorf("zk: %s has no leading master after %d seconds (zkDetectionTimeout)", d.config.Zk, d.config.ZkDetectionTimeout)
		}
	}
}

// found returns the masters by ZooKeeper, and what is closed when they are others. It waits for the
// first when none are listed either.
func (d *Daemon) found(ctx context.Context) ([]string, <-chan struct{}) {
	if d.detector == nil {
		return nil, nil
	}
	masters, moved := d.detector.now()
	for len(masters) == 0 && len(d.config.Masters) == 0 && ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-moved:
		}
		masters, moved = d.detector.now()
	}
	return masters, moved
}

// Run reads the state again and again and answers, until ctx ends. As long as no master ever answered,
// nobody is answered; afterwards what was read last stays true until there is something newer.
func (d *Daemon) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	if d.detector != nil {
		g.Go(func() error { return d.detector.run(ctx) })
		g.Go(func() error { return d.awaitLeader(ctx) })
	}
	g.Go(func() error { return d.poll(ctx, g) })
	if err := g.Wait(); err != nil {
		return fmt.Errorf("mesos-dns: %w", err)
	}
	return nil
}

// poll reads the state; after the first time it starts the servers in g.
func (d *Daemon) poll(ctx context.Context, g *errgroup.Group) error {
	servers, err := d.servers()
	if err != nil {
		return err
	}
	d.now.Store(&httpapi.Snapshot{Zone: zone.New(d.config.zone(servers))})
	var facts *mesos.Facts
	for {
		wait := d.every
		masters, moved := d.found(ctx)
		fresh, err := d.source.fetch(ctx, masters)
		switch {
		case err == nil:
			base, before := d.now.Load().Zone, facts
			if now, err := d.servers(); err == nil && !slices.Equal(now, servers) {
				servers = now
				base, before = zone.New(d.config.zone(servers)), nil
			}
			d.publish(base, fresh, before)
			if facts == nil {
				if err := d.serve(ctx, g); err != nil {
					return err
				}
				close(d.ready)
			}
			facts = fresh
		case ctx.Err() == nil:
			d.log.Error("state not read; names stay as they are", "error", err)
			if facts == nil {
				wait = min(wait, untilFirst)
			}
		}
		if !pause(ctx, wait, moved) {
			return nil
		}
	}
}

// pause waits, or until masters are others; false: ctx ended.
func pause(ctx context.Context, wait time.Duration, moved <-chan struct{}) bool {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-moved:
	case <-timer.C:
	}
	return true
}

// publish makes facts true, of which the zone has those before. Its serial number is the time.
func (d *Daemon) publish(z *zone.Zone, facts, before *mesos.Facts) {
	changes := facts.Changes(before)
	next, diff := changed(z, changes)
	next = next.Completed().Dated(uint32(time.Now().Unix()))
	d.now.Store(&httpapi.Snapshot{Zone: next, Listing: facts.Listing()})
	if d.server != nil {
		d.server.SetZone(next, diff)
	}
	d.log.Debug("state read", "changes", len(changes), "records", next.Records())
}

// changed is z after changes, and what they changed at most. It takes them in pieces: what a change passes through on its way
// to records is three times what it leaves, and that of all tasks of a cluster at once would be most of what the process takes.
func changed(z *zone.Zone, changes []zone.Change) (*zone.Zone, zone.Diff) {
	var all zone.Diff
	for some := range slices.Chunk(changes, changesAtOnce) {
		var diff zone.Diff
		z, diff = z.With(some)
		all.Questions, all.All = append(all.Questions, diff.Questions...), all.All || diff.All
	}
	slices.SortFunc(all.Questions, zone.Question.Compare)
	all.Questions = slices.Compact(all.Questions)
	return z, all
}

// serve binds the sockets and starts the servers.
func (d *Daemon) serve(ctx context.Context, g *errgroup.Group) error {
	if d.config.DNSOn {
		o, err := d.dnsOptions()
		if err != nil {
			return err
		}
		if d.server, err = dns.Open(o); err != nil {
			return err
		}
		d.server.SetZone(d.now.Load().Zone, zone.Diff{})
		g.Go(func() error { return d.server.Run(ctx) })
	}
	if !d.config.HTTPOn {
		return nil
	}
	var err error
	addr := net.JoinHostPort(d.config.HTTPListener, strconv.Itoa(d.config.HTTPPort))
	if d.http, err = new(net.ListenConfig).Listen(ctx, "tcp", addr); err != nil {
		return fmt.Errorf("serve HTTP: %w", err)
	}
	server := &http.Server{Handler: d.api(), ReadHeaderTimeout: readHeaders}
	g.Go(func() error {
		stop := context.AfterFunc(ctx, func() { _ = server.Close() }) // nothing is lost: readers come again
		defer stop()
		if err := server.Serve(d.http); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve HTTP: %w", err)
		}
		return nil
	})
	return nil
}

func (d *Daemon) api() http.Handler {
	return httpapi.New(httpapi.Options{
		Snapshot: func() httpapi.Snapshot { return *d.now.Load() },
		Service:  serviceName, URL: serviceURL, Version: d.version,
		Config:      func() any { return d.config.shown(d.now.Load().Zone.Options().Start.Serial) },
		Enumeration: d.config.EnumerationOn, Refresh: time.Duration(d.config.RefreshSeconds) * time.Second, Log: d.log,
	})
}

func (d *Daemon) dnsOptions() (dns.Options, error) {
	c := d.config
	listener, err := netip.ParseAddr(c.Listener)
	if err != nil {
		return dns.Options{}, fmt.Errorf("listener: %w", err)
	}
	o := dns.Options{
		Listen: []netip.AddrPort{netip.AddrPortFrom(listener, uint16(c.Port))},
		Mesos:  &dns.Mesos{Recursion: c.RecurseOn, Truncate: c.SetTruncateBit, Strict: c.Strict},
		Log:    d.log, ResolverTimeout: time.Duration(c.Timeout) * time.Second,
	}
	if !c.ExternalOn {
		return o, nil
	}
	o.Resolvers = resolvers(c.Resolvers)
	o.ZoneResolvers = map[string][]netip.AddrPort{}
	for name, list := range c.ZoneResolvers {
		if c.Strict && name != strings.ToLower(name) {
			continue // no question is for it: Mesos-DNS lowers names of questions alone
		}
		o.ZoneResolvers[name] = resolvers(list)
	}
	return o, nil
}

// hostResolvers are those that a file in the form of resolv.conf(5) has, but for this host itself.
func hostResolvers(path string) ([]string, error) {
	found, err := foreign.SystemResolvers(path)
	if err != nil {
		return nil, err
	}
	local, err := localAddrs(false)
	if err != nil {
		return nil, err
	}
	list := []string{}
	for _, a := range found {
		if !slices.Contains(local, a.Addr()) {
			list = append(list, a.Addr().String())
		}
	}
	return list, nil
}

// servers are the addresses at which DNS is served: that of the listener, or all of this host. Mesos-DNS takes :: for an
// address.
func (d *Daemon) servers() ([]netip.Addr, error) {
	a, err := netip.ParseAddr(d.config.Listener)
	if err != nil {
		return nil, fmt.Errorf("listener: %w", err)
	}
	if !a.IsUnspecified() || d.config.Strict && a.Is6() {
		return []netip.Addr{a}, nil
	}
	addrs, err := d.local()
	slices.SortFunc(addrs, netip.Addr.Compare)
	return addrs, err
}

func localAddrs(others bool) ([]netip.Addr, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("addresses of this host: %w", err)
	}
	var addrs []netip.Addr
	for _, a := range all {
		p, err := netip.ParsePrefix(a.String())
		if err != nil || others && p.Addr().IsLoopback() {
			continue
		}
		addrs = append(addrs, p.Addr().Unmap().WithZone(""))
	}
	return addrs, nil
}
