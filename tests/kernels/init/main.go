// SPDX-License-Identifier: Apache-2.0

// Command init is the first process of a guest of tests/kernels: it mounts what tests look for, loads
// drivers, runs every test binary of the initramfs and switches the machine off. What the console shows
// is read by tests/kernels.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// mounts in their order.
var mounts = []struct{ kind, path string }{
	{"devtmpfs", "/dev"},
	{"proc", "/proc"},
	{"sysfs", "/sys"},
	{"tmpfs", "/tmp"},
	{"tmpfs", "/run"},
	{"tmpfs", "/sys/fs/cgroup"},
	{"cgroup2", "/sys/fs/cgroup/unified"},
	{"tracefs", "/sys/kernel/tracing"},
	{"bpf", "/sys/fs/bpf"},
}

func main() {
	say(os.Stdout, "start")
	if err := run(os.Stdout); err != nil {
		say(os.Stdout, "failed", err)
	}
	say(os.Stdout, "done")
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART); err != nil {
		say(os.Stdout, "failed to restart:", err)
	}
}

// say prints a line that tests/kernels reads.
func say(out io.Writer, words ...any) {
	_, _ = fmt.Fprintln(out, append([]any{"guest:"}, words...)...) // there is nobody to tell
}

func run(out *os.File) error {
	for _, m := range mounts {
		if err := os.MkdirAll(m.path, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.path, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.path, err)
		}
	}
	if err := os.MkdirAll("/dev/shm", 0o755); err != nil {
		return err
	}
	drivers, err := order("/modules")
	if err != nil {
		return err
	}
	for _, name := range drivers {
		if err := load(filepath.Join("/modules", name)); err != nil {
			return fmt.Errorf("load %s: %w", name, err)
		}
	}
	tests, err := order("/tests")
	if err != nil {
		return err
	}
	flags, err := os.ReadFile("/tests/FLAGS")
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range tests {
		say(out, "run", name)
		cmd := exec.CommandContext(context.Background(), filepath.Join("/tests", name),
			append([]string{"-test.v", "-test.short"}, strings.Fields(string(flags))...)...)
		cmd.Dir = "/tmp"
		cmd.Env = []string{"PATH=/bin:/sbin", "HOME=/tmp", "TMPDIR=/tmp"}
		cmd.Stdout, cmd.Stderr = out, out
		if err := cmd.Run(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// order reads the list that the archive was made with.
func order(dir string) ([]string, error) {
	list, err := os.ReadFile(filepath.Join(dir, "ORDER"))
	return strings.Fields(string(list)), err
}

func load(path string) (err error) {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	err = unix.FinitModule(int(file.Fd()), "", 0)
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}
