// SPDX-License-Identifier: Apache-2.0

package discoverypb

import (
	"context"
	"slices"

	"google.golang.org/grpc"

	"weft/discovery"
	"weft/discovery/wire"
)

// Of what one message carries. A row has up to 1 MiB, mostly 300 bytes; records and nodes have 3,000 at most.
const (
	rowsPerMessage    = 1000
	recordsPerMessage = 1000 // and nodes
)

// Register serves s on r.
func Register(r grpc.ServiceRegistrar, s discovery.Service) {
	RegisterDiscoveryServer(r, &server{service: s})
}

type server struct {
	UnimplementedDiscoveryServer
	service discovery.Service
}

// Announce implements DiscoveryServer.
func (s *server) Announce(ctx context.Context, r *AnnounceRequest) (*AnnounceResponse, error) {
	name, err := nameIn(r.GetName())
	if err != nil {
		return nil, failures.Status(err)
	}
	ctx, cancel := wire.Sooner(ctx)
	defer cancel()
	if err := s.service.Announce(ctx, name); err != nil {
		return nil, failures.Status(err)
	}
	return &AnnounceResponse{}, nil
}

// Retract implements DiscoveryServer.
func (s *server) Retract(ctx context.Context, r *RetractRequest) (*RetractResponse, error) {
	ctx, cancel := wire.Sooner(ctx)
	defer cancel()
	if err := s.service.Retract(ctx, r.GetTask()); err != nil {
		return nil, failures.Status(err)
	}
	return &RetractResponse{}, nil
}

// Lookup implements DiscoveryServer.
func (s *server) Lookup(r *LookupRequest, stream grpc.ServerStreamingServer[LookupResponse]) error {
	ctx, cancel := wire.Sooner(stream.Context())
	defer cancel()
	records, err := s.service.Lookup(ctx, r.GetNetwork(), r.GetName())
	if err != nil {
		return failures.Status(err)
	}
	for some := range slices.Chunk(records, recordsPerMessage) {
		if err := stream.Send(&LookupResponse{Records: recordsOut(some)}); err != nil {
			return err
		}
	}
	return nil
}

// Nodes implements DiscoveryServer.
func (s *server) Nodes(_ *NodesRequest, stream grpc.ServerStreamingServer[NodesResponse]) error {
	ctx, cancel := wire.Sooner(stream.Context())
	defer cancel()
	nodes, err := s.service.Nodes(ctx)
	if err != nil {
		return failures.Status(err)
	}
	for some := range slices.Chunk(nodes, recordsPerMessage) {
		if err := stream.Send(&NodesResponse{Nodes: nodesOut(some)}); err != nil {
			return err
		}
	}
	return nil
}

// Rows implements DiscoveryServer.
func (s *server) Rows(r *RowsRequest, stream grpc.ServerStreamingServer[RowsResponse]) error {
	ctx, cancel := wire.Sooner(stream.Context())
	defer cancel()
	rows, err := s.service.Rows(ctx, discovery.Kind(r.GetKind()))
	if err != nil {
		return failures.Status(err)
	}
	for len(rows) > 0 {
		n, size := 0, 0
		for n < len(rows) && n < rowsPerMessage && size < messageBytes {
			size += len(rows[n].Key) + len(rows[n].Value)
			n++
		}
		if err := stream.Send(&RowsResponse{Rows: rowsOut(rows[:n])}); err != nil {
			return err
		}
		rows = rows[n:]
	}
	return nil
}
