// SPDX-License-Identifier: Apache-2.0

// Package lbpb is lb.Service over gRPC: the server side in front of any lb.Service, and a client
// that is one. It decides nothing; what is asked and answered is package lb's.
package lbpb

import (
	"context"
	"iter"

	"google.golang.org/grpc"

	"weft/discovery/wire"
	"weft/lb"
)

// Register serves s on r.
func Register(r grpc.ServiceRegistrar, s lb.Service) {
	RegisterLoadBalancingServer(r, &server{service: s})
}

type server struct {
	UnimplementedLoadBalancingServer
	service lb.Service
}

// Publish implements LoadBalancingServer.
func (s *server) Publish(ctx context.Context, r *PublishRequest) (*PublishResponse, error) {
	addrs, err := addrsIn(r.GetAddrs())
	if err != nil {
		return nil, failures.Status(err)
	}
	ctx, cancel := wire.Sooner(ctx)
	defer cancel()
	vips, err := s.service.Publish(ctx, lb.Registration{
		Task: r.GetTask(), Network: r.GetNetwork(), Framework: r.GetFramework(), Addrs: addrs, Labels: r.GetLabels(), Health: lb.Health(r.GetHealth()),
		Check: r.GetCheck(),
	})
	if err != nil {
		return nil, failures.Status(err)
	}
	return &PublishResponse{Vips: vipsOut(vips)}, nil
}

// SetState implements LoadBalancingServer.
func (s *server) SetState(ctx context.Context, r *SetStateRequest) (*SetStateResponse, error) {
	ctx, cancel := wire.Sooner(ctx)
	defer cancel()
	late, err := s.service.SetState(ctx, r.GetTask(), lb.State{Health: lb.Health(r.GetHealth()), Detail: r.GetDetail(), Draining: r.GetDraining()})
	if err != nil {
		return nil, failures.Status(err)
	}
	answer := &SetStateResponse{}
	for _, node := range late {
		answer.Late = append(answer.Late, string(node))
	}
	return answer, nil
}

// Withdraw implements LoadBalancingServer.
func (s *server) Withdraw(ctx context.Context, r *WithdrawRequest) (*WithdrawResponse, error) {
	ctx, cancel := wire.Sooner(ctx)
	defer cancel()
	if err := s.service.Withdraw(ctx, r.GetTask()); err != nil {
		return nil, failures.Status(err)
	}
	return &WithdrawResponse{}, nil
}

// VIPs implements LoadBalancingServer.
func (s *server) VIPs(r *VIPsRequest, stream grpc.ServerStreamingServer[VIPsResponse]) error {
	ctx, cancel := wire.Sooner(stream.Context())
	defer cancel()
	vips, err := s.service.VIPs(ctx, r.GetNetwork())
	if err != nil {
		return failures.Status(err)
	}
	for part := range parts(vips) {
		if err := stream.Send(&VIPsResponse{Vips: vipsOut(part)}); err != nil {
			return err
		}
	}
	return nil
}

// perMessage is how many VIPs and backends a message holds: each is less than 2 KB, and a message shall be less than 4 MB.
const perMessage = 1000

// parts cuts VIPs into what messages hold. One with many backends is in several of them, with some of those in each.
func parts(vips []lb.VIPStatus) iter.Seq[[]lb.VIPStatus] {
	return func(yield func([]lb.VIPStatus) bool) {
		var part []lb.VIPStatus
		room := perMessage
		for _, v := range vips {
			backends := v.Backends
			for {
				if room < 2 {
					if !yield(part) {
						return
					}
					part, room = nil, perMessage
				}
				n := min(len(backends), room-1)
				v.Backends, backends = backends[:n], backends[n:]
				part, room = append(part, v), room-1-n
				if len(backends) == 0 {
					break
				}
			}
		}
		if len(part) > 0 {
			yield(part)
		}
	}
}
