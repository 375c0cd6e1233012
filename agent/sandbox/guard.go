// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// emptied is how long killed processes may take to be gone.
const emptied = 10 * time.Second

// guard is the caller's side of the process that cleans up.
type guard struct {
	conn   *conn
	handle *os.Process
	cgroup string
}

// startGuard starts the guard and has it make the cgroup.
func startGuard(ctx context.Context, cgroup string) (*guard, error) {
	mine, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	// A session of its own: what is typed at the caller's terminal is not meant for it.
	handle, err := startSelf(stageGuard, []*os.File{nil, nil, nil, theirs}, &syscall.SysProcAttr{Setsid: true})
	if closeErr := theirs.Close(); err != nil || closeErr != nil {
		return nil, errors.Join(err, closeErr, mine.close())
	}
	g := &guard{conn: mine, handle: handle, cgroup: cgroup}
	if err := mine.ask(ctx, order{Cgroup: cgroup}); err != nil {
		err = errors.Join(err, mine.close())
		_, waitErr := handle.Wait()
		return nil, errors.Join(err, waitErr)
	}
	return g, nil
}

// close has the guard clean up, and waits until it did. What a guard that was killed did not do is
// done here.
func (g *guard) close() error {
	err := g.conn.CloseWrite()
	if err == nil {
		err = g.conn.hear()
	}
	_, waitErr := g.handle.Wait()
	var told *stageError
	if err != nil && !errors.As(err, &told) {
		err = removeCgroup(g.cgroup)
	}
	return errors.Join(err, waitErr, g.conn.close())
}

// runGuard is the guard: it makes the cgroup, waits until the caller closes the socket or is dead,
// and takes everything away.
func runGuard(o order, in *json.Decoder, out *json.Encoder) int {
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	err := makeCgroup(o.Cgroup)
	tell(out, err)
	if err != nil {
		return statusFailed
	}
	var word order
	in.Decode(&word) //nolint:errcheck // whatever it says, the caller has nothing more to say
	err = removeCgroup(o.Cgroup)
	tell(out, err)
	if err != nil {
		return statusFailed
	}
	return 0
}

// makeCgroup makes the folder. One that exists and is empty was left behind by a guard that was
// killed; one that is not empty is a task.
func makeCgroup(path string) error {
	err := os.Mkdir(path, 0o755) //nolint:gosec // cgroup folders are for everybody to read
	if errors.Is(err, os.ErrExist) {
		if unix.Rmdir(path) != nil {
			return fmt.Errorf("cgroup %s is in use: a task of that id runs, or ran and left processes", path)
		}
		err = os.Mkdir(path, 0o755) //nolint:gosec // see above
	}
	if err != nil {
		return fmt.Errorf("make cgroup: %w", err)
	}
	return nil
}

// removeCgroup kills what is in the cgroup, waits until it is empty, and removes it.
func removeCgroup(path string) error {
	deadline := time.Now().Add(emptied)
	for {
		err := killCgroup(path)
		if err == nil {
			err = removeEmpty(path, deadline)
		}
		if err == nil || errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return err
		}
	}
}
