// SPDX-License-Identifier: Apache-2.0

// Package dns answers questions on a node: those about Weft's own zones from the zone that
// discovery/engine hands it, all others from the host's resolvers; what it answered once it puts into
// the kernel's cache of answers and keeps true there. Which records there are is discovery/zone's,
// how the kernel answers is bpf's.
//
// A question walks through these stages, many side by side:
//
//  1. accept: opcode QUERY, class IN, EDNS version 0; the first question (handle.go)
//  2. own zone: compose the answer as the asker's network sees it        (discovery/dns/answer)
//     or foreign: remembered answer, or ask resolvers                    (discovery/dns/foreign)
//  3. fit: EDNS size, truncation                                         (handle.go)
//  4. learn: the answer becomes resident, in the kernel and here         (discovery/dns/resident)
//
// A plain question about a name of ours whose answer is resident, or can be composed without waiting for rows, is answered where it
// is read instead  (udp.go), and in place of Mesos-DNS one that was answered before from the same zone  (spoken.go)
//
// A name is never called missing before the zone is complete (zone.Zone.Complete): a node that has
// just started, with an empty disk and nobody to ask, answers SERVFAIL ("not ready", RFC 8914) to
// what it does not know; what it does know, it answers, however old that is.
package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	wire "github.com/miekg/dns"
	"golang.org/x/sync/errgroup"

	"weft/discovery/dns/foreign"
	"weft/discovery/dns/resident"
	"weft/discovery/zone"
)

// Limits of the sockets.
const (
	maxUDP     = 1232 // bytes of an answer over UDP (DNS flag day 2020), as in the kernel
	stopWithin = 2 * time.Second
	// backlog is how many bytes of questions wait in a socket, about 2,000, while the node is busy.
	backlog = 1 << 20
)

// Options say where and how to answer.
type Options struct {
	// Listen has the addresses to answer at, over UDP and TCP. Port 0 takes a free one.
	Listen []netip.AddrPort
	// View says which network an asker is in (0 and "" for the host). Nil: the network that has the
	// address in its subnets.
	View func(netip.Addr) (vni uint32, network string)
	// Hold waits until all that is known of a name of ours is in the zone, and returns whether it is; nil: it is.
	// Answers that are resident are given without it.
	Hold func(ctx context.Context, name string) bool
	// Held tells whether Hold would return at once that it is; nil: it would not, unless Hold is nil.
	Held func(name string) bool
	// Resolvers answer for names that are not ours; see SystemResolvers. Without, such questions get
	// SERVFAIL. Addresses of Listen are left out, they would ask us.
	Resolvers []netip.AddrPort
	// ZoneResolvers answer instead for names in these zones, the longest one that fits.
	ZoneResolvers map[string][]netip.AddrPort
	// ResolverTimeout is how long one resolver may take; default 5 seconds.
	ResolverTimeout time.Duration
	// Rate is how many questions a second one task may ask here; default 10,000; negative: no limit.
	Rate int
	// Fixed keeps records in their order, the same in each answer; else they are turned, from answer to answer.
	Fixed bool
	// Mesos makes the server answer as Mesos-DNS does; nil: as Weft does.
	Mesos *Mesos
	// Cache is the kernel's; nil: none.
	Cache resident.Cache
	// CacheLimit is how many bytes of records an answer in Cache may have; longer ones are not offered
	// to it. 0: all are.
	CacheLimit int
	// Journal is the file that remembers which answers are in Cache, so that the next process keeps
	// them true; empty: the next process clears the cache once it knows the zone.
	Journal string
	// Log takes what the operator should know; nil: nobody.
	Log *slog.Logger
}

func (o *Options) validate() error {
	var errs []error
	if len(o.Listen) == 0 {
		errs = append(errs, errors.New("listen: at least one address is needed"))
	}
	all := append(slices.Clone(o.Listen), o.Resolvers...)
	for _, resolvers := range o.ZoneResolvers {
		all = append(all, resolvers...)
	}
	for _, a := range all {
		if !a.IsValid() {
			errs = append(errs, fmt.Errorf("address %v: must be an IP address and a port", a))
		}
	}
	return errors.Join(errs...)
}

