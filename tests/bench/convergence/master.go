// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"weft/control/controlpb"
	"weft/control/ledger"
	"weft/control/master"
	"weft/discovery"
	"weft/discovery/discoverypb"
	"weft/discovery/state"
	"weft/overlay"
	"weft/tests/lab/owned"
)

// prod is the network of all simulated tasks.
var prod = overlay.Network{Name: "prod", Subnet4: netip.MustParsePrefix("9.0.0.0/8")}

// hub is a real master: ledger, decisions, and the rows of all nodes.
type hub struct {
	store  *state.Store
	syncer *discoverypb.Syncer
	master *master.Master
	dir    string
	stop   context.CancelFunc
	ended  chan error
}

// alive says of every node that it lives: how deaths are seen is measured apart.
type alive struct{}

// Alive implements fabric.Members.
func (alive) Alive(discovery.NodeID) bool { return true }

func openHub(ctx context.Context) (h *hub, err error) {
	h = &hub{ended: make(chan error, 1)}
	if h.dir, err = owned.Folder(os.TempDir(), "weft-convergence.", os.RemoveAll); err != nil {
		return nil, err
	}
	if h.store, err = state.Open(state.Options{Whole: true}); err != nil {
		return nil, err
	}
	if h.syncer, err = discoverypb.NewSyncer(discoverypb.SyncOptions{Store: h.store}); err != nil {
		return nil, err
	}
	h.master, err = master.Open(master.Options{
		ID: "m1", Addr: netip.MustParseAddr("127.0.0.1"), Listen: "127.0.0.1:0", Ledger: ledger.Options{Dir: h.dir},
		Facts: h.store, Members: alive{},
		Emit:     func(rows []discovery.Row) error { _, err := h.store.Apply(rows); return err },
		Services: []controlpb.Registration{h.syncer.Register},
	})
	if err != nil {
		return nil, err
	}
	ctx, h.stop = context.WithCancel(ctx)
	go func() { h.ended <- h.master.Run(ctx) }()
	select {
	case <-h.master.Ready():
	case err := <-h.ended:
		return nil, fmt.Errorf("the master ended: %w", err)
	}
	_, err = h.master.Service().AddNetwork(ctx, prod)
	return h, err
}

func (h *hub) close() error {
	h.syncer.Close()
	h.stop()
	return errors.Join(<-h.ended, h.store.Close(), os.RemoveAll(h.dir))
}
