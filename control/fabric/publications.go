// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"context"
	"fmt"
	"slices"

	"weft/control"
	"weft/discovery"
	"weft/lb"
)

// publish makes a VIP known outside. The VIP itself need not be there yet: it comes and goes with its tasks.
func publish(s *snapshot, p lb.Publication) (*decision, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	if err := s.has(p.VIP.Network); err != nil {
		return nil, err
	}
	for _, n := range s.allNetworks() {
		for _, subnet := range n.Subnets() {
			if subnet.Contains(p.Addr) {
				return nil, fmt.Errorf("%w publication: address %s lies in %s of network %s, whose addresses are its tasks'; "+
					"take one that clients outside can reach", control.ErrInvalid, p.Addr, subnet, n.Name)
			}
		}
	}
	old, ok := s.publications[p.Name()]
	if ok && old.VIP != p.VIP {
		return nil, fmt.Errorf("%w: %s is published for %s; weft vip unpublish %s first", control.ErrExists, p.Name(), old.VIP, p.Name())
	}
	if old == p {
		return nil, nil
	}
	d := &decision{}
	d.set(discovery.KindPublication, p.Name(), p)
	return d, nil
}

func unpublish(s *snapshot, name string) (*decision, error) {
	if _, ok := s.publications[name]; !ok {
		return nil, notFound("publication", name, s.publications.keys())
	}
	d := &decision{}
	d.drop(discovery.KindPublication, name)
	return d, nil
}

// publicationsOf lists those of a network, all where it is empty.
func (s *snapshot) publicationsOf(network string) []lb.Publication {
	list := []lb.Publication{}
	for _, p := range s.publications {
		if network == "" || p.VIP.Network == network {
			list = append(list, p)
		}
	}
	slices.SortFunc(list, lb.Publication.Compare)
	return list
}

// Publish implements control.Service.
func (f *Fabric) Publish(ctx context.Context, p lb.Publication) error {
	return f.transact(ctx, func(s *snapshot) (*decision, error) { return publish(s, p) })
}

// Unpublish implements control.Service.
func (f *Fabric) Unpublish(ctx context.Context, name string) error {
	return f.transact(ctx, func(s *snapshot) (*decision, error) { return unpublish(s, name) })
}

// Publications implements control.Service.
func (f *Fabric) Publications(ctx context.Context, network string) ([]lb.Publication, error) {
	s, _, err := f.read(ctx, network)
	if err != nil {
		return nil, err
	}
	return s.publicationsOf(network), nil
}
