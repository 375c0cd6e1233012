// SPDX-License-Identifier: Apache-2.0

package overlaypb

import (
	"encoding"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"time"

	"google.golang.org/grpc/codes"

	"weft/discovery"
	"weft/discovery/wire"
	"weft/overlay"
)

// failures is how errors travel.
var failures = wire.Errors{Peer: "the node daemon", Sentinels: []wire.Sentinel{
	{Err: overlay.ErrInvalid, Code: codes.InvalidArgument},
	{Err: overlay.ErrNotFound, Code: codes.NotFound},
	{Err: overlay.ErrConflict, Code: codes.AlreadyExists},
	{Err: overlay.ErrExhausted, Code: codes.ResourceExhausted},
}}

// text returns the written form, empty for what is not there.
func text(v encoding.TextMarshaler) string {
	b, err := v.MarshalText()
	if err != nil {
		return ""
	}
	return string(b)
}

func timeOut(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func timeIn(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}

func attachmentOut(a overlay.Attachment) *Attachment {
	return &Attachment{
		Id: a.ID, Task: a.Task, Name: a.Name, Network: a.Network, Groups: a.Groups, Netns: a.NetNS, Interface: a.Interface,
		OwnerPid: int64(a.OwnerPID), OwnerStart: a.OwnerStart, Cgroup: a.Cgroup, Ports: portsOut(a.Ports),
		Fixed: fixedOut(a.Fixed),
	}
}

func portsOut(list []overlay.PortMapping) []*PortMapping {
	var out []*PortMapping
	for _, m := range list {
		out = append(out, &PortMapping{
			HostIp: text(m.HostIP), HostPort: uint32(m.HostPort), Port: uint32(m.Port), Protocol: m.Protocol,
		})
	}
	return out
}

// attachmentIn names what of an attachment can't be read as ErrInvalid.
func attachmentIn(a *Attachment) (overlay.Attachment, error) {
	ports, err := portsIn(a.GetPorts())
	fixed, bad := fixedIn(a.GetFixed())
	return overlay.Attachment{
		ID: a.GetId(), Task: a.GetTask(), Name: a.GetName(), Network: a.GetNetwork(), Groups: a.GetGroups(), NetNS: a.GetNetns(),
		Interface: a.GetInterface(), OwnerPID: int(a.GetOwnerPid()), OwnerStart: a.GetOwnerStart(), Cgroup: a.GetCgroup(),
		Ports: ports, Fixed: fixed,
	}, errors.Join(err, bad)
}

func fixedOut(addrs []netip.Addr) (out []string) {
	for _, a := range addrs {
		out = append(out, a.String())
	}
	return out
}

func fixedIn(list []string) (addrs []netip.Addr, err error) {
	for _, text := range list {
		a, bad := netip.ParseAddr(text)
		if bad != nil {
			err = errors.Join(err, fmt.Errorf("%w fixed address %q: an IPv4 or IPv6 address is allowed", overlay.ErrInvalid, text))
		}
		addrs = append(addrs, a)
	}
	return addrs, err
}

func portsIn(list []*PortMapping) ([]overlay.PortMapping, error) {
	var ports []overlay.PortMapping
	var errs []error
	for _, m := range list {
		var host netip.Addr
		if err := host.UnmarshalText([]byte(m.GetHostIp())); err != nil {
			errs = append(errs, fmt.Errorf("%w port mapping: host_ip %q is no address", overlay.ErrInvalid, m.GetHostIp()))
		}
		for name, port := range map[string]uint32{"host_port": m.GetHostPort(), "port": m.GetPort()} {
			if port > math.MaxUint16 {
				errs = append(errs, fmt.Errorf("%w port mapping: %s %d: allowed are 1 to %d", overlay.ErrInvalid, name, port, math.MaxUint16))
			}
		}
		ports = append(ports, overlay.PortMapping{
			HostIP: host, HostPort: uint16(m.GetHostPort()), Port: uint16(m.GetPort()), Protocol: m.GetProtocol(),
		})
	}
	return ports, errors.Join(errs...)
}

func endpointOut(e overlay.Endpoint) *Endpoint {
	return &Endpoint{
		Attachment: attachmentOut(e.Attachment), Node: string(e.Node), Vni: uint32(e.VNI), Addr4: text(e.Addr4), Addr6: text(e.Addr6),
		Mac: e.MAC, Identity: uint32(e.Identity), Mtu: int64(e.MTU), HostInterface: e.HostInterface, Cookie: e.Cookie,
		Since: timeOut(e.Since),
	}
}

func networkOut(n overlay.NetworkStatus) *Network {
	out := &Network{
		Name: n.Name, Vni: uint32(n.VNI), Subnet4: text(n.Subnet4), Subnet6: text(n.Subnet6), Block4: int64(n.Block4),
		Block6: int64(n.Block6), Ungrouped: string(n.Ungrouped), Used: int64(n.Used), Free: int64(n.Free), Groups: n.Groups,
	}
	for _, b := range n.Blocks {
		out.Blocks = append(out.Blocks, &Block{Node: string(b.Node), Prefix: text(b.Prefix)})
	}
	return out
}

func verdictOut(v overlay.Verdict) *ExplainResponse {
	out := &ExplainResponse{Allowed: v.Allowed, Reason: v.Reason, Text: v.Text, Rule: uint32(v.Rule), Owner: v.Owner, Suggestion: v.Suggestion}
	if v.Source.ID != "" {
		out.Source = endpointOut(v.Source)
	}
	if v.Destination.ID != "" {
		out.Destination = endpointOut(v.Destination)
	}
	return out
}

func eventOut(e overlay.Event) *EventsResponse {
	return &EventsResponse{
		Time: timeOut(e.Time), Reason: e.Reason, Text: e.Text, Drop: e.Drop, Network: e.Network, Source: text(e.Source),
		Destination: text(e.Destination), SourceTask: e.SourceTask, DestinationTask: e.DestTask, Protocol: e.Protocol,
		Length: int64(e.Length), Rule: uint32(e.Rule), Suggestion: e.Suggestion, Owner: e.Owner, Node: string(e.Node),
		Program: e.Program, SourceGroups: e.SourceGroups, DestinationGroups: e.DestGroups, Packets: int64(e.Packets), Traced: e.Traced,
	}
}

func questionIn(r *ExplainRequest) (overlay.Question, error) {
	if r.GetPort() > math.MaxUint16 {
		return overlay.Question{}, fmt.Errorf("%w port %d: allowed are 1 to %d", overlay.ErrInvalid, r.GetPort(), math.MaxUint16)
	}
	return overlay.Question{
		Source: r.GetSource(), Destination: r.GetDestination(), Network: r.GetNetwork(), Protocol: r.GetProtocol(),
		Port: uint16(r.GetPort()),
	}, nil
}

func filterOut(f overlay.Filter) *EventsRequest {
	out := &EventsRequest{Network: f.Network, Task: f.Task, Drops: f.Drops, Since: timeOut(f.Since), All: f.All}
	if f.Trace != nil {
		out.Trace = questionOut(*f.Trace)
	}
	return out
}

func filterIn(r *EventsRequest) (overlay.Filter, error) {
	f := overlay.Filter{
		Network: r.GetNetwork(), Task: r.GetTask(), Drops: r.GetDrops(), Since: timeIn(r.GetSince()), All: r.GetAll(),
	}
	if r.GetTrace() == nil {
		return f, nil
	}
	q, err := questionIn(r.GetTrace())
	f.Trace = &q
	return f, err
}

func questionOut(q overlay.Question) *ExplainRequest {
	return &ExplainRequest{
		Source: q.Source, Destination: q.Destination, Network: q.Network, Protocol: q.Protocol, Port: uint32(q.Port),
	}
}

// reading collects what is wrong with an answer while it is read.
type reading struct{ errs []error }

func (r *reading) err() error {
	if err := errors.Join(r.errs...); err != nil {
		return fmt.Errorf("read the node daemon's answer: %w", err)
	}
	return nil
}

// from reads the written form into v; empty leaves the zero value.
func (r *reading) from(s string, v encoding.TextUnmarshaler) {
	if s == "" {
		return
	}
	if err := v.UnmarshalText([]byte(s)); err != nil {
		r.errs = append(r.errs, err)
	}
}

func (r *reading) identity(n uint32) overlay.Identity {
	if n > math.MaxUint16 {
		r.errs = append(r.errs, fmt.Errorf("identity %d is larger than %d", n, math.MaxUint16))
	}
	return overlay.Identity(n)
}

func (r *reading) endpoint(e *Endpoint) overlay.Endpoint {
	if e == nil {
		return overlay.Endpoint{}
	}
	attachment, err := attachmentIn(e.GetAttachment())
	if err != nil {
		r.errs = append(r.errs, err)
	}
	out := overlay.Endpoint{
		Attachment: attachment, Node: discovery.NodeID(e.GetNode()), VNI: overlay.VNI(e.GetVni()), MAC: e.GetMac(),
		Identity: r.identity(e.GetIdentity()), MTU: int(e.GetMtu()), HostInterface: e.GetHostInterface(), Cookie: e.GetCookie(),
		Since: timeIn(e.GetSince()),
	}
	r.from(e.GetAddr4(), &out.Addr4)
	r.from(e.GetAddr6(), &out.Addr6)
	return out
}

func (r *reading) network(n *Network) overlay.NetworkStatus {
	out := overlay.NetworkStatus{
		Network: overlay.Network{
			Name: n.GetName(), VNI: overlay.VNI(n.GetVni()), Block4: int(n.GetBlock4()), Block6: int(n.GetBlock6()),
			Ungrouped: overlay.Ungrouped(n.GetUngrouped()),
		},
		Used: int(n.GetUsed()), Free: int(n.GetFree()), Groups: n.GetGroups(),
	}
	r.from(n.GetSubnet4(), &out.Subnet4)
	r.from(n.GetSubnet6(), &out.Subnet6)
	for _, b := range n.GetBlocks() {
		var p netip.Prefix
		r.from(b.GetPrefix(), &p)
		out.Blocks = append(out.Blocks, overlay.Block{Network: n.GetName(), Node: discovery.NodeID(b.GetNode()), Prefix: p})
	}
	return out
}

func (r *reading) verdict(v *ExplainResponse) overlay.Verdict {
	return overlay.Verdict{
		Allowed: v.GetAllowed(), Reason: v.GetReason(), Text: v.GetText(), Rule: overlay.RuleID(v.GetRule()),
		Suggestion: v.GetSuggestion(), Owner: v.GetOwner(), Source: r.endpoint(v.GetSource()), Destination: r.endpoint(v.GetDestination()),
	}
}

func (r *reading) event(e *EventsResponse) overlay.Event {
	out := overlay.Event{
		Time: timeIn(e.GetTime()), Reason: e.GetReason(), Text: e.GetText(), Drop: e.GetDrop(), Network: e.GetNetwork(),
		SourceTask: e.GetSourceTask(), DestTask: e.GetDestinationTask(), Protocol: e.GetProtocol(), Length: int(e.GetLength()),
		Rule: overlay.RuleID(e.GetRule()), Suggestion: e.GetSuggestion(), Owner: e.GetOwner(), Node: discovery.NodeID(e.GetNode()),
		Program: e.GetProgram(), SourceGroups: e.GetSourceGroups(), DestGroups: e.GetDestinationGroups(),
		Packets: int(e.GetPackets()), Traced: e.GetTraced(),
	}
	r.from(e.GetSource(), &out.Source)
	r.from(e.GetDestination(), &out.Destination)
	return out
}
