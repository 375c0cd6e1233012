// SPDX-License-Identifier: Apache-2.0

package lbpb

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"

	"weft/discovery"
	"weft/lb"
)

// Client is an lb.Service on the other end of a connection.
type Client struct {
	rpc LoadBalancingClient
}

// NewClient returns a Client over conn, which stays the caller's.
func NewClient(conn grpc.ClientConnInterface) *Client {
	return &Client{rpc: NewLoadBalancingClient(conn)}
}

// Publish implements lb.Service.
func (c *Client) Publish(ctx context.Context, r lb.Registration) ([]lb.VIPStatus, error) {
	answer, err := c.rpc.Publish(ctx, &PublishRequest{
		Task: r.Task, Network: r.Network, Framework: r.Framework, Addrs: addrsOut(r.Addrs), Labels: r.Labels, Health: string(r.Health),
		Check: r.Check,
	})
	if err != nil {
		return nil, failures.Error(err)
	}
	return vipsIn(answer.GetVips())
}

// SetState implements lb.Service.
func (c *Client) SetState(ctx context.Context, task string, s lb.State) ([]discovery.NodeID, error) {
	answer, err := c.rpc.SetState(ctx, &SetStateRequest{Task: task, Health: string(s.Health), Detail: s.Detail, Draining: s.Draining})
	var late []discovery.NodeID
	for _, node := range answer.GetLate() {
		late = append(late, discovery.NodeID(node))
	}
	return late, failures.Error(err)
}

// Withdraw implements lb.Service.
func (c *Client) Withdraw(ctx context.Context, task string) error {
	_, err := c.rpc.Withdraw(ctx, &WithdrawRequest{Task: task})
	return failures.Error(err)
}

// VIPs implements lb.Service.
func (c *Client) VIPs(ctx context.Context, network string) ([]lb.VIPStatus, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the stream when an answer can't be read
	stream, err := c.rpc.VIPs(ctx, &VIPsRequest{Network: network})
	if err != nil {
		return nil, failures.Error(err)
	}
	vips := []lb.VIPStatus{}
	for {
		answer, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return vips, nil
		}
		if err != nil {
			return nil, failures.Error(err)
		}
		more, err := vipsIn(answer.GetVips())
		if err != nil {
			return nil, err
		}
		if last := len(vips) - 1; last >= 0 && len(more) > 0 && more[0].Key == vips[last].Key {
			vips[last].Backends = append(vips[last].Backends, more[0].Backends...)
			more = more[1:]
		}
		vips = append(vips, more...)
	}
}
