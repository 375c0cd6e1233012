// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// namespaces are those that a task has of its own, in the order of entering.
var namespaces = []struct {
	name string
	flag int
}{
	{"net", unix.CLONE_NEWNET},
	{"uts", unix.CLONE_NEWUTS},
	{"mnt", unix.CLONE_NEWNS},
}

// Target is a running task that a command joins.
type Target struct {
	PID int
	// StartTime guards against a PID that is another process by now; 0: not known.
	StartTime uint64
	Cgroup    string // empty: the caller's
}

// Visit is a command that runs in a task's namespaces and cgroup.
type Visit struct {
	Command []string
	Env     []string // nil: the caller's
	Dir     string   // empty: /
	Stdio   [3]*os.File
}

// Exec runs a command in a running task and waits for its end. When ctx ends first, the command is
// killed. It dies with the caller, and with the task.
func Exec(ctx context.Context, t Target, v Visit) (Exit, error) {
	exit, err := execIn(ctx, t, v)
	if err != nil {
		return exit, fmt.Errorf("exec in process %d: %w", t.PID, err)
	}
	return exit, nil
}

func execIn(ctx context.Context, t Target, v Visit) (Exit, error) {
	if len(v.Command) == 0 || v.Command[0] == "" {
		return Exit{}, errors.New("no command")
	}
	files, err := openNamespaces(t)
	defer func() {
		for _, f := range files {
			f.Close() //nolint:errcheck // a namespace handle holds nothing that could be lost
		}
	}()
	if err != nil {
		return Exit{}, err
	}
	p, err := startProcess(ctx, launch{stage: stageEnter, cgroup: t.Cgroup, stdio: v.Stdio, extra: files})
	if err != nil {
		return Exit{}, err
	}
	defer p.conn.close() //nolint:errcheck // the command has ended, and the other end with it
	env, dir := v.Env, v.Dir
	if env == nil {
		env = os.Environ()
	}
	if dir == "" {
		dir = "/"
	}
	err = p.conn.ask(ctx, order{Command: v.Command, Env: env, Dir: dir})
	if err == nil {
		err = p.conn.release(ctx, order{})
	}
	if err == nil {
		var exit Exit
		if exit, err = p.wait(ctx); err == nil {
			return exit, nil
		}
	}
	if killErr := p.signal(syscall.SIGKILL); killErr != nil && !errors.Is(killErr, os.ErrProcessDone) {
		err = errors.Join(err, killErr)
	}
	<-p.done
	return Exit{}, err
}

// openNamespaces opens the namespaces of a process, sure that it is still that process.
func openNamespaces(t Target) ([]*os.File, error) {
	var files []*os.File
	for _, kind := range namespaces {
		f, err := os.Open("/proc/" + strconv.Itoa(t.PID) + "/ns/" + kind.name)
		if err != nil {
			return files, err
		}
		files = append(files, f)
	}
	start, err := StartTime(t.PID)
	if err != nil {
		return files, err
	}
	if t.StartTime != 0 && start != t.StartTime {
		return files, fmt.Errorf("the task has ended, and its process number is another's: %w", os.ErrProcessDone)
	}
	return files, nil
}

// StartTime returns when a process started, in clock ticks since boot (proc(5), stat field 22).
func StartTime(pid int) (uint64, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	start, err := startTime(string(data))
	if err != nil {
		return 0, fmt.Errorf("start time of process %d: %w", pid, err)
	}
	return start, nil
}

// startTime reads field 22. The second field is the command in parentheses and may hold anything.
func startTime(stat string) (uint64, error) {
	const after = 22 - 3 // fields behind the closing parenthesis, the first of which is the third
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) <= after {
		return 0, errors.New("not the form of proc(5) stat")
	}
	return strconv.ParseUint(fields[after], 10, 64)
}
