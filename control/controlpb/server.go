// SPDX-License-Identifier: Apache-2.0

package controlpb

import (
	"context"
	"slices"
	"strings"

	"google.golang.org/grpc"

	"weft/control"
	"weft/discovery"
	"weft/lb"
	"weft/overlay"
)

// Operators serves s. Who may connect may ask.
func Operators(s control.Service) Registration {
	return func(r grpc.ServiceRegistrar) { RegisterFabricServer(r, &server{service: s}) }
}

type server struct {
	UnimplementedFabricServer
	service control.Service
	secret  string // wanted with each call, if not empty
}

// AddNetwork implements FabricServer.
func (s *server) AddNetwork(ctx context.Context, r *Network) (*Network, error) {
	return call(ctx, s, func() (*Network, error) {
		n, err := networkIn(r)
		if err != nil {
			return nil, err
		}
		n.Network, err = s.service.AddNetwork(ctx, n.Network)
		return networkOut(control.Network{Network: n.Network}), err
	})
}

// SetNetwork implements FabricServer.
func (s *server) SetNetwork(ctx context.Context, r *Network) (*Network, error) {
	return call(ctx, s, func() (*Network, error) {
		n, err := networkIn(r)
		if err != nil {
			return nil, err
		}
		n.Network, err = s.service.SetNetwork(ctx, n.Network)
		return networkOut(control.Network{Network: n.Network}), err
	})
}

// RemoveNetwork implements FabricServer.
func (s *server) RemoveNetwork(ctx context.Context, r *NetworkName) (*Empty, error) {
	return call(ctx, s, func() (*Empty, error) { return &Empty{}, s.service.RemoveNetwork(ctx, r.GetName()) })
}

// ListNetworks implements FabricServer.
func (s *server) ListNetworks(ctx context.Context, r *NetworkName) (*Networks, error) {
	return call(ctx, s, func() (*Networks, error) {
		list, err := s.service.Networks(ctx, r.GetName())
		return &Networks{Networks: each(list, networkOut)}, err
	})
}

// AddGroup implements FabricServer.
func (s *server) AddGroup(ctx context.Context, r *Group) (*Group, error) {
	return call(ctx, s, func() (*Group, error) {
		g := overlay.Group{Network: r.GetNetwork(), Name: r.GetName()}
		return groupOut(control.Group{Group: g}), s.service.AddGroup(ctx, g)
	})
}

// RemoveGroup implements FabricServer.
func (s *server) RemoveGroup(ctx context.Context, r *Group) (*Empty, error) {
	return call(ctx, s, func() (*Empty, error) {
		return &Empty{}, s.service.RemoveGroup(ctx, overlay.Group{Network: r.GetNetwork(), Name: r.GetName()})
	})
}

// ListGroups implements FabricServer.
func (s *server) ListGroups(ctx context.Context, r *NetworkName) (*Groups, error) {
	return call(ctx, s, func() (*Groups, error) {
		list, err := s.service.Groups(ctx, r.GetName())
		return &Groups{Groups: each(list, groupOut)}, err
	})
}

// AddRule implements FabricServer.
func (s *server) AddRule(ctx context.Context, r *Rule) (*Rule, error) {
	return call(ctx, s, func() (*Rule, error) {
		rule, err := ruleIn(r)
		if err != nil {
			return nil, err
		}
		rule, err = s.service.AddRule(ctx, rule)
		return ruleOut(rule), err
	})
}

// RemoveRule implements FabricServer.
func (s *server) RemoveRule(ctx context.Context, r *RuleName) (*Empty, error) {
	return call(ctx, s, func() (*Empty, error) {
		return &Empty{}, s.service.RemoveRule(ctx, r.GetNetwork(), overlay.RuleID(r.GetId()))
	})
}

// ListRules implements FabricServer.
func (s *server) ListRules(ctx context.Context, r *NetworkName) (*Rules, error) {
	return call(ctx, s, func() (*Rules, error) {
		list, err := s.service.Rules(ctx, r.GetName())
		return &Rules{Rules: each(list, ruleOut)}, err
	})
}

// ListNodes implements FabricServer.
func (s *server) ListNodes(ctx context.Context, _ *Empty) (*Nodes, error) {
	return call(ctx, s, func() (*Nodes, error) {
		list, err := s.service.Nodes(ctx)
		return &Nodes{Nodes: each(list, nodeOut)}, err
	})
}

// AddPlainNode implements FabricServer.
func (s *server) AddPlainNode(ctx context.Context, r *PlainNode) (*PlainNode, error) {
	return call(ctx, s, func() (*PlainNode, error) {
		n, err := plainIn(r)
		if err != nil {
			return nil, err
		}
		n, err = s.service.AddPlainNode(ctx, n)
		return plainOut(n), err
	})
}

// RemoveNode implements FabricServer.
func (s *server) RemoveNode(ctx context.Context, r *NodeName) (*Empty, error) {
	return call(ctx, s, func() (*Empty, error) {
		return &Empty{}, s.service.RemoveNode(ctx, discovery.NodeID(r.GetId()), r.GetForce())
	})
}

// Publish implements FabricServer.
func (s *server) Publish(ctx context.Context, r *Publication) (*Publication, error) {
	return call(ctx, s, func() (*Publication, error) {
		p, err := publicationIn(r)
		if err != nil {
			return nil, err
		}
		return publicationOut(p), s.service.Publish(ctx, p)
	})
}

// Unpublish implements FabricServer.
func (s *server) Unpublish(ctx context.Context, r *PublicationName) (*Empty, error) {
	return call(ctx, s, func() (*Empty, error) { return &Empty{}, s.service.Unpublish(ctx, r.GetName()) })
}

// ListPublications implements FabricServer.
func (s *server) ListPublications(ctx context.Context, r *NetworkName) (*Publications, error) {
	return call(ctx, s, func() (*Publications, error) {
		list, err := s.service.Publications(ctx, r.GetName())
		return &Publications{Publications: each(list, publicationOut)}, err
	})
}

// maxPins is how many an answer holds: with the longest names it is less than the 4 MB that clients take.
const maxPins = 10_000

// ListPins implements FabricServer.
func (s *server) ListPins(ctx context.Context, r *PinsRequest) (*Pins, error) {
	return call(ctx, s, func() (*Pins, error) {
		list, err := s.service.Pins(ctx)
		first, found := slices.BinarySearchFunc(list, r.GetAfter(), func(p lb.Pin, name string) int { return strings.Compare(p.Name, name) })
		if found {
			first++
		}
		list, next := list[first:], ""
		if len(list) > maxPins {
			list, next = list[:maxPins], list[maxPins-1].Name
		}
		return &Pins{Pins: each(list, pinOut), Next: next}, err
	})
}

// GetStatus implements FabricServer.
func (s *server) GetStatus(ctx context.Context, _ *Empty) (*Status, error) {
	return call(ctx, s, func() (*Status, error) {
		st, err := s.service.Status(ctx)
		return statusOut(st), err
	})
}

// call checks who asks, and turns the error of the answer into a gRPC status.
func call[T any](ctx context.Context, s *server, answer func() (*T, error)) (*T, error) {
	if err := s.check(ctx); err != nil {
		return nil, failures.Status(err)
	}
	a, err := answer()
	if err != nil {
		return nil, failures.Status(err)
	}
	return a, nil
}
