// SPDX-License-Identifier: Apache-2.0

package netd

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"weft/discovery"
	"weft/discovery/state"
	"weft/overlay/apply"
)

const (
	underlayEvery = time.Second // the underlay is looked at
	// spread is how long the masters' word about a new address may take to every node: until then it would be a
	// stranger's.
	spread = 5 * time.Second
)

// errMoved ends a daemon whose node has another underlay address: the next one starts with it.
var errMoved = errors.New("the underlay has another address")

// findUnderlay waits for the underlay to have an address: a node may start before its network has.
func (d *daemon) findUnderlay(ctx context.Context) error {
	for said := false; ; said = true {
		var err error
		d.underlay, err = apply.FindUnderlay(d.o.Underlay, d.o.Underlay6)
		if !errors.Is(err, apply.ErrNoAddress) {
			return err
		}
		if !said {
			d.log.WarnContext(ctx, "waiting for the underlay", "error", err)
		}
		select {
		case <-time.After(underlayEvery):
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		}
	}
}

// node is what this node says of itself. With more addresses than one, frames of all of them are accepted once the
// masters admitted them, so that a node can move from one to the other.
func (d *daemon) node(u apply.Underlay) discovery.Node {
	addrs := append([]netip.Addr{u.Addr}, u.Others...)
	for _, a := range []netip.Addr{u.Addr4, u.Addr6} {
		if a.IsValid() && a != u.Addr {
			addrs = append(addrs, a)
		}
	}
	return discovery.Node{
		ID: discovery.NodeID(d.o.Node), Hostname: d.hostname, Addrs: addrs, Peer: d.peerAddr(), MTU: u.MTU, Zone: d.o.Zone, Version: d.o.Version,
		Unprobed: d.o.SlowDecap, Warnings: append(d.o.warnings(), d.overlay.Warnings()...),
	}
}

// warnings are what operators should know of flags that don't go together, and that a node may have all the same.
func (o *Options) warnings() []string {
	if o.SlowDecap && o.Tunnel2 != 0 {
		return []string{fmt.Sprintf("--slow-decap: nobody answers probes here, so no other node finds out that it should send by --tunnel-port-2 %d", o.Tunnel2)}
	}
	return nil
}

func (d *daemon) tell(u apply.Underlay) error {
	return state.Put(d.store, discovery.KindNode, d.o.Node, d.node(u))
}

// followUnderlay moves the node when its underlay gets another address, losing nothing if the old one stays for
// a while:
//
//  1. tell      the masters, who admit the new address beside the old one
//  2. wait      until they did, and every node may have heard of it; meanwhile frames to the new address come
//     by the kernel's device, and all leave from the old one
//  3. restart   the daemon in place, with programs that send from the new one
//
// When the old address is gone already, nothing is to be waited for.
func (d *daemon) followUnderlay(ctx context.Context) error {
	tick := time.NewTicker(underlayEvery)
	defer tick.Stop()
	told := d.node(d.underlay)
	var admitted time.Time // of the new address
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		u, err := apply.FindUnderlay(d.o.Underlay, d.o.Underlay6)
		if err != nil || d.underlay.Addr.Is4() && !u.Addr.Is4() {
			continue // gone for the moment, which is no reason to leave the others' family: all stays as it is
		}
		now := d.node(u)
		moved := !slices.Equal(now.Addrs, told.Addrs)
		if moved || !slices.Equal(now.Warnings, told.Warnings) {
			if err := d.tell(u); err != nil {
				return err
			}
		}
		if told = now; moved {
			d.log.InfoContext(ctx, "underlay addresses changed", "addr", u.Addr, "others", u.Others)
			admitted = time.Time{}
		}
		if admitted.IsZero() && d.isAdmitted(u.Addr) {
			admitted = time.Now()
		}
		if d.moves(u, admitted) {
			d.log.InfoContext(ctx, "moving", "from", d.underlay.Addr, "to", u.Addr)
			return errMoved
		}
	}
}

// moves tells whether the time has come to send from where u says.
func (d *daemon) moves(u apply.Underlay, admitted time.Time) bool {
	switch {
	case u.Addr == d.underlay.Addr && u.Ifindex == d.underlay.Ifindex:
		return false
	case !slices.Contains(u.Others, d.underlay.Addr):
		return true
	default:
		return !admitted.IsZero() && time.Since(admitted) > spread
	}
}

// isAdmitted reports whether the masters took an address for this node's.
func (d *daemon) isAdmitted(addr netip.Addr) bool {
	for _, r := range d.store.Rows(discovery.KindAdmission) {
		if r.Writer != discovery.Ledger || r.Key != d.o.Node {
			continue
		}
		a, err := state.Value[discovery.Admission](r)
		return err == nil && a.VTEP == addr
	}
	return false
}
