// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"os"
	"slices"
	"strings"
)

// mountsBelow lists the mounts below dir, newest first (proc_pid_mountinfo(5)).
func mountsBelow(dir string) ([]string, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var paths []string
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			paths = append(paths, fields[4])
		}
	}
	slices.Reverse(paths)
	return paths, nil
}
