// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"context"
	"fmt"
	"time"

	"weft/control"
	"weft/control/decision"
	"weft/discovery"
	"weft/lb"
	"weft/overlay"
)

// patience bounds a request whose caller has more of it: without a majority of the masters there is
// no answer, and it shall be said in time.
const patience = 5 * time.Second

var _ control.Service = (*Fabric)(nil)

// fresh returns a snapshot that holds everything decided before the call, on any master.
func (f *Fabric) fresh(ctx context.Context) (*decision.Snapshot, error) {
	version, err := f.o.Ledger.Version(ctx)
	if err != nil {
		return nil, decision.AsControl(err)
	}
	return f.mirror.wait(ctx, version)
}

// transact carries out what decide makes of the newest snapshot; decide is called again if the ledger
// moved on meanwhile.
func (f *Fabric) transact(ctx context.Context, decide func(*decision.Snapshot) (*decision.Decision, error)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	s, err := f.fresh(ctx)
	if err != nil {
		return err
	}
	for {
		d, err := decide(s)
		if err != nil || d == nil || d.Empty() {
			return decision.AsControl(err)
		}
		next, made, err := f.commit(ctx, d.Change(s, f.started()))
		if err != nil || made {
			return decision.AsControl(err)
		}
		s = next
	}
}

// AddNetwork implements control.Service.
func (f *Fabric) AddNetwork(ctx context.Context, n overlay.Network) (made overlay.Network, err error) {
	err = f.transact(ctx, func(s *decision.Snapshot) (d *decision.Decision, err error) {
		made, d, err = decision.AddNetwork(s, n)
		return d, err
	})
	return made, err
}

// SetNetwork implements control.Service.
func (f *Fabric) SetNetwork(ctx context.Context, n overlay.Network) (made overlay.Network, err error) {
	err = f.transact(ctx, func(s *decision.Snapshot) (d *decision.Decision, err error) {
		made, d, err = decision.SetNetwork(s, n, f.endpoints())
		return d, err
	})
	return made, err
}

// RemoveNetwork implements control.Service.
func (f *Fabric) RemoveNetwork(ctx context.Context, name string) error {
	return f.transact(ctx, func(s *decision.Snapshot) (*decision.Decision, error) { return decision.RemoveNetwork(s, name) })
}

// AddGroup implements control.Service.
func (f *Fabric) AddGroup(ctx context.Context, g overlay.Group) error {
	return f.transact(ctx, func(s *decision.Snapshot) (*decision.Decision, error) { return decision.AddGroup(s, g) })
}

// RemoveGroup implements control.Service.
func (f *Fabric) RemoveGroup(ctx context.Context, g overlay.Group) error {
	return f.transact(ctx, func(s *decision.Snapshot) (*decision.Decision, error) {
		return decision.RemoveGroup(s, g, f.endpoints())
	})
}

// AddRule implements control.Service.
func (f *Fabric) AddRule(ctx context.Context, r overlay.Rule) (made overlay.Rule, err error) {
	err = f.transact(ctx, func(s *decision.Snapshot) (d *decision.Decision, err error) {
		made, d, err = decision.AddRule(s, r)
		return d, err
	})
	return made, err
}

// RemoveRule implements control.Service.
func (f *Fabric) RemoveRule(ctx context.Context, network string, id overlay.RuleID) error {
	return f.transact(ctx, func(s *decision.Snapshot) (*decision.Decision, error) { return decision.RemoveRule(s, network, id) })
}

// AddPlainNode implements control.Service.
func (f *Fabric) AddPlainNode(ctx context.Context, n overlay.PlainNode) (made overlay.PlainNode, err error) {
	err = f.transact(ctx, func(s *decision.Snapshot) (d *decision.Decision, err error) {
		made, d, err = decision.AddPlainNode(s, n)
		return d, err
	})
	return made, err
}

// RemoveNode implements control.Service.
func (f *Fabric) RemoveNode(ctx context.Context, id discovery.NodeID, force bool) error {
	if f.alive(id) && !force {
		return fmt.Errorf("%w: node %s is alive: its tasks would lose their networks; stop its daemon first, or force it (--force)", control.ErrInUse, id)
	}
	incarnation := f.incarnation(id)
	for left := true; left; {
		err := f.transact(ctx, func(s *decision.Snapshot) (d *decision.Decision, err error) {
			d, left, err = decision.RemoveNode(s, id, incarnation)
			return d, err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (f *Fabric) alive(id discovery.NodeID) bool {
	return f.o.Members != nil && f.o.Members.Alive(id)
}

// incarnation is the greatest that is known of a node; of a node that has told nothing, all up to now
// are meant.
func (f *Fabric) incarnation(id discovery.NodeID) uint64 {
	var last uint64
	for _, r := range f.o.Facts.Rows(discovery.KindNode) {
		if r.Writer == string(id) {
			last = max(last, r.Incarnation)
		}
	}
	if last == 0 {
		return f.started()
	}
	return last
}

// Publish implements control.Service.
func (f *Fabric) Publish(ctx context.Context, p lb.Publication) error {
	return f.transact(ctx, func(s *decision.Snapshot) (*decision.Decision, error) { return decision.Publish(s, p) })
}

// Unpublish implements control.Service.
func (f *Fabric) Unpublish(ctx context.Context, name string) error {
	return f.transact(ctx, func(s *decision.Snapshot) (*decision.Decision, error) { return decision.Unpublish(s, name) })
}
