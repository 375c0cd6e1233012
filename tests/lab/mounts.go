// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bufio"
	"errors"
	"os"
	"slices"
	"strings"
)

// mount is one line of /proc/self/mountinfo (proc_pid_mountinfo(5)).
type mount struct{ path, kind string }

func mounts() []mount {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	defer f.Close()
	var all []mount
	for lines := bufio.NewScanner(f); lines.Scan(); {
		before, after, ok := strings.Cut(lines.Text(), " - ")
		fields, kind := strings.Fields(before), strings.Fields(after)
		if ok && len(fields) > 4 && len(kind) > 0 {
			all = append(all, mount{path: fields[4], kind: kind[0]})
		}
	}
	return all
}

// mountsBelow lists the mounts below dir, newest first.
func mountsBelow(dir string) []string {
	var paths []string
	for _, m := range mounts() {
		if strings.HasPrefix(m.path, dir+"/") {
			paths = append(paths, m.path)
		}
	}
	slices.Reverse(paths)
	return paths
}

// cgroup2 returns where the unified hierarchy is mounted.
func cgroup2() (string, error) {
	for _, m := range mounts() {
		if m.kind == "cgroup2" {
			return m.path, nil
		}
	}
	return "", errors.New("no cgroup2 file system is mounted: mount -t cgroup2 none /sys/fs/cgroup/unified")
}
