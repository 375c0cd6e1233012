// SPDX-License-Identifier: Apache-2.0

package paths

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	probeTries = 3                      // of one size: a lost packet is no small path
	probeWait  = 200 * time.Millisecond // an answer to the first try still counts during the last
	probeData  = 16                     // bytes that come back: who asks
	vxlanSize  = 8
)

// UDPProber asks how large frames to other nodes may be, by frames of that size to their tunnel port; see
// bpf/src/lib/echo.h. Make it with OpenProber.
type UDPProber struct {
	conn *net.UDPConn
	// ports are the first of tunnels and the second one.
	ports [2]uint16
	over  int // bytes of IP and UDP in front

	mu    sync.Mutex // guards what follows
	asked map[[probeData]byte]chan struct{}
}

// OpenProber opens the socket that asks, at the node's underlay address. ports are of tunnels; 0: there is none.
func OpenProber(ctx context.Context, own netip.Addr, ports [2]uint16) (*UDPProber, error) {
	listen := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		return errors.Join(c.Control(func(fd uintptr) { err = probeSocket(int(fd), own.Is6()) }), err)
	}}
	conn, err := listen.ListenPacket(ctx, "udp", netip.AddrPortFrom(own, 0).String())
	if err != nil {
		return nil, fmt.Errorf("open the socket that probes paths: %w", err)
	}
	p := &UDPProber{ports: ports, over: 28, asked: make(map[[probeData]byte]chan struct{})}
	p.conn, _ = conn.(*net.UDPConn) // "udp" makes no other
	if own.Is6() {
		p.over = 48
	}
	return p, nil
}

// probeSocket has datagrams sent whole or not at all, whatever the kernel believes of the path, and without
// UDP's sum, which from_underlay would leave to the kernel's device.
func probeSocket(fd int, six bool) error {
	if six {
		return errors.Join(
			unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE),
			unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_NO_CHECK6_TX, 1),
			unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_NO_CHECK6_RX, 1),
		)
	}
	return errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_NO_CHECK, 1),
	)
}

// Run hears answers until ctx ends, which is no error.
func (p *UDPProber) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = p.conn.SetReadDeadline(time.Unix(1, 0)) }) // the read below ends
	defer stop()
	defer func() { _ = p.conn.Close() }() // nothing is sent any more
	answer := make([]byte, 128)
	for ctx.Err() == nil {
		n, err := p.conn.Read(answer)
		if err != nil && ctx.Err() == nil {
			if errors.Is(err, unix.ECONNREFUSED) {
				continue // a host without tunnels said so
			}
			return fmt.Errorf("hear answers of probes: %w", err)
		}
		if n == vxlanSize+probeData {
			p.answered([probeData]byte(answer[vxlanSize:n]))
		}
	}
	return nil
}

func (p *UDPProber) answered(token [probeData]byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c, ok := p.asked[token]; ok {
		delete(p.asked, token)
		close(c)
	}
}

// Fits reports whether an IP packet of size bytes arrives at a node's first or second port of tunnels. No answer after
// three tries is no, and so is a second port that there is not.
func (p *UDPProber) Fits(ctx context.Context, vtep netip.Addr, second bool, size int) (bool, error) {
	port := p.ports[0]
	if second {
		port = p.ports[1]
	}
	if port == 0 {
		return false, nil
	}
	frame := make([]byte, max(size-p.over, vxlanSize+probeData))
	frame[0] = 0x08 // the network is valid, and 0: no network's
	var token [probeData]byte
	_, _ = rand.Read(token[:]) // never fails
	copy(frame[vxlanSize:], token[:])
	heard := make(chan struct{})
	p.mu.Lock()
	p.asked[token] = heard
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.asked, token)
		p.mu.Unlock()
	}()
	for range probeTries {
		_, err := p.conn.WriteToUDPAddrPort(frame, netip.AddrPortFrom(vtep, port))
		switch {
		case errors.Is(err, unix.EMSGSIZE):
			return false, nil // not even our own link carries it
		case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.ENETUNREACH):
		case err != nil:
			return false, fmt.Errorf("probe %s with %d bytes: %w", vtep, size, err)
		}
		select {
		case <-heard:
			return true, nil
		case <-ctx.Done():
			return false, ctx.Err()
		case <-time.After(probeWait):
		}
	}
	return false, nil
}
