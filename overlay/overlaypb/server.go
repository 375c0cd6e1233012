// SPDX-License-Identifier: Apache-2.0

// Package overlaypb is overlay.Service over gRPC: the server side in front of any overlay.Service, and
// a client that is one. It decides nothing; what is asked and answered is package overlay's.
package overlaypb

import (
	"context"

	"google.golang.org/grpc"

	"weft/discovery/wire"
	"weft/overlay"
)

// Register serves s on r.
func Register(r grpc.ServiceRegistrar, s overlay.Service) {
	RegisterOverlayServer(r, &server{service: s})
}

type server struct {
	UnimplementedOverlayServer
	service overlay.Service
}

// Attach implements OverlayServer.
func (s *server) Attach(ctx context.Context, r *AttachRequest) (*AttachResponse, error) {
	ctx, cancel := wire.Sooner(ctx)
	defer cancel()
	a, err := attachmentIn(r.GetAttachment())
	if err != nil {
		return nil, failures.Status(err)
	}
	e, err := s.service.Attach(ctx, a)
	if err != nil {
		return nil, failures.Status(err)
	}
	return &AttachResponse{Endpoint: endpointOut(e)}, nil
}

// Detach implements OverlayServer.
func (s *server) Detach(ctx context.Context, r *DetachRequest) (*DetachResponse, error) {
	ctx, cancel := wire.Sooner(ctx)
	defer cancel()
	if err := s.service.Detach(ctx, r.GetId()); err != nil {
		return nil, failures.Status(err)
	}
	return &DetachResponse{}, nil
}

// Endpoints implements OverlayServer.
func (s *server) Endpoints(ctx context.Context, _ *EndpointsRequest) (*EndpointsResponse, error) {
	ctx, cancel := wire.Sooner(ctx)
	defer cancel()
	list, err := s.service.Endpoints(ctx)
	if err != nil {
		return nil, failures.Status(err)
	}
	answer := &EndpointsResponse{}
	for _, e := range list {
		answer.Endpoints = append(answer.Endpoints, endpointOut(e))
	}
	return answer, nil
}

// Networks implements OverlayServer.
func (s *server) Networks(ctx context.Context, _ *NetworksRequest) (*NetworksResponse, error) {
	ctx, cancel := wire.Sooner(ctx)
	defer cancel()
	list, err := s.service.Networks(ctx)
	if err != nil {
		return nil, failures.Status(err)
	}
	answer := &NetworksResponse{}
	for _, n := range list {
		answer.Networks = append(answer.Networks, networkOut(n))
	}
	return answer, nil
}

// Explain implements OverlayServer.
func (s *server) Explain(ctx context.Context, r *ExplainRequest) (*ExplainResponse, error) {
	ctx, cancel := wire.Sooner(ctx)
	defer cancel()
	q, err := questionIn(r)
	if err != nil {
		return nil, failures.Status(err)
	}
	v, err := s.service.Explain(ctx, q)
	if err != nil {
		return nil, failures.Status(err)
	}
	return verdictOut(v), nil
}

// Events implements OverlayServer. The headers go out at once: from then on nothing is missed but what
// a slow caller loses.
func (s *server) Events(r *EventsRequest, stream grpc.ServerStreamingServer[EventsResponse]) error {
	f, err := filterIn(r)
	if err != nil {
		return failures.Status(err)
	}
	if err := stream.SendHeader(nil); err != nil {
		return err
	}
	err = s.service.Events(stream.Context(), f, func(e overlay.Event) error { return stream.Send(eventOut(e)) })
	if err != nil {
		return failures.Status(err)
	}
	return nil
}
