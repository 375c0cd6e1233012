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
	answer, err := c.rpc.Lookup(ctx, &LookupRequest{Network: network, Name: name})
	if err != nil {
		return nil, failures.Error(err)
	}
	return recordsIn(answer.GetRecords()), nil
}

// Nodes implements discovery.Service.
func (c *Client) Nodes(ctx context.Context) ([]discovery.NodeStatus, error) {
	answer, err := c.rpc.Nodes(ctx, &NodesRequest{})
	if err != nil {
		return nil, failures.Error(err)
	}
	return nodesIn(answer.GetNodes())
}

// Rows implements discovery.Service.
func (c *Client) Rows(ctx context.Context, kind discovery.Kind) ([]discovery.Row, error) {
	ctx, cancel := context.WithCancel(ctx) // ends the stream in every case
	defer cancel()
	stream, err := c.rpc.Rows(ctx, &RowsRequest{Kind: string(kind)})
	if err != nil {
		return nil, failures.Error(err)
	}
	var rows []discovery.Row
	for {
		answer, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return rows, nil
		}
		if err != nil {
			return nil, failures.Error(err)
		}
		rows = append(rows, rowsIn(answer.GetRows())...)
	}
}
