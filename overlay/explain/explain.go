// SPDX-License-Identifier: Apache-2.0

// Package explain puts into words what overlay/compile comes to: why a verdict is what it is, why a packet was dropped, who
// can change that and how. It tells what a packet to be followed looks like (probe.go), and writes docs/troubleshooting.md
// from what is known of each reason (faults.go).
package explain

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"weft/bpf/row"
	"weft/discovery"
	"weft/overlay"
	"weft/overlay/compile"
)

// World is what Answer knows beside the facts: the tasks of other nodes, and this node's addresses.
type World struct {
	Remote    []overlay.Endpoint // of other nodes
	NodeAddrs []netip.Addr       // of this node
	// Verdict looks a key up in the table that the packet path reads. It is asked about tasks of this
	// node; what other nodes would say is compiled.
	Verdict func(row.VerdictKey) (row.Verdict, bool)
	Clauses func(row.ClausesKey) (row.Clauses, bool) // beside Verdict
}

// side is one side of a question, found.
type side struct {
	overlay.Endpoint            // zero unless task
	addr             netip.Addr // zero: the world in general
	task, node       bool
	grouped          bool         // no task that is known, but its identity is (Describe)
	lost             bool         // its identity stands for groups that no row names (Describe)
	stranger         bool         // a VXLAN sender that names no groups (Describe)
	host             compile.Node //  whose processes have the address; zero: none
	named            bool         // host was asked for by its id: any of its addresses will do
	network          string       // that the address belongs to; empty: none
	guest            string       // name of the task in the node's own network that this is about
}

func (s side) String() string {
	switch {
	case s.task:
		return fmt.Sprintf("%s (%s)", s.Name, s.addr)
	case s.guest != "":
		return fmt.Sprintf("%s in its node's network (%s)", s.guest, s.addr)
	case s.node:
		return fmt.Sprintf("this node (%s)", s.addr)
	case s.host.ID != "":
		return fmt.Sprintf("node %s (%s)", s.host.ID, s.addr)
	case s.network != "":
		return fmt.Sprintf("%s of network %s", s.addr, s.network)
	case s.addr.IsValid():
		return fmt.Sprintf("%s outside of the networks", s.addr)
	}
	return "the world"
}

// plain is String without the network.
func (s side) plain() string {
	if !s.task && s.network != "" {
		return s.addr.String()
	}
	return s.String()
}

// name is String without the address of a task.
func (s side) name() string {
	if s.task {
		return s.Name
	}
	return s.String()
}

// own returns the addresses that the side may send from.
func (s side) own() []netip.Addr {
	addrs := s.Addrs()
	for _, p := range s.host.Hosts() {
		addrs = append(addrs, p.Addr())
	}
	return addrs
}

// party returns how verdicts tell the side apart.
func (s side) party() compile.Party {
	switch {
	case s.stranger:
		return compile.Party{Identity: row.IdentityNone}
	case s.task || s.grouped:
		return compile.Party{Identity: uint32(s.Identity), Groups: s.Groups}
	case s.host.ID != "":
		return compile.Party{Identity: row.IdentityOtherNode}
	}
	return compile.Party{Identity: row.IdentityWorld}
}

// asked is a question with both sides found.
type asked struct {
	f        compile.Facts
	w        World
	src, dst side
	service  compile.Service
}

// Answer answers a question from the facts and the verdicts of the packet path. Its errors are about
// the question: ErrInvalid, ErrNotFound, and ErrConflict where a name means several tasks.
func Answer(f compile.Facts, w World, q overlay.Question) (overlay.Verdict, error) {
	a, err := ask(f, w, q)
	if err != nil {
		return overlay.Verdict{}, err
	}
	if isVIP(a.dst.addr) || isVIP(a.src.addr) {
		return overlay.Verdict{}, fmt.Errorf("%w: %s is a virtual address: the verdict is about the tasks behind it, "+
			"ask about one of them (see `weft vip list`)", overlay.ErrInvalid, q.Destination)
	}
	v := a.answer()
	v.Source, v.Destination = a.src.Endpoint, a.dst.Endpoint
	if r := reasonOf(v); r.Drop() || r == row.ReasonAudited {
		a.told(r).complete(&v)
	}
	return v, nil
}

