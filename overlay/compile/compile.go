// SPDX-License-Identifier: Apache-2.0

// Package compile turns networks, groups, rules, blocks, nodes and the tasks of this node into the rows
// that the packet path reads, and tells which rule decides for a pair (Ruling). Getting rows into the kernel, and when, it
// leaves to the engine; words for what was decided, to overlay/explain.
//
// Stages, all pure, each over the whole of the facts but the first, which goes on from the last ones:
//
//  1. verdicts  (policy.go, domain.go, verdicts.go) who may talk to the identities of this node's tasks
//  2. places    (places.go)                         where addresses live: blocks, prefixes, vteps
//  3. tasks     (tasks.go)                          who is at this node: workloads, endpoints, spaces
//  4. ports     (ports.go)                          which ports of this node lead to them
//  5. nodes     (nodes.go)                          what nodes' own processes have of all this
package compile

import (
	"maps"
	"net/netip"
	"slices"

	"weft/bpf/row"
	"weft/discovery"
	"weft/overlay"
)

// Facts are all that rows are made from. A list that did not change since the last time is the same list.
type Facts struct {
	Node     discovery.NodeID    // this one
	VTEP     netip.Addr          // its underlay address
	MTU      int                 // of its underlay link, bytes
	Nodes    []Node              // that are admitted; see Nodes
	Paths    map[netip.Addr]Path // by VTEP: what was seen to arrive
	Plain    []overlay.PlainNode
	OwnMAC   [6]byte // of this node, as plain ones know it; zero: overlay.VTEPMAC
	Networks []overlay.Network
	Blocks   []overlay.Block
	Sets     []overlay.GroupSet
	Rules    []overlay.Rule
	Tasks    []Task // of this node
	// InHost are the tasks in this node's own network: in no table, but asked about.
	InHost []overlay.Endpoint
	Host   Host
}

// Host is this node's own processes: by which device their packets leave for the networks, and the number of
// their namespace. Zero: they don't.
type Host struct {
	Ifindex uint32
	Cookie  uint64
}

// Node is another node as far as packets are concerned.
type Node struct {
	ID   discovery.NodeID
	VTEP netip.Addr
	// Former is where its frames came from before, and may still do: it is about to move. Not valid: it is not.
	Former netip.Addr
	MTU    int // of its underlay link, bytes; 0: not known
	// Unprobed says that it answers no probes of the way to it.
	Unprobed bool
	// Host4 and Host6 are what its processes have as addresses towards the networks; see discovery.Admission.
	Host4, Host6 netip.Prefix
}

// Hosts returns the node's addresses towards the networks, IPv4 before IPv6.
func (n Node) Hosts() []netip.Prefix {
	return slices.DeleteFunc([]netip.Prefix{n.Host4, n.Host6}, func(p netip.Prefix) bool { return !p.IsValid() })
}

// Task is an endpoint of this node with its link.
type Task struct {
	overlay.Endpoint
	Ifindex uint32 // of the host's end
}

// Rows are the rows of every map that the overlay writes.
type Rows struct {
	Workloads map[uint32]row.Workload
	Endpoints map[row.EndpointKey]row.Endpoint
	Blocks    map[row.BlockKey]row.Block
	Prefixes  map[row.PrefixKey]row.Prefix
	VTEPs     map[row.Addr]row.VTEP
	Verdicts  map[row.VerdictKey]row.Verdict
	Clauses   map[row.ClausesKey]row.Clauses
	Sources   map[row.SourceKey]row.Source
	Spaces    map[uint64]row.Space
	Openings  map[row.OpeningKey]row.Opening
}

// Compile returns the rows that f comes to. What is not complete (a task of a network that is gone, a
// block of a node that is not admitted) has no rows: the packet path then drops.
func Compile(f Facts) Rows {
	p := NewPolicy()
	p.Update(f)
	return p.All(p.Places(f))
}

// placed is what Places returned last, and what that was made from.
type placed struct {
	rows     Rows
	facts    Facts
	directed map[string]bool
	prefixed map[identityOf]bool
}

// Places returns the rows that f comes to but for those that a Policy makes, which has seen f. A table whose facts
// are those of the last time is the same map: nobody changes it.
func (p *Policy) Places(f Facts) Rows {
	last := p.placed
	now := placed{facts: f, directed: last.directed, prefixed: p.prefixed(), rows: last.rows}
	was := last.facts
	again := was.Node != f.Node || was.VTEP != f.VTEP || was.MTU != f.MTU || was.OwnMAC != f.OwnMAC || was.Host != f.Host ||
		last.rows.Blocks == nil || !same(was.Networks, f.Networks)
	networks := byName(f.Networks)
	tasked, plain := !same(was.Tasks, f.Tasks), !same(was.Plain, f.Plain)
	if again || tasked || plain || !same(was.Rules, f.Rules) || !same(was.Sets, f.Sets) {
		now.directed = directedNetworks(f)
	}
	redirected := !maps.Equal(last.directed, now.directed)
	nodes := plain || !same(was.Nodes, f.Nodes)
	if again || nodes && !maps.Equal(was.hostSubnets(), f.hostSubnets()) {
		now.rows.Prefixes = prefixes(networks)
		maps.Copy(now.rows.Prefixes, f.hostSubnets())
	}
	if again || nodes || !same(was.Blocks, f.Blocks) || !maps.Equal(was.Paths, f.Paths) {
		now.rows.Blocks = blocks(f, networks)
		f.nodeBlocks(now.rows.Blocks)
	}
	if again || nodes || redirected {
		now.rows.VTEPs = vteps(f, networks, now.directed)
	}
	if again || tasked {
		now.rows.Openings = openings(f)
	}
	hosted := nodes && !slices.Equal(was.Self(), f.Self())
	if again || hosted || tasked || redirected || !maps.Equal(last.prefixed, now.prefixed) {
		now.rows.Workloads, now.rows.Endpoints, now.rows.Spaces = tasks(f, networks, now.directed, now.prefixed)
		f.addHost(now.rows)
	}
	p.placed = now
	return now.rows
}

// Network returns a network by its name; false: there is none, or none that packets can be told apart by.
func (f Facts) Network(name string) (overlay.Network, bool) {
	n, known := byName(f.Networks)[name]
	return n, known
}

// byName indexes the networks that packets can be told apart by: VNI 0 is the host's.
func byName(list []overlay.Network) map[string]overlay.Network {
	networks := make(map[string]overlay.Network, len(list))
	for _, n := range list {
		if n.VNI != 0 && n.VNI <= overlay.MaxVNI {
			networks[n.Name] = n.Normal()
		}
	}
	return networks
}
