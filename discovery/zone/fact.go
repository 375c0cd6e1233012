// SPDX-License-Identifier: Apache-2.0

package zone

import (
	"net/netip"

	"weft/discovery"
	"weft/discovery/zone/record"
)

// Source is the row that a fact is from. A fact replaces the earlier one of the same source.
type Source struct {
	Kind   discovery.Kind
	Key    string
	Writer string
	view   string // one pin gives a fact in each network
}

// From is how records name their row: kind/key.
func (s Source) From() string { return string(s.Kind) + "/" + s.Key }

// id is unique per source: zero bytes occur in no part.
func (s Source) id() string {
	return string(s.Kind) + "\x00" + s.Key + "\x00" + s.Writer + "\x00" + s.view
}

// Fact is what records are made from: Task, Unwell, Lost, Host, Master, Leader, Service, Network, or one of a
// Mesos cluster's.
type Fact interface{ fact() }

type (
	// Task is what a task is called.
	Task struct{ discovery.Name }
	// Host is a node.
	Host struct {
		discovery.Node
		lost bool
	}
	// Master is one of the masters.
	Master struct{ discovery.Master }
	// Leader is the leading one. Its source has to be one and the same for all leaders.
	Leader struct{ discovery.Master }
	// Service is a VIP's name, known in one network and to the hosts; to all where that is empty.
	Service struct {
		Network string
		discovery.ServiceName
	}
	// Network owns the reverse zones of its subnets.
	Network struct {
		Name    string
		VNI     uint32
		Subnets []netip.Prefix
	}
	// Unwell says that a task is not fit to be used. Its source is UnwellSource.
	Unwell struct{}
	// Lost says that a node is dead, so that its tasks are gone without a word. Its source is LostSource.
	Lost struct{ Node discovery.NodeID }
	// apexes are the zones themselves.
	apexes struct{}
	// static are records of the configuration.
	static struct{ records []record.Record }
	// ensemble is all masters together, in the order of their ids; those that nobody leads last.
	ensemble struct{ addrs []netip.Addr }
)

func (Task) fact()     {}
func (Host) fact()     {}
func (Master) fact()   {}
func (Leader) fact()   {}
func (Service) fact()  {}
func (Network) fact()  {}
func (Unwell) fact()   {}
func (Lost) fact()     {}
func (apexes) fact()   {}
func (static) fact()   {}
func (ensemble) fact() {}

// Sourced is a fact and where it is from.
type Sourced struct {
	Source
	Fact Fact
}

// Change says that the row now holds this fact; nil: the row is gone.
type Change = Sourced

// ServiceSource is the source of a VIP's name: the pin that gave it its addresses, as one network
// sees it.
func ServiceSource(network, name string) Source {
	return Source{Kind: discovery.KindPin, Key: name, Writer: discovery.Ledger, view: network}
}

// UnwellSource is the source of the Unwell of the task that has a row of names: what its node says of it as a
// backend.
func UnwellSource(row, node string) Source {
	return Source{Kind: discovery.KindBackend, Key: row, Writer: node}
}

// LostSource is the source of the Lost of a node.
func LostSource(node discovery.NodeID) Source {
	return Source{Kind: "zone", Key: string(node), Writer: "weft", view: "lost"}
}

// hostSource is the source of a Host.
func hostSource(node discovery.NodeID) Source {
	return Source{Kind: discovery.KindNode, Key: string(node), Writer: string(node)}
}

// Sources of facts that no row says.
func apexSource() Source     { return Source{Kind: "zone", Key: "apex", Writer: "weft"} }
func ensembleSource() Source { return Source{Kind: "zone", Key: "masters", Writer: "weft"} }
func staticSource() Source   { return Source{Kind: "zone", Key: "static", Writer: "weft"} }
