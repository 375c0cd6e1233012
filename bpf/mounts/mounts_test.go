// SPDX-License-Identifier: Apache-2.0

package mounts_test

import (
	"errors"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"weft/bpf/mounts"
)

// TestTheUsualPlaceNeedsNoPreparation pins below /sys/fs/bpf on a host where nobody mounted bpffs there.
func TestTheUsualPlaceNeedsNoPreparation(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("root is needed to mount")
		}
		t.Skip("root is needed to mount")
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the mounts end with the thread
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
				return err
			}
			if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
				return err
			}
			for unix.Unmount("/sys/fs/bpf", unix.MNT_DETACH) == nil { // whatever this machine has there
			}
			const dir = "/sys/fs/bpf/weft"
			if err := errors.Join(mounts.EnsureBPFFS(dir), mounts.EnsureBPFFS(dir)); err != nil {
				return err
			}
			var s unix.Statfs_t
			if err := unix.Statfs(dir, &s); err != nil {
				return err
			}
			if s.Type != unix.BPF_FS_MAGIC {
				return errors.New(dir + " is in no bpffs")
			}
			return nil
		}()
	}()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
