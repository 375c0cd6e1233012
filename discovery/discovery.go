// SPDX-License-Identifier: Apache-2.0

// Package discovery holds the nouns of naming and of the facts that names are made from: Node, Row,
// Name, Record. It knows who says what and what is answered; it leaves addresses, groups and VIPs
// to the rooms that write rows about them.
package discovery

import (
	"context"
	"errors"
	"net/netip"
	"time"
)

// Sentinels of this room; test with errors.Is.
var (
	ErrNotFound  = errors.New("not found")
	ErrConflict  = errors.New("conflict")
	ErrInvalid   = errors.New("invalid")
	ErrExhausted = errors.New("exhausted") // as many as may at a time do
)

// NodeID names a node for good: a DNS label of up to 63 characters, by default its host name.
type NodeID string

// Ledger is the writer of every row that the masters decide; see Row.
const Ledger = "ledger"

// HostNetwork stands in place of a network's name for tasks in their node's own network. No network is called so.
const HostNetwork = "host"

// Kind says what a Row is about; the room that owns the kind knows the form of its Value (JSON).
type Kind string

// Kinds of rows. The first group is written by nodes, the second by the leading master.
const (
	KindNode     Kind = "node"     // discovery.Node; key: node id
	KindName     Kind = "name"     // discovery.Name; key: NameTopic of its label/task id
	KindEndpoint Kind = "endpoint" // overlay.Endpoint; key: attachment id
	KindWant     Kind = "want"     // overlay.Want; key: what is wanted of the leader
	KindBackend  Kind = "backend"  // lb.Backend; key: vip key + task id
	KindTrace    Kind = "trace"    // overlay.Trace; key: its id. Gone after seconds
	KindWalk     Kind = "walk"     // overlay.Walk; key: the trace's id. Goes with the trace

	KindNetwork     Kind = "network"     // overlay.Network; key: name
	KindGroup       Kind = "group"       // overlay.Group; key: network/name
	KindRule        Kind = "rule"        // overlay.Rule; key: network/id
	KindBlock       Kind = "block"       // overlay.Block; key: prefix
	KindIdentity    Kind = "identity"    // overlay.GroupSet; key: network/identity
	KindPin         Kind = "pin"         // lb.Pin; key: VIP name
	KindPublication Kind = "publication" // lb.Publication; key: address, port and protocol
	KindAdmission   Kind = "admission"   // discovery.Admission; key: node id
	KindPlain       Kind = "plain"       // overlay.PlainNode; key: node id
	KindLeader      Kind = "leader"      // discovery.Master; key: "leader"
	KindMaster      Kind = "master"      // discovery.Master; key: master id
	KindRefusal     Kind = "refusal"     // discovery.Refusal; key: node id/kind/key of the row refused
)

// Row is one fact. It has one writer, so rows need no merge rules: of two rows with the same
// (Writer, Kind, Key) the greater (Incarnation, Seq) is the truth.
type Row struct {
	Writer string // node id, or Ledger
	Kind   Kind
	Key    string
	// Incarnation is the writer's life: it grows when a writer starts with an empty disk (Unix
	// nanoseconds of that start). A greater one makes every row of a smaller one void.
	Incarnation uint64
	// Seq orders the writer's rows; several rows written at once may share one. The ledger's is the
	// revision of its store.
	Seq     uint64
	Deleted bool // a tombstone: Value is empty
	Value   []byte
}

// Node is what a node says of itself.
type Node struct {
	ID       NodeID       `json:"id"`
	Hostname string       `json:"hostname"`
	Addrs    []netip.Addr `json:"addrs"` // underlay addresses, the first is its VTEP
	Peer     string       `json:"peer"`  // host:port where it answers Sync
	MTU      int          `json:"mtu"`   // of the underlay link, bytes
	Zone     string       `json:"zone,omitempty"`
	// Version is the build that runs there.
	Version string `json:"version,omitempty"`
	// Unprobed says that probes of the way to it are not answered there (--slow-decap), which says nothing of the way.
	Unprobed bool `json:"unprobed,omitempty"`
	// Warnings are what an operator should know of it, at most a few lines.
	Warnings []string `json:"warnings,omitempty"`
}

// NodeStatus is a node as this one sees it.
type NodeStatus struct {
	Node
	Alive    bool      `json:"alive"`    // by membership (serf)
	Admitted bool      `json:"admitted"` // by the masters
	Since    time.Time `json:"since"`    // of the last change of Alive
}

