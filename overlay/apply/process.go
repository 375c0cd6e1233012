// SPDX-License-Identifier: Apache-2.0

package apply

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// WaitProcess returns nil when the process has ended, and ctx's error when that ended first. A
// process with another start time (clock ticks since boot, proc(5) stat field 22; 0: any) has taken
// over the number: the one meant has ended.
func WaitProcess(ctx context.Context, pid int, start uint64) (err error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("watch process %d: %w", pid, err)
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	defer func() { err = errors.Join(err, f.Close()) }()
	// Only now: the pidfd holds on to whoever has the number.
	if began, err := startTime(pid); err != nil || start != 0 && began != start {
		return nil // who can't be read has ended
	}
	conn, err := f.SyscallConn()
	if err != nil {
		return fmt.Errorf("watch process %d: %w", pid, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := conn.Read(ended); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("watch process %d: %w", pid, err)
	}
	return nil
}

// ended reports whether the process of a pidfd has: it is readable from then on.
func ended(fd uintptr) bool {
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	return err == nil && n > 0
}

func startTime(pid int) (uint64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("read start of process %d: %w", pid, err)
	}
	// The name, in parentheses, may hold anything; field 3 follows the last of them.
	s := string(b)
	fields := strings.Fields(s[strings.LastIndexByte(s, ')')+1:])
	if len(fields) < 20 {
		return 0, fmt.Errorf("read start of process %d: %d fields", pid, len(fields))
	}
	start, err := strconv.ParseUint(fields[22-3], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read start of process %d: %w", pid, err)
	}
	return start, nil
}
