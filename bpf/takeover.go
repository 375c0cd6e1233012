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
)

// place is where a link of another layout's build sits.
type place struct {
	ifindex uint32
	hook    hook
}

func (l place) name() string { return fmt.Sprintf("%d-%s", l.ifindex, l.hook.program) }

// TakeOver gives this build's programs to the links of tasks, underlay and host that a build with another layout
// left. They stand in front of the old ones until all are there, begin all at once, and what the old ones wrote
// meanwhile is carried over. A flow that began in the last moment, in a map whose rows changed, is not known to its
// answers for so long, some milliseconds: those of TCP are taken on trust (lib/takeover.h), a datagram's may be dropped.
// Attach would take over link by link, with more time between them.
func (p *Plane) TakeOver() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	others, err := p.pins.Others()
	if err != nil {
		return err
	}
	var places []place
	var errs []error
	for _, dir := range others { // two, where an upgrade was killed and another one follows
		found, err := p.placesOf(filepath.Join(dir, "link"))
		for _, l := range found {
			if !slices.Contains(places, l) {
				places = append(places, l)
			}
		}
		errs = append(errs, err)
	}
	merge := func() {
		for _, dir := range others {
			errs = append(errs, p.merge(dir))
		}
	}
	merge() // most rows, as long as nobody misses them
	if len(places) > 0 {
		errs = append(errs, p.set(takingOverSwitch, takeoverWaits))
		made, err := p.take(places)
		errs = append(errs, err)
		merge()
		errs = append(errs, p.set(takingOverSwitch, takeoverTrusts))
		merge()
		errs = append(errs, p.set(takingOverSwitch, takeoverNone))
		for _, l := range places {
			if made[l] != nil {
				errs = append(errs, p.keep(l.name(), made[l]))
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("take over from another layout: %w", err)
	}
	return nil
}

// placesOf lists the links pinned in dir that live. Those of cgroups are left to AttachCgroup, which knows their
// folders; filters of clsact are no links.
func (p *Plane) placesOf(dir string) ([]place, error) {
	names, err := pins.LinkNames(dir)
	if err != nil || p.classic != nil {
		return nil, err
	}
	var places []place
	var errs []error
	for _, name := range names {
		var l place
		var program string
		if n, _ := fmt.Sscanf(name, "%d-%s", &l.ifindex, &program); n != 2 {
			continue
		}
		var ok bool
		if l.hook, ok = hookOf(program); !ok || p.programs[program] == nil {
			continue
		}
		on, err := pinnedOn(filepath.Join(dir, name), l.ifindex, l.hook)
		if on {
			places = append(places, l)
		}
		errs = append(errs, err)
	}
	return places, errors.Join(errs...)
}

// take puts this build's programs in front of the others'.
func (p *Plane) take(places []place) (map[place]link.Link, error) {
	made := make(map[place]link.Link)
	var errs []error
	for _, l := range places {
		if !missing(p.pins.Link(l.name())) { // an earlier start came so far
			errs = append(errs, p.attachHook(l.ifindex, l.hook))
			continue
		}
		one, err := p.newLink(l.ifindex, l.hook, p.programs[l.hook.program])
		switch {
		case err == nil:
			made[l] = one
		case !errors.Is(err, unix.ENODEV): // a task that ended just now
			errs = append(errs, fmt.Errorf("attach %s: %w", l.name(), err))
		}
	}
	return made, errors.Join(errs...)
}

func hookOf(program string) (hook, bool) {
	all := slices.Concat(workloadHooks, underlayHooks, tunnelHooks, hostHooks, nodeHooks, edgeHooks)
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
	if !p.pins.On() {
		return 0, nil
	}
	var maps, links []string
	for name := range p.maps {
		if missing(filepath.Join(p.pins.Layout(), name)) {
			maps = append(maps, name)
		}
	}
	for name := range p.links {
		if missing(p.pins.Link(name)) {
			links = append(links, name)
		}
	}
	if len(maps)+len(links) == 0 {
		return 0, nil
	}
	if _, err := p.pins.Ensure(); err != nil {
		return 0, err
	}
	n := 0
	var errs []error
	for _, name := range maps {
		errs = append(errs, counted(&n, pinTwin(p.maps[name], filepath.Join(p.pins.Layout(), name))))
	}
	for _, name := range links {
		l := p.links[name]
		errs = append(errs, counted(&n, errors.Join(l.Unpin(), l.Pin(p.pins.Link(name))))) // the link remembers its first pin
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