// ask finds both sides of a question.
func ask(f compile.Facts, w World, q overlay.Question) (asked, error) {
	proto, known := compile.Protocol(strings.ToLower(q.Protocol))
	if !known || proto == 0 {
		return asked{}, fmt.Errorf("%w protocol %q: allowed are tcp, udp and icmp", overlay.ErrInvalid, q.Protocol)
	}
	if (proto == compile.ICMP) != (q.Port == 0) {
		return asked{}, fmt.Errorf("%w port %d of %s: tcp and udp need 1 to 65535, icmp has none",
			overlay.ErrInvalid, q.Port, q.Protocol)
	}
	src, err := find(f, w, q.Source, q.Network, sends)
	if err != nil {
		return asked{}, fmt.Errorf("source: %w", err)
	}
	dst, err := find(f, w, q.Destination, cmp.Or(q.Network, src.network), receives)
	if err != nil {
		return asked{}, fmt.Errorf("destination: %w", err)
	}
	// A task with two families talks in the one that the other side has.
	src.addr, dst.addr = sameFamily(src, dst.addr), sameFamily(dst, src.addr)
	return asked{f, w, src, dst, compile.Service{Proto: proto, Port: q.Port}}, nil
}

// sends and receives are the two sides of a packet.
const sends, receives = true, false

func sameFamily(s side, other netip.Addr) netip.Addr {
	if s.named {
		for _, p := range s.host.Hosts() {
			if other.IsValid() && p.Addr().Is4() == other.Is4() {
				return p.Addr()
			}
		}
	}
	for _, a := range s.Addrs() {
		if s.task && other.IsValid() && a.Is4() == other.Is4() {
			return a
		}
	}
	return s.addr
}

// find resolves an address, task id, attachment id or task name. Names are looked for in network, in
// every one when that is empty; a task of this node is before others of its name. Tasks in a node's own network
// are in every network's reach.
func find(f compile.Facts, w World, what, network string, source bool) (side, error) {
	if what == overlay.World {
		return side{}, nil
	}
	if addr, err := netip.ParseAddr(what); err == nil {
		return findAddr(f, w, addr.Unmap()), nil
	}
	var ids, names []overlay.Endpoint
	for _, e := range append(everyone(f, w), guests(f, w)...) {
		switch {
		case network != "" && e.Network != network && !e.InHost():
		case e.ID == what || e.Task == what:
			ids = append(ids, e)
		case e.Name == what:
			names = append(names, e)
		}
	}
	found := ids
	if len(found) == 0 {
		found = names
	}
	if len(found) == 0 {
		if s, ok := findHost(f, what); ok {
			return s, nil
		}
		in := "any network"
		if network != "" {
			in = "network " + network
		}
		return side{}, fmt.Errorf("task %q of %s is %w: give the name or id of a task, the id of a node, an address, or %q",
			what, in, overlay.ErrNotFound, overlay.World)
	}
	// Several tasks of one name are the same to the packet path when their network and groups are.
	for _, e := range found[1:] {
		if e.Network != found[0].Network || e.Identity != found[0].Identity {
			return side{}, fmt.Errorf("%w: %q is the name of several tasks with other groups or networks: "+
				"give an id or an address, such as %s or %s", overlay.ErrConflict, what, found[0].ID, e.ID)
		}
	}
	if found[0].InHost() {
		return guestSide(f, w, found[0], source), nil
	}
	return sideOf(found[0], found[0].Addrs()[0]), nil
}

// guestSide is a task in its node's own network: that node, which sends into networks from its address there, and
// receives at that of the underlay.
func guestSide(f compile.Facts, w World, e overlay.Endpoint, source bool) side {
	s, there := findHost(f, string(e.Node))
	if !source || !there {
		s = findAddr(f, w, e.Addrs()[0])
		s.node = s.node || e.Node == f.Node
	}
	s.guest = e.Name
	return s
}

// guests returns the tasks in nodes' own networks, those of this node first.
func guests(f compile.Facts, w World) []overlay.Endpoint {
	all := slices.Concat(f.InHost, w.Remote)
	return slices.DeleteFunc(all, func(e overlay.Endpoint) bool { return !e.InHost() || len(e.Addrs()) == 0 })
}

