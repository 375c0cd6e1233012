// SPDX-License-Identifier: Apache-2.0

// Package owned makes folders that belong to a process. A test that is killed, panics or runs into -timeout undoes
// nothing: its processes, namespaces, cgroups and mounts would stay for ever. Its folder tells the next test where they
// are; what they are, and how they go, is the test's.
package owned

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Folder removes, by remove, every folder below parent whose name begins with prefix and whose process has ended, and
// makes one that is this process' until it ends. A folder of cgroup2 will do.
func Folder(parent, prefix string, remove func(dir string) error) (string, error) {
	if err := sweep(parent, prefix, remove); err != nil {
		return "", err
	}
	for {
		dir, err := os.MkdirTemp(parent, prefix)
		if err != nil {
			return "", err
		}
		if _, err := lock(dir, unix.LOCK_EX); err != nil && !errors.Is(err, unix.ENOENT) {
			return "", err
		}
		if _, err := os.Stat(dir); err == nil {
			return dir, nil
		} // else somebody swept it before it was locked
	}
}

// lock locks a folder and returns the descriptor that holds the lock. Children do not inherit it: it ends with the
// process.
func lock(dir string, how int) (int, error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if err := unix.Flock(fd, how); err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

func sweep(parent, prefix string, remove func(dir string) error) error {
	dirs, err := filepath.Glob(filepath.Join(parent, prefix+"*"))
	errs := []error{err}
	for _, dir := range dirs {
		fd, err := lock(dir, unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, unix.ENOENT) { // its process lives, or another one sweeps
			continue
		}
		if err == nil {
			err = errors.Join(remove(dir), unix.Close(fd))
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
