// SPDX-License-Identifier: Apache-2.0

package discoverypb

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"time"

	"google.golang.org/grpc/codes"

	"weft/discovery"
	"weft/discovery/wire"
)

// failures is how errors travel.
var failures = wire.Errors{Peer: "the node daemon", Sentinels: []wire.Sentinel{
	{Err: discovery.ErrInvalid, Code: codes.InvalidArgument},
	{Err: discovery.ErrNotFound, Code: codes.NotFound},
	{Err: discovery.ErrConflict, Code: codes.AlreadyExists},
	{Err: discovery.ErrExhausted, Code: codes.ResourceExhausted},
}}

func nameOut(n discovery.Name) *Name {
	out := &Name{
		Task: n.Task, Label: n.Label, Framework: n.Framework, Network: n.Network, Node: string(n.Node),
		Addrs: addrsOut(n.Addrs), Unwell: n.Unwell, Mapped: n.Mapped,
	}
	for _, p := range n.Ports {
		out.Ports = append(out.Ports, &NamedPort{Name: p.Name, Protocol: p.Protocol, Port: uint32(p.Port)})
	}
	return out
}

func nameIn(n *Name) (discovery.Name, error) {
	addrs, err := addrsIn(n.GetAddrs())
	errs := []error{err}
	out := discovery.Name{
		Task: n.GetTask(), Label: n.GetLabel(), Framework: n.GetFramework(), Network: n.GetNetwork(),
		Node: discovery.NodeID(n.GetNode()), Addrs: addrs, Unwell: n.GetUnwell(), Mapped: n.GetMapped(),
	}
	for _, p := range n.GetPorts() {
		if p.GetPort() > math.MaxUint16 {
			errs = append(errs, fmt.Errorf("port %d: at most %d is allowed: %w", p.GetPort(), math.MaxUint16, discovery.ErrInvalid))
		}
		out.Ports = append(out.Ports, discovery.NamedPort{Name: p.GetName(), Protocol: p.GetProtocol(), Port: uint16(p.GetPort())})
	}
	return out, errors.Join(errs...)
}

func addrsOut(addrs []netip.Addr) []string {
	var out []string
	for _, a := range addrs {
		if a.IsValid() {
			out = append(out, a.String())
		}
	}
	return out
}

func addrsIn(texts []string) ([]netip.Addr, error) {
	var addrs []netip.Addr
	var errs []error
	for _, text := range texts {
		a, err := netip.ParseAddr(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("address %q: an IPv4 or IPv6 address is allowed: %w", text, discovery.ErrInvalid))
			continue
		}
		addrs = append(addrs, a)
	}
	return addrs, errors.Join(errs...)
}

func recordsOut(records []discovery.Record) []*Record {
	out := make([]*Record, len(records))
	for i, r := range records {
		out[i] = &Record{Name: r.Name, Type: r.Type, TtlNs: int64(r.TTL), Data: r.Data, From: r.From, Writer: r.Writer, LeftOut: r.LeftOut}
	}
	return out
}

func recordsIn(records []*Record) []discovery.Record {
	var out []discovery.Record
	for _, r := range records {
		out = append(out, discovery.Record{
			Name: r.GetName(), Type: r.GetType(), TTL: time.Duration(r.GetTtlNs()), Data: r.GetData(),
			From: r.GetFrom(), Writer: r.GetWriter(), LeftOut: r.GetLeftOut(),
		})
	}
	return out
}

func nodesOut(nodes []discovery.NodeStatus) []*NodeStatus {
	out := make([]*NodeStatus, len(nodes))
	for i, n := range nodes {
		since := int64(0)
		if !n.Since.IsZero() {
			since = n.Since.UnixNano()
		}
		out[i] = &NodeStatus{
			Id: string(n.ID), Hostname: n.Hostname, Addrs: addrsOut(n.Addrs), Peer: n.Peer, Mtu: int64(n.MTU),
			Zone: n.Zone, Version: n.Version, Alive: n.Alive, Admitted: n.Admitted, SinceNs: since, Warnings: n.Warnings,
		}
	}
	return out
}

func nodesIn(nodes []*NodeStatus) ([]discovery.NodeStatus, error) {
	var out []discovery.NodeStatus
	var errs []error
	for _, n := range nodes {
		addrs, err := addrsIn(n.GetAddrs())
		errs = append(errs, err)
		node := discovery.NodeStatus{
			Node: discovery.Node{
				ID: discovery.NodeID(n.GetId()), Hostname: n.GetHostname(), Addrs: addrs, Peer: n.GetPeer(),
				MTU: int(n.GetMtu()), Zone: n.GetZone(), Version: n.GetVersion(), Warnings: n.GetWarnings(),
			},
			Alive: n.GetAlive(), Admitted: n.GetAdmitted(),
		}
		if n.GetSinceNs() != 0 {
			node.Since = time.Unix(0, n.GetSinceNs())
		}
		out = append(out, node)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("read the node daemon's answer: %w", err)
	}
	return out, nil
}

func rowsOut(rows []discovery.Row) []*Row {
	out := make([]*Row, len(rows))
	for i := range rows {
		r := &rows[i]
		out[i] = &Row{
			Writer: r.Writer, Kind: string(r.Kind), Key: r.Key, Incarnation: r.Incarnation, Seq: r.Seq,
			Deleted: r.Deleted, Value: r.Value,
		}
	}
	return out
}

func rowsIn(rows []*Row) []discovery.Row {
	out := make([]discovery.Row, len(rows))
	for i, r := range rows {
		out[i] = discovery.Row{
			Writer: r.GetWriter(), Kind: discovery.Kind(r.GetKind()), Key: r.GetKey(), Incarnation: r.GetIncarnation(),
			Seq: r.GetSeq(), Deleted: r.GetDeleted(), Value: r.GetValue(),
		}
	}
	return out
}
