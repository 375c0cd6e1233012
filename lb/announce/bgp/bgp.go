// SPDX-License-Identifier: Apache-2.0

// Package bgp tells routers by BGP that published addresses are reached by way of this node. The protocol is GoBGP's; what
// is served here is lb/edge/engine's to say. No route is learnt.
package bgp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	"github.com/osrg/gobgp/v4/pkg/packet/bgp"
	"github.com/osrg/gobgp/v4/pkg/server"
)

const (
	// restart is how long a router keeps the routes of a daemon that restarts (RFC 4724), seconds: the packet path
	// needs none. Of a node that is dead, the hold time ends before and takes them away at once.
	restart   = 120
	hold      = 9 * time.Second
	keepalive = 3 * time.Second
	retry     = 2 * time.Second
	ending    = 2 * time.Second // for the sessions to be closed
)

// Peer is a router.
type Peer struct {
	Addr netip.Addr
	AS   uint32
}

// ParsePeer reads ADDRESS=AS.
func ParsePeer(text string) (Peer, error) {
	host, number, _ := strings.Cut(text, "=")
	addr, err := netip.ParseAddr(host)
	as, err2 := strconv.ParseUint(number, 10, 32)
	if err != nil || err2 != nil || as == 0 {
		return Peer{}, fmt.Errorf("bgp peer is %q: ADDRESS=AS is allowed, such as 10.0.0.254=64512", text)
	}
	return Peer{Addr: addr.Unmap(), AS: uint32(as)}, nil
}

// Serving says which addresses are served here, with backends; lb/edge/engine implements it.
type Serving interface {
	// Serving is nil as long as that is not known.
	Serving() map[netip.Addr]bool
	// ServingChanged is closed at the next change; it is taken before Serving is asked.
	ServingChanged() <-chan struct{}
}

// Options is how New makes a Speaker.
type Options struct {
	AS       uint32     // of this node
	ID       netip.Addr // router id, IPv4
	Peers    []Peer
	Password string // TCP MD5 (RFC 2385); empty: none
	// NextHop4 and NextHop6 are this node's addresses as routers reach it; one that is not valid: that family is not told.
	NextHop4, NextHop6 netip.Addr
	Serving            Serving
	Log                *slog.Logger // nil: none
}

func (o Options) validate() error {
	var errs []error
	if o.AS == 0 {
		errs = append(errs, errors.New("as is 0: 1 to 4294967295 are allowed"))
	}
	if !o.ID.Is4() {
		errs = append(errs, fmt.Errorf("router id is %s: an IPv4 address is needed", o.ID))
	}
	if len(o.Peers) == 0 {
		errs = append(errs, errors.New("no peer"))
	}
	if o.Serving == nil {
		errs = append(errs, errors.New("no Serving"))
	}
	return errors.Join(errs...)
}

// Speaker keeps what routers know equal to what is served.
type Speaker struct {
	o    Options
	log  *slog.Logger
	told map[netip.Addr]bool
}

// New checks o and returns a Speaker that does nothing until Run.
func New(o Options) (*Speaker, error) {
	if err := o.validate(); err != nil {
		return nil, fmt.Errorf("make bgp speaker: %w", err)
	}
	return &Speaker{o: o, log: cmp.Or(o.Log, slog.New(slog.DiscardHandler)), told: make(map[netip.Addr]bool)}, nil
}

