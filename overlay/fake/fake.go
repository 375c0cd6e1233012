// SPDX-License-Identifier: Apache-2.0

// Package fake is overlay.Service in memory, for the tests of its clients. It gives addresses and
// identities as node and masters do together and leaves out links, tables and failures.
package fake

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"weft/bpf/row"
	"weft/discovery"
	"weft/overlay"
	"weft/overlay/compile"
	"weft/overlay/explain"
	"weft/overlay/ipam"
)

// Node is the one that runs every task of the fake.
const Node discovery.NodeID = "fake"

// Addr is that of the fake's node.
var Addr = netip.AddrFrom4([4]byte{192, 0, 2, 1})

// Options say what the fake's masters have declared.
type Options struct {
	Networks []overlay.Network // VNI 0 is numbered from 1 on
	Groups   []overlay.Group
	Rules    []overlay.Rule
}

// Service implements overlay.Service. Make it with New.
type Service struct {
	mu        sync.Mutex // guards what follows
	networks  []overlay.Network
	groups    []overlay.Group
	rules     []overlay.Rule
	sets      []overlay.GroupSet
	blocks    []overlay.Block
	endpoints map[string]overlay.Endpoint
	readers   map[chan overlay.Event]bool
}

// New returns a Service with no endpoints.
func New(o Options) *Service {
	s := &Service{
		groups: o.Groups, rules: o.Rules,
		endpoints: make(map[string]overlay.Endpoint), readers: make(map[chan overlay.Event]bool),
	}
	for i, n := range o.Networks {
		n.VNI = cmp.Or(n.VNI, overlay.VNI(i+1))
		s.networks = append(s.networks, n.Normal())
	}
	return s
}

// Attach implements overlay.Service.
func (s *Service) Attach(ctx context.Context, a overlay.Attachment) (overlay.Endpoint, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a = a.Normal()
	e, err := s.attach(ctx, a)
	if err != nil {
		return overlay.Endpoint{}, fmt.Errorf("attach %s to network %s: %w", a.ID, a.Network, err)
	}
	s.endpoints[a.ID] = e
	return e, nil
}

func (s *Service) attach(ctx context.Context, a overlay.Attachment) (overlay.Endpoint, error) {
	if err := cmp.Or(a.Validate(), ctx.Err()); err != nil {
		return overlay.Endpoint{}, err
	}
	if e, there := s.endpoints[a.ID]; there {
		if !e.SameTask(a) {
			return e, fmt.Errorf("%w: it is attached already, with other contents", overlay.ErrConflict)
		}
		if a.InHost() {
			return e, nil
		}
		if _, err := s.declared(a); err != nil {
			return e, err
		}
		e.Groups, e.Identity = a.Groups, s.identity(a)
		return e, nil
	}
	if a.InHost() {
		return overlay.Endpoint{Attachment: a, Node: Node, Addr4: Addr, Since: time.Now().UTC()}, nil
	}
	n, err := s.declared(a)
	if err != nil {
		return overlay.Endpoint{}, err
	}
	if err := s.clash(a); err != nil {
		return overlay.Endpoint{}, err
	}
	e := overlay.Endpoint{
		Attachment: a, Node: Node, VNI: n.VNI, Identity: s.identity(a), MTU: overlay.TaskMTU(netip.Addr{}, 0),
		HostInterface: "weft-fake", Cookie: uint64(len(s.endpoints) + 1), Since: time.Now().UTC(),
	}
	for _, subnet := range n.Subnets() {
		addr, err := s.address(n, subnet, a.Fixed)
		if err != nil {
			return e, err
		}
		if addr.Is4() {
			e.Addr4 = addr
		} else {
			e.Addr6 = addr
		}
	}
	mac := compile.MAC(e.Addr4, e.Addr6)
	e.MAC = net.HardwareAddr(mac[:]).String()
	return e, nil
}

// clash tells when a port of the node leads to another task already.
func (s *Service) clash(a overlay.Attachment) error {
	for _, e := range s.endpoints {
		for _, theirs := range e.Ports {
			if i := slices.IndexFunc(a.Ports, theirs.Clashes); i >= 0 {
				return fmt.Errorf("%w: port mapping %s: that port of this node leads to task %s already", overlay.ErrConflict, a.Ports[i], e.Task)
			}
		}
	}
	return nil
}

func (s *Service) declared(a overlay.Attachment) (overlay.Network, error) {
	i := slices.IndexFunc(s.networks, func(n overlay.Network) bool { return n.Name == a.Network })
	if i < 0 {
		var known []string
		for _, n := range s.networks {
			known = append(known, n.Name)
		}
		return overlay.Network{}, fmt.Errorf("network %q: %w: known are %s", a.Network, overlay.ErrNotFound, strings.Join(known, ", "))
	}
	declared := append(s.groupsOf(a.Network), overlay.GroupPublic)
	for _, g := range a.Groups {
		if !slices.Contains(declared, g) {
			return overlay.Network{}, fmt.Errorf("group %q: %w: declared are %s", g, overlay.ErrNotFound, strings.Join(declared, ", "))
		}
	}
	return s.networks[i], s.networks[i].CheckFixed(a.Fixed)
}

func (s *Service) groupsOf(network string) []string {
	var names []string
	for _, g := range s.groups {
		if g.Network == network {
			names = append(names, g.Name)
		}
	}
	slices.Sort(names)
	return names
}

