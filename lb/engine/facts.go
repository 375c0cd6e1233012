// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"cmp"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"unique"

	"weft/discovery"
	"weft/discovery/state"
	"weft/lb"
	"weft/lb/compile"
)

// network is what this room needs of a network row; the whole of it is the overlay's.
type network struct {
	Name    string       `json:"name"`
	VNI     uint32       `json:"vni"`
	Subnet4 netip.Prefix `json:"subnet4"`
	Subnet6 netip.Prefix `json:"subnet6"`
}

// facts tells the compiler which rows changed.
type facts struct {
	store   *state.Store
	members Members
	self    discovery.NodeID
	log     *slog.Logger

	backends, pins *state.Feed
	networks       kind[network]
	admissions     kind[discovery.Admission]
	nodes          kind[discovery.Node]

	speakers map[discovery.NodeID]bool // nodes that have or had backends
	zones    map[discovery.NodeID]string
	peers    map[discovery.NodeID]string // others that live and are admitted, and where they answer
}

func newFacts(store *state.Store, members Members, log *slog.Logger) *facts {
	return &facts{
		store: store, members: members, self: discovery.NodeID(store.Self()), log: log,
		backends: store.Feed(discovery.KindBackend), pins: store.Feed(discovery.KindPin),
		networks:   newKind[network](store, discovery.KindNetwork),
		admissions: newKind[discovery.Admission](store, discovery.KindAdmission),
		nodes:      newKind[discovery.Node](store, discovery.KindNode),
		speakers:   map[discovery.NodeID]bool{discovery.NodeID(store.Self()): true},
	}
}

// tell brings c up to date, and returns up to where the rows of each node with backends are in it;
// fresh: there is a node more.
func (f *facts) tell(c *compile.Compiler) (applied map[discovery.Stream]discovery.Position, fresh bool) {
	// What is known is asked before what changed: it is in it, whatever comes meanwhile.
	applied = make(map[discovery.Stream]discovery.Position, len(f.speakers)+1)
	for node := range f.speakers {
		applied[streamOf(node)] = f.store.Position(streamOf(node))
	}
	speakers := len(f.speakers)
	applied[ledger] = f.store.Position(ledger)
	if f.networks.read(f.log) {
		vnis := make(map[string]uint32)
		for _, n := range f.networks.values {
			vnis[n.Name] = n.VNI
		}
		c.SetNetworks(vnis)
	}
	for _, r := range f.pins.Take() {
		if r.Writer != discovery.Ledger {
			continue
		}
		pin, err := lb.Pin{}, error(nil)
		if !r.Deleted {
			pin, err = state.Value[lb.Pin](r)
		}
		if err != nil {
			f.log.Error("pin is left out", "key", r.Key, "error", err)
		}
		c.SetPin(r.Key, pin)
	}
	for _, r := range f.backends.Take() {
		f.speakers[discovery.NodeID(r.Writer)] = true
		c.SetBackend(compile.Source{Node: discovery.NodeID(r.Writer), Key: r.Key}, f.backend(r))
	}
	c.SetNodes(f.judgeNodes())
	return applied, len(f.speakers) > speakers
}

// ledger is what the masters say.
var ledger = discovery.Stream{Writer: discovery.Ledger}

func streamOf(node discovery.NodeID) discovery.Stream { return discovery.Stream{Writer: string(node)} }

// backend reads a row; nil: there is none to be used.
func (f *facts) backend(r discovery.Row) *lb.Backend {
	if r.Deleted {
		return nil
	}
	b, err := decode(r)
	if err != nil {
		f.log.Error("backend row is left out", "node", r.Writer, "key", r.Key, "error", err)
		return nil
	}
	return &b
}

