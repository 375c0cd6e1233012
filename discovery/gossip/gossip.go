// SPDX-License-Identifier: Apache-2.0

// Package gossip knows which nodes and masters there are and which of them live, by serf. It carries
// no facts: rows travel by discoverypb, and what follows from a death is for others to decide.
package gossip

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"weft/discovery"
)

// DefaultPort is where members talk, UDP and TCP.
const DefaultPort = 7946

// Role is what a member is.
type Role string

// Values of Role.
const (
	RoleNode   Role = "node"
	RoleMaster Role = "master"
)

// roleTag is the tag that carries the role; others may not use it.
const roleTag = "role"

// maxTags is what fits one packet beside the member's name and address, bytes.
const maxTags = 400

// Transport is what members talk by; a simulation has its own.
type Transport = memberlist.Transport

// Packet is what a Transport carries.
type Packet = memberlist.Packet

// Options say who this member is and whom it looks for.
type Options struct {
	ID   discovery.NodeID // unique in the cluster among those of its role
	Role Role             // default RoleNode
	Bind netip.Addr       // address that others reach this member at
	Port uint16           // default DefaultPort
	// Join are addresses of other members, HOST or HOST:PORT. Those that are not members are tried
	// again for ever.
	Join []string
	// Secret encrypts what members say to each other; empty: nothing is encrypted.
	Secret []byte
	// Others are secrets of which members may come that change from one to another.
	Others [][]byte
	Tags   map[string]string // told to every member, at most 400 bytes in all
	// Dir is a folder in which the members last seen are kept for the next start; empty: none.
	Dir string
	// Transport carries what members say; nil: UDP and TCP at Bind and Port.
	Transport Transport
	// Echo tells whether the kernel of a member that says nothing answers; nil: by ICMP. Without the right to send that
	// silence is death.
	Echo func(ctx context.Context, addr netip.Addr) bool
	// Stretch makes all times of membership so many times as long, for simulations of more members than the machine
	// has time for; default 1.
	Stretch int
	Log     *slog.Logger // nil: nobody
}

func (o *Options) validate() error {
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf(format+": %w", append(args, discovery.ErrInvalid)...))
	}
	if id := string(o.ID); len(id) == 0 || len(id) > 63 || strings.Trim(id, idLetters) != "" || id[0] == '-' || id[len(id)-1] == '-' {
		bad("id %q: a DNS label of 1 to 63 characters (a-z, 0-9, -) is allowed", o.ID)
	}
	if o.Role != RoleNode && o.Role != RoleMaster {
		bad("role %q: node or master is allowed", o.Role)
	}
	if !o.Bind.IsValid() || o.Bind.IsUnspecified() || o.Bind.IsMulticast() {
		bad("bind %q: an address of this host is needed", o.Bind)
	}
	size := 0
	for name, value := range o.Tags {
		size += len(name) + len(value) + 2
	}
	if _, ok := o.Tags[roleTag]; ok || size > maxTags {
		bad("tags of %d bytes: at most %d are allowed, and none is named %q", size, maxTags, roleTag)
	}
	return errors.Join(errs...)
}

const idLetters = "abcdefghijklmnopqrstuvwxyz0123456789-"

// keyring returns the AES-256 keys of the members' talk, nil without a secret.
func (o *Options) keyring() (*memberlist.Keyring, error) {
	if len(o.Secret) == 0 {
		return nil, nil
	}
	var others [][]byte
	for _, secret := range o.Others {
		others = append(others, key(secret))
	}
	return memberlist.NewKeyring(others, key(o.Secret))
}

func key(secret []byte) []byte {
	sum := sha256.Sum256(append([]byte("weft gossip v1\x00"), secret...))
	return sum[:]
}

// Member is one node or master as this one sees it.
type Member struct {
	ID    discovery.NodeID
	Role  Role
	Addr  netip.AddrPort
	Tags  map[string]string // shared: not to be changed
	Alive bool              // it answers, or has been silent for a short while in which its kernel did
	Gone  bool              // neither it nor its kernel answers
	Since time.Time         // of the last change of Alive, as seen here
}

// Stats counts what happened since Run began.
type Stats struct {
	Alive     int    // members, with this one and those that are silent
	Silent    int    // members that say nothing, but whose kernel answers
	Dead      int    // members that are known and do not answer
	Changes   uint64 // of Alive, of any member
	Conflicts uint64 // messages of another member with this one's id
	Joins     uint64 // attempts to reach one of Join
}

