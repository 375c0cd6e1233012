// SPDX-License-Identifier: Apache-2.0

// Package overlay holds the nouns of virtual networks: Network, Group, Rule, Attachment, Endpoint,
// and the Service by which clients of a node join tasks to them. What they come to in the kernel is
// overlay/compile's, how it gets there overlay/apply's.
package overlay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"

	"weft/discovery"
)

// Sentinels of this room; test with errors.Is.
var (
	ErrNotFound  = errors.New("not found")
	ErrConflict  = errors.New("conflict")
	ErrInvalid   = errors.New("invalid")
	ErrExhausted = errors.New("exhausted") // no free address, block or identity
)

// VNI is the 24-bit VXLAN network identifier (RFC 7348).
type VNI uint32

// Identity is a set of groups within a network, numbered by the master; see bpf/src/shared/task.h
// for the reserved ones.
type Identity uint16

// IdentityUngrouped is that of no groups.
const IdentityUngrouped Identity = 3

// RuleID numbers a rule within the cluster; 0 is "common groups".
type RuleID uint32

// Ungrouped says whom tasks without groups may talk to.
type Ungrouped string

// Values of Ungrouped.
const (
	UngroupedOwn  Ungrouped = "own"  // each other only
	UngroupedOpen Ungrouped = "open" // every task of the network
)

// GroupPublic is the reserved group that accepts from anywhere.
const GroupPublic = "public"

// Network is a virtual network. Subnets never overlap another network's, the underlay or the VIP
// ranges.
type Network struct {
	Name    string       `json:"name"` // DNS label, up to 63 characters
	VNI     VNI          `json:"vni"`
	Subnet4 netip.Prefix `json:"subnet4,omitzero"` // at least one of the two
	Subnet6 netip.Prefix `json:"subnet6,omitzero"`
	Block4  int          `json:"block4,omitempty"` // prefix length of a node's block; default 24
	Block6  int          `json:"block6,omitempty"` // default 112
	// Ungrouped defaults to UngroupedOwn.
	Ungrouped Ungrouped `json:"ungrouped"`
}

// Group is an address group: tasks whose group sets intersect may talk.
type Group struct {
	Network string `json:"network"`
	Name    string `json:"name"` // DNS label
}

// GroupSet is a set of groups and the identity that stands for it in packets and verdicts.
type GroupSet struct {
	Network  string   `json:"network"`
	Groups   []string `json:"groups"` // sorted
	Identity Identity `json:"identity"`
	// Retired is since when nobody uses the set (Unix milliseconds), 0: it is in use. A node does not
	// begin to use a retired one before it has asked for it again; see control/fabric/identities.go.
	Retired int64 `json:"retired,omitempty"`
}

// Release is a node's word that it does not use an identity retired then.
type Release struct {
	Identity Identity `json:"identity"`
	Retired  int64    `json:"retired"`
}

// Action is what a rule does.
type Action string

// Values of Action.
const (
	Allow Action = "allow"
	Deny  Action = "deny"
)

// PortRange is a range of destination ports, both ends included.
type PortRange struct {
	First uint16 `json:"first"`
	Last  uint16 `json:"last"`
}

// String is the range in the form of the command line: 80, 5000-5010.
func (p PortRange) String() string {
	if p.First == p.Last {
		return strconv.Itoa(int(p.First))
	}
	return fmt.Sprintf("%d-%d", p.First, p.Last)
}

// Rule adds to what common groups allow, in one direction; replies are allowed by the flow.
type Rule struct {
	ID       RuleID      `json:"id"`
	Network  string      `json:"network"`
	From     string      `json:"from"`               // group name, "world" or CIDR
	To       string      `json:"to"`                 // group name
	Protocol string      `json:"protocol,omitempty"` // tcp, udp, icmp; empty: any
	Ports    []PortRange `json:"ports,omitempty"`    // empty: all
	Action   Action      `json:"action"`
	Audit    bool        `json:"audit,omitempty"` // report what would be dropped, drop nothing
}

// Service is what the rule is about, in the form of the command line: icmp, tcp/80,443, udp/5000-5010; empty: everything.
func (r Rule) Service() string {
	if r.Protocol == "" {
		return ""
	}
	text, before := r.Protocol, "/"
	for _, p := range r.Ports {
		text, before = text+before+p.String(), ","
	}
	return text
}

// Block is a piece of a network's subnet that a node gives addresses from.
type Block struct {
	Network string           `json:"network"`
	Node    discovery.NodeID `json:"node"`
	Prefix  netip.Prefix     `json:"prefix"`
}

// Want is a node's wish to the leading master; the answer is a Block or GroupSet row.
type Want struct {
	Network string `json:"network"`
	// Blocks is how many blocks of each family the node wants to hold in all, 0: no wish.
	Blocks4 int `json:"blocks4,omitempty"`
	Blocks6 int `json:"blocks6,omitempty"`
	// Return gives these blocks back: no task here has an address of them, and none gets one while this is
	// said.
	Return []netip.Prefix `json:"return,omitempty"`
	// Addrs wants the blocks that hold these addresses, which tasks asked for.
	Addrs []netip.Addr `json:"addrs,omitempty"`
	// Groups wants an identity for that set (sorted); nil: no wish.
	Groups []string `json:"groups,omitempty"`
	// Released are the retired identities of the network that the node does not use.
	Released []Release `json:"released,omitempty"`
}

