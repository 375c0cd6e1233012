// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/netip"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"

	"weft/tests/bench/ends"
)

// newEnd starts a load process in a network namespace of its own, in a cgroup.
func newEnd(load string, cgroup *os.File) (*ends.End, error) {
	cmd := exec.Command(load)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL, UseCgroupFD: true, CgroupFD: int(cgroup.Fd()),
	}
	return ends.Start(cmd, cmd.Start)
}

// converse has two ends talk for a span, in milliseconds; it returns CPU time per question, in nanoseconds.
func converse(server, client *ends.End, load string, listen, ask netip.AddrPort, cpu int, span int64, kernel ends.Threads) (float64, error) {
	t, err := ends.Converse(server, client,
		ends.Order{Serve: load, Addr: listen.Addr(), Port: listen.Port(), CPU: cpu},
		ends.Order{Run: load, Addr: ask.Addr(), Port: ask.Port(), CPU: cpu, Span: span}, kernel)
	if err != nil {
		return 0, err
	}
	return float64(t.CPU()) / float64(t.Server.Ops), nil
}
