// SPDX-License-Identifier: Apache-2.0

// Package lb holds the nouns of layer-4 load balancing: VIP, Backend, Pin, Registration, and the
// Service by which clients of a node publish them. What they come to in the kernel is lb/compile's,
// how it gets there lb/apply's.
package lb

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"weft/discovery"
)

// Sentinels of this room; test with errors.Is.
var (
	ErrNotFound = errors.New("not found")
	ErrConflict = errors.New("conflict")
	ErrInvalid  = errors.New("invalid")
)

// Key names a VIP: either Name (label.framework, mangled: web.weft) or Addr is set. That of discovery.HostNetwork is one of
// every network.
type Key struct {
	Network  string     `json:"network"`
	Name     string     `json:"name,omitempty"`
	Addr     netip.Addr `json:"addr,omitzero"`
	Port     uint16     `json:"port"`
	Protocol string     `json:"protocol"` // tcp or udp
}

// Pin is the master's word which addresses a named VIP has, decided once, the same on every node
// and in every network.
type Pin struct {
	Name  string     `json:"name"` // web.weft
	Addr4 netip.Addr `json:"addr4"`
	Addr6 netip.Addr `json:"addr6"`
}

// Backend is one task behind a VIP, a row of the node that runs it.
type Backend struct {
	VIP    Key              `json:"vip"`
	Task   string           `json:"task"`
	Node   discovery.NodeID `json:"node"`
	Addrs  []netip.Addr     `json:"addrs"`
	Port   uint16           `json:"port"`
	Weight uint16           `json:"weight"` // 0: no new connections
	Balance
	Health Health `json:"health,omitempty"`
	// Detail says more about Health, for people: what the last probe came to.
	Detail string `json:"detail,omitempty"`
	// Draining tells that its task is about to end: no new connections.
	Draining bool `json:"draining,omitempty"`
	// Check is what the node asks the task by; empty: whoever runs the task says how it is, or nobody.
	Check string `json:"check,omitempty"`
	// Wait is for how long a change waits until every node acts by it; 0: DefaultWait.
	Wait time.Duration `json:"wait,omitempty"`
}

// DefaultWait is how long a task's start and end wait, at most, for every node to act by its row.
const DefaultWait = 2 * time.Second

// Health is what the owner of a task knows of it, from probes of its own or from a scheduler.
type Health string

// Values of Health. Nothing new goes to a backend that is unknown or unhealthy, unless that is all there are.
const (
	Unchecked Health = ""        // nobody asks: taken for healthy
	Unknown   Health = "unknown" // asked, no answer yet
	Healthy   Health = "healthy"
	Unhealthy Health = "unhealthy"
)

// Registration is a task's wish to be behind VIPs. Those of discovery.HostNetwork are VIPs of every network: with the tasks
// of a network that has the same one.
type Registration struct {
	Task      string       `json:"task"`
	Network   string       `json:"network"`
	Framework string       `json:"framework"` // weft, unless a scheduler runs the task
	Addrs     []netip.Addr `json:"addrs"`
	// Labels are LABEL=PORT: "/web:80=8080" (VIP label as in compat B2, then the task's own port),
	// optionally with /udp or /tcp, without which it is both, and with options: ParseLabel.
	Labels []string `json:"labels"`
	// Health is what is known of it at first: Unknown where it is checked.
	Health Health `json:"health,omitempty"`
	// Check makes the node itself ask the task how it is, from inside its network namespace, as long as it is
	// published: written as in docs/loadbalancing.md, but for commands. For runtimes that nothing of runs beside
	// the task. At most MaxCheck bytes.
	Check string `json:"check,omitempty"`
}

// State is what is said of a published task from moment to moment.
type State struct {
	Health   Health `json:"health,omitempty"`
	Detail   string `json:"detail,omitempty"` // at most MaxDetail bytes
	Draining bool   `json:"draining,omitempty"`
}

// Longest Detail and Check, bytes.
const (
	MaxDetail = 256
	MaxCheck  = 1024
)

// VIPStatus is a VIP as a node sees it.
type VIPStatus struct {
	Key
	Balance
	Addrs    []netip.Addr    `json:"addrs"`
	DNS      string          `json:"dns,omitempty"` // web.weft.l4lb.thisdcos.directory
	Backends []BackendStatus `json:"backends"`
}

// BackendStatus is a backend with the reason why it is in or out.
type BackendStatus struct {
	Backend
	In     bool   `json:"in"`
	Reason string `json:"reason"` // "serving", "node is down", "draining", ...
	// Ejected tells that the asked node gives it nothing new though it is in: its own connections failed, and
	// another backend's did not.
	Ejected bool `json:"ejected,omitempty"`
	// Traffic is what the asked node's own connections came to.
	Traffic Traffic `json:"traffic,omitzero"`
}

// Traffic is what connections of one node to one backend came to, both families together.
type Traffic struct {
	Chosen    uint64 `json:"chosen"` // connections, and flows of datagrams, that it was given
	InFlight  int    `json:"in_flight"`
	Refused   uint64 `json:"refused"`
	Timeouts  uint64 `json:"timeouts"`
	Resets    uint64 `json:"resets"` // cut before it said anything
	Ejections uint64 `json:"ejections"`
	// Barred is for how long it gets nothing new, after failures; 0: it is not barred.
	Barred  time.Duration `json:"barred,omitempty"`
	Latency time.Duration `json:"latency"` // as choices know it; 0: not yet
	// Buckets counts samples of latency: bucket i those below 1 us << i, the last one the rest.
	Buckets    []uint64      `json:"buckets,omitempty"`
	LatencySum time.Duration `json:"latency_sum,omitempty"` // of all samples
}

// Service is what clients of a node ask of load balancing. Every method is idempotent.
type Service interface {
	// Publish puts a task behind its VIPs, replacing its earlier registration. It returns when the
	// addresses of all its VIPs are known and every living node has it, or those that don't are late
	// (Backend.Wait), or when ctx ends. ErrInvalid names the label. Of the backends of its VIPs it returns the
	// task's own.
	Publish(ctx context.Context, r Registration) ([]VIPStatus, error)
	// SetState says how a published task is, replacing what was said before. It returns when every living
	// node acts by it, or with the nodes that are late. An unknown task is ErrNotFound.
	SetState(ctx context.Context, task string, s State) (late []discovery.NodeID, err error)
	// Withdraw takes a task from behind all its VIPs; an unknown task is no error.
	Withdraw(ctx context.Context, task string) error
	// VIPs returns every VIP of a network (all networks when empty), by name, address and port. In a network the backends of
	// the same VIP of discovery.HostNetwork are behind it as well; they are told with that.
	VIPs(ctx context.Context, network string) ([]VIPStatus, error)
}
