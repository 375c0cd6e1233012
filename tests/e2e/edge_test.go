// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"weft/discovery"
	"weft/lb/announce"
	"weft/tests/lab"
	"weft/tests/lab/labtest"
)

// outside is a client outside of every network.
type outside struct {
	*lab.Lab
}

// line is a connection to a VIP, of which every question is answered by who serves it and whom that sees.
type line struct {
	net.Conn
	answers *bufio.Scanner
	server  string // that answered first
}

func (o outside) connect(ctx context.Context, network string, vip netip.AddrPort) (c net.Conn, err error) {
	from := lab.World
	if vip.Addr().Is6() {
		from = lab.World6
	}
	d := net.Dialer{Timeout: time.Second, KeepAlive: -1, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))}
	if network == "udp" {
		d.LocalAddr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
	}
	err = o.InWorld(func() (err error) {
		c, err = d.DialContext(ctx, network, vip.String())
		return err
	})
	return c, err
}

func (o outside) dial(ctx context.Context, network string, vip netip.AddrPort) (*line, error) {
	c, err := o.connect(ctx, network, vip)
	if err != nil {
		return nil, err
	}
	l := &line{Conn: c, answers: bufio.NewScanner(c)}
	if l.server, err = l.ask(); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return l, nil
}

// ask wants an answer that says that the server sees the client itself, and returns the server.
func (l *line) ask() (string, error) {
	if err := l.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return "", err
	}
	if _, err := l.Write([]byte("who\n")); err != nil {
		return "", err
	}
	if !l.answers.Scan() {
		return "", fmt.Errorf("no answer: %w", l.answers.Err())
	}
	server, saw, _ := strings.Cut(l.answers.Text(), " ")
	if saw != lab.World.String() && saw != lab.World6.String() {
		return "", fmt.Errorf("%s saw %s, which is not the client", server, saw)
	}
	return server, nil
}

