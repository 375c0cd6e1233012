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
)

// TakeOver gives this build's programs to the links of tasks, underlay and host that a build with another layout
// left, one right after the other, and carries over what was written meanwhile. A flow that began between the
// two readings, in a map whose rows changed, is not known for as long as they take: a few milliseconds, of
// which TCP notices a second try. Attach would do the same, link by link, with more time between them.
func (p *Plane) TakeOver() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	others, err := p.pins.others()
	if err != nil {
		return err
	}
	var errs []error
	for _, dir := range others {
		errs = append(errs, p.merge(dir), p.takeLinks(filepath.Join(dir, "link")), p.merge(dir))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("take over from another layout: %w", err)
	}
	return nil
}

func (p *Plane) takeLinks(dir string) error {
	names, err := linkNames(dir)
	if err != nil || p.classic != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		var ifindex uint32
		var program string
		if n, _ := fmt.Sscanf(name, "%d-%s", &ifindex, &program); n != 2 {
			continue // of a cgroup: AttachCgroup knows its folder
		}
		h, ok := hookOf(program)
		if !ok {
			continue
		}
		if on, err := pinnedOn(filepath.Join(dir, name), ifindex, h); err != nil || !on {
			errs = append(errs, err)
			continue
		}
		if err := p.attachHook(ifindex, h); err != nil && !errors.Is(err, ErrNoLink) {
			errs = append(errs, fmt.Errorf("attach %s to interface %d: %w", program, ifindex, err))
		}
	}
	return errors.Join(errs...)
}

func hookOf(program string) (hook, bool) {
	all := slices.Concat(workloadHooks, underlayHooks, tunnelHooks, hostHooks)
	i := slices.IndexFunc(all, func(h hook) bool { return h.program == program })
	if i < 0 {
		return hook{}, false
	}
	return all[i], true
}

// pinnedOn reports whether the link pinned at path really sits on that interface.
func pinnedOn(path string, ifindex uint32, h hook) (on bool, err error) {
	l, err := link.LoadPinnedLink(path, nil)
	if err != nil {
		return false, fmt.Errorf("open pinned link %s: %w", path, err)
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	return linkIsOn(l, ifindex, h)
}

// Repair pins again what this process holds and somebody unpinned, mounting bpffs if that is gone too, and
// returns how many pins were missing. Packets notice nothing; had the process ended in between, all would have
// ended with it.
func (p *Plane) Repair() (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.pins.on() {
		return 0, nil
	}
	var maps, links []string
	for name := range p.maps {
		if missing(filepath.Join(p.pins.layout(), name)) {
			maps = append(maps, name)
		}
	}
	for name := range p.links {
		if missing(p.pins.link(name)) {
			links = append(links, name)
		}
	}
	if len(maps)+len(links) == 0 {
		return 0, nil
	}
	if _, _, err := openPins(p.pins.root); err != nil {
		return 0, err
	}
	n := 0
	var errs []error
	for _, name := range maps {
		errs = append(errs, counted(&n, pinTwin(p.maps[name], filepath.Join(p.pins.layout(), name))))
	}
	for _, name := range links {
		l := p.links[name]
		errs = append(errs, counted(&n, errors.Join(l.Unpin(), l.Pin(p.pins.link(name))))) // the link remembers its first pin
	}
	if err := errors.Join(errs...); err != nil {
		return n, fmt.Errorf("pin again: %w", err)
	}
	return n, nil
}

func counted(n *int, err error) error {
	if err == nil {
		*n++
	}
	return err
}

func missing(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, fs.ErrNotExist)
}

// pinTwin pins a map that may be pinned elsewhere: a second pin of one handle would move the first.
func pinTwin(m *ebpf.Map, path string) error {
	twin, err := m.Clone()
	if err != nil {
		return err
	}
	return errors.Join(twin.Pin(path), twin.Close())
}
