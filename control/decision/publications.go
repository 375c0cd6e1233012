// SPDX-License-Identifier: Apache-2.0

package decision

import (
	"fmt"
	"slices"

	"weft/control"
	"weft/discovery"
	"weft/lb"
)

// Publish makes a VIP known outside. The VIP itself need not be there yet: it comes and goes with its tasks.
func Publish(s *Snapshot, p lb.Publication) (*Decision, error) {
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
	d := &Decision{}
	d.set(discovery.KindPublication, p.Name(), p)
	return d, nil
}

// Unpublish takes it back.
func Unpublish(s *Snapshot, name string) (*Decision, error) {
	if _, ok := s.publications[name]; !ok {
		return nil, notFound("publication", name, s.publications.keys())
	}
	d := &Decision{}
	d.drop(discovery.KindPublication, name)
	return d, nil
}

// Publications lists those of a network, all where it is empty.
func (s *Snapshot) Publications(network string) []lb.Publication {
	list := []lb.Publication{}
	for _, p := range s.publications {
		if network == "" || p.VIP.Network == network {
			list = append(list, p)
		}
	}
	slices.SortFunc(list, lb.Publication.Compare)
	return list
}
