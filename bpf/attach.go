// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"weft/bpf/pins"
)

// Classic attaches programs as clsact filters, for kernels without tcx (Linux 6.1 to 6.5). Links are
// those of the calling thread's network namespace.
type Classic interface {
	// Attach makes the program behind fd the filter called name on one direction of a link. An
	// earlier filter of that name is replaced in one step.
	Attach(ifindex uint32, egress bool, name string, fd int) error
	// Detach removes it. What is not there is no error.
	Detach(ifindex uint32, egress bool, name string) error
	// Remove takes every filter whose name begins with prefix off every link.
	Remove(prefix string) error
}

// classicPrefix begins the names of our filters.
const classicPrefix = "weft_"

// hook is a program and the direction of a link that it goes to.
type hook struct {
	program string
	egress  bool
}

// Hooks by kind of link.
var (
	workloadHooks = []hook{{program: "to_workload", egress: true}, {program: "from_workload"}}
	underlayHooks = []hook{{program: "from_underlay"}}
	tunnelHooks   = []hook{{program: "from_tunnel"}}
	hostHooks     = []hook{{program: "from_host"}}
	nodeHooks     = []hook{{program: "from_node", egress: true}}
)

func (h hook) attach() ebpf.AttachType {
	if h.egress {
		return ebpf.AttachTCXEgress
	}
	return ebpf.AttachTCXIngress
}

// AttachWorkload puts from_workload and to_workload on the host end of a task's link. Doing it again
// is no change; a link that has programs of an earlier process gets this one's without a gap.
func (p *Plane) AttachWorkload(ifindex uint32) error { return p.attachHooks(ifindex, workloadHooks) }

// DetachWorkload undoes AttachWorkload. It is no error if the interface is gone.
func (p *Plane) DetachWorkload(ifindex uint32) error { return p.detachHooks(ifindex, workloadHooks) }

// AttachUnderlay puts from_underlay on the underlay.
func (p *Plane) AttachUnderlay(ifindex uint32) error { return p.attachHooks(ifindex, underlayHooks) }

// DetachUnderlay undoes AttachUnderlay, when the node's underlay is another one.
func (p *Plane) DetachUnderlay(ifindex uint32) error { return p.detachHooks(ifindex, underlayHooks) }

// AttachTunnel puts from_tunnel on the VXLAN device.
func (p *Plane) AttachTunnel(ifindex uint32) error { return p.attachHooks(ifindex, tunnelHooks) }

// AttachHost puts from_host on the loopback of the node: its own questions for names.
func (p *Plane) AttachHost(ifindex uint32) error { return p.attachHooks(ifindex, hostHooks) }

// AttachNode puts from_node on the device by which the node's own packets leave for the networks.
func (p *Plane) AttachNode(ifindex uint32) error { return p.attachHooks(ifindex, nodeHooks) }

func (p *Plane) attachHooks(ifindex uint32, hooks []hook) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, h := range hooks {
		if err := p.attachHook(ifindex, h); err != nil {
			return fmt.Errorf("attach %s to interface %d: %w", h.program, ifindex, err)
		}
	}
	return nil
}

func (p *Plane) attachHook(ifindex uint32, h hook) error {
	prog, ok := p.programs[h.program]
	if !ok {
		return fmt.Errorf("%w: no such program", ErrInvalid)
	}
	if p.classic != nil {
		return p.classic.Attach(ifindex, h.egress, classicPrefix+h.program, prog.FD())
	}
	name := fmt.Sprintf("%d-%s", ifindex, h.program)
	return p.attachLink(name, prog, func(l link.Link) (bool, error) { return linkIsOn(l, ifindex, h) },
		func() (link.Link, error) { return p.newLink(ifindex, h, prog) })
}

// newLink attaches in front of what is there.
func (*Plane) newLink(ifindex uint32, h hook, prog *program) (link.Link, error) {
	return link.AttachTCX(link.TCXOptions{
		Interface: int(ifindex), Program: prog.Program, Attach: h.attach(), Anchor: link.Head(),
	})
}

// attachLink gives the link called name the program, or makes it. A pinned link whose device or cgroup
// is gone, or is another one that came to the same number, is no use: alive tells.
func (p *Plane) attachLink(name string, prog *program, alive func(link.Link) (bool, error),
	create func() (link.Link, error),
) error {
	old, err := p.openLink(name)
	if err != nil {
		return err
	}
	if old != nil {
		live, err := alive(old)
		if err == nil && live {
			p.links[name] = old
			return errors.Join(old.Update(prog.Program), p.retire(name))
		}
		p.log.Info("link has lost its device", "link", name)
		if err := errors.Join(err, p.dropLink(name, old)); err != nil {
			return err
		}
	}
	made, err := create()
	if errors.Is(err, unix.ENODEV) || errors.Is(err, fs.ErrNotExist) {
		return ErrNoLink
	}
	if err != nil {
		return err
	}
	// Killed here, the kernel detaches what is not pinned, and the next start attaches anew.
	return p.keep(name, made)
}

// keep pins a link, holds it, and removes that of the same name that another layout's build had.
func (p *Plane) keep(name string, made link.Link) error {
	if p.pins.On() {
		if err := made.Pin(p.pins.Link(name)); err != nil {
			return errors.Join(err, made.Close())
		}
	}
	p.links[name] = made
	return p.retire(name)
}

