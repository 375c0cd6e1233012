// SPDX-License-Identifier: Apache-2.0

package netd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"google.golang.org/grpc"

	"weft/discovery/discoverypb"
	"weft/discovery/httpapi"
	"weft/discovery/wire"
	"weft/lb/lbpb"
	"weft/overlay/overlaypb"
)

// stopGrace is how long calls that are under way may take when the daemon ends.
const stopGrace = time.Second

// serve answers clients of this node at the socket, and peers at the underlay address. The socket
// is opened last, so that who can connect finds a daemon that works.
func (d *daemon) serve(ctx context.Context) error {
	peers := grpc.NewServer(append(wire.Serving(), grpc.Creds(d.wire))...)
	d.syncer.Register(peers)
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort(d.underlay.Addr.String(), strconv.Itoa(int(d.o.Port))))
	if err != nil {
		return fmt.Errorf("serve peers: %w", err)
	}
	clients := grpc.NewServer(wire.Serving()...)
	overlaypb.Register(clients, d.overlay)
	lbpb.Register(clients, d.lb)
	lbpb.RegisterPublications(clients, d.edge)
	discoverypb.Register(clients, d.discovery)
	discoverypb.RegisterWatch(clients, d.watch, httpapi.MaxWatchers)
	socket, err := d.openSocket(ctx)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	d.log.InfoContext(ctx, "ready", "node", d.o.Node, "socket", d.o.Socket, "underlay", d.underlay.Addr)
	failed := make(chan error, 2) // one per server
	go func() { failed <- peers.Serve(listener) }()
	go func() { failed <- clients.Serve(socket) }()
	select {
	case <-ctx.Done():
	case err = <-failed:
		failed <- nil
	}
	d.syncer.Close()
	stop(peers)
	stop(clients)
	return errors.Join(err, <-failed, <-failed)
}

// stop lets calls end for a moment, then cuts them.
func stop(s *grpc.Server) {
	timer := time.AfterFunc(stopGrace, s.Stop)
	defer timer.Stop()
	s.GracefulStop()
}

// openSocket listens at the daemon's unix socket. One that a dead daemon left is replaced; one that
// answers belongs to a living one.
func (d *daemon) openSocket(ctx context.Context) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(d.o.Socket), 0o755); err != nil {
		return nil, fmt.Errorf("make the socket's folder: %w", err)
	}
	if c, err := new(net.Dialer).DialContext(ctx, "unix", d.o.Socket); err == nil {
		return nil, errors.Join(fmt.Errorf("another daemon answers at %s: one netd per socket", d.o.Socket), c.Close())
	}
	if err := os.Remove(d.o.Socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("replace the socket: %w", err)
	}
	l, err := new(net.ListenConfig).Listen(ctx, "unix", d.o.Socket)
	if err != nil {
		return nil, fmt.Errorf("open the socket: %w", err)
	}
	return l, os.Chmod(d.o.Socket, 0o600)
}
