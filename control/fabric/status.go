// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"context"
	"time"

	"weft/control"
	"weft/control/decision"
	"weft/lb"
	"weft/overlay"
)

// read asks for a fresh snapshot and, where name is not empty, that the network exists.
func (f *Fabric) read(ctx context.Context, network string) (*decision.Snapshot, []string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	s, err := f.fresh(ctx)
	if err != nil {
		return nil, nil, err
	}
	names, err := s.Names(network)
	return s, names, err
}

func (f *Fabric) endpoints() []overlay.Endpoint { return decision.Endpoints(f.o.Facts) }

// Networks implements control.Service.
func (f *Fabric) Networks(ctx context.Context, name string) ([]control.Network, error) {
	s, names, err := f.read(ctx, name)
	if err != nil {
		return nil, err
	}
	return s.Networks(names, f.endpoints()), nil
}

// Groups implements control.Service.
func (f *Fabric) Groups(ctx context.Context, network string) ([]control.Group, error) {
	s, names, err := f.read(ctx, network)
	if err != nil {
		return nil, err
	}
	return s.Groups(names, f.endpoints()), nil
}

// Rules implements control.Service.
func (f *Fabric) Rules(ctx context.Context, network string) ([]overlay.Rule, error) {
	s, names, err := f.read(ctx, network)
	if err != nil {
		return nil, err
	}
	return s.Rules(names), nil
}

// Publications implements control.Service.
func (f *Fabric) Publications(ctx context.Context, network string) ([]lb.Publication, error) {
	s, _, err := f.read(ctx, network)
	if err != nil {
		return nil, err
	}
	return s.Publications(network), nil
}

// Pins implements control.Service.
func (f *Fabric) Pins(ctx context.Context) ([]lb.Pin, error) {
	s, _, err := f.read(ctx, "")
	if err != nil {
		return nil, err
	}
	return s.Pins(), nil
}

// Nodes implements control.Service.
func (f *Fabric) Nodes(ctx context.Context) ([]control.Node, error) {
	s, _, err := f.read(ctx, "")
	if err != nil {
		return nil, err
	}
	return f.nodes(s), nil
}

func (f *Fabric) nodes(s *decision.Snapshot) []control.Node {
	list := s.Nodes(decision.ReadClaims(f.o.Facts, f.o.Now()), f.endpoints())
	for i := range list {
		list[i].Alive = f.alive(list[i].ID)
	}
	return list
}

// Status implements control.Service. The ledger gets a second to show that a majority answers.
func (f *Fabric) Status(ctx context.Context) (control.Status, error) {
	s := f.mirror.now()
	st := control.Status{Answered: f.o.Self.ID, Ledger: control.Ledger{Healthy: true}}
	ask, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if newer, err := f.fresh(ask); err == nil {
		s = newer
	} else {
		st.Ledger.Healthy, st.Ledger.Problem = false, err.Error()
	}
	st.Ledger.Revision = s.Revision()
	st.Masters = s.Masters(st.Ledger.Healthy)
	st.Counts = s.Counts(f.endpoints())
	st.Nodes = f.nodes(s)
	return st, nil
}
