// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"weft/tests/lab"
	"weft/tests/lab/labtest"
)

// TestAnswersByTheEdge has a backend on a node that has no way to clients outside: they hear nothing straight, and
// everything by the edge. Tunnels run over IPv4, then by their second port; clients are of both families.
func TestAnswersByTheEdge(t *testing.T) {
	l := labtest.Up(t, lab.Options{Hosts: 3, Netd: []string{"--edge", "eth0", "--tunnel-port-2", "4790"}})
	s := strand(t, l, netip.MustParseAddrPort("198.51.100.10:80"), netip.MustParseAddrPort("[2001:db8:10::10]:80"))
	s.hears("the answer of an earlier connection, by the edge")
	if err := l.Eat(4789, true); err != nil {
		t.Fatal(err)
	}
	for i, h := range l.Hosts { // what is new of a node has paths looked at
		if err := h.AddAddress(netip.MustParseAddr(fmt.Sprintf("10.77.0.%d", 101+i))); err != nil {
			t.Fatal(err)
		}
	}
	s.hears("the second port of tunnels")
	s.moves()
}

// TestAnswersByTheEdgeOverIPv6 has hosts with IPv6 addresses alone, tunnels by the programs and by the kernel's device.
func TestAnswersByTheEdgeOverIPv6(t *testing.T) {
	for name, more := range map[string][]string{"fast": nil, "slow": {"--slow-encap", "--slow-decap"}} {
		t.Run(name, func(t *testing.T) {
			l := labtest.Up(t, lab.Options{Hosts: 3, IPv6: true, Netd: append([]string{"--edge", "eth0"}, more...)})
			strand(t, l, netip.MustParseAddrPort("[2001:db8:10::10]:80")).moves()
		})
	}
}

// stranded is the story: the edge nodes h1 and h2, and h3, which has the backend.
type stranded struct {
	t      *testing.T
	lab    *lab.Lab
	client outside
	vips   []netip.AddrPort
	lines  []*line // that live on
}

// strand publishes VIPs, takes h3's way to clients, and lets answers go by the edge.
func strand(t *testing.T, l *lab.Lab, vips ...netip.AddrPort) *stranded {
	t.Helper()
	s := &stranded{t: t, lab: l, client: outside{l}, vips: vips}
	peer := labtest.Build(t, "tests/e2e/peer")
	s.weft("network add prod --subnet 9.1.0.0/16 --subnet6 fd01:b:1::/64")
	s.weft("group add prod web")
	s.weft("rule add prod --from world --to web --port tcp/8080")
	s.weft("rule add prod --from world --to web --port udp/8080")
	// Its answers take several packets, and several fragments of a datagram.
	task := l.Hosts[2].Weft(t.Context(), "run", "--network", "prod", "--group", "web", "--name", "web", "--vip", "/web:80=8080",
		"--", peer, "serve", "-name", strings.Repeat("large-", 500)+"h3", "-tcp", "8080", "-udp", "8080")
	if err := task.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = task.Process.Signal(syscall.SIGTERM) // the lab's end ends it anyway
		_ = task.Wait()
	})
	s.publish("direct")
	for _, vip := range vips {
		if err := l.Route(vip.Addr(), l.Hosts[0]); err != nil {
			t.Fatal(err)
		}
		for _, network := range []string{"tcp", "udp"} {
			s.lines = append(s.lines, s.line(network, vip))
		}
	}
	for _, a := range []netip.Addr{lab.World, lab.World6} {
		if err := l.Hosts[2].Strand(a); a.Is6() == vips[len(vips)-1].Addr().Is6() && err != nil {
			t.Fatal(err)
		}
	}
	for _, vip := range vips {
		for _, network := range []string{"tcp", "udp"} {
			if err := s.silence(network, vip); err != nil {
				t.Fatalf("%s, %s, answers straight from a node that has no way: %v", network, vip, err)
			}
		}
	}
	s.publish("edge")
	s.hears("answers by the edge")
	return s
}

func (s *stranded) weft(line string) {
	s.t.Helper()
	if _, err := s.lab.Hosts[0].Weft(s.t.Context(), strings.Fields(line)...).Output(); err != nil {
		s.t.Fatal(err)
	}
}