// TestEdge publishes a VIP on three nodes, two of which have a backend. Clients outside reach it, by groups and rules,
// with their own addresses; their connections outlive the edge node's daemon, and the edge node.
func TestEdge(t *testing.T) {
	var near []netip.AddrPort
	vip4, vip6 := netip.MustParseAddrPort("198.51.100.10:80"), netip.MustParseAddrPort("[2001:db8:10::10]:80")
	l := labtest.Up(t, lab.Options{Hosts: 3, Netd: []string{"--edge", "eth0", "--announce-neighbours"}})
	peer := labtest.Build(t, "tests/e2e/peer")
	h1, h2, h3 := l.Hosts[0], l.Hosts[1], l.Hosts[2]
	weft := func(args ...string) {
		t.Helper()
		if _, err := h1.Weft(t.Context(), args...).Output(); err != nil {
			t.Fatal(err)
		}
	}
	weft("network", "add", "prod", "--subnet", "9.1.0.0/16", "--subnet6", "fd01:b:1::/64")
	weft("group", "add", "prod", "web")
	for _, h := range []*lab.Host{h2, h3} {
		task := h.Weft(t.Context(), "run", "--network", "prod", "--group", "web", "--name", "on-"+h.Name, "--vip", "/web:80=8080",
			"--", peer, "serve", "-name", "on-"+h.Name, "-tcp", "8080", "-udp", "8080")
		if err := task.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = task.Process.Signal(syscall.SIGTERM) // the lab's end ends it anyway
			_ = task.Wait()
		})
	}
	// A flow that begins while backends come may not move to another edge node: publish when both are there.
	for _, h := range l.Hosts {
		eventually(t, func() error {
			out, err := h.Weft(t.Context(), "vip", "show", "web", "-o", "json").Output()
			if n := strings.Count(out, `"reason": "serving"`); err != nil || n != 4 {
				return fmt.Errorf("%s has %d of 2 backends for TCP and UDP (%w)", h.Name, n, err)
			}
			return nil
		})
	}
	// Neighbours look for these themselves; h1 is who answers them.
	for _, prefix := range []string{"198.51.100.0/24", "2001:db8:20::/64"} {
		a := netip.MustParsePrefix(prefix).Addr().Next()
		for announce.Leader(a, []discovery.NodeID{"h1", "h2", "h3"}) != "h1" || a == vip4.Addr() {
			a = a.Next()
		}
		near = append(near, netip.AddrPortFrom(a, 80))
		weft("vip", "publish", "prod", "web:80", "--address", a.String())
		if err := l.OnLink(a); err != nil {
			t.Fatal(err)
		}
	}
	for _, vip := range []netip.AddrPort{vip4, vip6} {
		weft("vip", "publish", "prod", "web:80", "--address", vip.Addr().String())
		weft("vip", "publish", "prod", "web:80/udp", "--address", vip.Addr().String())
		if err := l.Route(vip.Addr(), h1); err != nil {
			t.Fatal(err)
		}
	}
	client := outside{l}

	// Nobody outside may reach the group yet: the edge sends it, the task's node refuses.
	refused := func() error {
		if _, err := client.dial(t.Context(), "tcp", vip4); err == nil {
			t.Fatal("a client outside reached a task that no rule lets it")
		}
		for _, h := range []*lab.Host{h2, h3} {
			out, err := h.Weft(t.Context(), "flows", "--drops", "-o", "json").Output()
			if err == nil && strings.Contains(out, `"reason":"not_public"`) {
				return nil
			}
		}
		return errors.New("no node tells of a packet that it refused because the task is not public")
	}
	eventually(t, refused)
	weft("rule", "add", "prod", "--from", "world", "--to", "web", "--port", "tcp/8080")
	weft("rule", "add", "prod", "--from", "world", "--to", "web", "--port", "udp/8080")

	lines := connectAll(t, client, vip4, 8)
	for _, vip := range []netip.AddrPort{vip4, vip6} {
		eventually(t, func() error {
			c, err := client.dial(t.Context(), "udp", vip)
			if err != nil {
				return err
			}
			return c.Close()
		})
	}
	lines = append(lines, connectAll(t, client, vip6, 4)...)
	var nearby []*line // that nobody routes
	for _, vip := range near {
		nearby = append(nearby, connectAll(t, client, vip, 2)...)
	}

	check := func(when string, lines []*line) {
		t.Helper()
		for _, c := range lines {
			if server, err := c.ask(); err != nil || server != c.server {
				t.Fatalf("%s: a connection to %s is answered by %q (%v)", when, c.server, server, err)
			}
		}
	}
	if err := h1.Signal("netd", syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	check("the edge node's daemon is dead", append(nearby, lines...))
	// The edge node dies, and the routers send its flows to another, where one backend is.
	for _, vip := range []netip.AddrPort{vip4, vip6} {
		if err := errors.Join(h1.Cut(true), l.Route(vip.Addr(), h2)); err != nil {
			t.Fatal(err)
		}
	}
	check("the flows moved to another edge node", lines)
	if err := errors.Join(h2.Signal("netd", syscall.SIGKILL), h2.StartNetd()); err != nil {
		t.Fatal(err)
	}
	check("its daemon starts again", lines)
	connectAll(t, client, vip4, 4)
	check("neighbours were told of another edge node", nearby)
	for _, vip := range near {
		connectAll(t, client, vip, 2)
	}
}

// connectAll makes connections until each of two backends serves n of them.
func connectAll(t *testing.T, client outside, vip netip.AddrPort, n int) (lines []*line) {
	t.Helper()
	by := make(map[string]int)
	eventually(t, func() error {
		c, err := client.dial(t.Context(), "tcp", vip)
		if err != nil {
			return fmt.Errorf("%s: %w", vip, err)
		}
		t.Cleanup(func() { _ = c.Close() })
		lines = append(lines, c)
		if by[c.server]++; by["on-h2"] < n || by["on-h3"] < n {
			return fmt.Errorf("%s: connections went to %v, want %d to each of two", vip, by, n)
		}
		return nil
	})
	return lines
}
