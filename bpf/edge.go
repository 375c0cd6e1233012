// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"weft/bpf/pins"
	"weft/bpf/row"
	"weft/bpf/table"
)

// EdgeTables are the maps of the edge. Slots and Backends are arrays: all of their rows are always
// there, zero at first, and can't be deleted.
type EdgeTables struct {
	VIPs     table.Table[row.EdgeVIPKey, row.EdgeVIP]
	Slots    table.Table[uint32, row.EdgeSlot]
	Backends table.Table[uint32, row.EdgeBackend]
	Flows    table.Table[row.EdgeFlowKey, row.EdgeFlow] // to read and to delete
	// Connections are QUIC connection ids that name a backend.
	Connections table.Table[row.EdgeConnectionKey, uint32]
	// Links are the interfaces whose neighbours are answered who ask for a VIP that this node leads.
	Links table.Table[uint32, row.EdgeLink]
	// Generation holds one row, 0: raised after each change of VIPs, and never 0, as programs keep what they found.
	Generation table.Table[uint32, uint32]
}

func (p *Plane) openEdge(edge bool) error {
	if !edge {
		return nil
	}
	t := &EdgeTables{}
	p.tables.Edge = t
	return errors.Join(
		openTable(p, "edge_vips", &t.VIPs),
		openTable(p, "edge_slots", &t.Slots),
		openTable(p, "edge_backends", &t.Backends),
		openTable(p, "edge_flows", &t.Flows),
		openTable(p, "edge_connections", &t.Connections),
		openTable(p, "edge_links", &t.Links),
		openTable(p, "edge_generation", &t.Generation),
	)
}

const (
	edgeFlows = 262144 // MAX_EDGE_FLOWS
	// A flow that is learnt and never seen again stays for this many seconds of a flood at least.
	edgeResidence = 8
)

// edgeLearns is how many flows a CPU may learn in a second: all of them together fill the table in
// edgeResidence seconds.
func edgeLearns() uint32 {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		cpus = 64
	}
	return uint32(max(1, edgeFlows/edgeResidence/cpus))
}

var edgeHooks = []hook{{program: "edge_tc"}}

// AttachEdge puts the edge onto a device that clients outside come in by: edge_tc always, and edge,
// which is XDP, where it is asked for and the driver has it; fast tells. Doing it again is no change.
func (p *Plane) AttachEdge(ifindex uint32, xdp bool) (fast bool, err error) {
	if err := p.attachHooks(ifindex, edgeHooks); err != nil || !xdp {
		return false, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	err = p.attachXDP(ifindex)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, ebpf.ErrNotSupported) {
		p.log.Info("device has no native XDP: the edge is slower", "ifindex", ifindex)
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("attach edge to interface %d: %w", ifindex, err)
	}
	return true, nil
}

// DetachEdge undoes AttachEdge. It is no error if the interface is gone.
func (p *Plane) DetachEdge(ifindex uint32) error {
	err := p.detachHooks(ifindex, edgeHooks)
	p.mu.Lock()
	defer p.mu.Unlock()
	name := edgeLink(ifindex)
	l, oerr := p.openLink(name)
	if oerr == nil && l != nil {
		oerr = p.dropLink(name, l)
	}
	return errors.Join(err, oerr)
}

// DetachEdges takes the edge off all interfaces but those given: a node may have lost that duty since an earlier
// process, of whatever layout. Where there is none its maps go too, unless this Plane has them.
func (p *Plane) DetachEdges(but ...uint32) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.classic != nil && len(but) == 0 {
		return p.classic.Remove(classicPrefix + "edge_tc")
	}
	if !p.pins.On() {
		return nil
	}
	dirs, err := p.pins.Others()
	errs := []error{err}
	for _, dir := range append(dirs, p.pins.Layout()) {
		names, err := pins.LinkNames(filepath.Join(dir, "link"))
		errs = append(errs, err)
		for _, name := range names {
			var ifindex uint32
			var program string
			n, _ := fmt.Sscanf(name, "%d-%s", &ifindex, &program)
			if n == 2 && (program == "edge" || program == "edge_tc") && !slices.Contains(but, ifindex) {
				errs = append(errs, pins.Unpin(filepath.Join(dir, "link", name)))
			}
		}
	}
	if len(but) == 0 {
		errs = append(errs, p.forgetEdge())
	}
	return errors.Join(errs...)
}

// forgetEdge unpins the maps that are the edge's alone.
func (p *Plane) forgetEdge() error {
	spec, err := loadEdge()
	if err != nil {
		return err
	}
	var errs []error
	for name, m := range spec.Maps {
		if m.Pinning != ebpf.PinByName || p.maps[name] != nil {
			continue
		}
		if err := os.Remove(filepath.Join(p.pins.Layout(), name)); !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func edgeLink(ifindex uint32) string { return fmt.Sprintf("%d-edge", ifindex) }

// attachXDP attaches in the driver alone: the kernel's generic form is slower than edge_tc.
func (p *Plane) attachXDP(ifindex uint32) error {
	prog, ok := p.programs["edge"]
	if !ok {
		return fmt.Errorf("%w: no such program", ErrInvalid)
	}
	if err := p.inherit(edgeLink(ifindex)); err != nil {
		return err
	}
	return p.attachLink(edgeLink(ifindex), prog,
		func(l link.Link) (bool, error) { return xdpIsOn(l, ifindex) },
		func() (link.Link, error) {
			return link.AttachXDP(link.XDPOptions{
				Program: prog.Program, Interface: int(ifindex), Flags: link.XDPDriverMode,
			})
		})
}

// inherit makes the link of that name of another layout's build ours: a device has room for one XDP program, so
// it can't have both for a while.
func (p *Plane) inherit(name string) error {
	others, err := p.pins.Others()
	if err != nil || !missing(p.pins.Link(name)) {
		return err
	}
	for _, dir := range others {
		if err := os.Rename(filepath.Join(dir, "link", name), p.pins.Link(name)); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// xdpIsOn reports whether l sits on the interface with that index. In another namespace's life the
// kernel has severed it, and says 0.
func xdpIsOn(l link.Link, ifindex uint32) (bool, error) {
	info, err := l.Info()
	if err != nil {
		return false, err
	}
	xdp := info.XDP()
	return xdp != nil && xdp.Ifindex == ifindex, nil
}
