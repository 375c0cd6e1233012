// SPDX-License-Identifier: Apache-2.0

package lbpb

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"time"

	"google.golang.org/grpc/codes"

	"weft/discovery"
	"weft/discovery/wire"
	"weft/lb"
)

// failures is how errors travel.
var failures = wire.Errors{Peer: "the node daemon", Sentinels: []wire.Sentinel{
	{Err: lb.ErrInvalid, Code: codes.InvalidArgument},
	{Err: lb.ErrNotFound, Code: codes.NotFound},
	{Err: lb.ErrConflict, Code: codes.AlreadyExists},
}}

func vipsOut(vips []lb.VIPStatus) []*VIP {
	out := make([]*VIP, len(vips))
	for i, v := range vips {
		backends := make([]*Backend, len(v.Backends))
		for j, b := range v.Backends {
			backends[j] = &Backend{
				Task: b.Task, Node: string(b.Node), Addrs: addrsOut(b.Addrs), Port: uint32(b.Port), Weight: uint32(b.Weight),
				In: b.In, Reason: b.Reason, Traffic: trafficOut(b.Traffic),
				Health: string(b.Health), Detail: b.Detail, Draining: b.Draining, Wait: int64(b.Wait), Ejected: b.Ejected, Check: b.Check,
			}
		}
		out[i] = &VIP{
			Network: v.Network, Name: v.Name, Addr: addrOut(v.Addr), Port: uint32(v.Port), Protocol: v.Protocol,
			Addrs: addrsOut(v.Addrs), Dns: v.DNS, Backends: backends,
			Policy: string(v.Policy), Affinity: int64(v.Affinity), Prefer: string(v.Prefer),
		}
	}
	return out
}

func vipsIn(vips []*VIP) ([]lb.VIPStatus, error) {
	var errs []error
	note := func(err error) {
		if err != nil {
			errs = append(errs, err)
		}
	}
	out := make([]lb.VIPStatus, len(vips))
	for i, v := range vips {
		key := lb.Key{Network: v.GetNetwork(), Name: v.GetName(), Protocol: v.GetProtocol()}
		var err error
		key.Addr, err = addrIn(v.GetAddr())
		note(err)
		key.Port, err = portIn(v.GetPort())
		note(err)
		balance := lb.Balance{
			Policy: lb.Policy(v.GetPolicy()), Affinity: time.Duration(v.GetAffinity()), Prefer: lb.Preference(v.GetPrefer()),
		}
		out[i] = lb.VIPStatus{Key: key, Balance: balance, DNS: v.GetDns()}
		out[i].Addrs, err = addrsIn(v.GetAddrs())
		note(err)
		for _, b := range v.GetBackends() {
			backend, err := backendIn(key, b)
			note(err)
			backend.Balance = balance
			out[i].Backends = append(out[i].Backends, backend)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("read the node daemon's answer: %w", err)
	}
	return out, nil
}

func backendIn(key lb.Key, b *Backend) (lb.BackendStatus, error) {
	addrs, addrErr := addrsIn(b.GetAddrs())
	port, portErr := portIn(b.GetPort())
	weight, weightErr := portIn(b.GetWeight())
	return lb.BackendStatus{
		Backend: lb.Backend{
			VIP: key, Task: b.GetTask(), Node: discovery.NodeID(b.GetNode()), Addrs: addrs, Port: port, Weight: weight,
			Health: lb.Health(b.GetHealth()), Detail: b.GetDetail(), Draining: b.GetDraining(), Wait: time.Duration(b.GetWait()), Check: b.GetCheck(),
		},
		In: b.GetIn(), Reason: b.GetReason(), Ejected: b.GetEjected(), Traffic: trafficIn(b.GetTraffic()),
	}, errors.Join(addrErr, portErr, weightErr)
}

func trafficOut(t lb.Traffic) *Traffic {
	return &Traffic{
		Chosen: t.Chosen, InFlight: int64(t.InFlight), Refused: t.Refused, Timeouts: t.Timeouts, Resets: t.Resets, Ejections: t.Ejections,
		Barred: int64(t.Barred), Latency: int64(t.Latency), Buckets: t.Buckets, LatencySum: int64(t.LatencySum),
	}
}

func trafficIn(t *Traffic) lb.Traffic {
	return lb.Traffic{
		Chosen: t.GetChosen(), InFlight: int(t.GetInFlight()), Refused: t.GetRefused(), Timeouts: t.GetTimeouts(), Resets: t.GetResets(),
		Ejections: t.GetEjections(), Barred: time.Duration(t.GetBarred()), Latency: time.Duration(t.GetLatency()),
		Buckets: t.GetBuckets(), LatencySum: time.Duration(t.GetLatencySum()),
	}
}

func addrOut(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

func addrIn(s string) (netip.Addr, error) {
	if s == "" {
		return netip.Addr{}, nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return a, fmt.Errorf("%w address %q: write IPv4 or IPv6", lb.ErrInvalid, s)
	}
	return a, nil
}

func addrsOut(addrs []netip.Addr) []string {
	var out []string
	for _, a := range addrs {
		out = append(out, addrOut(a))
	}
	return out
}

func addrsIn(texts []string) ([]netip.Addr, error) {
	var addrs []netip.Addr
	var errs []error
	for _, s := range texts {
		a, err := addrIn(s)
		if err != nil {
			errs = append(errs, err)
		}
		addrs = append(addrs, a)
	}
	return addrs, errors.Join(errs...)
}

func portIn(n uint32) (uint16, error) {
	if n > math.MaxUint16 {
		return 0, fmt.Errorf("%w number %d: at most %d is allowed", lb.ErrInvalid, n, math.MaxUint16)
	}
	return uint16(n), nil
}
