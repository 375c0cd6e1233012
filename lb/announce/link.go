// SPDX-License-Identifier: Apache-2.0

package announce

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"weft/discovery"
	"weft/discovery/state"
	"weft/lb"
)

const (
	// A frame may be lost, and a bridge may be learning: an address that is led anew is told more than once.
	bursts     = 3
	burstEvery = 500 * time.Millisecond
	// refresh tells all addresses again, should a neighbour have been told otherwise.
	refresh = 30 * time.Second
)

// Members says which nodes announce on this link.
type Members interface {
	// Announcers are those that live, this one among them.
	Announcers() []discovery.NodeID
	// Changed is closed at the next change; it is taken before Announcers is asked.
	Changed() <-chan struct{}
}

// Link is an interface whose neighbours are told.
type Link struct {
	Ifindex uint32
	MAC     [6]byte
}

// LinkOptions is how NewLinks makes Links.
type LinkOptions struct {
	Store   *state.Store // required: publications
	Members Members      // required
	Links   []Link
	// Send puts a frame onto an interface; required.
	Send func(ifindex uint32, frame []byte) error
	Log  *slog.Logger // nil: none
}

// Links announces the addresses that this node leads to the neighbours of its links.
type Links struct {
	o    LinkOptions
	log  *slog.Logger
	self discovery.NodeID

	mu      sync.Mutex
	led     map[netip.Addr]bool // guarded by mu; never changed, replaced
	changed chan struct{}       // guarded by mu; closed and replaced with led
}

// NewLinks checks o and returns Links that do nothing until Run.
func NewLinks(o LinkOptions) (*Links, error) {
	var errs []error
	if o.Store == nil {
		errs = append(errs, errors.New("no Store"))
	}
	if o.Members == nil {
		errs = append(errs, errors.New("no Members"))
	}
	if o.Send == nil {
		errs = append(errs, errors.New("no Send"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("make announcements: %w", err)
	}
	return &Links{
		o: o, log: cmp.Or(o.Log, slog.New(slog.DiscardHandler)), self: discovery.NodeID(o.Store.Self()), changed: make(chan struct{}),
	}, nil
}

// Led returns the addresses that this node leads; not to be changed.
func (l *Links) Led() map[netip.Addr]bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.led
}

// Changed returns a channel that is closed when Led is another; take it before Led.
func (l *Links) Changed() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

// Run announces until ctx ends. It may be called once.
func (l *Links) Run(ctx context.Context) error {
	fresh := make(map[netip.Addr]int) // how often an address is still to be told
	again := time.NewTicker(refresh)
	defer again.Stop()
	for {
		rows, members := l.o.Store.Changed(discovery.KindPublication), l.o.Members.Changed()
		for a := range l.lead() {
			fresh[a] = bursts
		}
		var soon <-chan time.Time
		if l.tell(ctx, fresh) {
			soon = time.After(burstEvery)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-rows:
		case <-members:
		case <-soon:
		case <-again.C:
			for a := range l.Led() {
				fresh[a] = max(fresh[a], 1)
			}
		}
	}
}

// lead finds what this node leads now, and returns what it did not before.
func (l *Links) lead() map[netip.Addr]bool {
	nodes := l.o.Members.Announcers()
	publications, err := state.All[lb.Publication](l.o.Store, discovery.KindPublication)
	if err != nil {
		l.log.Error("rows are left out", "kind", discovery.KindPublication, "error", err)
	}
	led, added := make(map[netip.Addr]bool), make(map[netip.Addr]bool)
	before := l.Led()
	for _, p := range publications {
		if p.Validate() == nil && Leader(p.Addr, nodes) == l.self {
			led[p.Addr] = true
			if !before[p.Addr] {
				added[p.Addr] = true
			}
		}
	}
	if maps.Equal(led, before) {
		return nil
	}
	l.log.Info("leads addresses", "addrs", slices.SortedFunc(maps.Keys(led), netip.Addr.Compare))
	l.mu.Lock()
	defer l.mu.Unlock()
	l.led = led
	close(l.changed)
	l.changed = make(chan struct{})
	return added
}

// tell sends what is to be told once, and reports whether some of it is to be told again.
func (l *Links) tell(ctx context.Context, fresh map[netip.Addr]int) (more bool) {
	led := l.Led()
	for a := range fresh {
		if !led[a] {
			delete(fresh, a)
			continue
		}
		for _, link := range l.o.Links {
			if err := l.o.Send(link.Ifindex, Gratuitous(a, link.MAC)); err != nil {
				l.log.ErrorContext(ctx, "address is not announced", "addr", a, "ifindex", link.Ifindex, "error", err)
			}
		}
		if fresh[a]--; fresh[a] == 0 {
			delete(fresh, a)
		} else {
			more = true
		}
	}
	return more
}