// openLink returns the link called name, nil if there is none.
func (p *Plane) openLink(name string) (link.Link, error) {
	if l := p.links[name]; l != nil || !p.pins.On() {
		return l, nil
	}
	l, err := link.LoadPinnedLink(p.pins.Link(name), nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open pinned link %s: %w", name, err)
	}
	return l, nil
}

// dropLink detaches l at once and forgets it.
func (p *Plane) dropLink(name string, l link.Link) error {
	err := pins.Sever(l)
	if p.pins.On() {
		if gone := os.Remove(p.pins.Link(name)); !errors.Is(gone, fs.ErrNotExist) {
			err = errors.Join(err, gone)
		}
	}
	delete(p.links, name)
	return errors.Join(err, l.Close())
}

// retire removes the link of the same name that another layout's build had: from here on ours decides.
func (p *Plane) retire(name string) error {
	if !p.pins.On() {
		return nil
	}
	others, err := p.pins.Others()
	for _, dir := range others {
		err = errors.Join(err, pins.Unpin(filepath.Join(dir, "link", name)))
	}
	return err
}

func (p *Plane) detachHooks(ifindex uint32, hooks []hook) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for _, h := range hooks {
		if err := p.detachHook(ifindex, h); err != nil {
			errs = append(errs, fmt.Errorf("detach %s from interface %d: %w", h.program, ifindex, err))
		}
	}
	return errors.Join(errs...)
}

func (p *Plane) detachHook(ifindex uint32, h hook) error {
	if p.classic != nil {
		return p.classic.Detach(ifindex, h.egress, classicPrefix+h.program)
	}
	name := fmt.Sprintf("%d-%s", ifindex, h.program)
	l, err := p.openLink(name)
	if err != nil || l == nil {
		return err
	}
	return p.dropLink(name, l)
}

// linkIsOn reports whether l really sits on that direction of the interface of this namespace with
// that index: a severed link has index 0, and a namespace made anew has the same numbers.
func linkIsOn(l link.Link, ifindex uint32, h hook) (bool, error) {
	info, err := l.Info()
	if err != nil {
		return false, err
	}
	if tcx := info.TCX(); tcx == nil || tcx.Ifindex != ifindex {
		return false, nil
	}
	on, err := link.QueryPrograms(link.QueryOptions{Target: int(ifindex), Attach: h.attach()})
	if errors.Is(err, unix.ENODEV) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(on.Programs, func(a link.AttachedProgram) bool {
		id, ok := a.LinkID()
		return ok && id == info.ID
	}), nil
}

// AttachCgroup puts the socket programs on a cgroup2 folder: sockets of all processes below it see
// VIPs. Programs of others on the same cgroup go on (they are attached side by side).
func (p *Plane) AttachCgroup(path string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	id, err := cgroupID(path)
	if err != nil {
		return fmt.Errorf("attach to cgroup: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(p.programs)) {
		prog := p.programs[name]
		if !onCgroup(prog.Type()) {
			continue
		}
		err := p.attachLink(fmt.Sprintf("cg%d-%s", id, name), prog,
			func(l link.Link) (bool, error) { return cgroupOf(l, id) },
			func() (link.Link, error) {
				return link.AttachCgroup(link.CgroupOptions{Path: path, Attach: prog.attach, Program: prog.Program})
			})
		if err != nil {
			return fmt.Errorf("attach %s to cgroup %s: %w", name, path, err)
		}
	}
	return nil
}

// DetachCgroup undoes AttachCgroup. It is no error if nothing is attached.
func (p *Plane) DetachCgroup(path string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	id, err := cgroupID(path)
	if err != nil {
		return fmt.Errorf("detach from cgroup: %w", err)
	}
	var errs []error
	for name, prog := range p.programs {
		if !onCgroup(prog.Type()) {
			continue
		}
		name = fmt.Sprintf("cg%d-%s", id, name)
		l, err := p.openLink(name)
		if err == nil && l != nil {
			err = p.dropLink(name, l)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// onCgroup tells the programs that AttachCgroup attaches.
func onCgroup(kind ebpf.ProgramType) bool {
	return kind == ebpf.CGroupSockAddr || kind == ebpf.SockOps
}

// cgroupID is the inode number of a cgroup2 folder, which is the kernel's name of the cgroup.
func cgroupID(path string) (uint64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return 0, &fs.PathError{Op: "statfs", Path: path, Err: err}
	}
	if s.Type != unix.CGROUP2_SUPER_MAGIC {
		return 0, fmt.Errorf("%s: %w: not a folder of cgroup2", path, ErrInvalid)
	}
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, fmt.Errorf("%s: %w: no inode number", path, ErrUnsupported)
	}
	return stat.Ino, nil
}

// cgroupOf reports whether l is attached to the cgroup id; a dead cgroup's link has id 0.
func cgroupOf(l link.Link, id uint64) (bool, error) {
	info, err := l.Info()
	if err != nil {
		return false, err
	}
	c := info.Cgroup()
	return c != nil && c.CgroupId == id, nil
}

// Remove detaches all and leaves nothing in the kernel: no pin, no link, no map.
func (p *Plane) Remove() error {
	p.mu.Lock()
	var errs []error
	if p.classic != nil {
		errs = append(errs, p.classic.Remove(classicPrefix))
	}
	for name, l := range p.links {
		errs = append(errs, p.dropLink(name, l))
	}
	errs = append(errs, p.pins.Remove())
	p.mu.Unlock()
	return errors.Join(append(errs, p.Close())...)
}