// Server is the name server of a node.
type Server struct {
	view    func(netip.Addr) (uint32, string)
	hold    func(context.Context, string) bool
	held    func(string) bool // nil: all is
	log     *slog.Logger
	zone    atomic.Pointer[zone.Zone] // written by SetZone only
	limits  *limits
	answers *resident.Answers
	foreign *foreign.Resolvers
	zones   []forwarded // the longest first
	fixed   bool
	mesos   *Mesos
	spoken  atomic.Pointer[spoken] // in its place: of the zone
	taught  sync.WaitGroup         // answers that readers of sockets have others learn
	stats   counters
	sockets []socket
}

// socket is one address, both ways.
type socket struct {
	udp     *net.UDPConn
	packets []net.PacketConn // readers of udp
	tcp     *net.TCPListener
}

// counters are read without a lock.
type counters struct {
	own, foreign, remembered, stale, missing, unready, failed, refused, limited, truncated atomic.Uint64
}

// Stats counts questions since Open, and the answers in the kernel.
type Stats struct {
	Own        uint64 // about names of ours
	Foreign    uint64 // about other names
	Remembered uint64 // foreign ones that needed no resolver
	Stale      uint64 // those of them that were too old, but no resolver answered
	Missing    uint64 // NXDOMAIN, own zones
	Unready    uint64 // SERVFAIL because the zone was not complete yet
	Failed     uint64 // SERVFAIL because no resolver answered
	Refused    uint64 // malformed, other classes, transfers
	Limited    uint64 // refused to tasks that ask too much
	Truncated  uint64 // sent with TC
	resident.Stats
	Upstream []foreign.Stats
}

// Open binds the sockets and reads the journal. Nothing is answered before Run.
func Open(o Options) (*Server, error) {
	if err := o.validate(); err != nil {
		return nil, fmt.Errorf("name server: %w", err)
	}
	s := &Server{view: o.View, hold: o.Hold, held: o.Held, log: o.Log, mesos: o.Mesos, limits: newLimits(o.Rate), fixed: o.Fixed}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.held == nil && s.hold != nil {
		s.held = func(string) bool { return false }
	}
	if s.view == nil {
		s.view = func(a netip.Addr) (uint32, string) {
			n, _ := s.zone.Load().NetworkOf(a)
			return n.VNI, n.Name
		}
	}
	s.serveZone(zone.New(zone.Options{}))
	var err error
	if s.answers, err = resident.Open(resident.Options{
		Cache: o.Cache, Limit: o.CacheLimit, Journal: o.Journal, Fixed: o.Fixed, Log: s.log,
	}); err != nil {
		return nil, fmt.Errorf("name server: %w", err)
	}
	for _, a := range o.Listen {
		if err := s.bind(a); err != nil {
			return nil, errors.Join(fmt.Errorf("name server: %w", err), s.close())
		}
	}
	s.forward(&o)
	s.answers.SetRecursion(s.foreign.Able())
	return s, nil
}

// bindTries is how often a free port is taken that is free over UDP, but not over TCP.
const bindTries = 16

// bind takes an address over UDP and TCP; for port 0 both get the same free one.
func (s *Server) bind(a netip.AddrPort) error {
	err := s.try(a)
	for n := 1; n < bindTries && a.Port() == 0 && errors.Is(err, syscall.EADDRINUSE); n++ {
		err = s.try(a)
	}
	return err
}

func (s *Server) try(a netip.AddrPort) error {
	udp, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(a))
	if err != nil {
		return err // names address and what was tried
	}
	_ = udp.SetReadBuffer(backlog) // less is allowed, and does
	local, _ := udp.LocalAddr().(*net.UDPAddr)
	tcp, err := net.ListenTCP("tcp", &net.TCPAddr{IP: local.IP, Port: local.Port, Zone: local.Zone})
	if err != nil {
		return errors.Join(err, udp.Close())
	}
	packets, err := s.packets(udp)
	if err != nil {
		return errors.Join(err, udp.Close(), tcp.Close())
	}
	s.sockets = append(s.sockets, socket{udp, packets, tcp})
	return nil
}

// Addrs returns the addresses that the server answers at.
func (s *Server) Addrs() []netip.AddrPort {
	var addrs []netip.AddrPort
	for _, k := range s.sockets {
		if a, ok := k.udp.LocalAddr().(*net.UDPAddr); ok {
			addrs = append(addrs, netip.AddrPortFrom(a.AddrPort().Addr().Unmap(), a.AddrPort().Port()))
		}
	}
	return addrs
}

