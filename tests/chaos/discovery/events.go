// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"weft/tests/chaos/script"
	"weft/tests/lab"
)

// event is something that happens while names are asked for. It returns when all is as before.
type event struct {
	name string
	// prepare returns the names that are asked for instead of the tasks'.
	prepare func(context.Context, *stage) ([]*name, error)
	do      func(ctx context.Context, s *stage, names []*name) error
}

// Name is what -only picks it by.
func (e event) Name() string { return e.name }

// events lists them in the order in which they happen.
func events() []event {
	return []event{
		{name: "nothing", do: nothing},
		{name: "kill -9 of both daemons", do: kill},
		{name: "upgrade and back", do: upgrade},
		{name: "loss of all masters", do: losingMasters},
		{name: "names change on a host", prepare: prepareAnnouncing, do: announceOften},
		{name: "names change by thousands", prepare: prepareFlood, do: flood},
	}
}

// span is how long something lasts, in the short form and in the long one.
func (s *stage) span(short, long time.Duration) time.Duration {
	if s.o.Short {
		return short
	}
	return long
}

func nothing(_ context.Context, s *stage, _ []*name) error {
	time.Sleep(s.span(500*time.Millisecond, 20*time.Second))
	return nil
}

func (s *stage) all(f func(h *lab.Host) error) error {
	var errs []error
	for _, h := range s.lab.Hosts {
		errs = append(errs, f(h))
	}
	return errors.Join(errs...)
}

func kill(ctx context.Context, s *stage, _ []*name) error {
	if err := s.all(func(h *lab.Host) error { return h.Signal("netd", unix.SIGKILL) }); err != nil {
		return err
	}
	time.Sleep(s.span(500*time.Millisecond, 20*time.Second))
	if err := s.all((*lab.Host).StartNetd); err != nil {
		return err
	}
	return s.wellAgain(ctx)
}

// wellAgain waits until both daemons answer, then for what they may still get wrong.
func (s *stage) wellAgain(ctx context.Context) error {
	if err := s.all(func(h *lab.Host) error { return h.WaitReady(ctx) }); err != nil {
		return err
	}
	time.Sleep(s.span(500*time.Millisecond, 10*time.Second))
	return nil
}

// upgrade replaces the daemons by those of a build with another layout, then again by the first.
func upgrade(ctx context.Context, s *stage, _ []*name) error {
	for _, binary := range []string{s.o.Next, s.o.Weft} {
		err := s.all(func(h *lab.Host) error {
			h.Binary = binary
			return errors.Join(h.Signal("netd", unix.SIGTERM), h.StartNetd(), h.WaitReady(ctx))
		})
		if err := errors.Join(err, s.wellAgain(ctx)); err != nil {
			return err
		}
	}
	return nil
}

// losingMasters kills all masters, restarts a daemon meanwhile, and brings the masters back.
func losingMasters(ctx context.Context, s *stage, _ []*name) error {
	for _, m := range s.lab.Masters {
		if err := m.Signal("master", unix.SIGKILL); err != nil {
			return err
		}
	}
	time.Sleep(s.span(1500*time.Millisecond, 60*time.Second))
	h := s.lab.Hosts[1]
	if err := errors.Join(h.Signal("netd", unix.SIGKILL), h.StartNetd(), h.WaitReady(ctx)); err != nil {
		return err
	}
	time.Sleep(s.span(500*time.Millisecond, 20*time.Second))
	for _, m := range s.lab.Masters {
		if err := m.StartMaster(); err != nil {
			return err
		}
	}
	err := script.Until(ctx, func(ctx context.Context) error {
		_, err := s.lab.Masters[0].Weft(ctx, "network", "list").Output()
		return err
	})
	return errors.Join(err, s.wellAgain(ctx))
}
