// SPDX-License-Identifier: Apache-2.0

// Package sandbox runs a command as a task: in network (or the node's), mount and UTS namespaces and a cgroup of its
// own, with a resolver of its own, and gone without a trace when it or who started it ends. It gives
// the namespace no link to anywhere; that is the overlay's.
package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// A task is made of three processes, each of the same binary:
//
//	caller ──socket──> guard    makes the cgroup; when the socket closes, by Close or because the
//	   │                        caller died, it kills what is in the cgroup and removes it
//	   └────socket──> task      in its namespaces and cgroup from its first instruction: lo up,
//	                            host name; "ready"; waits; resolv.conf; becomes the command
//
//	Start ──> ready ──Release──> running ──> ended ──Close──> nothing left
//	             └────────────Close──────────────────────────────^

// Spec is a task to be.
type Spec struct {
	ID      string   // names the cgroup: letters, digits, '.', '_' and '-', up to 255
	Command []string // looked up in the PATH of Env
	Env     []string // the whole environment; nil: the caller's
	Dir     string   // working directory; empty: the caller's
	// Cgroup is the cgroup2 folder in which the task's own is made. It has to exist.
	Cgroup   string
	Hostname string // empty: the node's
	// HostNetwork leaves the task in the caller's network namespace.
	HostNetwork bool
	Stdio       [3]*os.File // standard input, output and error; nil: /dev/null
}

// Names is where a task asks for names: Servers, and its search list. Without Servers it has the resolv.conf of its
// node.
type Names struct {
	Servers []netip.Addr
	Search  []string
}

const (
	maxName     = 255 // of a folder
	maxHostname = 64
)

func (s Spec) validate() error {
	var errs []error
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"
	if s.ID == "" || len(s.ID) > maxName || strings.Trim(s.ID, letters) != "" || strings.Trim(s.ID, ".") == "" {
		errs = append(errs, fmt.Errorf("id %q: 1 to %d letters, digits, '.', '_' and '-' are allowed", s.ID, maxName))
	}
	if len(s.Command) == 0 || s.Command[0] == "" {
		errs = append(errs, errors.New("no command"))
	}
	if !filepath.IsAbs(s.Cgroup) {
		errs = append(errs, fmt.Errorf("cgroup %q: the absolute path of a cgroup2 folder is needed", s.Cgroup))
	}
	if len(s.Hostname) > maxHostname {
		errs = append(errs, fmt.Errorf("hostname %q: at most %d characters are allowed", s.Hostname, maxHostname))
	}
	return errors.Join(errs...)
}

// resolvConf returns the text of the task's resolv.conf, empty for the node's.
func (n Names) resolvConf() (string, error) {
	if len(n.Servers) == 0 {
		return "", nil
	}
	var b strings.Builder
	for _, a := range n.Servers {
		if !a.IsValid() {
			return "", errors.New("name servers: an address is not set")
		}
		b.WriteString("nameserver " + a.String() + "\n")
	}
	if len(n.Search) > 0 {
		b.WriteString("search " + strings.Join(n.Search, " ") + "\n")
	}
	return b.String(), nil
}

// Task is a task that Start made. Its methods may be called from any goroutine.
type Task struct {
	PID       int    // of the command
	StartTime uint64 // clock ticks since boot: with PID, it names the process for good
	NetNS     string // path of its network namespace, as long as the process lives
	Cgroup    string // folder

	process *process
	guard   *guard
	once    sync.Once
	closed  error
}

// Exit is how a process ended: Signal is 0 when it exited by itself.
type Exit struct {
	Code   int
	Signal syscall.Signal
}

// Status returns the exit status that a shell would give: the code, or 128 and the signal.
func (e Exit) Status() int {
	if e.Signal != 0 {
		return 128 + int(e.Signal)
	}
	return e.Code
}

// Start makes a task that is ready to run and waits for Release. Close it in any case. It needs
// root, and a main function that calls Init first. Ctx bounds the start only.
func Start(ctx context.Context, s Spec) (*Task, error) {
	if err := s.validate(); err != nil {
		return nil, fmt.Errorf("start task %s: %w", s.ID, err)
	}
	t := &Task{Cgroup: filepath.Join(s.Cgroup, s.ID)}
	if err := t.start(ctx, s); err != nil {
		return nil, fmt.Errorf("start task %s: %w", s.ID, errors.Join(err, t.Close()))
	}
	return t, nil
}

func (t *Task) start(ctx context.Context, s Spec) (err error) {
	if t.guard, err = startGuard(ctx, t.Cgroup); err != nil {
		return err
	}
	l := launch{stage: stageTask, cgroup: t.Cgroup, stdio: s.Stdio, flags: unix.CLONE_NEWNS | unix.CLONE_NEWUTS}
	if !s.HostNetwork {
		l.flags |= unix.CLONE_NEWNET
	}
	t.process, err = startProcess(ctx, l)
	if err != nil {
		return err
	}
	t.PID, t.StartTime = t.process.pid, t.process.start
	t.NetNS = fmt.Sprintf("/proc/%d/ns/net", t.PID)
	env, dir := s.Env, s.Dir
	if env == nil {
		env = os.Environ()
	}
	if dir == "" {
		if dir, err = os.Getwd(); err != nil {
			return err
		}
	}
	return t.process.conn.ask(ctx, order{
		Command: s.Command, Env: env, Dir: dir, Hostname: s.Hostname, Loopback: !s.HostNetwork,
	})
}

