// SPDX-License-Identifier: Apache-2.0

// Package pins is the folder of bpffs that holds what outlives the process: maps and links, by layout. What is pinned
// there, and when, it leaves to bpf.
package pins

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"weft/bpf/mounts"
	"weft/bpf/row"
)

// Folder is where things are pinned:
//
//	ROOT/v2/endpoints               a map
//	ROOT/v2/link/7-from_workload    a tcx link: ifindex, program
//	ROOT/v2/link/cg42-connect4      a cgroup link: inode of the cgroup, program
//
// The zero value pins nothing.
type Folder struct {
	root string
}

// Open returns the folder, which it makes; an empty root pins nothing. It tells whether root held no layout before.
func Open(root string) (f Folder, fresh bool, err error) {
	if root == "" {
		return Folder{}, true, nil
	}
	f.root = filepath.Clean(root)
	fresh, err = f.Ensure()
	return f, fresh, err
}

// Ensure makes the folders, and mounts bpffs on root if it lies in none. It tells whether root held no layout before.
func (f Folder) Ensure() (fresh bool, err error) {
	if err := mounts.EnsureBPFFS(f.root); err != nil {
		return false, fmt.Errorf("pin folder %s: %w", f.root, err)
	}
	all, err := f.layouts()
	if err != nil {
		return false, err
	}
	if err := os.MkdirAll(f.Links(), 0o700); err != nil {
		return false, fmt.Errorf("pin folder: %w", err)
	}
	return len(all) == 0, nil
}

// On tells whether anything is pinned.
func (f Folder) On() bool { return f.root != "" }

// Layout is the folder of this build's layout: maps of another one are not taken over.
func (f Folder) Layout() string {
	return filepath.Join(f.root, fmt.Sprintf("v%d", row.LayoutVersion))
}

// Links is the folder of its links.
func (f Folder) Links() string { return filepath.Join(f.Layout(), "link") }

// Link is where the link called name is pinned.
func (f Folder) Link(name string) string { return filepath.Join(f.Links(), name) }

// layouts lists the folders of all layouts.
func (f Folder) layouts() ([]string, error) { return filepath.Glob(filepath.Join(f.root, "v[0-9]*")) }

// Others lists the folders of other layouts.
func (f Folder) Others() ([]string, error) {
	if !f.On() {
		return nil, nil
	}
	all, err := f.layouts()
	if err != nil {
		return nil, err
	}
	var others []string
	for _, dir := range all {
		if dir != f.Layout() {
			others = append(others, dir)
		}
	}
	return others, nil
}

// Remove unpins all of every layout, and unmounts root if Ensure mounted it. Root goes if nobody has anything in it.
func (f Folder) Remove() error {
	if !f.On() {
		return nil
	}
	dirs, err := f.Others()
	if err != nil {
		return err
	}
	for _, dir := range append(dirs, f.Layout()) {
		names, nerr := LinkNames(filepath.Join(dir, "link"))
		err = errors.Join(err, nerr)
		for _, name := range names {
			err = errors.Join(err, Unpin(filepath.Join(dir, "link", name)))
		}
		err = errors.Join(err, os.RemoveAll(dir))
	}
	if err != nil {
		return fmt.Errorf("unpin: %w", err)
	}
	err = mounts.RemoveBPFFS(f.root)
	_ = os.Remove(f.root) // it has others' things, or is others' mount
	return err
}

// LinkNames lists a folder of pinned links.
func LinkNames(dir string) ([]string, error) {
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

// Sever detaches l, which closing or unpinning it would leave to a kernel worker.
func Sever(l link.Link) error {
	err := l.Detach()
	// Already severed, or a kernel that cannot: closing does it.
	if errors.Is(err, unix.ENOLINK) || errors.Is(err, link.ErrNotSupported) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return err
}

// Unpin severs the link pinned at path and removes the pin. What is not there is no error.
func Unpin(path string) error {
	l, err := link.LoadPinnedLink(path, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open pinned link %s: %w", path, err)
	}
	return errors.Join(Sever(l), os.Remove(path), l.Close())
}
