// SPDX-License-Identifier: Apache-2.0

// Package mounts knows the file systems that the kernel half needs: bpffs, where pins lie, and cgroup2.
package mounts

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// source marks the bpffs mounts that this package made, in /proc/self/mountinfo.
const source = "weft"

// ErrOccupied says that a folder may not be mounted upon, for somebody's files are in it.
var ErrOccupied = errors.New("not in bpffs and not empty")

// EnsureBPFFS makes dir, and mounts bpffs on it if it lies in none and is empty; else the error is ErrOccupied.
func EnsureBPFFS(dir string) error {
	if err := ensureFolder(dir); err != nil {
		return err
	}
	ok, err := isBPFFS(dir)
	if err != nil || ok {
		return err
	}
	if entries, err := os.ReadDir(dir); err != nil {
		return err
	} else if len(entries) > 0 {
		return fmt.Errorf("%w (%s)", ErrOccupied, entries[0].Name())
	}
	return mountBPFFS(source, dir)
}

// usual is where bpffs mostly is. Where nobody mounted it the folder is sysfs', in which none can be made.
const usual = "/sys/fs/bpf"

// ensureFolder makes a folder, and mounts bpffs in its usual place, for everybody and for good, if that is what it lacks.
func ensureFolder(dir string) error {
	err := os.MkdirAll(dir, 0o700)
	if err == nil || !strings.HasPrefix(dir, usual+"/") {
		return err
	}
	if there, unknown := isBPFFS(usual); there || unknown != nil {
		return err
	}
	if err := mountBPFFS("bpf", usual); err != nil {
		return err
	}
	return os.MkdirAll(dir, 0o700)
}

func mountBPFFS(source, dir string) error {
	if err := unix.Mount(source, dir, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
		return fmt.Errorf("mount bpffs at %s: %w", dir, err)
	}
	return nil
}

func isBPFFS(dir string) (bool, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return false, &fs.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return s.Type == unix.BPF_FS_MAGIC, nil
}

// RemoveBPFFS unmounts dir if this package mounted it.
func RemoveBPFFS(dir string) error {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	all, err := table()
	if err != nil {
		return err
	}
	for _, m := range all {
		if m.point != dir {
			continue
		}
		if m.kind != "bpf" || m.source != source {
			return nil
		}
		if err := unix.Unmount(dir, 0); err != nil {
			return fmt.Errorf("unmount %s: %w", dir, err)
		}
		return nil
	}
	return nil
}

// Cgroup2 finds where cgroup2 is mounted; without it the error is fs.ErrNotExist.
func Cgroup2() (string, error) {
	all, err := table()
	if err != nil {
		return "", err
	}
	for _, m := range all {
		if m.kind == "cgroup2" {
			return m.point, nil
		}
	}
	return "", fmt.Errorf("cgroup2 is not mounted: %w", fs.ErrNotExist)
}

type mount struct{ point, kind, source string }

// table reads the mounts of this process (proc(5), mountinfo): field 5 is the mount point, and behind the " - " come
// type and source.
func table() ([]mount, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var all []mount
	for line := range strings.Lines(string(text)) {
		left, right, _ := strings.Cut(line, " - ")
		point, what := strings.Fields(left), strings.Fields(right)
		if len(point) > 4 && len(what) > 1 {
			all = append(all, mount{unescape(point[4]), what[0], what[1]})
		}
	}
	return all, nil
}

// unescape undoes mountinfo's octal escapes.
func unescape(path string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(path)
}
