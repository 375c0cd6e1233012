// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"weft/tests/chaos/script"
	"weft/tests/lab"
)

// event is something that happens to a cluster. It returns when all is as before.
type event struct {
	name string
	do   func(context.Context, *stage) error
	// costs tells that packets are lost by nature, while no other node can know where to send: measured, not summed up.
	costs bool
}

// Name is what -only picks it by.
func (e event) Name() string { return e.name }

// events lists them in the order in which they happen.
func events() []event {
	return []event{
		{name: "nothing", do: nothing},
		{name: "kill -9 of both node daemons", do: kill},
		{name: "kill -9, again and again", do: killOften},
		{name: "restart of both node daemons", do: restart},
		{name: "upgrade to another layout", do: upgrade},
		{name: "downgrade back", do: downgrade},
		{name: "loss of all masters", do: losingMasters},
		{name: "master failover", do: failover},
		{name: "a node blips", do: blip},
		{name: "pins are wiped", do: wipe},
		{name: "bpffs is unmounted", do: unmount},
		{name: "underlay address changes", do: move},
		{name: "underlay address is replaced at once", do: replace, costs: true},
	}
}

// span is how long something lasts, in the short form and in the long one.
func (s *stage) span(short, long time.Duration) time.Duration {
	if s.o.Short {
		return short
	}
	return long
}

func nothing(_ context.Context, s *stage) error {
	time.Sleep(s.span(2*time.Second, 20*time.Second))
	return nil
}

// both does something to h1, then to h2: the two ends of all traffic.
func (s *stage) both(f func(h *lab.Host) error) error {
	return errors.Join(f(s.host("h1")), f(s.host("h2")))
}

// startBoth starts both daemons and waits until they work.
func (s *stage) startBoth(ctx context.Context) error {
	if err := s.both((*lab.Host).StartNetd); err != nil {
		return err
	}
	return s.wellAgain(ctx)
}

// wellAgain waits until both daemons have all that there was.
func (s *stage) wellAgain(ctx context.Context) error {
	if err := s.both(func(h *lab.Host) error { return h.WaitReady(ctx) }); err != nil {
		return err
	}
	return script.Until(ctx, s.ready)
}

func kill(ctx context.Context, s *stage) error {
	if err := s.both(func(h *lab.Host) error { return h.Signal("netd", unix.SIGKILL) }); err != nil {
		return err
	}
	time.Sleep(s.span(time.Second, 10*time.Second))
	return s.startBoth(ctx)
}

// killOften kills daemons in whatever they are at in their start.
func killOften(ctx context.Context, s *stage) error {
	end := time.Now().Add(s.span(3*time.Second, 30*time.Second))
	for pause := 20 * time.Millisecond; time.Now().Before(end); pause += 35 * time.Millisecond {
		err := s.both(func(h *lab.Host) error {
			if h.Running("netd") {
				if err := h.Signal("netd", unix.SIGKILL); err != nil {
					return err
				}
			}
			return h.StartNetd()
		})
		if err != nil {
			return err
		}
		time.Sleep(pause)
	}
	return s.wellAgain(ctx)
}

func restart(ctx context.Context, s *stage) error {
	if err := s.both(func(h *lab.Host) error { return h.Signal("netd", unix.SIGTERM) }); err != nil {
		return err
	}
	return s.startBoth(ctx)
}

// change replaces the daemons by those of another build, one host after the other, as upgrades go.
func (s *stage) change(ctx context.Context, binary string) error {
	return s.both(func(h *lab.Host) error {
		if err := h.Signal("netd", unix.SIGTERM); err != nil {
			return err
		}
		h.Binary = binary
		if err := errors.Join(h.StartNetd(), h.WaitReady(ctx)); err != nil {
			return err
		}
		return script.Until(ctx, s.ready)
	})
}

func upgrade(ctx context.Context, s *stage) error   { return s.change(ctx, s.o.Next) }
func downgrade(ctx context.Context, s *stage) error { return s.change(ctx, s.o.Weft) }

func losingMasters(ctx context.Context, s *stage) error {
	for _, m := range s.lab.Masters {
		if err := m.Signal("master", unix.SIGKILL); err != nil {
			return err
		}
	}
	time.Sleep(s.span(4*time.Second, 2*time.Minute))
	for _, m := range s.lab.Masters {
		if err := m.StartMaster(); err != nil {
			return err
		}
	}
	_, err := s.leader(ctx, "")
	return err
}

