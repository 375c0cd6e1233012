// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf/link"

	"weft/bpf/pins"
)

// Sweep unpins links whose interface or cgroup is gone (the kernel keeps such a link as an empty
// shell as long as it is pinned), and whatever another layout left once none of its links lives. It
// returns how many links it unpinned. Live links are never touched: those of tasks that the caller
// does not know yet go on.
func (p *Plane) Sweep() (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.pins.On() {
		return 0, nil
	}
	swept, _, err := p.sweepDir(p.pins.Links())
	others, oerr := p.pins.Others()
	err = errors.Join(err, oerr)
	for _, dir := range others {
		n, left, serr := p.sweepDir(filepath.Join(dir, "link"))
		swept += n
		if serr == nil && left == 0 {
			p.log.Info("removing maps of another layout", "folder", dir)
			serr = errors.Join(p.merge(dir), os.RemoveAll(dir))
			clear(p.knows)
		}
		err = errors.Join(err, serr)
	}
	if err != nil {
		return swept, fmt.Errorf("sweep pinned links: %w", err)
	}
	return swept, nil
}

// sweepDir unpins the dead links of one folder; it returns how many were dead and how many live.
func (p *Plane) sweepDir(dir string) (swept, left int, err error) {
	names, err := pins.LinkNames(dir)
	if err != nil {
		return 0, 0, err
	}
	var errs []error
	for _, name := range names {
		path := filepath.Join(dir, name)
		dead, err := isDead(path)
		if err == nil && dead {
			err = errors.Join(os.Remove(path), p.forget(dir, name))
		}
		if err != nil {
			errs = append(errs, err)
			left++
			continue
		}
		if dead {
			swept++
		} else {
			left++
		}
	}
	return swept, left, errors.Join(errs...)
}

// forget lets go of a link that is swept.
func (p *Plane) forget(dir, name string) error {
	l := p.links[name]
	if l == nil || dir != p.pins.Links() {
		return nil
	}
	delete(p.links, name)
	return l.Close()
}

// isDead reports whether the link pinned at path has lost what it was attached to.
func isDead(path string) (dead bool, err error) {
	l, err := link.LoadPinnedLink(path, nil)
	if err != nil {
		return false, fmt.Errorf("open pinned link %s: %w", path, err)
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	info, err := l.Info()
	if err != nil {
		return false, fmt.Errorf("read pinned link %s: %w", path, err)
	}
	if tcx := info.TCX(); tcx != nil {
		return tcx.Ifindex == 0, nil
	}
	if xdp := info.XDP(); xdp != nil {
		return xdp.Ifindex == 0, nil
	}
	if c := info.Cgroup(); c != nil {
		return c.CgroupId == 0, nil
	}
	return false, nil
}
