// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"context"
	"errors"
	"fmt"
	"time"

	"weft/control"
	"weft/control/ledger"
	"weft/discovery"
	"weft/lb"
	"weft/overlay"
)

// patience bounds a request whose caller has more of it: without a majority of the masters there is
// no answer, and it shall be said in time.
const patience = 5 * time.Second

var _ control.Service = (*Fabric)(nil)

// fresh returns a snapshot that holds everything decided before the call, on any master.
func (f *Fabric) fresh(ctx context.Context) (*snapshot, error) {
	version, err := f.o.Ledger.Version(ctx)
	if err != nil {
		return nil, said(err)
	}
	return f.mirror.wait(ctx, version)
}

// transact carries out what decide makes of the newest snapshot; decide is called again if the ledger
// moved on meanwhile.
func (f *Fabric) transact(ctx context.Context, decide func(*snapshot) (*decision, error)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	s, err := f.fresh(ctx)
	if err != nil {
		return err
	}
	for {
		d, err := decide(s)
		if err != nil || d == nil || d.empty() {
			return said(err)
		}
		next, made, err := f.commit(ctx, d.change(s, f.started()))
		if err != nil || made {
			return said(err)
		}
		s = next
	}
}

// said gives errors of other rooms the sentinels of control.
func said(err error) error {
	for _, same := range []struct{ from, to error }{
		{overlay.ErrInvalid, control.ErrInvalid},
		{lb.ErrInvalid, control.ErrInvalid},
		{overlay.ErrConflict, control.ErrExists},
		{overlay.ErrExhausted, control.ErrInUse},
		{ledger.ErrUnavailable, control.ErrUnavailable},
		{ledger.ErrClosed, control.ErrUnavailable},
	} {
		if errors.Is(err, same.from) && !errors.Is(err, same.to) {
			return sentinelError{err, same.to}
		}
	}
	return err
}

// sentinelError is an error that is a second sentinel too; the text stays.
type sentinelError struct {
	error
	as error
}

// Unwrap implements the errors package's trees.
func (e sentinelError) Unwrap() []error { return []error{e.error, e.as} }

// AddNetwork implements control.Service.
func (f *Fabric) AddNetwork(ctx context.Context, n overlay.Network) (made overlay.Network, err error) {
	err = f.transact(ctx, func(s *snapshot) (d *decision, err error) {
		made, d, err = addNetwork(s, n)
		return d, err
	})
	return made, err
}

// SetNetwork implements control.Service.
func (f *Fabric) SetNetwork(ctx context.Context, n overlay.Network) (made overlay.Network, err error) {
	err = f.transact(ctx, func(s *snapshot) (d *decision, err error) {
		made, d, err = setNetwork(s, n, f.endpoints())
		return d, err
	})
	return made, err
}

// RemoveNetwork implements control.Service.
func (f *Fabric) RemoveNetwork(ctx context.Context, name string) error {
	return f.transact(ctx, func(s *snapshot) (*decision, error) { return removeNetwork(s, name) })
}

// AddGroup implements control.Service.
func (f *Fabric) AddGroup(ctx context.Context, g overlay.Group) error {
	return f.transact(ctx, func(s *snapshot) (*decision, error) { return addGroup(s, g) })
}

// RemoveGroup implements control.Service.
func (f *Fabric) RemoveGroup(ctx context.Context, g overlay.Group) error {
	return f.transact(ctx, func(s *snapshot) (*decision, error) { return removeGroup(s, g, f.endpoints()) })
}

// AddRule implements control.Service.
func (f *Fabric) AddRule(ctx context.Context, r overlay.Rule) (made overlay.Rule, err error) {
	err = f.transact(ctx, func(s *snapshot) (d *decision, err error) {
		made, d, err = addRule(s, r)
		return d, err
	})
	return made, err
}

// RemoveRule implements control.Service.
func (f *Fabric) RemoveRule(ctx context.Context, network string, id overlay.RuleID) error {
	return f.transact(ctx, func(s *snapshot) (*decision, error) { return removeRule(s, network, id) })
}

// AddPlainNode implements control.Service.
func (f *Fabric) AddPlainNode(ctx context.Context, n overlay.PlainNode) (made overlay.PlainNode, err error) {
	err = f.transact(ctx, func(s *snapshot) (d *decision, err error) {
		made, d, err = addPlainNode(s, n)
		return d, err
	})
	return made, err
}

// RemoveNode implements control.Service.
func (f *Fabric) RemoveNode(ctx context.Context, id discovery.NodeID, force bool) error {
	if f.alive(id) && !force {
		return fmt.Errorf("%w: node %s is alive: its tasks would lose their networks; stop its daemon first, or force it", control.ErrInUse, id)
	}
	incarnation := f.incarnation(id)
	for left := true; left; {
		err := f.transact(ctx, func(s *snapshot) (d *decision, err error) {
			d, left, err = removeNode(s, id, incarnation)
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

// Pins implements control.Service.
func (f *Fabric) Pins(ctx context.Context) ([]lb.Pin, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	s, err := f.fresh(ctx)
	if err != nil {
		return nil, err
	}
	pins := []lb.Pin{}
	for _, name := range s.pins.keys() {
		pins = append(pins, s.pins[name])
	}
	return pins, nil
}