func (s *stranded) publish(way string) {
	s.t.Helper()
	for _, vip := range s.vips {
		for _, key := range []string{"web:80", "web:80/udp"} {
			s.weft(fmt.Sprintf("vip publish prod %s --address %s --return %s", key, vip.Addr(), way))
		}
	}
}

// line connects, and keeps the connection.
func (s *stranded) line(network string, vip netip.AddrPort) (c *line) {
	s.t.Helper()
	eventually(s.t, func() (err error) {
		if err := s.try(network, vip); err != nil { // quickly
			return err
		}
		c, err = s.client.dial(s.t.Context(), network, vip)
		return err
	})
	s.t.Cleanup(func() { _ = c.Close() })
	return c
}

// try asks once, and waits for a second.
func (s *stranded) try(network string, vip netip.AddrPort) error {
	c, err := s.client.connect(s.t.Context(), network, vip)
	if err != nil {
		return err
	}
	err = c.SetDeadline(time.Now().Add(time.Second))
	if err == nil {
		_, err = c.Write([]byte("who\n"))
	}
	if err == nil {
		_, err = c.Read(make([]byte, 4096))
	}
	return errors.Join(err, c.Close())
}

// silence wants nothing to be heard.
func (s *stranded) silence(network string, vip netip.AddrPort) error {
	err := s.try(network, vip)
	if err == nil {
		return errors.New("an answer came")
	}
	if timeout := net.Error(nil); !errors.As(err, &timeout) || !timeout.Timeout() {
		return fmt.Errorf("want no answer in time: %w", err)
	}
	return nil
}

// hears wants new connections and those of before answered, and much to come by them.
func (s *stranded) hears(by string) {
	s.t.Helper()
	for _, vip := range s.vips {
		for _, network := range []string{"tcp", "udp"} {
			s.line(network, vip)
		}
	}
	for _, l := range s.lines {
		if _, err := l.ask(); err != nil {
			s.t.Fatalf("%s: %s to %s: %v", by, l.LocalAddr().Network(), l.RemoteAddr(), err)
		}
		if l.LocalAddr().Network() != "tcp" {
			continue
		}
		const questions = 300 // some 900,000 bytes are answered
		written := make(chan error, 1)
		go func() {
			_, err := l.Write([]byte(strings.Repeat("who\n", questions-1)))
			written <- err
		}()
		for range questions {
			if _, err := l.ask(); err != nil { // one more
				s.t.Fatalf("%s: %s: %v", by, l.RemoteAddr(), err)
			}
		}
		if err := <-written; err != nil {
			s.t.Fatal(err)
		}
		for range questions - 1 {
			if !l.answers.Scan() {
				s.t.Fatalf("%s: %s: %v", by, l.RemoteAddr(), l.answers.Err())
			}
		}
	}
}

// moves lets the edge node die: the next packet of a client goes by another one, and its answer does. What a task says to
// clients that are silent gets to them, too.
func (s *stranded) moves() {
	s.t.Helper()
	var silent []*line
	for _, vip := range s.vips {
		l := s.line("tcp", vip)
		if _, err := l.Write([]byte("hold\n")); err != nil || !l.answers.Scan() {
			s.t.Fatal(err, l.answers.Err())
		}
		silent = append(silent, l)
	}
	if err := s.lab.Hosts[0].Cut(true); err != nil {
		s.t.Fatal(err)
	}
	for _, vip := range s.vips {
		if err := s.lab.Route(vip.Addr(), s.lab.Hosts[1]); err != nil {
			s.t.Fatal(err)
		}
	}
	s.hears("another edge node")
	if _, err := s.line("tcp", s.vips[0]).Write([]byte("tell\n")); err != nil {
		s.t.Fatal(err)
	}
	for _, l := range silent {
		if err := l.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			s.t.Fatal(err)
		}
		if !l.answers.Scan() {
			s.t.Errorf("a silent client of %s is told nothing: %v", l.RemoteAddr(), l.answers.Err())
		}
	}
}
