// SPDX-License-Identifier: Apache-2.0

package netd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"weft/discovery/discoverypb"
	"weft/discovery/gossip"
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
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		// A side that vanished without a word is noticed in about four seconds.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 3 * time.Second}),
	}
	if d.secret != nil {
		options = append(options, grpc.WithPerRPCCredentials(discoverypb.Token(d.secret)))
	}
	conn, err := grpc.NewClient("passthrough:"+addr, options...)
	if err != nil {
		return fmt.Errorf("connect to %s: %w", addr, err)
	}
	return errors.Join(d.syncer.With(ctx, conn, met), conn.Close())
}