// Attachment is the wish that a task joins a network. One to discovery.HostNetwork joins none: it makes a task in its
// node's own network known, which needs NetNS and Owner and may have no Groups, Interface, Ports or Fixed.
type Attachment struct {
	ID        string   `json:"id"`   // unique on the node: task id, with /eth1 for a second network
	Task      string   `json:"task"` // task id
	Name      string   `json:"name"` // task name, for people
	Network   string   `json:"network"`
	Groups    []string `json:"groups,omitempty"`
	NetNS     string   `json:"netns"`     // path of the network namespace: /proc/PID/ns/net
	Interface string   `json:"interface"` // in the namespace; default eth0
	// Owner is the process whose end ends the attachment too, 0: none (CNI). Its start time (clock
	// ticks since boot, proc(5) stat field 22) guards against reuse of the number.
	OwnerPID   int    `json:"owner_pid,omitempty"`
	OwnerStart uint64 `json:"owner_start,omitempty"`
	Cgroup     string `json:"cgroup,omitempty"` // cgroup2 folder of the task
	// Ports of the node that lead to the task, as long as it is attached.
	Ports []PortMapping `json:"ports,omitempty"`
	// Fixed are addresses that the task asks for, one of a family at most; a family without one gets the
	// lowest that is free. Each takes its whole block to this node, or lies in one that is here already.
	Fixed []netip.Addr `json:"fixed,omitempty"`
}

// InHost tells of a task in its node's own network.
func (a Attachment) InHost() bool { return a.Network == discovery.HostNetwork }

// Endpoint is an attachment that came true. That of a task in its node's own network has the node's underlay addresses
// and no VNI, MAC, Identity, MTU, HostInterface or Cookie.
type Endpoint struct {
	Attachment
	Node     discovery.NodeID `json:"node"`
	VNI      VNI              `json:"vni"`
	Addr4    netip.Addr       `json:"addr4,omitzero"`
	Addr6    netip.Addr       `json:"addr6,omitzero"`
	MAC      string           `json:"mac"`
	Identity Identity         `json:"identity"`
	MTU      int              `json:"mtu"` // bytes
	// HostInterface is the node's end of the task's link; Cookie the namespace's (SO_NETNS_COOKIE).
	HostInterface string    `json:"host_interface"`
	Cookie        uint64    `json:"cookie"`
	Since         time.Time `json:"since"`
}

// Addrs returns the endpoint's addresses, IPv4 first.
func (e Endpoint) Addrs() []netip.Addr {
	var addrs []netip.Addr
	for _, a := range []netip.Addr{e.Addr4, e.Addr6} {
		if a.IsValid() {
			addrs = append(addrs, a)
		}
	}
	return addrs
}

// HardwareAddr returns the parsed MAC, nil when there is none.
func (e Endpoint) HardwareAddr() net.HardwareAddr {
	mac, err := net.ParseMAC(e.MAC)
	if err != nil {
		return nil
	}
	return mac
}

// NetworkStatus is a network as a node sees it.
type NetworkStatus struct {
	Network
	Blocks []Block  `json:"blocks"` // held by this node
	Used   int      `json:"used"`   // addresses given to tasks here
	Free   int      `json:"free"`   // addresses left in the blocks held (IPv4, or IPv6 without it)
	Groups []string `json:"groups"` // declared
}

// Service is what clients of a node ask of the overlay. Every method is idempotent.
type Service interface {
	// Attach joins a task to a network and returns when its address works on this node. The same
	// attachment again returns the same endpoint; with other groups, and all else the same, the task is in
	// those from now on, its flows too; the same id with other contents is ErrConflict.
	// It waits for the masters where it needs a first block or identity, until ctx ends, and up to two seconds for a
	// network or group that the node does not know: it may have been added just now.
	Attach(ctx context.Context, a Attachment) (Endpoint, error)
	// Detach undoes Attach; an unknown id is no error.
	Detach(ctx context.Context, id string) error
	// Endpoints returns the endpoints of this node, by id.
	Endpoints(ctx context.Context) ([]Endpoint, error)
	// Networks returns every network with this node's part in it, by name.
	Networks(ctx context.Context) ([]NetworkStatus, error)
	// Explain answers from the same tables that the packet path reads.
	Explain(ctx context.Context, q Question) (Verdict, error)
	// Events calls emit for each reported packet that f wants until ctx ends or emit returns an error,
	// which it returns. Events are sampled; what a slow reader misses is lost. With f.Trace it ends,
	// with nil, when the walk of the probe is known.
	Events(ctx context.Context, f Filter, emit func(Event) error) error
}
