// SPDX-License-Identifier: Apache-2.0

// Package bpf owns the kernel half: it loads the programs and maps of bpf/src, pins them so that they
// outlive the process, attaches the programs to links and cgroups, and reads counters and events. What
// the maps shall hold, and which links there are, it leaves to others.
//
// Open goes through these stages, one after the other; nothing in the kernel's packet path changes
// before the first Attach.
//
//  1. place:  a folder of bpffs for this layout (mounted if it is none)      pins/
//  2. maps:   taken over when pinned there, else made and pinned             load.go
//  3. load:   programs with this start's constants, onto these maps          load.go
//  4. attach: a pinned link gets the new program in place, else a new link   attach.go
//     (all links of a build with another layout before, at once: TakeOver)   takeover.go
//  5. sweep:  links without device or cgroup, and other layouts, go          sweep.go
//
// As long as the process lives it holds maps and links: pins that somebody removed are made again (Repair).
package bpf

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"weft/bpf/answers"
	"weft/bpf/pins"
	"weft/bpf/probe"
)

// Sentinels of this room; test with errors.Is.
var (
	// ErrUnsupported says that the kernel lacks something; the text says what and since when.
	ErrUnsupported = probe.ErrUnsupported
	// ErrNoLink says that a network interface or cgroup to attach to is not there.
	ErrNoLink = errors.New("no such link")
	// ErrInvalid says that an option is not usable.
	ErrInvalid = errors.New("invalid")
)

// Options of Open.
type Options struct {
	// Pin is the folder of bpffs that holds what outlives the process, each layout in a folder of its
	// own below it. One Plane per folder. It is made, and bpffs mounted there, if need be. Empty:
	// nothing is pinned, and all ends with Close.
	Pin string
	// Config becomes constants of the programs.
	Config Config
	// Classic attaches programs where the kernel has no tcx (before Linux 6.6). Nil: such kernels
	// are refused.
	Classic Classic
	// Edge loads the programs and maps of the edge too: VIPs for clients outside of every network.
	Edge bool
	// Log takes changes of state. Nil: none.
	Log *slog.Logger
}

// Config is what the programs know from their load on. A changed Config needs a new Open and the
// Attach calls again.
type Config struct {
	NodeAddr   netip.Addr // VTEP: the node's underlay address; tunnels run over its family
	Underlay   uint32     // ifindex of the underlay
	Neighbours int        // prefix length of the underlay's network, whose nodes need no route; 0: all do
	Tunnel     uint32     // ifindex of the VXLAN device (slow path)
	TunnelPort uint16     // UDP; default 4789 (RFC 7348)
	// Tunnel2 and TunnelPort2 are for nodes that the first port does not reach (row.BlockSecondPort); 0: there is none.
	Tunnel2     uint32
	TunnelPort2 uint16
	DNS4        netip.Addr // the node's name server, as tasks see it; zero: none
	DNS6        netip.Addr
	NoRecursion bool // the name server has no resolvers: answers say that foreign names are not answered (RA)
	SlowEncap   bool // leave encapsulation to the VXLAN device
	SlowDecap   bool // the same for decapsulation
	// EventsPerSecond limits events per CPU and reason; 0: none are sent.
	EventsPerSecond uint32
	// EdgeSeed is mixed into the hash of flows at the edge. It is to be the same on all edge nodes,
	// so that a flow that moves from one to another keeps its backend, and unknown to clients.
	EdgeSeed uint64
}

// DefaultTunnelPort is VXLAN's (RFC 7348 section 5).
const DefaultTunnelPort = 4789

// validate joins every problem of o and fills in defaults.
func (o *Options) validate() error {
	var errs []error
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	c := &o.Config
	if c.TunnelPort == 0 {
		c.TunnelPort = DefaultTunnelPort
	}
	if most := c.NodeAddr.Unmap().BitLen(); c.Neighbours < 0 || c.Neighbours > most {
		errs = append(errs, fmt.Errorf("neighbours' prefix length %d: %w: 0 to %d are allowed", c.Neighbours, ErrInvalid, most))
	}
	if c.DNS4.IsValid() && !c.DNS4.Unmap().Is4() {
		errs = append(errs, fmt.Errorf("DNS4 %s: %w: must be an IPv4 address", c.DNS4, ErrInvalid))
	}
	if c.DNS6.IsValid() && c.DNS6.Unmap().Is4() {
		errs = append(errs, fmt.Errorf("DNS6 %s: %w: must be an IPv6 address", c.DNS6, ErrInvalid))
	}
	return errors.Join(errs...)
}

// Plane is the kernel half of one node. Its methods may be called from several goroutines.
type Plane struct {
	log     *slog.Logger
	pins    pins.Folder
	fresh   bool    // nothing was pinned
	classic Classic // nil: tcx

	maps     map[string]*ebpf.Map
	specs    map[string]*ebpf.MapSpec   // as this build declares them
	knows    map[string]map[string]bool // rows carried over from another layout, by map and old key
	programs map[string]*program
	tables   Tables
	answers  *answers.Cache
	switches map[string][]*ebpf.Variable // by name, one of each object that has it

	// mu guards attaching: one at a time, for a pin is looked for, then made.
	mu    sync.Mutex
	links map[string]link.Link // attached by this process: held, so that they live without their pins
}

// program is a loaded program and where it is meant to go.
type program struct {
	*ebpf.Program
	attach ebpf.AttachType
}

// Open loads the kernel half, taking over the maps that an earlier process left pinned. It attaches
// nothing: links of the earlier process go on with its programs until Attach gives them the new ones.
func Open(o Options) (*Plane, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	p := &Plane{log: o.Log, links: make(map[string]link.Link), knows: make(map[string]map[string]bool), switches: make(map[string][]*ebpf.Variable)}
	if err := p.chooseAttachment(o.Classic); err != nil {
		return nil, err
	}
	var err error
	if p.pins, p.fresh, err = pins.Open(o.Pin); err != nil {
		return nil, err
	}
	if err := p.load(o.Config, o.Edge); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// chooseAttachment prefers tcx.
func (p *Plane) chooseAttachment(classic Classic) error {
	err := probe.TCX()
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrUnsupported) && classic != nil:
		p.classic = classic
		return nil
	default:
		return fmt.Errorf("attach packet programs: %w", err)
	}
}

// Fresh reports whether nothing of an earlier process was pinned when this one opened.
func (p *Plane) Fresh() bool { return p.fresh }

// Answers returns the kernel's cache of DNS answers.
func (p *Plane) Answers() *answers.Cache { return p.answers }

// Tables returns the maps that Go writes.
func (p *Plane) Tables() Tables { return p.tables }

// Maps returns the maps that all programs share, by name. They are for who lends a Plane from test to test or measures
// its maps: rows are written through Tables.
func (p *Plane) Maps() map[string]*ebpf.Map { return maps.Clone(p.maps) }

// Close lets go of the kernel half, which goes on working if it is pinned.
func (p *Plane) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(p.links)) {
		errs = append(errs, p.links[name].Close())
	}
	clear(p.links)
	for _, prog := range p.programs {
		errs = append(errs, prog.Close())
	}
	for _, m := range p.maps {
		errs = append(errs, m.Close())
	}
	return errors.Join(errs...)
}
