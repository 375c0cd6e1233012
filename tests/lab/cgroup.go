// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"weft/agent/sandbox"
)

// cgroupOf names the cgroup of the lab in dir: everything a lab runs is below it, so that one write
// ends it all.
func cgroupOf(dir string) (string, error) {
	top, err := sandbox.CgroupRoot()
	if err != nil {
		return "", err
	}
	return filepath.Join(top, fmt.Sprintf("weft-lab-%x", sha256.Sum256([]byte(dir)))[:len("/weft-lab-")+len(top)+8]), nil
}

func (l *Lab) makeCgroups() error {
	for _, h := range l.all() {
		for _, path := range []string{h.Cgroup(), h.daemons()} {
			if err := os.MkdirAll(path, 0o755); err != nil {
				return fmt.Errorf("make cgroup: %w", err)
			}
		}
	}
	return nil
}

// Cgroup is the host's folder for tasks and for what `lab exec` runs; daemons holds weft's own.
func (h *Host) Cgroup() string  { return filepath.Join(h.lab.Cgroup, h.Name) }
func (h *Host) daemons() string { return filepath.Join(h.lab.Cgroup, h.Name+"-daemons") }

// removeCgroup kills every process below path and removes the folders, deepest first.
func removeCgroup(path string) error {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := os.WriteFile(filepath.Join(path, "cgroup.kill"), []byte("1"), 0); err != nil {
		return fmt.Errorf("end the processes of %s: %w", path, err)
	}
	var folders []string
	err := filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			folders = append(folders, p)
		}
		return err
	})
	if err != nil {
		return err
	}
	slices.Reverse(folders)
	deadline := time.Now().Add(10 * time.Second)
	for _, folder := range folders {
		for {
			err := os.Remove(folder) // EBUSY until the last process is gone
			if err == nil || errors.Is(err, fs.ErrNotExist) {
				break
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("remove cgroup %s: %w", folder, err)
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	return nil
}
