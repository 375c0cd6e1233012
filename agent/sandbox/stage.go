// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// argv0 and a stage are what tells a child of this package from the program that it is part of.
const argv0 = "weft-sandbox"

type stage string

const (
	stageTask  stage = "task"
	stageEnter stage = "enter"
	stageGuard stage = "guard"
)

// socketFD is where a stage finds its socket, and namespaceFD where those of the enter stage begin.
const (
	socketFD    = 3
	namespaceFD = 4
)

// Exit statuses of a stage that could not become its command, as a shell has them.
const (
	statusFailed   = 1
	statusNotRun   = 126
	statusNotFound = 127
)

// Init runs a stage when this process is one, and reports whether it was and the status that main
// then exits with. Call it before anything else. When the task and enter stages succeed it does not
// return, because the process is the command by then.
func Init() (ours bool, status int) {
	if len(os.Args) != 2 || os.Args[0] != argv0 {
		return false, 0
	}
	runtime.LockOSThread() // namespaces and exec are of this thread
	unix.CloseOnExec(socketFD)
	socket := os.NewFile(socketFD, "caller")
	in, out := json.NewDecoder(socket), json.NewEncoder(socket)
	var o order
	if in.Decode(&o) != nil {
		return true, statusFailed
	}
	switch stage(os.Args[1]) {
	case stageGuard:
		return true, runGuard(o, in, out)
	case stageTask:
		return true, become(o, in, out, prepareTask)
	case stageEnter:
		return true, become(o, in, out, enterNamespaces)
	}
	return true, statusFailed
}

// tell reports to the caller, and whether it heard.
func tell(out *json.Encoder, err error) bool { return out.Encode(reportOf(err)) == nil }

// become prepares, says so, waits for the word, and turns into the command. It returns the exit
// status when it could not; the caller was told why.
func become(o order, in *json.Decoder, out *json.Encoder, prepare func(order) error) int {
	err := prepare(o)
	if !tell(out, err) || err != nil {
		return statusFailed
	}
	var word order
	if in.Decode(&word) != nil {
		return statusFailed // the caller ended before the command began
	}
	if word.Resolv != "" {
		err = mountFile("/etc/resolv.conf", word.Resolv)
	}
	if err == nil {
		err = execute(o)
	}
	tell(out, err)
	if errors.Is(err, os.ErrNotExist) {
		return statusNotFound
	}
	return statusNotRun
}

// execute returns only on failure.
func execute(o order) error {
	// The last setting counts, as in a shell.
	for _, setting := range o.Env {
		if path, ok := strings.CutPrefix(setting, "PATH="); ok {
			if err := os.Setenv("PATH", path); err != nil {
				return err
			}
		}
	}
	path, err := exec.LookPath(o.Command[0])
	if errors.Is(err, exec.ErrNotFound) {
		return fmt.Errorf("%s: not in PATH: %w", o.Command[0], syscall.ENOENT)
	}
	if err != nil {
		return err
	}
	return fmt.Errorf("%s: %w", path, syscall.Exec(path, o.Command, o.Env)) //nolint:gosec // running a command is what it is for
}

// prepareTask runs in the task's own namespaces.
func prepareTask(o order) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if o.Loopback {
		if err := loopbackUp(); err != nil {
			return err
		}
	}
	if o.Hostname != "" {
		if err := unix.Sethostname([]byte(o.Hostname)); err != nil {
			return fmt.Errorf("set host name %s: %w", o.Hostname, err)
		}
	}
	return os.Chdir(o.Dir)
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("loopback up: %w", err)
	}
	defer unix.Close(fd) //nolint:errcheck // nothing was written
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("loopback up: %w", err)
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, lo); err != nil {
		return fmt.Errorf("loopback up: %w", err)
	}
	lo.SetUint16(lo.Uint16() | unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return fmt.Errorf("loopback up: %w", err)
	}
	return nil
}

// mountFile puts a file with this text over path, in this mount namespace. The file is on a tmpfs
// that is mounted nowhere else, so that nothing is left when the namespace goes.
func mountFile(path, text string) error {
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		return fmt.Errorf("replace %s: %w", path, err)
	}
	if err := unix.Mount("weft", scratch, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=755,size=64k"); err != nil {
		return fmt.Errorf("mount a tmpfs for %s: %w", path, err)
	}
	source := filepath.Join(scratch, filepath.Base(target))
	err = os.WriteFile(source, []byte(text), 0o644) //nolint:gosec // everybody in the task has to read it
	if err == nil {
		err = unix.Mount(source, target, "", unix.MS_BIND, "")
	}
	// The tmpfs lives on in the mount of its file.
	err = errors.Join(err, unix.Unmount(scratch, unix.MNT_DETACH))
	if err != nil {
		return fmt.Errorf("replace %s: %w", path, err)
	}
	return nil
}

// scratch is a folder that every machine has and that this package needs nothing from while it is
// covered for a moment.
const scratch = "/proc"

// enterNamespaces enters what the caller opened, in that order.
func enterNamespaces(o order) error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil { // else a mount namespace can't be entered
		return fmt.Errorf("unshare: %w", err)
	}
	for i, kind := range namespaces {
		fd := namespaceFD + i
		unix.CloseOnExec(fd)
		if err := unix.Setns(fd, kind.flag); err != nil {
			return fmt.Errorf("enter %s namespace: %w", kind.name, err)
		}
	}
	return os.Chdir(o.Dir)
}
