// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	mdns "github.com/miekg/dns"

	"weft/discovery/discoverypb"
	"weft/discovery/wire"
	"weft/lb/lbpb"
	"weft/overlay"
	"weft/overlay/apply"
	"weft/tests/lab"
)

// How often a host is asked while something is awaited: what is measured can't be known better. To ask eight of them every
// 2 ms keeps two processors from what is asked about (docs/benchmarks.md).
const (
	askEvery     = 10 * time.Millisecond
	answerWithin = time.Second
)

// host is a real host with its node daemon, as its clients see it.
type host struct {
	lab   *lab.Host
	run   *lab.Cmd
	conn  *wire.Conn
	names *discoverypb.Client
	vips  *lbpb.Client
	dns   net.Conn // a socket of the host's
	task  overlay.Endpoint
	dead  bool
}

func openHost(ctx context.Context, l *lab.Host) (h *host, err error) {
	h = &host{lab: l, run: l.Weft(ctx, "run", "--network", prod.Name, "--name", "task", "--", "sleep", "100000")}
	if err := h.run.Start(); err != nil {
		return nil, err
	}
	if h.conn, err = wire.Connect("unix:"+l.Socket(), nil, nil); err != nil {
		return nil, err
	}
	h.names, h.vips = discoverypb.NewClient(h.conn), lbpb.NewClient(h.conn)
	err = l.In(func() error {
		h.dns, err = new(net.Dialer).DialContext(ctx, "udp", net.JoinHostPort(apply.NameServer4, "53"))
		return err
	})
	return h, err
}

func (h *host) close() error {
	_ = h.run.Process.Kill() // it may have ended
	_ = h.run.Wait()         // ended by us: its status says nothing
	return errors.Join(h.conn.Close(), h.dns.Close())
}

// resolve asks the host's name server; nothing when the name is missing.
func (h *host) resolve(label string) (addrs []netip.Addr, err error) {
	conn := &mdns.Conn{Conn: h.dns}
	q := new(mdns.Msg).SetQuestion(label+".weft.mesos.", mdns.TypeA)
	if err := conn.SetDeadline(time.Now().Add(answerWithin)); err != nil {
		return nil, err
	}
	if err := conn.WriteMsg(q); err != nil {
		return nil, err
	}
	for {
		m, err := conn.ReadMsg()
		if err != nil {
			return nil, fmt.Errorf("%s asked for %s: %w", h.lab.Name, label, err)
		}
		if m.Id != q.Id {
			continue // late
		}
		if m.Rcode != mdns.RcodeSuccess && m.Rcode != mdns.RcodeNameError {
			return nil, fmt.Errorf("%s asked for %s: %s", h.lab.Name, label, mdns.RcodeToString[m.Rcode])
		}
		for _, rr := range m.Answer {
			if a, ok := rr.(*mdns.A); ok {
				addr, _ := netip.AddrFromSlice(a.A.To4())
				addrs = append(addrs, addr)
			}
		}
		return addrs, nil
	}
}

// serves tells whether a task is in behind the VIP of a name.
func (h *host) serves(ctx context.Context, name string, task overlay.Endpoint) (bool, error) {
	vips, err := h.vips.VIPs(ctx, prod.Name)
	for _, v := range vips {
		for _, b := range v.Backends {
			if v.Name == name+".weft" && b.Task == task.Task && b.In {
				return true, nil
			}
		}
	}
	return false, err
}

// announce says of the host's task what it is called and behind which VIP it is, as what runs tasks does.
func (h *host) announce(ctx context.Context, label string) error {
	if err := h.names.Announce(ctx, nameOf(label, h.task)); err != nil {
		return err
	}
	_, err := h.vips.Publish(ctx, registration(label, h.task))
	return err
}

// await returns when the name leads to the task and the task is in behind the VIP.
func (h *host) await(ctx context.Context, label string, task overlay.Endpoint) error {
	return each(ctx, askEvery, label+" is known on "+h.lab.Name, func() error {
		addrs, err := h.resolve(label)
		if err != nil || len(addrs) != 1 || addrs[0] != task.Addr4 {
			return fmt.Errorf("its name leads to %v: %w", addrs, err)
		}
		in, err := h.serves(ctx, label, task)
		if err != nil || !in {
			return fmt.Errorf("its VIP is without it: %w", err)
		}
		return nil
	})
}