// Gossip is this process's view of the members.
type Gossip struct {
	o   Options
	log *slog.Logger

	mu      sync.RWMutex
	members map[string]Member // by serf's name
	doubts  map[string]*doubt // about those that are silent
	changed chan struct{}     // closed by update, under mu
	stats   Stats

	doubting sync.WaitGroup

	asking sync.Mutex // held while a silent member is asked in person

	conflict conflict
}

// Open checks the options; Run does the rest.
func Open(o Options) (*Gossip, error) {
	if o.Role == "" {
		o.Role = RoleNode
	}
	if o.Port == 0 {
		o.Port = DefaultPort
	}
	if err := o.validate(); err != nil {
		return nil, fmt.Errorf("open gossip: %w", err)
	}
	if o.Stretch == 0 {
		o.Stretch = 1
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	g := &Gossip{o: o, log: o.Log, members: make(map[string]Member), doubts: make(map[string]*doubt), changed: make(chan struct{})}
	if g.o.Echo == nil {
		g.o.Echo = g.echo
	}
	self := netip.AddrPortFrom(o.Bind, o.Port)
	name := memberName(o.ID, o.Role)
	g.put(name, Member{ID: o.ID, Role: o.Role, Addr: self, Tags: o.Tags, Alive: true, Since: time.Now()})
	g.conflict.self, g.conflict.name = self, name
	return g, nil
}

// memberName is what serf calls a member: a master and the node on its host may have the same id.
func memberName(id discovery.NodeID, role Role) string {
	if role == RoleMaster {
		return string(id) + masterSuffix
	}
	return string(id)
}

// masterSuffix begins with what no id has.
const masterSuffix = ".master"

// Members returns all known members by id, this one too; of one id the master first.
func (g *Gossip) Members() []Member {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return slices.SortedFunc(maps.Values(g.members), func(a, b Member) int {
		return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Role, b.Role))
	})
}

// Alive tells whether a node answers; this one always does, an unknown one does not.
func (g *Gossip) Alive(id discovery.NodeID) bool {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.members[memberName(id, RoleNode)].Alive
}

// Changed returns a channel that is closed at the next change of a member. Take it before reading.
func (g *Gossip) Changed() <-chan struct{} {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.changed
}

// Stats returns the present counts.
func (g *Gossip) Stats() Stats {
	g.mu.RLock()
	defer g.mu.RUnlock()
	s := g.stats
	s.Conflicts, s.Silent = g.conflict.total(), len(g.doubts)
	return s
}

// Dead tells whether a node that was a member is gone: neither its daemon nor its kernel answers.
func (g *Gossip) Dead(id discovery.NodeID) bool {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.members[memberName(id, RoleNode)].Gone
}

// Living counts the members that live, this one and masters too.
func (g *Gossip) Living() int { return g.Stats().Alive }

// update stores what was heard of a member.
func (g *Gossip) update(m Member) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.heard(memberName(m.ID, m.Role))
	g.store(m)
}

// store is update while mu is held.
func (g *Gossip) store(m Member) {
	name := memberName(m.ID, m.Role)
	old, known := g.members[name]
	switch {
	case name == memberName(g.o.ID, g.o.Role):
		return
	case known && old.Alive == m.Alive:
		m.Since = old.Since
	default:
		m.Since = time.Now()
		g.conflict.join(m.Since)
		g.stats.Changes++
		g.log.Info("membership", "node", m.ID, "role", m.Role, "addr", m.Addr, "alive", m.Alive)
	}
	g.put(name, m)
	g.wake()
}

// put sets what is known of a member, and counts; mu is held.
func (g *Gossip) put(name string, m Member) {
	g.drop(name)
	g.members[name] = m
	if m.Alive {
		g.stats.Alive++
	} else {
		g.stats.Dead++
	}
}

// drop ends what put began; mu is held.
func (g *Gossip) drop(name string) {
	m, known := g.members[name]
	switch {
	case known && m.Alive:
		g.stats.Alive--
	case known:
		g.stats.Dead--
	}
	delete(g.members, name)
}

// forget drops a member that was away for so long that nobody looks for it any more.
func (g *Gossip) forget(name string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if name != memberName(g.o.ID, g.o.Role) {
		g.heard(name)
		g.drop(name)
		g.wake()
	}
}

func (g *Gossip) wake() {
	close(g.changed)
	g.changed = make(chan struct{})
}