// Admission is the masters' word that a node belongs to the cluster. Tunnel frames are accepted
// from admitted nodes only. It stays when the node is removed, to void what is left of it.
type Admission struct {
	Node NodeID     `json:"node"`
	VTEP netip.Addr `json:"vtep"` // not valid: the node was removed and has not come back
	// Former is the VTEP before this one. Frames from there are accepted as long as the node says that it has
	// both addresses.
	Former netip.Addr `json:"former,omitzero"`
	// Host4 and Host6 are the addresses of the node's own processes towards the networks, with the lengths of the
	// subnets that all nodes' are of. Host4 is not valid where those have run out.
	Host4 netip.Prefix `json:"host4,omitzero"`
	Host6 netip.Prefix `json:"host6,omitzero"`
	// Incarnation is the life of the node that was admitted: the same one may come with another address, another one
	// is another node of the same name.
	Incarnation uint64 `json:"incarnation,omitempty"`
	// Gone tells that the node was removed: rows of its incarnations up to this one are void.
	Gone uint64 `json:"gone,omitempty"`
}

// Refusal is the masters' word that they can't grant what a row of a node asks for, and why. It is
// withdrawn when the row is, or when it can be granted after all.
type Refusal struct {
	Node   NodeID `json:"node"`
	Kind   Kind   `json:"kind"` // of the row refused: node, want or backend
	Key    string `json:"key"`  // of the row refused
	Reason string `json:"reason"`
	// Network is the one that has no block for the node, where that is why.
	Network string `json:"network,omitempty"`
}

// Master is one master as others find it.
type Master struct {
	ID   string     `json:"id"`
	Addr netip.Addr `json:"addr"`
	Port uint16     `json:"port"` // gRPC
}

// Name is what a task is called. One Name makes several records; see discovery/zone.
type Name struct {
	Task      string       `json:"task"`      // task id
	Label     string       `json:"label"`     // DNS label: web
	Framework string       `json:"framework"` // weft, unless a scheduler runs the task
	Network   string       `json:"network"`   // HostNetwork: its addresses are its node's
	Node      NodeID       `json:"node"`
	Addrs     []netip.Addr `json:"addrs"`
	Ports     []NamedPort  `json:"ports,omitempty"`
	// Unwell says that the task's check fails, or has not succeeded yet.
	Unwell bool `json:"unwell,omitempty"`
	// Mapped says that a port of its node leads to it.
	Mapped bool `json:"mapped,omitempty"`
}

// NamedPort is a port that a task serves, for SRV records.
type NamedPort struct {
	Name     string `json:"name,omitempty"`
	Protocol string `json:"protocol"` // tcp or udp
	Port     uint16 `json:"port"`
}

// ServiceName is a name of a VIP with its addresses, from lb's rows (by the wiring in cmd).
type ServiceName struct {
	Name  string       // without the zone: web.weft
	Addrs []netip.Addr // those families that have a backend
}

// Record is one answer.
type Record struct {
	Name string        `json:"name"` // fully qualified, with the final dot
	Type string        `json:"type"` // A, AAAA, SRV, PTR, ...
	TTL  time.Duration `json:"ttl"`
	Data string        `json:"data"` // presentation form: "9.0.0.1", "0 1 80 web.weft.mesos."
	// From is the row it was made from (kind/key) and Writer who wrote that row.
	From   string `json:"from"`
	Writer string `json:"writer"`
	// LeftOut tells that answers are without it: its task is not well, and another one of the name is.
	LeftOut bool `json:"left_out,omitempty"`
}

// Service is what clients of a node ask of discovery. Every method is idempotent.
type Service interface {
	// Announce makes name known on every node. The name lives until Retract of its task.
	// ErrInvalid names the field and what is allowed.
	Announce(ctx context.Context, name Name) error
	// Retract withdraws the names of a task; an unknown task is no error.
	Retract(ctx context.Context, task string) error
	// Lookup returns the records of a fully qualified name as asker's network sees them (empty: the
	// host), all types. A name that does not exist is ErrNotFound.
	Lookup(ctx context.Context, network, name string) ([]Record, error)
	// Nodes returns every known node, by id.
	Nodes(ctx context.Context) ([]NodeStatus, error)
	// Rows returns the live rows of a kind (all kinds when empty): what this node believes.
	Rows(ctx context.Context, kind Kind) ([]Row, error)
}
