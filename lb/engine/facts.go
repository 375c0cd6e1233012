// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"cmp"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"

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

// facts reads rows into compile.Facts. It remembers what it decoded, because of thousands of
// backend rows a change touches a few.
type facts struct {
	compile.Facts
	decoded map[rowID]decoded
}

type rowID struct{ writer, key string }

type decoded struct {
	incarnation, seq uint64
	backend          lb.Backend
	err              error
}

func (f *facts) read(store *state.Store, members Members, self discovery.NodeID, log *slog.Logger) {
	f.Networks = make(map[string]uint32)
	for _, n := range all[network](store, discovery.KindNetwork, log) {
		f.Networks[n.Name] = n.VNI
	}
	f.Pins = all[lb.Pin](store, discovery.KindPin, log)
	admitted := make(map[discovery.NodeID]bool)
	for _, a := range all[discovery.Admission](store, discovery.KindAdmission, log) {
		admitted[a.Node] = true
	}
	f.readBackends(store, log)
	f.Self, f.Now = self, monotonicSeconds()
	f.Zones = make(map[discovery.NodeID]string)
	for _, n := range all[discovery.Node](store, discovery.KindNode, log) {
		f.Zones[n.ID] = n.Zone
	}
	f.Down = make(map[discovery.NodeID]string)
	for _, b := range f.Backends {
		switch {
		case b.Node == self:
		case !members.Alive(b.Node):
			f.Down[b.Node] = "is down"
		case !admitted[b.Node]:
			f.Down[b.Node] = "is not admitted to the cluster"
		}
	}
}

func (f *facts) readBackends(store *state.Store, log *slog.Logger) {
	rows := store.Rows(discovery.KindBackend)
	last := f.decoded
	f.decoded = make(map[rowID]decoded, len(rows))
	f.Backends = make([]lb.Backend, 0, len(rows))
	for _, r := range rows {
		id := rowID{r.Writer, r.Key}
		d, ok := last[id]
		if !ok || d.incarnation != r.Incarnation || d.seq != r.Seq {
			d = decoded{incarnation: r.Incarnation, seq: r.Seq}
			d.backend, d.err = decode(r)
			if d.err != nil {
				log.Error("backend row is left out", "node", r.Writer, "key", r.Key, "error", d.err)
			}
		}
		f.decoded[id] = d
		if d.err == nil {
			f.Backends = append(f.Backends, d.backend)
		}
	}
}

// decode reads a row of another node, which may be of another version or wrong. A node speaks of
// its own tasks only: the writer is the node, whatever the value says.
func decode(r discovery.Row) (lb.Backend, error) {
	b, err := state.Value[lb.Backend](r)
	if err != nil {
		return b, err
	}
	b.Node = discovery.NodeID(r.Writer)
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
// have a backend, in or out, for as long as it has one.
func names(status []lb.VIPStatus) map[string][]discovery.ServiceName {
	addrs := make(map[string]map[string][]netip.Addr)
	for _, v := range status {
		if v.Name == "" || len(v.Addrs) == 0 {
			continue
		}
		if addrs[v.Network] == nil {
			addrs[v.Network] = make(map[string][]netip.Addr)
		}
		addrs[v.Network][v.Name] = append(addrs[v.Network][v.Name], v.Addrs...)
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
