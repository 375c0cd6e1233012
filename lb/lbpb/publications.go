// SPDX-License-Identifier: Apache-2.0

package lbpb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weft/discovery"
	"weft/lb"
)

// Published tells what is published; lb/edge/engine implements it.
type Published interface {
	Published(ctx context.Context, edges bool) ([]lb.PublicationStatus, error)
}

// RegisterPublications serves p on r.
func RegisterPublications(r grpc.ServiceRegistrar, p Published) {
	RegisterPublicationsServer(r, &publicationsServer{published: p})
}

type publicationsServer struct {
	UnimplementedPublicationsServer
	published Published
}

// Published implements PublicationsServer.
func (s *publicationsServer) Published(r *PublishedRequest, stream grpc.ServerStreamingServer[PublishedResponse]) error {
	list, err := s.published.Published(stream.Context(), r.GetEdges())
	if err != nil {
		return failures.Status(err)
	}
	for i, part := range slices.Collect(slices.Chunk(list, perMessage)) {
		answer := &PublishedResponse{}
		for _, p := range part {
			answer.Publications = append(answer.Publications, publicationOut(p.Publication))
		}
		if i == 0 {
			for _, e := range part[0].Edges { // the same of each
				answer.Edges = append(answer.Edges, &Edge{Node: string(e.Node), Applied: e.Applied})
			}
		}
		if err := stream.Send(answer); err != nil {
			return err
		}
	}
	return nil
}

// publicationsOf is Published on the other end of a connection.
type publicationsOf struct{ rpc PublicationsClient }

// NewPublished returns a Published over conn, which stays the caller's.
func NewPublished(conn grpc.ClientConnInterface) Published {
	return publicationsOf{NewPublicationsClient(conn)}
}

// Published implements Published. A daemon of an earlier version knows of none.
func (c publicationsOf) Published(ctx context.Context, edges bool) (list []lb.PublicationStatus, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the stream when an answer can't be read
	stream, err := c.rpc.Published(ctx, &PublishedRequest{Edges: edges})
	if err != nil {
		return nil, failures.Error(err)
	}
	var nodes []lb.EdgeStatus
	if edges {
		nodes = []lb.EdgeStatus{}
	}
	for {
		answer, err := stream.Recv()
		if errors.Is(err, io.EOF) || status.Code(err) == codes.Unimplemented {
			return list, nil
		}
		if err != nil {
			return nil, failures.Error(err)
		}
		for _, e := range answer.GetEdges() {
			nodes = append(nodes, lb.EdgeStatus{Node: discovery.NodeID(e.GetNode()), Applied: e.GetApplied()})
		}
		for _, p := range answer.GetPublications() {
			read, err := publicationIn(p)
			if err != nil {
				return nil, fmt.Errorf("read the node daemon's answer: %w", err)
			}
			list = append(list, lb.PublicationStatus{Publication: read, Edges: nodes})
		}
	}
}

func publicationOut(p lb.Publication) *Publication {
	return &Publication{
		Addr: addrOut(p.Addr), Port: uint32(p.Port), VipNetwork: p.VIP.Network, VipName: p.VIP.Name, VipAddr: addrOut(p.VIP.Addr),
		VipPort: uint32(p.VIP.Port), Protocol: p.VIP.Protocol, Affinity: p.Affinity, Quic: p.QUIC, Return: string(p.Return),
	}
}

func publicationIn(p *Publication) (lb.Publication, error) {
	addr, addrErr := addrIn(p.GetAddr())
	port, portErr := portIn(p.GetPort())
	vip, vipErr := addrIn(p.GetVipAddr())
	vipPort, vipPortErr := portIn(p.GetVipPort())
	return lb.Publication{
		Addr: addr, Port: port, VIP: lb.Key{Network: p.GetVipNetwork(), Name: p.GetVipName(), Addr: vip, Port: vipPort, Protocol: p.GetProtocol()},
		Affinity: p.GetAffinity(), QUIC: p.GetQuic(), Return: lb.Return(p.GetReturn()),
	}, errors.Join(addrErr, portErr, vipErr, vipPortErr)
}