func sideOf(e overlay.Endpoint, addr netip.Addr) side {
	return side{Endpoint: e, addr: addr, task: true, network: e.Network}
}

// everyone returns every endpoint that has an address of a network, those of this node first.
func everyone(f compile.Facts, w World) []overlay.Endpoint {
	all := make([]overlay.Endpoint, 0, len(f.Tasks)+len(w.Remote))
	for _, t := range f.Tasks {
		all = append(all, t.Endpoint)
	}
	all = append(all, w.Remote...)
	for _, p := range f.Plain {
		addr4, addr6 := p.Addrs()
		all = append(all, plainEndpoint(p, addr4, addr6))
	}
	return slices.DeleteFunc(all, func(e overlay.Endpoint) bool { return e.InHost() || len(e.Addrs()) == 0 })
}

// PlainEndpoint returns what has an address at a plain node, as the one endpoint that all of it counts as.
func PlainEndpoint(nodes []overlay.PlainNode, a netip.Addr) (overlay.Endpoint, bool) {
	for _, n := range nodes {
		switch {
		case !n.Holds(a):
		case a.Is4():
			return plainEndpoint(n, a, netip.Addr{}), true
		default:
			return plainEndpoint(n, netip.Addr{}, a), true
		}
	}
	return overlay.Endpoint{}, false
}

func plainEndpoint(n overlay.PlainNode, addr4, addr6 netip.Addr) overlay.Endpoint {
	name := string(n.Node)
	return overlay.Endpoint{
		Attachment: overlay.Attachment{ID: name, Task: name, Name: name, Network: n.Network, Groups: n.Groups},
		Node:       n.Node, Identity: n.Identity, Addr4: addr4, Addr6: addr6, MAC: n.MAC,
	}
}

// findHost resolves the id of a node to its processes.
func findHost(f compile.Facts, id string) (side, bool) {
	for _, n := range f.Nodes {
		if hosts := n.Hosts(); string(n.ID) == id && len(hosts) > 0 {
			return side{addr: hosts[0].Addr(), node: n.ID == f.Node, host: n, named: true}, true
		}
	}
	return side{}, false
}

func isVIP(addr netip.Addr) bool {
	for p, use := range overlay.Reserved() {
		if use == overlay.ForVIPs && p.Contains(addr) {
			return true
		}
	}
	return false
}

func findAddr(f compile.Facts, w World, addr netip.Addr) side {
	for _, e := range everyone(f, w) {
		if slices.Contains(e.Addrs(), addr) {
			return sideOf(e, addr)
		}
	}
	if e, ok := PlainEndpoint(f.Plain, addr); ok {
		return sideOf(e, addr)
	}
	s := side{addr: addr, node: slices.Contains(w.NodeAddrs, addr) || addr == f.VTEP}
	if n, ok := f.NodeAt(addr); ok {
		s.node, s.host = n.ID == f.Node, n
	}
	for _, n := range f.Networks {
		for _, p := range n.Subnets() {
			if p.Contains(addr) {
				s.network = n.Name
			}
		}
	}
	return s
}

// answer goes the way of a packet: source, place of the destination, verdict.
func (a asked) answer() overlay.Verdict {
	src, dst := a.src, a.dst
	switch {
	case !src.task && !dst.task && src.network == "" && dst.network == "":
		return no(row.ReasonNotOurs, "neither %s nor %s is a task of a network: Weft has no say in what they send each other", src, dst)
	case src.addr.IsValid() && dst.addr.IsValid() && src.addr.Is4() != dst.addr.Is4():
		v := no(row.ReasonNoEndpoint, "%s and %s have no address family in common", src, dst)
		v.Suggestion = "ask for a task by an address of the family that both have"
		return v
	case src.node && dst.Node == a.f.Node, src.host.ID != "" && src.host.ID == dst.Node:
		return yes(row.ReasonFromHost, "a task and its own node may always talk")
	case dst.node && src.Node == a.f.Node, dst.host.ID != "" && dst.host.ID == src.Node:
		return yes(row.ReasonToHost, "a task and its own node may always talk")
	case dst.host.ID != "" && src.task:
		return yes(row.ReasonEncapsulated, "%s takes what tasks send it: what it listens to is its own firewall's", dst)
	case src.task && !dst.task && dst.network == "":
		return yes(row.ReasonToHost, "%s leaves by its node, with the node's address", src)
	case src.network != "" && dst.network != "" && src.network != dst.network:
		return a.apart()
	case !src.task && src.network != "":
		return no(row.ReasonSpoofedAddress, "no task has %s, so no packet can come from it", src.addr)
	case !dst.task:
		return a.nobody()
	}
	return a.verdict()
}

