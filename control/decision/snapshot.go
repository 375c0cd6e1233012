// SPDX-License-Identifier: Apache-2.0

package decision

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"weft/control"
	"weft/control/ledger"
	"weft/discovery"
	"weft/lb"
	"weft/overlay"
)

// Kinds of ledger keys that are no rows. A ledger key is KIND/REST; for rows, REST is the row's key,
// but for blocks, which have their network before it so that one prefix holds all of a network.
const (
	kindNumber discovery.Kind = "number" // counters, and the ledger's incarnation
	kindGone   discovery.Kind = "gone"   // []tombstone: rows that were removed together; key: base
)

// Keys of kindNumber and of the one leader row.
const (
	numberIncarnation = "incarnation" // Unix nanoseconds of the first decision of all
	numberVNI         = "vni"         // given last: never again while a frame may still carry it
	numberRule        = "rule"        // the same for rules, which events and flows name
	leaderKey         = "leader"
)

// tombstone names a row that was removed.
type tombstone struct {
	Kind discovery.Kind `json:"kind"`
	Key  string         `json:"key"`
}

// Snapshot is everything that was decided up to a revision. It never changes: apply makes a new one,
// sharing what stayed.
type Snapshot struct {
	revision uint64
	version  uint64 // base of the next decision

	networks     table[overlay.Network]     // by name
	groups       table[overlay.Group]       // by network/name
	rules        table[overlay.Rule]        // by network/id
	blocks       table[overlay.Block]       // by network/prefix
	identities   table[overlay.GroupSet]    // by network/identity
	pins         table[lb.Pin]              // by name
	publications table[lb.Publication]      // by name
	admissions   table[discovery.Admission] // by node
	plain        table[overlay.PlainNode]   // by node
	refusals     table[discovery.Refusal]   // by node/kind/key
	masters      table[discovery.Master]    // by id
	leader       table[discovery.Master]    // one or none, by leaderKey
	numbers      table[uint64]
}

// table is one kind of keys.
type table[V any] map[string]V

type anyTable interface {
	fork()
	take(key string, e ledger.Entry) error
}

// fork makes the table the caller's own.
func (t *table[V]) fork() {
	if *t = maps.Clone(*t); *t == nil {
		*t = table[V]{}
	}
}

func (t *table[V]) take(key string, e ledger.Entry) error {
	if e.Deleted {
		delete(*t, key)
		return nil
	}
	var v V
	if err := json.Unmarshal(e.Value, &v); err != nil {
		return fmt.Errorf("read key %s of the ledger: %w", e.Key, err)
	}
	(*t)[key] = v
	return nil
}

// keys returns the keys in order.
func (t table[V]) keys() []string { return slices.Sorted(maps.Keys(t)) }

// below returns the keys of one network, in order.
func (t table[V]) below(network string) []string {
	var keys []string
	for key := range t {
		if strings.HasPrefix(key, network+"/") {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

func (s *Snapshot) table(kind discovery.Kind) anyTable {
	switch kind {
	case discovery.KindNetwork:
		return &s.networks
	case discovery.KindGroup:
		return &s.groups
	case discovery.KindRule:
		return &s.rules
	case discovery.KindBlock:
		return &s.blocks
	case discovery.KindIdentity:
		return &s.identities
	case discovery.KindPin:
		return &s.pins
	case discovery.KindPublication:
		return &s.publications
	case discovery.KindAdmission:
		return &s.admissions
	case discovery.KindPlain:
		return &s.plain
	case discovery.KindRefusal:
		return &s.refusals
	case discovery.KindMaster:
		return &s.masters
	case discovery.KindLeader:
		return &s.leader
	case kindNumber:
		return &s.numbers
	default:
		return nil // of a later version, or a tombstone
	}
}

// Revision is that of the ledger up to which decisions are in it.
func (s *Snapshot) Revision() uint64 { return s.revision }

// Holds reports whether the decisions up to a version of the ledger are in it.
func (s *Snapshot) Holds(version uint64) bool { return s.version >= version && s.revision > 0 }

// Apply returns the snapshot after an update. Keys that can't be read are left out and reported:
// somebody wrote into the ledger by hand.
func (s *Snapshot) Apply(u ledger.Update) (*Snapshot, error) {
	next := &Snapshot{}
	if !u.Reset {
		*next = *s
	}
	next.revision, next.version = u.Revision, u.Version
	var errs []error
	forked := map[discovery.Kind]bool{}
	for _, e := range u.Entries {
		kind, key := split(e.Key)
		t := next.table(kind)
		if t == nil {
			continue
		}
		if !forked[kind] {
			t.fork()
			forked[kind] = true
		}
		errs = append(errs, t.take(key, e))
	}
	return next, errors.Join(errs...)
}

// split takes a ledger key apart.
func split(key string) (kind discovery.Kind, rest string) {
	before, after, _ := strings.Cut(key, "/")
	return discovery.Kind(before), after
}

// rowKey makes the key of a row from that of the ledger.
func rowKey(kind discovery.Kind, rest string) string {
	if kind == discovery.KindBlock {
		_, rest, _ = strings.Cut(rest, "/")
	}
	return rest
}

// leads returns the id of the master that leads, or led last.
func (s *Snapshot) leads() string { return s.leader[leaderKey].ID }

// has returns an error that lists the networks there are, if name is not one of them.
func (s *Snapshot) has(name string) error {
	if _, ok := s.networks[name]; !ok {
		return notFound("network", name, s.networks.keys())
	}
	return nil
}

// groupsOf returns the names of a network's declared groups, in order.
func (s *Snapshot) groupsOf(network string) []string {
	names := s.groups.below(network)
	for i, key := range names {
		names[i] = s.groups[key].Name
	}
	return names
}

// isGroup reports whether tasks of the network may be in the group.
func (s *Snapshot) isGroup(network, name string) bool {
	_, ok := s.groups[network+"/"+name]
	return ok || name == overlay.GroupPublic
}

func notFound(noun, name string, known []string) error {
	return fmt.Errorf("%w: %s", control.ErrNotFound, missing(noun, name, known))
}

// missing says what is not there and what is.
func missing(noun, name string, known []string) string {
	list := "there is none"
	if len(known) > 0 {
		list = "there are " + shorten(known)
	}
	return fmt.Sprintf("no %s %q; %s", noun, name, list)
}

// shorten joins names, the first few of many.
func shorten(names []string) string {
	const most = 12
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}