func (s *Service) identity(a overlay.Attachment) overlay.Identity {
	if len(a.Groups) == 0 {
		return row.IdentityUngrouped
	}
	next := overlay.Identity(row.IdentityFirst)
	for _, set := range s.sets {
		if set.Network == a.Network && slices.Equal(set.Groups, a.Groups) {
			return set.Identity
		}
		if set.Network == a.Network {
			next = set.Identity + 1
		}
	}
	s.sets = append(s.sets, overlay.GroupSet{Network: a.Network, Groups: a.Groups, Identity: next})
	return next
}

// address returns the lowest free address of a subnet, taking another block of it if need be.
func (s *Service) address(n overlay.Network, subnet netip.Prefix, fixed []netip.Addr) (netip.Addr, error) {
	for _, addr := range fixed {
		switch {
		case addr.Is4() != subnet.Addr().Is4():
		case s.used(addr):
			return addr, fmt.Errorf("%w: fixed address %s is another task's", overlay.ErrConflict, addr)
		default:
			if block := n.BlockOf(addr); !slices.Contains(s.held(n, subnet), block) {
				s.blocks = append(s.blocks, overlay.Block{Network: n.Name, Node: Node, Prefix: block})
			}
			return addr, nil
		}
	}
	for {
		held := s.held(n, subnet)
		if addr, ok := ipam.Lowest(held, s.used); ok {
			return addr, nil
		}
		block, ok := ipam.LowestBlock(subnet, n.BlockBits(subnet.Addr()), held)
		if !ok {
			return netip.Addr{}, fmt.Errorf("addresses of %s are %w", subnet, overlay.ErrExhausted)
		}
		s.blocks = append(s.blocks, overlay.Block{Network: n.Name, Node: Node, Prefix: block})
	}
}

func (s *Service) held(n overlay.Network, subnet netip.Prefix) []netip.Prefix {
	var held []netip.Prefix
	for _, b := range s.blocks {
		if b.Network == n.Name && subnet.Overlaps(b.Prefix) {
			held = append(held, b.Prefix)
		}
	}
	return held
}

func (s *Service) used(a netip.Addr) bool {
	for _, e := range s.endpoints {
		if e.Addr4 == a || e.Addr6 == a {
			return true
		}
	}
	return false
}

// Detach implements overlay.Service.
func (s *Service) Detach(ctx context.Context, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.endpoints, id)
	return ctx.Err()
}

// Endpoints implements overlay.Service.
func (s *Service) Endpoints(ctx context.Context) ([]overlay.Endpoint, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.list(), ctx.Err()
}

func (s *Service) list() []overlay.Endpoint {
	var list []overlay.Endpoint
	for _, e := range s.endpoints {
		list = append(list, e)
	}
	slices.SortFunc(list, func(a, b overlay.Endpoint) int { return cmp.Compare(a.ID, b.ID) })
	return list
}

// Networks implements overlay.Service.
func (s *Service) Networks(ctx context.Context) ([]overlay.NetworkStatus, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []overlay.NetworkStatus
	for _, n := range s.networks {
		status := overlay.NetworkStatus{Network: n, Groups: s.groupsOf(n.Name)}
		for _, b := range s.blocks {
			if b.Network == n.Name {
				status.Blocks = append(status.Blocks, b)
			}
		}
		counted := n.Subnets()[0]
		var used []netip.Addr
		for _, e := range s.endpoints {
			for _, a := range e.Addrs() {
				if counted.Contains(a) {
					used = append(used, a)
				}
			}
		}
		status.Used, status.Free = len(used), ipam.Free(s.held(n, counted), used)
		list = append(list, status)
	}
	slices.SortFunc(list, func(a, b overlay.NetworkStatus) int { return cmp.Compare(a.Name, b.Name) })
	return list, ctx.Err()
}

// Explain implements overlay.Service.
func (s *Service) Explain(_ context.Context, q overlay.Question) (overlay.Verdict, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := compile.Facts{Node: Node, Networks: s.networks, Blocks: s.blocks, Sets: s.sets, Rules: s.rules}
	for i, e := range s.list() {
		if e.InHost() {
			f.InHost = append(f.InHost, e)
			continue
		}
		f.Tasks = append(f.Tasks, compile.Task{Endpoint: e, Ifindex: uint32(i + 1)})
	}
	rows := compile.Compile(f)
	v, err := explain.Answer(f, explain.World{
		Verdict: func(key row.VerdictKey) (row.Verdict, bool) { v, ok := rows.Verdicts[key]; return v, ok },
		Clauses: func(key row.ClausesKey) (row.Clauses, bool) { c, ok := rows.Clauses[key]; return c, ok },
	}, q)
	if err != nil {
		return overlay.Verdict{}, fmt.Errorf("explain: %w", err)
	}
	return v, nil
}

// eventsKept is how many events a reader may be behind before it loses some.
const eventsKept = 256

// Report gives an event to everyone who reads Events now.
func (s *Service) Report(e overlay.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for r := range s.readers {
		select {
		case r <- e:
		default:
		}
	}
}

// Events implements overlay.Service.
func (s *Service) Events(ctx context.Context, f overlay.Filter, emit func(overlay.Event) error) error {
	if err := f.Validate(); err != nil {
		return fmt.Errorf("events: %w", err)
	}
	r := make(chan overlay.Event, eventsKept) // never closed; the reader leaves by ctx or emit
	s.mu.Lock()
	s.readers[r] = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.readers, r)
	}()
	for {
		select {
		case e := <-r:
			if !f.Wants(e) {
				continue
			}
			if err := emit(e); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