func (a asked) apart() overlay.Verdict {
	v := no(row.ReasonOtherNetwork, "%s is in network %s, %s in network %s: networks never meet",
		a.src.plain(), a.src.network, a.dst.plain(), a.dst.network)
	v.Suggestion = "run both in one network: weft run --network " + cmp.Or(a.dst.network, "NAME")
	return v
}

// nobody tells why an address leads nowhere: of a network, or of the nodes' own subnet where no network was found.
func (a asked) nobody() overlay.Verdict {
	if a.dst.host.ID != "" {
		v := no(row.ReasonNoBlock, "%s is for tasks: nodes reach each other by their own addresses", a.dst)
		v.Suggestion = fmt.Sprintf("weft node show %s has its addresses", a.dst.host.ID)
		return v
	}
	if a.dst.network == "" {
		return no(row.ReasonNoBlock, "no network and no node has %s", a.dst.addr)
	}
	n, _ := a.f.Network(a.dst.network)
	for _, b := range a.f.Blocks {
		if b.Network == n.Name && b.Prefix.Contains(a.dst.addr) {
			return no(row.ReasonNoEndpoint, "no task has %s; its block %s is node %s's", a.dst.addr, b.Prefix, b.Node)
		}
	}
	return no(row.ReasonNoBlock, "no node holds the block of %s in network %s", a.dst.addr, n.Name)
}

// verdict looks up what the packet path looks up.
func (a asked) verdict() overlay.Verdict {
	n, known := a.f.Network(a.dst.network)
	if !known {
		return no(row.ReasonOtherNetwork, "network %s is not known here", a.dst.network)
	}
	if v := a.decision(n); v.Action() != row.VerdictNone {
		return a.decided(n, v)
	}
	if m, ok := a.mapping(); ok {
		return yes(row.ReasonDelivered, "port %d of node %s leads to %s, so %s is open to the world there (%s)",
			m.HostPort, a.dst.Node, a.dst, a.wanted(), m)
	}
	return a.missing(n)
}

func (a asked) ruling(n overlay.Network) compile.Ruling {
	return a.f.Ruling(n, a.src.party(), a.dst.party(), a.src.addr)
}

// decision looks up what decides, or compiles it as the node of the destination would.
func (a asked) decision(n overlay.Network) row.Clause {
	r := a.ruling(n)
	if a.dst.Node != a.f.Node || a.w.Verdict == nil {
		return r.Decide(a.service)
	}
	v, ok := a.w.Verdict(r.Key())
	switch {
	case !ok:
		return row.ClauseOf(0, 0, row.VerdictNone, 0)
	case v.Clauses == 0:
		return row.ClauseOf(0, 0, v.Action, v.Rule)
	}
	if c, ok := row.FindClause(a.w.Clauses, v.Clauses, a.service.Proto, a.service.Port); ok {
		return c
	}
	return row.ClauseOf(0, 0, row.VerdictNone, 0)
}

// mapping returns the port of the destination's node that lets the world in. By the tunnel, as another node's processes
// ask a task at its own address, nothing comes in by it.
func (a asked) mapping() (overlay.PortMapping, bool) {
	if a.src.host.ID != "" {
		return overlay.PortMapping{}, false
	}
	for _, m := range a.dst.Ports {
		m = m.Normal()
		if proto, _ := compile.Protocol(m.Protocol); !a.src.task && a.service == (compile.Service{Proto: proto, Port: m.Port}) {
			return m, true
		}
	}
	return overlay.PortMapping{}, false
}

// Endpoints returns the endpoints of other nodes among all: what World.Remote wants.
func Endpoints(all []overlay.Endpoint, self discovery.NodeID) []overlay.Endpoint {
	return slices.DeleteFunc(slices.Clone(all), func(e overlay.Endpoint) bool { return e.Node == self })
}