// Run speaks until ctx ends; routers keep the routes for a while then.
func (s *Speaker) Run(ctx context.Context) (err error) {
	level := &slog.LevelVar{}
	level.Set(slog.LevelWarn)
	b := server.NewBgpServer(server.LoggerOption(s.log, level))
	go b.Serve()
	defer b.Stop()
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), ending)
		defer cancel()
		err = errors.Join(err, b.StopBgp(ctx, &api.StopBgpRequest{AllowGracefulRestart: true}))
	}()
	if err := b.StartBgp(ctx, &api.StartBgpRequest{Global: &api.Global{
		Asn: s.o.AS, RouterId: s.o.ID.String(), ListenPort: -1, // it calls the routers
		GracefulRestart: &api.GracefulRestart{Enabled: true, RestartTime: restart},
	}}); err != nil {
		return fmt.Errorf("start bgp: %w", err)
	}
	for called := false; ; {
		changed, serving := s.o.Serving.ServingChanged(), s.o.Serving.Serving()
		if err := s.tell(b, serving); err != nil {
			s.log.ErrorContext(ctx, "routes are not told", "error", err)
		}
		// Only now: a router takes the first routes for all there are, and drops what it kept over a restart.
		if serving != nil && !called {
			called = true
			for _, p := range s.o.Peers {
				if err := b.AddPeer(ctx, &api.AddPeerRequest{Peer: s.peer(p)}); err != nil {
					return fmt.Errorf("bgp peer %s: %w", p.Addr, err)
				}
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

func (s *Speaker) peer(p Peer) *api.Peer {
	peer := &api.Peer{
		Conf: &api.PeerConf{NeighborAddress: p.Addr.String(), PeerAsn: p.AS, AuthPassword: s.o.Password},
		Timers: &api.Timers{Config: &api.TimersConfig{
			HoldTime: uint64(hold / time.Second), KeepaliveInterval: uint64(keepalive / time.Second), ConnectRetry: uint64(retry / time.Second),
			IdleHoldTimeAfterReset: uint64(retry / time.Second),
		}},
		GracefulRestart: &api.GracefulRestart{Enabled: true, RestartTime: restart},
		EbgpMultihop:    &api.EbgpMultihop{Enabled: p.AS != s.o.AS, MultihopTtl: 8},
	}
	for _, afi := range []api.Family_Afi{api.Family_AFI_IP, api.Family_AFI_IP6} {
		peer.AfiSafis = append(peer.AfiSafis, &api.AfiSafi{
			Config:            &api.AfiSafiConfig{Family: &api.Family{Afi: afi, Safi: api.Family_SAFI_UNICAST}, Enabled: true},
			MpGracefulRestart: &api.MpGracefulRestart{Config: &api.MpGracefulRestartConfig{Enabled: true}},
		})
	}
	return peer
}

// tell makes what routers know what is served.
func (s *Speaker) tell(b *server.BgpServer, serving map[netip.Addr]bool) error {
	for addr := range serving {
		path, err := s.path(addr)
		if err != nil {
			return fmt.Errorf("bgp path of %s: %w", addr, err)
		}
		if s.told[addr] || path == nil {
			continue
		}
		if _, err := b.AddPath(apiutil.AddPathRequest{Paths: []*apiutil.Path{path}}); err != nil {
			return fmt.Errorf("announce %s: %w", addr, err)
		}
		s.told[addr] = true
		s.log.Info("announced", "addr", addr)
	}
	for addr := range s.told {
		if serving[addr] {
			continue
		}
		path, err := s.path(addr)
		if err != nil {
			return fmt.Errorf("bgp path of %s: %w", addr, err)
		}
		if err := b.DeletePath(apiutil.DeletePathRequest{Paths: []*apiutil.Path{path}}); err != nil {
			return fmt.Errorf("withdraw %s: %w", addr, err)
		}
		delete(s.told, addr)
		s.log.Info("withdrawn", "addr", addr)
	}
	return nil
}

// path is the route of one address, nil where this node has no address of its family.
func (s *Speaker) path(addr netip.Addr) (*apiutil.Path, error) {
	family, hop := bgp.RF_IPv4_UC, s.o.NextHop4
	if addr.Is6() {
		family, hop = bgp.RF_IPv6_UC, s.o.NextHop6
	}
	if !hop.IsValid() {
		return nil, nil
	}
	nlri, err := bgp.NewIPAddrPrefix(netip.PrefixFrom(addr, addr.BitLen()))
	if err != nil {
		return nil, err
	}
	attrs := []bgp.PathAttributeInterface{bgp.NewPathAttributeOrigin(bgp.BGP_ORIGIN_ATTR_TYPE_IGP)}
	var next bgp.PathAttributeInterface
	if addr.Is4() {
		next, err = bgp.NewPathAttributeNextHop(hop)
	} else {
		next, err = bgp.NewPathAttributeMpReachNLRI(family, []bgp.PathNLRI{{NLRI: nlri}}, hop)
	}
	if err != nil {
		return nil, err
	}
	return &apiutil.Path{Family: family, Nlri: nlri, Attrs: slices.Concat(attrs, []bgp.PathAttributeInterface{next})}, nil
}
