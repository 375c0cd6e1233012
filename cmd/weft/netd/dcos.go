// SPDX-License-Identifier: Apache-2.0

package netd

import (
	"context"
	"net/netip"

	"weft/cmd/weft/process"
	"weft/control"
	"weft/control/compat"
	"weft/discovery"
	"weft/discovery/state"
	"weft/overlay"
	"weft/overlay/apply"
)

// serveDCOS answers what programs made for DC/OS ask an agent about its overlays.
func (d *daemon) serveDCOS(ctx context.Context) error {
	return process.ServeHTTP(ctx, d.o.DCOS, compat.AgentHandler(d.agent))
}

// ownMAC is what agents of DC/OS know this node by.
func (d *daemon) ownMAC(networks []overlay.Network, blocks []overlay.Block) (mac [6]byte) {
	if d.o.Preset != process.PresetDCOS {
		return mac
	}
	return compat.DefaultPlan().MACOf(networks, blocks, discovery.NodeID(d.o.Node))
}

// nameServers are the addresses that names are answered at here: one of each family, and DC/OS' others with its preset.
func (o *Options) nameServers() []netip.Addr {
	own := []netip.Addr{netip.MustParseAddr(apply.NameServer4), netip.MustParseAddr(apply.NameServer6)}
	return append(own, o.moreNameServers()...)
}

func (o *Options) moreNameServers() []netip.Addr {
	if o.Preset != process.PresetDCOS {
		return nil
	}
	return apply.NameServersDCOS()
}

// agent is this node in DC/OS' words.
func (d *daemon) agent(ctx context.Context) (compat.Agent, error) {
	list, err := d.overlay.Networks(ctx)
	if err != nil {
		return compat.Agent{}, err
	}
	var networks []control.Network
	for _, n := range list {
		networks = append(networks, control.Network{Network: n.Network, Blocks: n.Blocks})
	}
	refusals, err := state.All[discovery.Refusal](d.store, discovery.KindRefusal)
	if err != nil {
		return compat.Agent{}, err
	}
	self := control.Node{Node: discovery.Node{ID: discovery.NodeID(d.o.Node), MTU: d.underlay.MTU}, VTEP: d.underlay.Addr}
	for _, r := range refusals {
		if r.Node == self.ID {
			self.Refuse(r)
		}
	}
	return compat.AgentOf(compat.DefaultPlan(), networks, self), nil
}
