// SPDX-License-Identifier: Apache-2.0

package discoverypb

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"

	"weft/discovery"
)

// Client is a discovery.Service on the other end of a connection.
type Client struct {
	rpc DiscoveryClient
}

// NewClient returns a Client over conn, which stays the caller's.
func NewClient(conn grpc.ClientConnInterface) *Client {
	return &Client{rpc: NewDiscoveryClient(conn)}
}

// Announce implements discovery.Service.
func (c *Client) Announce(ctx context.Context, name discovery.Name) error {
	_, err := c.rpc.Announce(ctx, &AnnounceRequest{Name: nameOut(name)})
	return failures.Error(err)
}

// Retract implements discovery.Service.
func (c *Client) Retract(ctx context.Context, task string) error {
	_, err := c.rpc.Retract(ctx, &RetractRequest{Task: task})
	return failures.Error(err)
}

// Lookup implements discovery.Service.
func (c *Client) Lookup(ctx context.Context, network, name string) ([]discovery.Record, error) {
	ctx, cancel := context.WithCancel(ctx) // ends the stream in every case
	defer cancel()
	stream, err := c.rpc.Lookup(ctx, &LookupRequest{Network: network, Name: name})
	return collect(stream, err, func(m *LookupResponse) ([]discovery.Record, error) { return recordsIn(m.GetRecords()), nil })
}

// Nodes implements discovery.Service.
func (c *Client) Nodes(ctx context.Context) ([]discovery.NodeStatus, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.rpc.Nodes(ctx, &NodesRequest{})
	return collect(stream, err, func(m *NodesResponse) ([]discovery.NodeStatus, error) { return nodesIn(m.GetNodes()) })
}

// Rows implements discovery.Service.
func (c *Client) Rows(ctx context.Context, kind discovery.Kind) ([]discovery.Row, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.rpc.Rows(ctx, &RowsRequest{Kind: string(kind)})
	return collect(stream, err, func(m *RowsResponse) ([]discovery.Row, error) { return rowsIn(m.GetRows()), nil })
}

// collect puts together what comes in pieces.
func collect[M, T any](stream grpc.ServerStreamingClient[M], err error, of func(*M) ([]T, error)) ([]T, error) {
	if err != nil {
		return nil, failures.Error(err)
	}
	var all []T
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, failures.Error(err)
		}
		some, err := of(m)
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
}