func (s *Server) isOwn(a netip.AddrPort) bool {
	own := slices.Contains(s.Addrs(), a)
	if own {
		s.log.Warn("resolver left out, it is this server", "address", a)
	}
	return own
}

// SetZone makes z the zone to answer from. diff is how it differs from the one before; answers in the
// kernel that it changes are replaced or deleted before z is served. One call at a time.
func (s *Server) SetZone(z *zone.Zone, diff zone.Diff) {
	s.answers.Renew(z, diff, func() { s.serveZone(z) })
}

// serveZone has questions answered from z. What is said from here on is remembered of it, and nothing that was said before.
func (s *Server) serveZone(z *zone.Zone) {
	s.spoken.Store(newSpoken(z))
	s.zone.Store(z)
}

// Resident calls yield for the names that have resident answers, or a part in one.
func (s *Server) Resident(yield func(name string) bool) { s.answers.Names(yield) }

// Forget takes away the resident answers that have a part from one of these names: the next question for
// them comes to the server.
func (s *Server) Forget(of func(name string) bool) { s.answers.Forget(of) }

// Run answers until ctx ends, then closes the sockets. What is in the kernel stays there.
func (s *Server) Run(ctx context.Context) error {
	g, gctx := errgroup.WithContext(ctx)
	handler := wire.HandlerFunc(func(w wire.ResponseWriter, m *wire.Msg) { s.serve(gctx, w, m) })
	besides := wire.HandlerFunc(func(w wire.ResponseWriter, m *wire.Msg) { s.serveTCP(gctx, w, m) })
	admit, size := admit, maxUDP
	if s.mesos != nil && s.mesos.Strict {
		admit, size = admitAll, wire.MinMsgSize // what is longer than that Mesos-DNS can't read
	}
	for _, k := range s.sockets {
		for _, packets := range k.packets {
			g.Go(func() error {
				return run(gctx, &wire.Server{PacketConn: packets, UDPSize: size, Handler: handler, MsgAcceptFunc: admit})
			})
		}
		g.Go(func() error {
			return run(gctx, &wire.Server{
				Listener: s.listen(k.tcp), Handler: besides, MsgAcceptFunc: admit, MaxTCPQueries: -1,
				IdleTimeout: func() time.Duration { return idle },
			})
		})
	}
	g.Go(func() error { return s.answers.Run(gctx) })
	err := g.Wait()
	if ctx.Err() != nil {
		err = nil
	}
	s.taught.Wait()
	s.foreign.Wait()
	for _, z := range s.zones {
		z.Wait()
	}
	return errors.Join(err, s.close())
}

// run serves one socket until ctx ends or the socket fails.
func run(ctx context.Context, srv *wire.Server) error {
	started := make(chan struct{})
	srv.NotifyStartedFunc = func() { close(started) }
	done := make(chan error, 1) // one value: the end
	go func() { done <- srv.ActivateAndServe() }()
	select {
	case err := <-done:
		return err
	case <-started:
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopWithin)
	defer cancel()
	return errors.Join(srv.ShutdownContext(stop), <-done)
}

func (s *Server) close() error {
	var errs []error
	for _, k := range s.sockets {
		for _, err := range []error{k.udp.Close(), k.tcp.Close()} {
			if !errors.Is(err, net.ErrClosed) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(append(errs, s.answers.Close())...)
}

// Stats returns the present counts.
func (s *Server) Stats() Stats {
	st := Stats{
		Own: s.stats.own.Load(), Foreign: s.stats.foreign.Load(), Remembered: s.stats.remembered.Load(),
		Missing: s.stats.missing.Load(), Unready: s.stats.unready.Load(), Failed: s.stats.failed.Load(),
		Refused: s.stats.refused.Load(), Limited: s.stats.limited.Load(), Stale: s.stats.stale.Load(), Truncated: s.stats.truncated.Load(),
		Stats: s.answers.Stats(), Upstream: s.foreign.Stats(),
	}
	for _, z := range s.zones {
		st.Upstream = append(st.Upstream, z.Stats()...)
	}
	return st
}
