// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// end is a tests/bench/load process in a network namespace of its own.
type end struct {
	cmd       *exec.Cmd
	in        io.WriteCloser
	out       *bufio.Scanner
	complaint strings.Builder
}

// order and answer are load's.
type order struct {
	Serve string     `json:"serve,omitempty"`
	Run   string     `json:"run,omitempty"`
	Addr  netip.Addr `json:"addr"`
	Port  uint16     `json:"port,omitempty"`
	CPU   int        `json:"cpu"`
	Span  int64      `json:"span,omitempty"` // milliseconds
}

type answer struct {
	CPU   int64  `json:"cpu"`
	Ops   int64  `json:"ops"`
	Span  int64  `json:"span"`
	Error string `json:"error"`
}

// newEnd starts a load process, in a cgroup.
func newEnd(load string, cgroup *os.File) (*end, error) {
	e := &end{cmd: exec.Command(load)}
	e.cmd.Stderr = &e.complaint
	// Preemption of Go by signal would end the calls that load waits in.
	e.cmd.Env = append(os.Environ(), "GODEBUG=asyncpreemptoff=1", "GOMAXPROCS=1")
	e.cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL, UseCgroupFD: true, CgroupFD: int(cgroup.Fd()),
	}
	in, err1 := e.cmd.StdinPipe()
	out, err2 := e.cmd.StdoutPipe()
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	e.in, e.out = in, bufio.NewScanner(out)
	return e, e.cmd.Start()
}

func (e *end) stop() error { return errors.Join(e.in.Close(), e.cmd.Wait()) }

func (e *end) tell(o order) error {
	line, err := json.Marshal(o)
	if err != nil {
		return err
	}
	_, err = e.in.Write(append(line, '\n'))
	return err
}

func (e *end) hear() (answer, error) {
	var a answer
	if !e.out.Scan() {
		return a, fmt.Errorf("an end of the conversation ended: %s", strings.TrimSpace(e.complaint.String()))
	}
	if err := json.Unmarshal(e.out.Bytes(), &a); err != nil {
		return a, err
	}
	if a.Error != "" {
		return a, errors.New(a.Error)
	}
	return a, nil
}

// inside runs f on a thread in the end's namespace, which ends with f.
func (e *end) inside(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", e.cmd.Process.Pid))
		if err != nil {
			done <- err
			return
		}
		defer ns.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

// converse has two ends talk for a span; it returns CPU time per question, in nanoseconds: of both
// ends' threads and of the kernel's.
func converse(server, client *end, load string, listen, ask netip.AddrPort, cpu int, span int64, kernel []string) (float64, error) {
	if err := server.tell(order{Serve: load, Addr: listen.Addr(), Port: listen.Port(), CPU: cpu}); err != nil {
		return 0, err
	}
	if _, err := server.hear(); err != nil {
		return 0, fmt.Errorf("server: %w", err)
	}
	before, err := threadTimes(kernel)
	if err != nil {
		return 0, err
	}
	if err := client.tell(order{Run: load, Addr: ask.Addr(), Port: ask.Port(), CPU: cpu, Span: span}); err != nil {
		return 0, err
	}
	asked, err := client.hear()
	if err != nil {
		return 0, fmt.Errorf("client: %w", err)
	}
	took, err := server.hear()
	if err != nil {
		return 0, fmt.Errorf("server: %w", err)
	}
	after, err := threadTimes(kernel)
	if err != nil {
		return 0, err
	}
	if took.Ops == 0 {
		return 0, errors.New("nothing arrived")
	}
	return float64(asked.CPU+took.CPU+after-before) / float64(took.Ops), nil
}

// softirqThreads finds the schedstat files of the threads that do what softirq does not get done.
func softirqThreads() ([]string, error) {
	names, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		return nil, err
	}
	var found []string
	for _, path := range names {
		name, err := os.ReadFile(path)
		if err == nil && strings.HasPrefix(string(name), "ksoftirqd/") {
			found = append(found, filepath.Join(filepath.Dir(path), "schedstat"))
		}
	}
	return found, nil
}

// threadTimes sums the time on a CPU of threads (the first field of schedstat, nanoseconds).
func threadTimes(paths []string) (int64, error) {
	var sum int64
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return 0, err
		}
		first, _, _ := strings.Cut(string(text), " ")
		n, err := strconv.ParseInt(first, 10, 64)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}
