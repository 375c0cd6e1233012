// SPDX-License-Identifier: Apache-2.0

package netd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"weft/discovery"
	"weft/discovery/discoverypb"
	"weft/discovery/gossip"
	"weft/discovery/state"
)

// peerAddr is where this node exchanges rows.
func (d *daemon) peerAddr() string {
	return net.JoinHostPort(d.underlay.Addr.String(), strconv.Itoa(int(d.o.Port)))
}

// livingPeers are the other nodes that answer to membership, where they exchange rows.
func (d *daemon) livingPeers() []string {
	var addrs []string
	for _, m := range d.gossip.Members() {
		if m.Alive && m.Role == gossip.RoleNode && string(m.ID) != d.o.Node && m.Tags["sync"] != "" {
			addrs = append(addrs, net.JoinHostPort(m.Addr.Addr().String(), m.Tags["sync"]))
		}
	}
	return addrs
}

// exchange streams rows with a master or peer until one side ends.
func (d *daemon) exchange(ctx context.Context, addr string, met func()) error {
	conn, err := d.connect(addr)
	if err != nil {
		return err
	}
	return errors.Join(d.syncer.With(ctx, conn, met), conn.Close())
}

func (d *daemon) connect(addr string, more ...grpc.DialOption) (*grpc.ClientConn, error) {
	options := append(more,
		grpc.WithTransportCredentials(d.wire),
		// A side that vanished without a word is noticed in about four seconds.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 3 * time.Second}),
	)
	conn, err := grpc.NewClient("passthrough:"+addr, options...)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", addr, err)
	}
	return conn, nil
}

// finder asks a node, or the master that answers, for rows that are not held here.
type finder struct{ *daemon }

// Find implements the overlay's Finder.
func (f finder) Find(ctx context.Context, node discovery.NodeID, kind discovery.Kind, text string) ([]discovery.Row, error) {
	addr, err := f.addrOf(node)
	if err != nil {
		return nil, err
	}
	conn, err := f.connect(addr)
	if err != nil {
		return nil, err
	}
	rows, err := discoverypb.Ask(ctx, conn, kind, text)
	return rows, errors.Join(err, conn.Close())
}

func (f finder) addrOf(node discovery.NodeID) (string, error) {
	if node == "" {
		if addr := f.peers.Stats().Master; addr != "" {
			return addr, nil
		}
		return "", errors.New("no master answers")
	}
	for _, r := range f.store.Rows(discovery.KindNode) {
		if n, err := state.Value[discovery.Node](r); err == nil && n.ID == node && r.Writer == string(node) && n.Peer != "" {
			return n.Peer, nil
		}
	}
	return "", fmt.Errorf("node %s has not told where it is", node)
}

// asker asks other nodes whether they act by this one's rows. Its connections are kept and sleep when idle.
type asker struct {
	*daemon
	mu    sync.Mutex // guards conns
	conns map[string]*grpc.ClientConn
}

// Applied implements lb.Peers.
func (a *asker) Applied(ctx context.Context, addr string, known map[discovery.Stream]discovery.Position) error {
	conn, err := a.conn(addr)
	if err != nil {
		return err
	}
	return discoverypb.AwaitApplied(ctx, conn, known)
}

func (a *asker) conn(addr string) (*grpc.ClientConn, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	conn := a.conns[addr]
	if conn != nil {
		return conn, nil
	}
	conn, err := a.connect(addr, grpc.WithIdleTimeout(time.Minute))
	if err != nil {
		return nil, err
	}
	if a.conns == nil {
		a.conns = make(map[string]*grpc.ClientConn)
	}
	a.conns[addr] = conn
	return conn, nil
}

func (a *asker) close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	var errs []error
	for _, conn := range a.conns {
		errs = append(errs, conn.Close())
	}
	a.conns = nil
	return errors.Join(errs...)
}
