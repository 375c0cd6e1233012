// SPDX-License-Identifier: Apache-2.0

package overlay

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"weft/discovery"
)

// Question asks whether two addresses may talk.
type Question struct {
	Source      string `json:"source"`      // address, task name or task id
	Destination string `json:"destination"` // the same
	Network     string `json:"network,omitempty"`
	Protocol    string `json:"protocol"` // tcp, udp, icmp
	Port        uint16 `json:"port"`     // 0 for icmp
}

// Verdict is the answer: what the packet path would do and why.
type Verdict struct {
	Allowed bool   `json:"allowed"`
	Reason  string `json:"reason"` // name of bpf/row.Reason
	Text    string `json:"text"`   // one sentence with the names of tasks, groups and rules
	Rule    RuleID `json:"rule,omitempty"`
	// Owner is who can change it: "operator of network prod", "task web-1", "node n1". Empty where
	// the packet passes.
	Owner string `json:"owner,omitempty"`
	// Suggestion is the command that would change the verdict, or what to look at first.
	Suggestion  string   `json:"suggestion,omitempty"`
	Source      Endpoint `json:"source"`
	Destination Endpoint `json:"destination"`
}

// Event is one packet that a program reported, with names.
type Event struct {
	Time        time.Time        `json:"time"`
	Node        discovery.NodeID `json:"node"`    // that met it
	Program     string           `json:"program"` // that met it: from_workload
	Reason      string           `json:"reason"`
	Text        string           `json:"text"`
	Drop        bool             `json:"drop"`
	Network     string           `json:"network"`
	Source      netip.AddrPort   `json:"source"`
	Destination netip.AddrPort   `json:"destination"`
	SourceTask  string           `json:"source_task,omitempty"`
	DestTask    string           `json:"destination_task,omitempty"`
	// Groups of the two tasks, as far as they are known.
	SourceGroups []string `json:"source_groups,omitempty"`
	DestGroups   []string `json:"destination_groups,omitempty"`
	Protocol     string   `json:"protocol"`
	Length       int      `json:"length"` // bytes
	// Packets is how many packets this one stands for: what passes is sampled.
	Packets    int    `json:"packets"`
	Traced     bool   `json:"traced,omitempty"` // reported because a filter asked for all
	Rule       RuleID `json:"rule,omitempty"`
	Owner      string `json:"owner,omitempty"`
	Suggestion string `json:"suggestion,omitempty"`
}

// Filter says which events a reader of Events wants. The zero Filter wants all that are reported.
type Filter struct {
	Network string    // only of this network
	Task    string    // only from or to this task: its name, or an address
	Drops   bool      // only what was dropped
	Since   time.Time // none that is older
	// All wants every packet of Task, not the sampled ones alone. Task must be of this node; at most
	// MaxTraced packets are reported whole, then samples go on.
	All bool
	// Trace sends one packet as Source, a task of this node, would, and wants its walk over all
	// nodes. The packet is made so that no process at the destination sees it.
	Trace *Question
}

// Trace asks other nodes to report the packets of one side of a flow.
type Trace struct {
	ID       string           `json:"id"`
	Node     discovery.NodeID `json:"node,omitempty"` // that is asked; empty: every one
	VNI      VNI              `json:"vni"`
	From     netip.AddrPort   `json:"from"`     // ICMP: the echo's id in place of the port
	Protocol uint8            `json:"protocol"` // IANA's number; ICMPv6 as ICMP
}

// Walk is what a node has reported for a Trace; without events: it is ready to.
type Walk struct {
	Events []Event `json:"events,omitempty"` // at most MaxWalk
}

// MaxWalk bounds the steps of one trace on one node: request, answer and reset, each met twice, are six.
const MaxWalk = 32

// MaxTraced bounds what one Filter.All reports: a look must not become the load.
const MaxTraced = 10000

// Wants reports whether e passes the filter; Trace is not this method's.
func (f Filter) Wants(e Event) bool {
	switch {
	case f.Network != "" && e.Network != f.Network,
		f.Drops && !e.Drop,
		!f.Since.IsZero() && e.Time.Before(f.Since):
		return false
	case f.Task == "":
		return true
	}
	return slices.Contains([]string{e.SourceTask, e.DestTask, e.Source.Addr().String(), e.Destination.Addr().String()}, f.Task)
}

// Validate returns ErrInvalid with what is wrong.
func (f Filter) Validate() error {
	switch {
	case f.All && f.Task == "":
		return fmt.Errorf("%w filter: all packets of no task: name one", ErrInvalid)
	case f.Trace != nil && (f.All || f.Drops || f.Task != "" || f.Network != "" || !f.Since.IsZero()):
		return fmt.Errorf("%w filter: a trace takes no other condition", ErrInvalid)
	}
	return nil
}