// leader waits for a leader that is not the one given.
func (s *stage) leader(ctx context.Context, but string) (name string, err error) {
	err = script.Until(ctx, func(ctx context.Context) error {
		var status struct {
			Masters []struct {
				ID    string
				Leads bool
			}
		}
		if err := s.json(ctx, "h3", &status, "status"); err != nil {
			return err
		}
		for _, m := range status.Masters {
			if m.Leads && m.ID != but {
				name = m.ID
				return nil
			}
		}
		return errors.New("no master leads")
	})
	return name, err
}

func failover(ctx context.Context, s *stage) error {
	first, err := s.leader(ctx, "")
	if err != nil {
		return err
	}
	if err := s.host(first).Signal("master", unix.SIGKILL); err != nil {
		return err
	}
	if _, err := s.leader(ctx, first); err != nil {
		return err
	}
	return s.host(first).StartMaster()
}

// blip freezes the daemon of h2 and keeps it from its masters; packets go on between the hosts.
func blip(ctx context.Context, s *stage) error {
	h := s.host("h2")
	part := func(apart bool) error {
		var errs []error
		for _, m := range s.lab.Masters {
			errs = append(errs, h.Part(m, apart))
		}
		return errors.Join(errs...)
	}
	if err := errors.Join(part(true), h.Signal("netd", unix.SIGSTOP)); err != nil {
		return err
	}
	time.Sleep(s.span(6*time.Second, 30*time.Second))
	if err := errors.Join(h.Signal("netd", unix.SIGCONT), part(false)); err != nil {
		return err
	}
	return s.wellAgain(ctx)
}

// wipe removes every pin of both hosts, waits until they are there again, and kills the daemons: pins that
// only seem to be there would take all with them.
func wipe(ctx context.Context, s *stage) error {
	if err := s.both((*lab.Host).WipePins); err != nil {
		return err
	}
	return s.pinnedAgain(ctx)
}

func unmount(ctx context.Context, s *stage) error {
	if err := unix.Unmount(s.lab.Dir+"/bpf", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount bpffs: %w", err)
	}
	return s.pinnedAgain(ctx)
}

func (s *stage) pinnedAgain(ctx context.Context) error {
	for _, host := range []string{"h1", "h2"} {
		err := script.Until(ctx, func(context.Context) error {
			if pins := s.host(host).CountPins(); pins < 20 {
				return fmt.Errorf("%s has %d pins", host, pins)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return kill(ctx, s)
}

// move gives h2 another underlay address, as one does who wants to lose nothing: the new one comes, the old one is
// deprecated, and goes when all use the new one.
func move(ctx context.Context, s *stage) error {
	h := s.host("h2")
	old, now := h.Addr, netip.MustParseAddr("10.77.0.102")
	if now == old {
		now = netip.MustParseAddr("10.77.0.2")
	}
	if err := h.AddAddress(now); err != nil {
		return err
	}
	if err := s.movedTo(ctx, h); err != nil {
		return err
	}
	time.Sleep(s.span(time.Second, 10*time.Second))
	if err := h.RemoveAddress(old); err != nil {
		return err
	}
	time.Sleep(s.span(time.Second, 5*time.Second))
	return s.wellAgain(ctx)
}

// movedTo waits until the daemon of h works at its present address.
func (s *stage) movedTo(ctx context.Context, h *lab.Host) error {
	return script.Until(ctx, func(context.Context) error {
		if ready := fmt.Sprintf("msg=ready node=%s socket=%s underlay=%s\n", h.Name, h.Socket(), h.Addr); !strings.Contains(h.Tail("netd", 1000)+"\n", ready) {
			return fmt.Errorf("%s is still at another address than %s", h.Name, h.Addr)
		}
		return nil
	})
}

// replace is a move without care: the old address goes before the new one comes.
func replace(ctx context.Context, s *stage) error {
	h := s.host("h2")
	if err := h.Readdress(netip.MustParseAddr("10.77.0.103")); err != nil {
		return err
	}
	if err := s.movedTo(ctx, h); err != nil {
		return err
	}
	time.Sleep(s.span(time.Second, 5*time.Second))
	return s.wellAgain(ctx)
}
