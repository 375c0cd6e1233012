// SPDX-License-Identifier: Apache-2.0

// Package master is a master as one thing: the ledger, the decisions on it and the ports that
// operators and nodes ask it at, opened and ended in the right order. Rows of nodes, membership and
// what else is served on its port come from the caller.
package master

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"

	"weft/control"
	"weft/control/controlpb"
	"weft/control/fabric"
	"weft/control/ledger"
	"weft/discovery"
	"weft/discovery/wire"
)

// Options configure a Master.
type Options struct {
	// ID names this master among the masters; needed.
	ID string
	// Addr is where others find it.
	Addr netip.Addr
	// Listen is the HOST:PORT for gRPC, HTTP that for JSON; without HTTP there is none.
	Listen, HTTP string
	// Ledger says where decisions are kept. ID and Log are filled in.
	Ledger ledger.Options
	// Facts are what nodes say, Members who lives; see fabric.Options.
	Facts   fabric.Facts
	Members fabric.Members
	// Emit takes the rows of the ledger; see fabric.Fabric.Run.
	Emit func([]discovery.Row) error
	// Services are served beside the operators'.
	Services []controlpb.Registration
	// Secret, if not empty, is asked of all who come, by gRPC or HTTP.
	Secret string
	// Others are accepted as well, by gRPC, while a cluster changes from one to another.
	Others [][]byte
	// Now is the clock, by default the machine's.
	Now func() time.Time
	// Log, by default none.
	Log *slog.Logger
}

// Master is one of 1, 3 or 5.
type Master struct {
	o      Options
	ledger *ledger.Ledger
	fabric *fabric.Fabric
	grpc   net.Listener
	http   net.Listener // nil: none
}

// Open takes the ports. Nothing is served until Run.
func Open(o Options) (m *Master, err error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Emit == nil {
		return nil, errors.New("a taker of the ledger's rows is needed")
	}
	o.Ledger.ID, o.Ledger.Log = o.ID, o.Log
	m = &Master{o: o}
	if m.ledger, err = ledger.New(o.Ledger); err != nil {
		return nil, fmt.Errorf("master %s: %w", o.ID, err)
	}
	if err := m.listen(); err != nil {
		return nil, errors.Join(fmt.Errorf("master %s: %w", o.ID, err), m.Close())
	}
	self := discovery.Master{ID: o.ID, Addr: o.Addr, Port: portOf(m.grpc)}
	m.fabric, err = fabric.New(fabric.Options{
		Self: self, Ledger: m.ledger, Facts: o.Facts, Members: o.Members, Now: o.Now, Log: o.Log,
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("master %s: %w", o.ID, err), m.Close())
	}
	return m, nil
}

func (m *Master) listen() (err error) {
	if m.grpc, err = net.Listen("tcp", m.o.Listen); err != nil { //nolint:noctx // an address of our own is not looked up
		return fmt.Errorf("open the port for gRPC: %w", err)
	}
	if m.o.HTTP == "" {
		return nil
	}
	if m.http, err = net.Listen("tcp", m.o.HTTP); err != nil { //nolint:noctx // the same
		return fmt.Errorf("open the port for HTTP: %w", err)
	}
	return nil
}

func portOf(l net.Listener) uint16 {
	tcp, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		return 0
	}
	return uint16(tcp.Port)
}

// Close gives the ports back, for a Master that is not run.
func (m *Master) Close() error {
	var errs []error
	for _, l := range []net.Listener{m.grpc, m.http} {
		if l == nil {
			continue
		}
		if err := l.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Service answers operators in this process.
func (m *Master) Service() control.Service { return m.fabric }

// Stats are what this master has done since its start.
func (m *Master) Stats() fabric.Stats { return m.fabric.Stats() }

// Ready is closed when a majority of the masters has come together.
func (m *Master) Ready() <-chan struct{} { return m.ledger.Ready() }

// Addr is where gRPC is answered.
func (m *Master) Addr() net.Addr { return m.grpc.Addr() }

// HTTPAddr is where JSON over HTTP is answered, nil if nowhere.
func (m *Master) HTTPAddr() net.Addr {
	if m.http == nil {
		return nil
	}
	return m.http.Addr()
}

// Run is a master until ctx ends or a part of it can't go on. It answers from the start; what needs a
// majority waits or says so. The ledger is closed last: giving up leadership needs it.
func (m *Master) Run(ctx context.Context) error {
	keep, closeLedger := context.WithCancel(context.WithoutCancel(ctx))
	defer closeLedger()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	stored := make(chan error, 1)
	go func() {
		err := m.ledger.Run(keep)
		stop()
		stored <- err
	}()
	err := m.serve(ctx)
	closeLedger()
	if err := errors.Join(err, <-stored, m.Close()); err != nil {
		return fmt.Errorf("master %s: %w", m.o.ID, err)
	}
	return nil
}

func (m *Master) serve(ctx context.Context) error {
	handler, err := controlpb.Handler(ctx, m.fabric, m.o.Secret)
	if err != nil {
		return err
	}
	creds, err := wire.Credentials(append([][]byte{[]byte(m.o.Secret)}, m.o.Others...)...)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	services := append([]controlpb.Registration{controlpb.Operators(m.fabric)}, m.o.Services...)
	group.Go(func() error { return controlpb.Serve(ctx, m.grpc, creds, services...) })
	group.Go(func() error { return m.fabric.Run(ctx, m.o.Emit) })
	if m.http != nil {
		group.Go(func() error { return controlpb.ServeHTTP(ctx, m.http, handler) })
	}
	return group.Wait()
}
