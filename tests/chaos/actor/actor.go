// SPDX-License-Identifier: Apache-2.0

// Package actor runs the program of tests/chaos/traffic and reads what it reports. Who plays what, and what
// happens meanwhile, is the tests'.
package actor

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"weft/tests/lab"
	"weft/tests/lab/owned"
)

// Actor is a traffic program that runs.
type Actor struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Scanner
	diag *strings.Builder
}

// Build compiles the program and returns its path; remove removes it.
func Build(ctx context.Context) (path string, remove func() error, err error) {
	dir, err := owned.Folder(os.TempDir(), "weft-traffic.", os.RemoveAll)
	if err != nil {
		return "", nil, err
	}
	path, remove = filepath.Join(dir, "traffic"), func() error { return os.RemoveAll(dir) }
	build := exec.CommandContext(ctx, "go", "build", "-o", path, "./tests/chaos/traffic")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", nil, errors.Join(fmt.Errorf("build the traffic's program: %w: %s", err, out), remove())
	}
	return path, remove, nil
}

// Start runs the program in the network of a process of a host. Below the host's cgroup its sockets see VIPs
// when they connect; outside of it the packet path translates.
func Start(ctx context.Context, h *lab.Host, pid int, below bool, program string, args ...string) (*Actor, error) {
	args = append([]string{"-t", strconv.Itoa(pid), "-n", program}, args...)
	if below {
		cmd := h.Command(ctx, "nsenter", args...)
		return begin(cmd.Cmd, cmd.Start)
	}
	cmd := exec.CommandContext(ctx, "nsenter", args...)
	return begin(cmd, cmd.Start)
}

func begin(cmd *exec.Cmd, start func() error) (*Actor, error) {
	a := &Actor{cmd: cmd, diag: new(strings.Builder)}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	cmd.Stderr = a.diag
	a.in, a.out = in, bufio.NewScanner(out)
	a.out.Buffer(nil, 1<<20)
	if err := start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", strings.Join(cmd.Args, " "), err)
	}
	return a, nil
}

func (a *Actor) read(to any) error {
	if !a.out.Scan() {
		return errors.Join(fmt.Errorf("it ended: %s", strings.TrimSpace(a.diag.String())), a.out.Err())
	}
	return json.Unmarshal(a.out.Bytes(), to)
}

// Ask lets it report; to gets a line of JSON.
func (a *Actor) Ask(to any) error {
	if _, err := a.in.Write([]byte("\n")); err != nil {
		return err
	}
	return a.read(to)
}

// End ends it; what it would have said is lost.
func (a *Actor) End() error { return errors.Join(a.in.Close(), a.cmd.Wait()) }

// Finish ends it and reads its last line.
func (a *Actor) Finish(to any) error { return errors.Join(a.in.Close(), a.read(to), a.cmd.Wait()) }

// Connects is what `traffic connect` reports.
type Connects struct {
	Started, Failed, Delayed int
	Longest                  time.Duration
	Errors                   map[string]int
}

// Held is what `traffic hold` reports.
type Held struct {
	Asked   int
	Longest time.Duration
	Cut     string
}
