// SPDX-License-Identifier: Apache-2.0

package firewall

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"weft/overlay"
	"weft/overlay/compile"
)

// hold is a port of the node that a task has: a socket without a listener keeps it, so that the kernel
// tells both sides when a program of the node and a task want the same.
type hold struct {
	proto uint8
	host  netip.AddrPort
}

// Hold takes ports of the node, all or none. One that is held already is no error.
func (w *Firewall) Hold(_ context.Context, ports []compile.Port) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var taken []hold
	for _, p := range ports {
		key := hold{p.Proto, p.Host}
		if w.held[key] != nil {
			continue
		}
		socket, err := reserve(key)
		if err != nil {
			return errors.Join(err, w.release(taken))
		}
		w.held[key] = socket
		taken = append(taken, key)
	}
	return nil
}

// Release gives ports back to the node's programs. One that is not held is no error.
func (w *Firewall) Release(_ context.Context, ports []compile.Port) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var keys []hold
	for _, p := range ports {
		keys = append(keys, hold{p.Proto, p.Host})
	}
	return w.release(keys)
}

func (w *Firewall) release(keys []hold) error {
	var errs []error
	for _, key := range keys {
		if socket := w.held[key]; socket != nil {
			errs = append(errs, socket.Close())
			delete(w.held, key)
		}
	}
	return errors.Join(errs...)
}

// reserve binds a socket to a port and does nothing with it.
func reserve(key hold) (io.Closer, error) {
	kind, name := unix.SOCK_STREAM, "tcp"
	if key.proto == compile.UDP {
		kind, name = unix.SOCK_DGRAM, "udp"
	}
	family := unix.AF_INET6
	var at unix.Sockaddr = &unix.SockaddrInet6{Port: int(key.host.Port()), Addr: key.host.Addr().As16()}
	if key.host.Addr().Is4() {
		family, at = unix.AF_INET, &unix.SockaddrInet4{Port: int(key.host.Port()), Addr: key.host.Addr().As4()}
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("hold port %s/%s: %w", key.host, name, err)
	}
	socket := os.NewFile(uintptr(fd), "port")
	if family == unix.AF_INET6 {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
	}
	if err == nil {
		err = unix.Bind(fd, at)
	}
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		err = fmt.Errorf("%w: port %d/%s of this node is in use by a program (see `ss -lnptu`): choose another, or free it",
			overlay.ErrConflict, key.host.Port(), name)
	case errors.Is(err, unix.EADDRNOTAVAIL):
		err = fmt.Errorf("%w host_ip %s: this node has no such address", overlay.ErrInvalid, key.host.Addr())
	case err != nil:
		err = fmt.Errorf("hold port %s/%s: %w", key.host, name, err)
	}
	if err != nil {
		return nil, errors.Join(err, socket.Close())
	}
	return socket, nil
}

// changedPorts returns what is in one of two lists only.
func changedPorts(before, after []compile.Port) []compile.Port {
	in := make(map[compile.Port]int)
	for _, p := range before {
		in[p]++
	}
	for _, p := range after {
		in[p]--
	}
	var changed []compile.Port
	for p, n := range in {
		if n != 0 {
			changed = append(changed, p)
		}
	}
	return changed
}

// forget lets the kernel decide anew about conversations with ports that lead elsewhere now: a UDP
// client that goes on sending would otherwise be led to where the port led before, or nowhere.
func (w *Firewall) forget(ports []compile.Port) error {
	if len(ports) == 0 {
		return nil
	}
	f := stale{ports: make(map[hold]bool), local: make(map[netip.Addr]bool)}
	for _, p := range ports {
		f.ports[hold{p.Proto, p.Host}] = true
	}
	local, err := w.o.Local()
	if err != nil {
		return err
	}
	for _, a := range local {
		f.local[a] = true
	}
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, f); err != nil {
			return fmt.Errorf("forget conversations with ports of the node: %w", err)
		}
	}
	return nil
}

// stale finds conversations with ports of this node.
type stale struct {
	ports map[hold]bool
	local map[netip.Addr]bool
}

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (s stale) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	to, ok := netip.AddrFromSlice(flow.Forward.DstIP)
	if to = to.Unmap(); !ok || !s.local[to] && !to.IsLoopback() {
		return false
	}
	every := netip.IPv4Unspecified()
	if to.Is6() {
		every = netip.IPv6Unspecified()
	}
	for _, host := range []netip.Addr{to, every} {
		if s.ports[hold{flow.Forward.Protocol, netip.AddrPortFrom(host, flow.Forward.DstPort)}] {
			return true
		}
	}
	return false
}
