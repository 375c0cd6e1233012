// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
)

// Established counts the TCP connections in a process' network namespace that are established at one of the
// local ports.
func Established(pid int, ports []uint16) (int, error) {
	count := 0
	for _, table := range []string{"tcp", "tcp6"} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, table))
		if errors.Is(err, fs.ErrNotExist) && table == "tcp6" {
			continue // a kernel without IPv6
		}
		if err != nil {
			return 0, err
		}
		count += established(string(text), ports)
	}
	return count, nil
}

// established reads /proc/net/tcp (proc_net_tcp.rst): "sl local_address rem_address st ...", addresses and
// state in hex, 01 being TCP_ESTABLISHED.
func established(text string, ports []uint16) int {
	count := 0
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 4 || fields[3] != "01" {
			continue
		}
		port, err := strconv.ParseUint(fields[1][strings.LastIndexByte(fields[1], ':')+1:], 16, 16)
		if err == nil && slices.Contains(ports, uint16(port)) {
			count++
		}
	}
	return count
}
