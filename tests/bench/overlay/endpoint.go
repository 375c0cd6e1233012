// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"weft/tests/bench/ends"
	"weft/tests/lab"
)

// endpoint is one end of conversations, and where it is reached.
type endpoint struct {
	*ends.End
	addr4, addr6 netip.Addr
}

// start starts an endpoint by a command of a host; own gives it a network namespace of its own.
func start(cmd *lab.Cmd, own bool) (*endpoint, error) {
	if own {
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	}
	end, err := ends.Start(cmd.Cmd, cmd.Start)
	return &endpoint{End: end}, err
}

func (e *endpoint) addr(v6 bool) netip.Addr {
	if v6 {
		return e.addr6
	}
	return e.addr4
}

// until tries f until it succeeds or a deadline passes.
func until(ctx context.Context, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}
