// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"weft/bpf/mounts"
	"weft/bpf/row"
)

// pins is the folder of what is pinned:
//
//	ROOT/v2/endpoints               a map
//	ROOT/v2/link/7-from_workload    a tcx link: ifindex, program
//	ROOT/v2/link/cg42-connect4      a cgroup link: inode of the cgroup, program
//
// The zero value pins nothing.
type pins struct {
	root string
}

// openPins makes the folders, and mounts bpffs on root if it lies in none. It tells whether root held no
// layout before.
func openPins(root string) (p pins, fresh bool, err error) {
	if root == "" {
		return pins{}, true, nil
	}
	p.root = filepath.Clean(root)
	if err := mounts.EnsureBPFFS(p.root); err != nil {
		return pins{}, false, fmt.Errorf("pin folder %s: %w", p.root, err)
	}
	all, err := p.layouts()
	if err != nil {
		return pins{}, false, err
	}
	if err := os.MkdirAll(p.links(), 0o700); err != nil {
		return pins{}, false, fmt.Errorf("pin folder: %w", err)
	}
	return p, len(all) == 0, nil
}

func (p pins) on() bool { return p.root != "" }

// layout is the folder of this build's layout: maps of another one are not taken over.
func (p pins) layout() string {
	return filepath.Join(p.root, fmt.Sprintf("v%d", row.LayoutVersion))
}

func (p pins) links() string { return filepath.Join(p.layout(), "link") }

func (p pins) link(name string) string { return filepath.Join(p.links(), name) }

// layouts lists the folders of all layouts.
func (p pins) layouts() ([]string, error) { return filepath.Glob(filepath.Join(p.root, "v[0-9]*")) }

// others lists the folders of other layouts.
func (p pins) others() ([]string, error) {
	if !p.on() {
		return nil, nil
	}
	all, err := p.layouts()
	if err != nil {
		return nil, err
	}
	var others []string
	for _, dir := range all {
		if dir != p.layout() {
			others = append(others, dir)
		}
	}
	return others, nil
}

// remove unpins all of every layout, and unmounts root if this package mounted it. Root goes if nobody has anything in it.
func (p pins) remove() error {
	if !p.on() {
		return nil
	}
	dirs, err := p.others()
	if err != nil {
		return err
	}
	for _, dir := range append(dirs, p.layout()) {
		names, nerr := linkNames(filepath.Join(dir, "link"))
		err = errors.Join(err, nerr)
		for _, name := range names {
			err = errors.Join(err, unpin(filepath.Join(dir, "link", name)))
		}
		err = errors.Join(err, os.RemoveAll(dir))
	}
	if err != nil {
		return fmt.Errorf("unpin: %w", err)
	}
	err = mounts.RemoveBPFFS(p.root)
	_ = os.Remove(p.root) // it has others' things, or is others' mount
	return err
}

// linkNames lists a folder of pinned links.
func linkNames(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") {
			names = append(names, e.Name())
		}
	}
	return names, err
}
