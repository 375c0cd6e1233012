// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// order is what a stage is told, first of all; the word that lets it become its command has Resolv alone.
type order struct {
	Cgroup   string   `json:"cgroup,omitempty"` // guard
	Command  []string `json:"command,omitempty"`
	Env      []string `json:"env,omitempty"`
	Dir      string   `json:"dir,omitempty"`
	Hostname string   `json:"hostname,omitempty"`
	Resolv   string   `json:"resolv,omitempty"`   // text of resolv.conf, empty: the node's
	Loopback bool     `json:"loopback,omitempty"` // to be set up
}

// report is a stage's answer; with an empty Error, it did what it was told.
type report struct {
	Error string        `json:"error,omitempty"`
	Errno syscall.Errno `json:"errno,omitempty"`
}

func reportOf(err error) report {
	if err == nil {
		return report{}
	}
	r := report{Error: err.Error()}
	switch {
	case errors.As(err, &r.Errno):
	case errors.Is(err, fs.ErrNotExist):
		r.Errno = syscall.ENOENT
	case errors.Is(err, fs.ErrPermission):
		r.Errno = syscall.EACCES
	}
	return r
}

// stageError is an error of another process: errors.Is knows its errno.
type stageError struct{ report }

func (e *stageError) Error() string { return e.report.Error }

func (e *stageError) Unwrap() error {
	if e.Errno == 0 {
		return nil
	}
	return e.Errno
}

// conn is the caller's end of the socket to a stage.
type conn struct {
	*net.UnixConn
	in *json.Decoder
}

// socketPair returns the caller's end and the one that a child inherits.
func socketPair() (*conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	mine, theirs := os.NewFile(uintptr(fds[0]), "caller"), os.NewFile(uintptr(fds[1]), "stage")
	c, err := net.FileConn(mine)
	err = errors.Join(err, mine.Close()) // FileConn has a copy
	unixConn, ok := c.(*net.UnixConn)
	if err == nil && !ok {
		err = errors.New("socketpair: no unix socket")
	}
	if err != nil {
		return nil, nil, errors.Join(err, theirs.Close())
	}
	return &conn{UnixConn: unixConn, in: json.NewDecoder(unixConn)}, theirs, nil
}

// ask gives an order and waits for the report.
func (c *conn) ask(ctx context.Context, o order) error {
	defer c.until(ctx)()
	err := json.NewEncoder(c).Encode(o)
	if err == nil {
		err = c.hear()
	}
	if err = fault(ctx, err); errors.Is(err, errEarly) {
		return fmt.Errorf("%w; does main call sandbox.Init first?", err)
	}
	return err
}

// release lets a stage exec, and waits until it did (its end of the socket closes) or could not.
func (c *conn) release(ctx context.Context, word order) error {
	defer c.until(ctx)()
	if err := json.NewEncoder(c).Encode(word); err != nil {
		return fault(ctx, err)
	}
	if err := c.hear(); !errors.Is(err, io.EOF) {
		return fault(ctx, err)
	}
	return nil
}

// hear waits for a report.
func (c *conn) hear() error {
	var r report
	if err := c.in.Decode(&r); err != nil {
		return err
	}
	if r.Error != "" {
		return &stageError{r}
	}
	return nil
}

// until makes what waits on c end with ctx; the returned function undoes that.
func (c *conn) until(ctx context.Context) func() {
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		c.SetDeadline(time.Unix(1, 0)) //nolint:errcheck // it only fails on a closed socket, where nothing waits
	})
	return func() {
		if !stop() {
			<-ended
			c.SetDeadline(time.Time{}) //nolint:errcheck // the same
		}
	}
}

// errEarly tells that a stage is gone without a word.
var errEarly = errors.New("the process ended early")

// fault says what an error on the socket means.
func fault(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	for _, gone := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.EPIPE, syscall.ECONNRESET} {
		if errors.Is(err, gone) {
			return errEarly
		}
	}
	return err
}

func (c *conn) close() error {
	if err := c.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}