// Release lets the task become its command, which asks for names at n: which servers it reaches is known when it has its
// networks. An error tells that it could not; errors.Is knows fs.ErrNotExist and fs.ErrPermission.
func (t *Task) Release(ctx context.Context, n Names) error {
	resolv, err := n.resolvConf()
	if err == nil {
		err = t.process.conn.release(ctx, order{Resolv: resolv})
	}
	if err != nil {
		return fmt.Errorf("run %s: %w", filepath.Base(t.Cgroup), err)
	}
	return nil
}

// Done is closed when the command has ended.
func (t *Task) Done() <-chan struct{} { return t.process.done }

// Wait waits for the command's end. What it left running is ended by Close.
func (t *Task) Wait(ctx context.Context) (Exit, error) { return t.process.wait(ctx) }

// Signal sends a signal to the command alone. When it has ended, that is os.ErrProcessDone.
func (t *Task) Signal(sig os.Signal) error { return t.process.signal(sig) }

// Kill ends every process of the task.
func (t *Task) Kill() error { return killCgroup(t.Cgroup) }

// Close ends every process of the task, waits until they are gone, and removes the cgroup.
func (t *Task) Close() error {
	t.once.Do(func() {
		if t.guard != nil {
			t.closed = t.guard.close()
		}
		if t.process != nil {
			t.process.handle.Kill() //nolint:errcheck // it matters only if it left its cgroup, or if there is no guard
			<-t.process.done
			t.closed = errors.Join(t.closed, t.process.conn.close())
		}
	})
	return t.closed
}

// process is a child that runs a stage of this binary.
type process struct {
	pid   int
	start uint64
	conn  *conn
	done  chan struct{} // closed when it was reaped

	handle *os.Process
	exit   Exit  // valid once done is closed
	failed error // the same
}

// launch is how a stage starts.
type launch struct {
	stage  stage
	cgroup string // folder, empty: the caller's
	stdio  [3]*os.File
	extra  []*os.File // its descriptors from socketFD+1 on
	flags  uintptr    // clone(2)
}

// startProcess starts a stage that dies with the caller.
func startProcess(ctx context.Context, l launch) (*process, error) {
	attr := &syscall.SysProcAttr{Cloneflags: l.flags, Pdeathsig: syscall.SIGKILL}
	if l.cgroup != "" {
		fd, err := unix.Open(l.cgroup, unix.O_DIRECTORY|unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("open cgroup %s: %w", l.cgroup, err)
		}
		defer unix.Close(fd) //nolint:errcheck // a path handle holds nothing that could be lost
		attr.UseCgroupFD, attr.CgroupFD = true, fd
	}
	mine, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	p := &process{conn: mine, done: make(chan struct{})}
	files := append(append(l.stdio[:], theirs), l.extra...)
	started := make(chan error, 1) // one value
	go p.run(l.stage, files, attr, started)
	err = errors.Join(<-started, theirs.Close())
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		if p.handle != nil {
			p.handle.Kill() //nolint:errcheck // it is dead or about to be: its socket closes as well
		}
		<-p.done
		return nil, errors.Join(err, mine.close())
	}
	return p, nil
}

// run starts and reaps the child. It keeps its thread for as long, because the kernel takes the end
// of the thread that forked for the parent's end (prctl(2), PR_SET_PDEATHSIG).
func (p *process) run(s stage, files []*os.File, attr *syscall.SysProcAttr, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(p.done)
	var err error
	p.handle, err = startSelf(s, files, attr)
	if err == nil {
		p.pid = p.handle.Pid
		p.start, err = StartTime(p.pid)
	}
	started <- err
	if p.handle == nil {
		return
	}
	state, err := p.handle.Wait()
	if err != nil {
		p.failed = fmt.Errorf("wait for process %d: %w", p.pid, err)
		return
	}
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		p.exit = Exit{Signal: status.Signal()}
		return
	}
	p.exit = Exit{Code: state.ExitCode()}
}

func startSelf(s stage, files []*os.File, attr *syscall.SysProcAttr) (*os.Process, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close() //nolint:errcheck // nothing was written
	for i, f := range files {
		if f == nil {
			files[i] = null
		}
	}
	handle, err := os.StartProcess("/proc/self/exe", []string{argv0, string(s)}, &os.ProcAttr{Env: []string{}, Files: files, Sys: attr})
	if errors.Is(err, os.ErrPermission) && os.Geteuid() != 0 {
		return nil, fmt.Errorf("%w: root is needed", err)
	}
	return handle, err
}

func (p *process) wait(ctx context.Context) (Exit, error) {
	select {
	case <-p.done:
		return p.exit, p.failed
	case <-ctx.Done():
		return Exit{}, ctx.Err()
	}
}

func (p *process) signal(sig os.Signal) error {
	if err := p.handle.Signal(sig); err != nil {
		return fmt.Errorf("signal process %d: %w", p.pid, err)
	}
	return nil
}