// judgeNodes says which nodes are out, and where nodes are.
func (f *facts) judgeNodes() compile.Nodes {
	f.admissions.read(f.log)
	if f.nodes.read(f.log) || f.zones == nil {
		f.zones = make(map[discovery.NodeID]string)
		for _, n := range f.nodes.values {
			f.zones[n.ID] = n.Zone
		}
	}
	admitted := make(map[discovery.NodeID]bool, len(f.admissions.values))
	for _, a := range f.admissions.values {
		admitted[a.Node] = true
	}
	down := make(map[discovery.NodeID]string)
	for node := range f.speakers {
		switch {
		case node == f.self:
		case !f.members.Alive(node):
			down[node] = "is down"
		case !admitted[node]:
			down[node] = "is not admitted to the cluster"
		}
	}
	f.peers = make(map[discovery.NodeID]string)
	for _, n := range f.nodes.values {
		if n.ID != f.self && n.Peer != "" && admitted[n.ID] && f.members.Alive(n.ID) {
			f.peers[n.ID] = n.Peer
		}
	}
	return compile.Nodes{Down: down, Self: f.self, Zones: f.zones}
}

// kind is the rows of a kind, read.
type kind[T any] struct {
	feed   *state.Feed
	values map[rowID]T
}

type rowID struct{ writer, key string }

func newKind[T any](store *state.Store, what discovery.Kind) kind[T] {
	return kind[T]{feed: store.Feed(what), values: make(map[rowID]T)}
}

// read takes in what changed, and tells whether anything did.
func (k *kind[T]) read(log *slog.Logger) bool {
	rows := k.feed.Take()
	for _, r := range rows {
		id := rowID{r.Writer, r.Key}
		delete(k.values, id)
		if r.Deleted {
			continue
		}
		v, err := state.Value[T](r)
		if err != nil {
			log.Error("row is left out", "kind", r.Kind, "key", r.Key, "error", err)
			continue
		}
		k.values[id] = v
	}
	return len(rows) > 0
}

// decode reads a row of another node, which may be of another version or wrong. A node speaks of
// its own tasks only: the writer is the node, whatever the value says.
func decode(r discovery.Row) (lb.Backend, error) {
	b, err := state.Value[lb.Backend](r)
	if err != nil {
		return b, err
	}
	b.Node = discovery.NodeID(r.Writer)
	// Thousands of rows share these: one copy of each is enough.
	for _, text := range []*string{&b.VIP.Network, &b.VIP.Name, &b.VIP.Protocol} {
		*text = unique.Make(*text).Value()
	}
	k := b.VIP
	if (k.Name == "") == !k.Addr.IsValid() || k.Port == 0 || k.Protocol != lb.TCP && k.Protocol != lb.UDP {
		return b, errors.New("its VIP has not exactly one of name and address, a port, and tcp or udp")
	}
	for i, a := range b.Addrs {
		b.Addrs[i] = a.Unmap().WithZone("")
	}
	b.Addrs = slices.DeleteFunc(b.Addrs, func(a netip.Addr) bool { return !a.IsValid() || a.IsUnspecified() })
	return b, nil
}

func all[T any](store *state.Store, kind discovery.Kind, log *slog.Logger) []T {
	values, err := state.All[T](store, kind)
	if err != nil {
		log.Error("rows are left out", "kind", kind, "error", err)
	}
	return values
}

// names returns what discovery is to answer: a named VIP has the addresses of those families that
// have a backend, in or out, for as long as it has one. Those that every network sees are of none.
func names(status []*compile.VIP) map[string][]discovery.ServiceName {
	addrs := make(map[string]map[string][]netip.Addr)
	for _, v := range status {
		if v.Name == "" || len(v.Addrs) == 0 {
			continue
		}
		in := v.Network
		if in == discovery.HostNetwork {
			in = ""
		}
		if addrs[in] == nil {
			addrs[in] = make(map[string][]netip.Addr)
		}
		addrs[in][v.Name] = append(addrs[in][v.Name], v.Addrs...)
	}
	names := make(map[string][]discovery.ServiceName, len(addrs))
	for net, byName := range addrs {
		for _, name := range slices.Sorted(maps.Keys(byName)) {
			a := byName[name]
			slices.SortFunc(a, netip.Addr.Compare)
			names[net] = append(names[net], discovery.ServiceName{Name: name, Addrs: slices.Compact(a)})
		}
	}
	return names
}

func compareNetworks(a, b network) int { return cmp.Compare(a.Name, b.Name) }
