// SPDX-License-Identifier: Apache-2.0

package overlaypb

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"

	"weft/overlay"
)

// Client is an overlay.Service on the other end of a connection.
type Client struct {
	rpc OverlayClient
}

// NewClient returns a Client over conn, which stays the caller's.
func NewClient(conn grpc.ClientConnInterface) *Client {
	return &Client{rpc: NewOverlayClient(conn)}
}

// Attach implements overlay.Service.
func (c *Client) Attach(ctx context.Context, a overlay.Attachment) (overlay.Endpoint, error) {
	answer, err := c.rpc.Attach(ctx, &AttachRequest{Attachment: attachmentOut(a)})
	if err != nil {
		return overlay.Endpoint{}, failures.Error(err)
	}
	var r reading
	e := r.endpoint(answer.GetEndpoint())
	return e, r.err()
}

// Detach implements overlay.Service.
func (c *Client) Detach(ctx context.Context, id string) error {
	_, err := c.rpc.Detach(ctx, &DetachRequest{Id: id})
	return failures.Error(err)
}

// Endpoints implements overlay.Service.
func (c *Client) Endpoints(ctx context.Context) ([]overlay.Endpoint, error) {
	answer, err := c.rpc.Endpoints(ctx, &EndpointsRequest{})
	if err != nil {
		return nil, failures.Error(err)
	}
	var r reading
	var list []overlay.Endpoint
	for _, e := range answer.GetEndpoints() {
		list = append(list, r.endpoint(e))
	}
	return list, r.err()
}

// Networks implements overlay.Service.
func (c *Client) Networks(ctx context.Context) ([]overlay.NetworkStatus, error) {
	answer, err := c.rpc.Networks(ctx, &NetworksRequest{})
	if err != nil {
		return nil, failures.Error(err)
	}
	var r reading
	var list []overlay.NetworkStatus
	for _, n := range answer.GetNetworks() {
		list = append(list, r.network(n))
	}
	return list, r.err()
}

// Explain implements overlay.Service.
func (c *Client) Explain(ctx context.Context, q overlay.Question) (overlay.Verdict, error) {
	answer, err := c.rpc.Explain(ctx, questionOut(q))
	if err != nil {
		return overlay.Verdict{}, failures.Error(err)
	}
	var r reading
	v := r.verdict(answer)
	return v, r.err()
}

// Events implements overlay.Service.
func (c *Client) Events(ctx context.Context, f overlay.Filter, emit func(overlay.Event) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the stream when emit has enough
	stream, err := c.rpc.Events(ctx, filterOut(f))
	if err != nil {
		return failures.Error(err)
	}
	for {
		answer, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return failures.Error(err)
		}
		var r reading
		e := r.event(answer)
		if err := r.err(); err != nil {
			return err
		}
		if err := emit(e); err != nil {
			return err
		}
	}
}
