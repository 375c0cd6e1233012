// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// CgroupRoot returns where cgroup2 is mounted. On a machine with both versions that is not
// /sys/fs/cgroup itself.
func CgroupRoot() (string, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("find cgroup2: %w", err)
	}
	root := cgroupRoot(string(data))
	if root == "" {
		return "", errors.New("find cgroup2: it is mounted nowhere; mount -t cgroup2 none DIR")
	}
	return root, nil
}

// Kill ends every process of the task whose cgroup that is, from whatever process; who started the
// task sees it end and cleans up. A task that is gone is no error.
func Kill(cgroup string) error {
	if !filepath.IsAbs(cgroup) {
		return fmt.Errorf("kill the task in cgroup %q: an absolute path is needed", cgroup)
	}
	if err := killCgroup(cgroup); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("kill the task in cgroup %s: %w", cgroup, err)
	}
	return nil
}

// cgroupRoot finds the first mount of the whole of cgroup2 (proc(5), /proc/pid/mountinfo):
//
//	42 32 0:27 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw
func cgroupRoot(mountinfo string) string {
	for line := range strings.Lines(mountinfo) {
		before, after, ok := strings.Cut(line, " - ")
		fields := strings.Fields(before)
		if ok && strings.HasPrefix(after, "cgroup2 ") && len(fields) > 4 && fields[3] == "/" {
			return unescape(fields[4])
		}
	}
	return ""
}

// unescape undoes the octal escapes of mountinfo: \040 is a space.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// killCgroup kills every process in and below a cgroup. Where the kernel can't do it at once (before
// 5.14), it takes rounds until a round finds nothing.
func killCgroup(path string) error {
	err := os.WriteFile(filepath.Join(path, "cgroup.kill"), []byte("1"), 0)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if _, statErr := os.Stat(path); statErr != nil {
		return statErr
	}
	return killInRounds(path)
}

// killInRounds kills until a round finds nobody new. That is the end: a process that has the signal
// makes no more children (fork(2) is refused while one is pending).
func killInRounds(path string) error {
	const rounds = 1000 // who forks faster than this is not stopped by asking again
	killed := make(map[int]bool)
	for range rounds {
		pids, err := processes(path)
		if err != nil {
			return err
		}
		found := false
		for _, pid := range pids {
			if killed[pid] {
				continue
			}
			found, killed[pid] = true, true
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("kill process %d: %w", pid, err)
			}
		}
		if !found {
			return nil
		}
	}
	return fmt.Errorf("kill processes of %s: %w", path, syscall.EBUSY)
}

// processes lists those in and below a cgroup.
func processes(path string) ([]int, error) {
	var pids []int
	err := filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() != "cgroup.procs" {
			return err
		}
		data, err := os.ReadFile(p)
		for field := range strings.FieldsSeq(string(data)) {
			pid, convErr := strconv.Atoi(field)
			err = errors.Join(err, convErr)
			pids = append(pids, pid)
		}
		return err
	})
	return pids, err
}

// removeEmpty waits until a cgroup is empty and removes it with all below it.
func removeEmpty(path string, deadline time.Time) error {
	events, err := os.Open(filepath.Join(path, "cgroup.events"))
	if err != nil {
		return err
	}
	defer events.Close() //nolint:errcheck // read only
	for {
		text := make([]byte, 256)
		n, err := events.ReadAt(text, 0)
		if n == 0 && err != nil {
			return fmt.Errorf("read %s: %w", events.Name(), err)
		}
		if strings.Contains(string(text[:n]), "populated 0") {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("cgroup %s: processes are still there", path)
		}
		// The kernel reports a change of the file as POLLPRI; the second is for a change before it.
		fds := []unix.PollFd{{Fd: int32(events.Fd()), Events: unix.POLLPRI}}
		if _, err := unix.Poll(fds, 1000); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for %s: %w", events.Name(), err)
		}
	}
	return removeFolders(path)
}

// removeFolders removes a cgroup, those below it first. The files in them are the kernel's.
func removeFolders(path string) error {
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeFolders(filepath.Join(path, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := unix.Rmdir(path); err != nil {
		return fmt.Errorf("remove cgroup %s: %w", path, err)
	}
	return nil
}
