// SPDX-License-Identifier: Apache-2.0

// Package control holds what an operator sees of a cluster and may ask of its masters: the nouns of
// status and the Service. How decisions are made is control/fabric's, how they are kept
// control/ledger's.
package control

import (
	"context"
	"errors"
	"net/netip"

	"weft/discovery"
	"weft/lb"
	"weft/overlay"
)

// Sentinels of this room; test with errors.Is.
var (
	// ErrInvalid tells that the request can never be granted; it names field, value, what is allowed.
	ErrInvalid = errors.New("invalid")
	// ErrExists tells that there is another thing of that name, or one that overlaps.
	ErrExists = errors.New("exists already")
	// ErrNotFound tells what was not found and what there is.
	ErrNotFound = errors.New("not found")
	// ErrInUse tells what has to be done first.
	ErrInUse = errors.New("in use")
	// ErrUnavailable tells that no majority of the masters answered; asking again is safe.
	ErrUnavailable = errors.New("unavailable")
	// ErrDenied tells that the cluster's secret was missing or wrong.
	ErrDenied = errors.New("denied")
)

// Network is a network with what the masters have given of it.
type Network struct {
	overlay.Network
	Groups []string        `json:"groups"`
	Blocks []overlay.Block `json:"blocks"`
	// Free4 and Free6 are how many blocks are left to give, at most 2^31-1.
	Free4 int `json:"free4"`
	Free6 int `json:"free6"`
	// GroupSets is how many identities are in use, of 65,520.
	GroupSets int `json:"group_sets"`
	// Shares are what nodes have of the network, by node.
	Shares []Share `json:"shares"`
}

// Share is what one node has of one network: addresses, not blocks, so that an allocator can tell how many
// tasks still fit. A full node may get another block while the network has one.
type Share struct {
	Network string           `json:"network"`
	Node    discovery.NodeID `json:"node"`
	Used4   int              `json:"used4"` // by tasks
	Free4   int              `json:"free4"` // left in the node's blocks, at most 2^31-1
	Used6   int              `json:"used6"`
	Free6   int              `json:"free6"`
}

// Group is an address group with its use.
type Group struct {
	overlay.Group
	Rules []overlay.RuleID `json:"rules"` // that name it
	Tasks int              `json:"tasks"` // that are in it now
}

// Node is a node as the masters see it.
type Node struct {
	discovery.Node
	Alive    bool       `json:"alive"`    // by membership
	Admitted bool       `json:"admitted"` // its frames are accepted
	VTEP     netip.Addr `json:"vtep,omitzero"`
	// Host4 and Host6 are the addresses of its own processes towards the networks, as the admission has them.
	Host4  netip.Prefix `json:"host4,omitzero"`
	Host6  netip.Prefix `json:"host6,omitzero"`
	Blocks int          `json:"blocks"`
	Shares []Share      `json:"shares"` // by network
	// Plain is what the operator said of a plain node; nil: it is one of Weft.
	Plain *overlay.PlainNode `json:"plain,omitempty"`
	// Refusals say what of it can't be granted, and why.
	Refusals []string `json:"refusals"`
	// Blockless are those of a block, by network. Masters alone know them apart.
	Blockless map[string]string `json:"-"`
}

// Refuse adds to what can't be granted.
func (n *Node) Refuse(r discovery.Refusal) {
	n.Refusals = append(n.Refusals, r.Reason)
	if r.Network == "" {
		return
	}
	if n.Blockless == nil {
		n.Blockless = map[string]string{}
	}
	n.Blockless[r.Network] = r.Reason
}

// Master is a master as the others know it.
type Master struct {
	discovery.Master
	Leads bool `json:"leads"`
}

// Status is the cluster in one screen.
type Status struct {
	Answered string   `json:"answered"` // id of the master that answered
	Masters  []Master `json:"masters"`
	Ledger   Ledger   `json:"ledger"`
	Counts   Counts   `json:"counts"`
	Nodes    []Node   `json:"nodes"`
}

// Ledger is the state of the replicated store, from the master that answered.
type Ledger struct {
	Healthy  bool   `json:"healthy"`           // a majority answers
	Problem  string `json:"problem,omitempty"` // why not
	Revision uint64 `json:"revision"`          // that the answer was made from
}

// Counts are how many of each noun there are.
type Counts struct {
	Networks   int `json:"networks"`
	Groups     int `json:"groups"`
	Rules      int `json:"rules"`
	Blocks     int `json:"blocks"`
	Identities int `json:"identities"`
	Pins       int `json:"pins"`
	Endpoints  int `json:"endpoints"`
}

// Service is what operators ask of a master; any master answers. Adding what is there already, in
// the same form, changes nothing and is no error. Lists are sorted by name.
type Service interface {
	// AddNetwork makes a network, choosing a VNI if none is given, and returns it.
	AddNetwork(ctx context.Context, n overlay.Network) (overlay.Network, error)
	// SetNetwork changes a network to the form given and returns it; a VNI or block length of 0 stays. A
	// change that nodes' blocks or tasks are in the way of is ErrInUse.
	SetNetwork(ctx context.Context, n overlay.Network) (overlay.Network, error)
	// RemoveNetwork removes a network with its groups, rules, blocks and identities. Its tasks run on
	// without it.
	RemoveNetwork(ctx context.Context, name string) error
	// Networks returns the network of that name, or all.
	Networks(ctx context.Context, name string) ([]Network, error)
	// AddGroup declares a group in a network.
	AddGroup(ctx context.Context, g overlay.Group) error
	// RemoveGroup removes a group that no rule names and no task is in.
	RemoveGroup(ctx context.Context, g overlay.Group) error
	// Groups returns the groups of a network, or of all.
	Groups(ctx context.Context, network string) ([]Group, error)
	// AddRule makes a rule and returns it with its id.
	AddRule(ctx context.Context, r overlay.Rule) (overlay.Rule, error)
	// RemoveRule removes a rule of a network.
	RemoveRule(ctx context.Context, network string, id overlay.RuleID) error
	// Rules returns the rules of a network, or of all.
	Rules(ctx context.Context, network string) ([]overlay.Rule, error)
	// Nodes returns every node that is known, admitted or not.
	Nodes(ctx context.Context) ([]Node, error)
	// AddPlainNode takes a host without Weft into a network and returns it with its identity.
	AddPlainNode(ctx context.Context, n overlay.PlainNode) (overlay.PlainNode, error)
	// RemoveNode makes a node's rows void and its blocks free. A node that is alive is only removed
	// with force.
	RemoveNode(ctx context.Context, id discovery.NodeID, force bool) error
	// Publish makes clients outside of every network reach a VIP at an address, by the nodes of the edge. An address
	// and port that are another VIP's are ErrExists; the same with other options changes them.
	Publish(ctx context.Context, p lb.Publication) error
	// Unpublish takes it back, by its name (203.0.113.10:443/tcp).
	Unpublish(ctx context.Context, name string) error
	// Publications returns those of a network, or all.
	Publications(ctx context.Context, network string) ([]lb.Publication, error)
	// Pins returns the addresses of all named VIPs, by name.
	Pins(ctx context.Context) ([]lb.Pin, error)
	// Status answers without a majority too, from what the master knows.
	Status(ctx context.Context) (Status, error)
}
