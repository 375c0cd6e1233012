// SPDX-License-Identifier: Apache-2.0

package apply

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// soNetNSCookie reads the number of a socket's network namespace (Linux 5.14).
const soNetNSCookie = 71

// namespace is an open network namespace.
type namespace struct{ file *os.File }

// OwnNetNS tells whether the network namespace at path is the node's own.
func OwnNetNS(path string) (bool, error) {
	theirs, err1 := os.Stat(path)
	own, err2 := os.Stat("/proc/thread-self/ns/net")
	if err := errors.Join(err1, err2); err != nil {
		return false, fmt.Errorf("look at network namespace %s: %w", path, err)
	}
	return os.SameFile(theirs, own), nil
}

// openNamespace opens a task's namespace. The node's own is refused: its interfaces are not a task's.
func openNamespace(path string) (namespace, error) {
	f, err := os.Open(path)
	if err != nil {
		return namespace{}, fmt.Errorf("open network namespace: %w", err)
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil || fs.Type != unix.NSFS_MAGIC {
		return namespace{}, errors.Join(fmt.Errorf("%s is not a network namespace", path), err, f.Close())
	}
	theirs, err1 := f.Stat()
	own, err2 := os.Stat("/proc/thread-self/ns/net")
	if err := errors.Join(err1, err2); err != nil {
		return namespace{}, errors.Join(fmt.Errorf("look at network namespace %s: %w", path, err), f.Close())
	}
	if os.SameFile(theirs, own) {
		return namespace{}, errors.Join(fmt.Errorf("network namespace %s is the node's own, not a task's", path), f.Close())
	}
	return namespace{f}, nil
}

func (n namespace) fd() int { return int(n.file.Fd()) }

func (n namespace) close() error { return n.file.Close() }

// do runs f inside. A thread that finds no way back is never used again, so that no other code can
// find itself in a foreign namespace. It must try, though: the process' first thread never ends, and
// would hold on to the namespace of a task that has ended.
func (n namespace) do(f func() error) error {
	done := make(chan error, 1) // closed by nobody; one answer
	go func() {
		runtime.LockOSThread()
		back, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			done <- fmt.Errorf("remember own network namespace: %w", err)
			return
		}
		err = n.enter(f)
		if unix.Setns(int(back.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		done <- errors.Join(err, back.Close())
	}()
	return <-done
}

func (n namespace) enter(f func() error) error {
	if err := unix.Setns(n.fd(), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace %s: %w", n.file.Name(), err)
	}
	return f()
}

// cookie returns the number of the calling thread's namespace, as BPF sees it.
func cookie() (c uint64, err error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("read namespace cookie: %w", err)
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	c, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, soNetNSCookie)
	if err != nil {
		return 0, fmt.Errorf("read namespace cookie: %w", err)
	}
	return c, nil
}
