// SPDX-License-Identifier: Apache-2.0

package master

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"google.golang.org/grpc"

	"weft/discovery"
	"weft/discovery/state"
)

// otherMasters are where the other masters exchange rows: a node talks to one master, the leader must
// know of it whoever that is.
func (d *daemon) otherMasters() []string {
	masters, err := state.All[discovery.Master](d.store, discovery.KindMaster)
	if err != nil {
		d.log.Debug("rows of masters", "error", err)
	}
	var addrs []string
	for _, m := range masters {
		if m.ID != d.o.ID && m.Addr.IsValid() {
			addrs = append(addrs, netip.AddrPortFrom(m.Addr, m.Port).String())
		}
	}
	return addrs
}

// exchange streams rows with another master until one side ends.
func (d *daemon) exchange(ctx context.Context, addr string, met func()) error {
	conn, err := grpc.NewClient("passthrough:"+addr, grpc.WithTransportCredentials(d.wire))
	if err != nil {
		return fmt.Errorf("connect to %s: %w", addr, err)
	}
	return errors.Join(d.syncer.With(ctx, conn, met), conn.Close())
}
