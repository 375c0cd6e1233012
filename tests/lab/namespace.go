// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// newNamespace makes a network namespace that lives as long as path is mounted.
func newNamespace(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return err
	}
	return onOwnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		self := fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())
		if err := unix.Mount(self, path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("keep the namespace at %s: %w", path, err)
		}
		return nil
	})
}

// In runs f on a thread that is in the host's network namespace. Goroutines that f starts are not.
func (h *Host) In(f func() error) error { return inside(h.netns(), f) }

func (h *Host) netns() string { return filepath.Join(h.Dir, "netns") }

func inside(path string, f func() error) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open namespace %s: %w", path, err)
	}
	defer func() { _ = unix.Close(fd) }() // read-only descriptor: nothing can be lost
	return onOwnThread(func() error {
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter namespace %s: %w", path, err)
		}
		return f()
	})
}

// onOwnThread runs f, which may change the network namespace of its thread, and goes back. A thread
// that can't is never used again; it does not end the easy way, with the goroutine, because the
// process' first thread would not end and hold the namespace for good.
func onOwnThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := unix.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("remember the namespace: %w", err)
			return
		}
		err = f()
		if back := unix.Setns(home, unix.CLONE_NEWNET); back != nil {
			err = errors.Join(err, fmt.Errorf("go back to the own namespace: %w", back))
		} else {
			runtime.UnlockOSThread()
		}
		done <- errors.Join(err, unix.Close(home))
	}()
	return <-done
}

// mountBPF gives the lab a bpffs of its own, a folder per host.
func (l *Lab) mountBPF() error {
	path := filepath.Join(l.Dir, "bpf")
	if err := os.MkdirAll(path, 0o700); err != nil {
		return err
	}
	if err := unix.Mount("bpf", path, "bpf", 0, ""); err != nil {
		return fmt.Errorf("mount bpffs at %s: %w", path, err)
	}
	return nil
}

// unmountBelow undoes every mount below dir, newest first.
func unmountBelow(dir string) error {
	paths, err := mountsBelow(dir)
	errs := []error{err}
	for _, path := range paths {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", path, err))
		}
	}
	return errors.Join(errs...)
}
