// SPDX-License-Identifier: Apache-2.0

// Package fake is lb.Service in memory, for the tests of its clients. It gives addresses as the
// masters do and leaves out nodes, tables and failures.
package fake

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"weft/discovery"
	"weft/lb"
)

// Node is the one that runs every task of the fake.
const Node discovery.NodeID = "fake"

// Service implements lb.Service. Make it with New.
type Service struct {
	networks []string

	mu       sync.Mutex // guards what follows
	pins     []lb.Pin
	backends []lb.Backend
}

// New returns a Service that knows these networks.
func New(networks ...string) *Service { return &Service{networks: networks} }

// Publish implements lb.Service.
func (s *Service) Publish(ctx context.Context, r lb.Registration) ([]lb.VIPStatus, error) {
	backends, err := r.Backends(Node)
	if err == nil && r.Network != discovery.HostNetwork && !slices.Contains(s.networks, r.Network) {
		err = fmt.Errorf("network %q: %w; known are %s", r.Network, lb.ErrNotFound, strings.Join(s.networks, ", "))
	}
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, fmt.Errorf("publish %s: %w", r.Task, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(r.Task)
	s.backends = append(s.backends, backends...)
	vips, err := s.status(func(k lb.Key) bool {
		return slices.ContainsFunc(backends, func(b lb.Backend) bool { return b.VIP == k })
	})
	for i := range vips {
		vips[i].Backends = slices.DeleteFunc(vips[i].Backends, func(b lb.BackendStatus) bool { return b.Task != r.Task })
	}
	return vips, err
}

// SetState implements lb.Service. Nobody is ever late.
func (s *Service) SetState(ctx context.Context, task string, state lb.State) ([]discovery.NodeID, error) {
	err := state.Validate()
	if err == nil {
		err = ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	known := false
	for i := range s.backends {
		if b := &s.backends[i]; err == nil && b.Task == task {
			known = true
			b.Health, b.Detail, b.Draining = state.Health, state.Detail, state.Draining
		}
	}
	if err == nil && !known {
		err = lb.ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("set state of %s: %w", task, err)
	}
	return nil, nil
}

// Withdraw implements lb.Service.
func (s *Service) Withdraw(ctx context.Context, task string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(task)
	return ctx.Err()
}

// VIPs implements lb.Service.
func (s *Service) VIPs(ctx context.Context, network string) ([]lb.VIPStatus, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status(func(k lb.Key) bool { return network == "" || k.Network == network })
}

func (s *Service) remove(task string) {
	s.backends = slices.DeleteFunc(s.backends, func(b lb.Backend) bool { return b.Task == task })
}

func (s *Service) status(wanted func(lb.Key) bool) ([]lb.VIPStatus, error) {
	byKey := make(map[lb.Key][]lb.BackendStatus)
	for _, b := range s.backends {
		if wanted(b.VIP) {
			byKey[b.VIP] = append(byKey[b.VIP], status(b))
		}
	}
	vips := make([]lb.VIPStatus, 0, len(byKey))
	for key, backends := range byKey {
		slices.SortFunc(backends, func(a, b lb.BackendStatus) int { return strings.Compare(a.Task, b.Task) })
		vip := lb.VIPStatus{Key: key, Balance: backends[0].Balance, Backends: backends}
		addrs := []netip.Addr{key.Addr}
		if key.Name != "" {
			pin, err := s.pin(key.Name)
			if err != nil {
				return nil, err
			}
			addrs = []netip.Addr{pin.Addr4, pin.Addr6}
			vip.DNS = lb.DNSName(key.Name)
		}
		for _, a := range addrs {
			if served(a, backends) {
				vip.Addrs = append(vip.Addrs, a)
			}
		}
		vips = append(vips, vip)
	}
	slices.SortFunc(vips, func(a, b lb.VIPStatus) int { return a.Compare(b.Key) })
	return vips, nil
}

// status judges a backend by its row alone; unlike in a cluster, no other one matters.
func status(b lb.Backend) lb.BackendStatus {
	switch {
	case b.Draining:
		return lb.BackendStatus{Backend: b, Reason: "draining: its task ends"}
	case b.Health == lb.Unhealthy:
		return lb.BackendStatus{Backend: b, Reason: "unhealthy: " + b.Detail}
	case b.Health == lb.Unknown:
		return lb.BackendStatus{Backend: b, Reason: "no check succeeded yet"}
	case b.Health == lb.Healthy:
		return lb.BackendStatus{Backend: b, In: true, Reason: "serving, healthy"}
	default:
		return lb.BackendStatus{Backend: b, In: true, Reason: "serving"}
	}
}

func (s *Service) pin(name string) (lb.Pin, error) {
	pin, err := lb.Assign(s.pins, name)
	if err == nil && !slices.Contains(s.pins, pin) {
		s.pins = append(s.pins, pin)
	}
	return pin, err
}

// served tells whether a backend has an address of the family of a.
func served(a netip.Addr, backends []lb.BackendStatus) bool {
	return slices.ContainsFunc(backends, func(b lb.BackendStatus) bool {
		return slices.ContainsFunc(b.Addrs, func(o netip.Addr) bool { return o.Is4() == a.Is4() })
	})
}
