// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"weft/bpf/row"
	"weft/lb"
	"weft/lb/compile"
	"weft/tests/bench/ends"
	"weft/tests/bench/report"
)

const slowness = 5 * time.Millisecond

// farm is four backends of one VIP, each a port of the server; the ones in slow wait before they answer.
type farm struct {
	stage *stage
	slow  int // of the first ones
	stop  []func()
}

const farmSize = 4

// raise listens; dead ones of the last are left out.
func (s *stage) raise(slow, dead int) (*farm, error) {
	f := &farm{stage: s, slow: slow}
	for i := range farmSize - dead {
		after := time.Duration(0)
		if i < slow {
			after = slowness
		}
		if err := f.listen(farmPort(i), after); err != nil {
			return f, err
		}
	}
	return f, nil
}

func farmPort(i int) uint16 { return uint16(serverPort + 1 + i) }

func (f *farm) listen(port uint16, after time.Duration) error {
	var l net.Listener
	err := ends.Inside(f.stage.server.Netns(), func() (err error) {
		l, err = net.Listen("tcp4", fmt.Sprintf("0.0.0.0:%d", port))
		return err
	})
	if err != nil {
		return err
	}
	var open sync.WaitGroup
	open.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed
			}
			open.Go(func() {
				defer c.Close()
				var question [1]byte
				if _, err := c.Read(question[:]); err == nil {
					time.Sleep(after)
					_, _ = c.Write(question[:]) // a client that left is counted at its end
				}
			})
		}
	})
	f.stop = append(f.stop, func() {
		_ = l.Close() // ends the loop above
		open.Wait()
	})
	return nil
}

func (f *farm) close() {
	for _, stop := range f.stop {
		stop()
	}
}

// balance writes the VIP with its backends and forgets what was known of them.
func (s *stage) balance(policy lb.Policy, peers []netip.AddrPort) (netip.AddrPort, error) {
	vip := service(0)
	facts := compile.Facts{Networks: map[string]uint32{"bench": vni}}
	for i, p := range peers {
		facts.Backends = append(facts.Backends, lb.Backend{
			VIP:  lb.Key{Network: "bench", Addr: vip.Addr(), Port: vip.Port(), Protocol: lb.TCP},
			Task: fmt.Sprint(i), Addrs: []netip.Addr{p.Addr()}, Port: p.Port(), Weight: 1, Balance: lb.Balance{Policy: policy},
		})
	}
	rows, _ := compile.Compile(facts, s.rows)
	never := func(uint32) bool { return false }
	return vip, errors.Join(s.write(rows), s.plane.Forget(never, never))
}

func (s *stage) farmPeers(n int) []netip.AddrPort {
	var peers []netip.AddrPort
	for i := range n {
		peers = append(peers, netip.AddrPortFrom(s.seats[weft].server.Addr(), farmPort(i)))
	}
	return peers
}

// asked is what clients of one span came to.
type asked struct {
	took   []time.Duration
	failed int
}

// p99 in nanoseconds.
func (a asked) p99() float64 {
	slices.Sort(a.took)
	return float64(a.took[len(a.took)*99/100])
}

// ask lets clients connect, ask and close, side by side, with a pause between two of each client.
func (s *stage) ask(vip netip.AddrPort, clients int, pause, span time.Duration) (asked, error) {
	var mu sync.Mutex
	var all asked
	var group sync.WaitGroup
	until := time.Now().Add(span)
	errs := make([]error, clients)
	for i := range clients {
		group.Go(func() {
			errs[i] = ends.Inside(s.seats[weft].Netns(), func() error {
				var mine asked
				for time.Now().Before(until) {
					began := time.Now()
					if err := askOnce(vip); err != nil {
						mine.failed++
					} else {
						mine.took = append(mine.took, time.Since(began))
					}
					time.Sleep(pause)
				}
				mu.Lock()
				defer mu.Unlock()
				all.took = append(all.took, mine.took...)
				all.failed += mine.failed
				return nil
			})
		})
	}
	group.Wait()
	return all, errors.Join(errs...)
}

func askOnce(vip netip.AddrPort) error {
	c, err := net.DialTimeout("tcp4", vip.String(), time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Write([]byte{1}); err != nil {
		return err
	}
	_, err = c.Read(make([]byte, 1))
	return err
}

// choices measures Weft's choice against a random one.
func (s *stage) choices(o options) ([]report.Line, error) {
	var lines []report.Line
	for _, m := range []struct {
		measure string
		slow    int
		bar     report.Bar
	}{
		{"p99_1_of_4_slow", 1, report.Bar{Least: 10}},
		{"p99_2_of_4_slow", 2, report.Bar{Least: 5}},
		{"throughput_all_equal", 0, report.Bar{Least: 0.97}},
	} {
		runs, err := s.compare(m.slow, o)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.measure, err)
		}
		lines = append(lines, report.NewLine(m.measure, "random", runs, m.bar))
	}
	for _, kind := range []string{"refusing", "silent"} {
		first, then, err := s.dead(kind, o)
		if err != nil {
			return nil, fmt.Errorf("dead backend, %s: %w", kind, err)
		}
		lines = append(lines,
			report.NewLine("failed_connects_1_of_3_"+kind, "first 2 s", first, report.Bar{Most: 1}),
			report.NewLine("failed_connects_1_of_3_"+kind, "next 2 s", then, report.Bar{Most: 0.5}))
	}
	return lines, nil
}

// compare returns, for each round, how many times better than a random choice Weft's is: by p99 where
// backends are slow and clients pause, by connections a second where all are equal and none pauses.
func (s *stage) compare(slow int, o options) ([]float64, error) {
	f, err := s.raise(slow, 0)
	defer f.close()
	if err != nil {
		return nil, err
	}
	clients, pause := 4, time.Millisecond
	if slow == 0 {
		clients, pause = 8, 0
	}
	var runs []float64
	for round := range o.rounds {
		got := make(map[lb.Policy]asked)
		policies := []lb.Policy{lb.Random, lb.LeastLatency}
		if round%2 == 1 {
			slices.Reverse(policies)
		}
		for _, policy := range policies {
			vip, err := s.balance(policy, s.farmPeers(farmSize))
			if err != nil {
				return nil, err
			}
			if got[policy], err = s.ask(vip, clients, pause, 10*o.span); err != nil {
				return nil, err
			}
			if len(got[policy].took) == 0 || got[policy].failed > 0 {
				return nil, fmt.Errorf("%d answers, %d failed", len(got[policy].took), got[policy].failed)
			}
		}
		ours, random := got[lb.LeastLatency], got[lb.Random]
		if slow == 0 {
			runs = append(runs, float64(len(ours.took))/float64(len(random.took)))
		} else {
			runs = append(runs, random.p99()/ours.p99())
		}
	}
	return runs, nil
}

// dead counts the connects that fail where one backend of three is dead: in the first two seconds, and
// in the next two.
func (s *stage) dead(kind string, o options) (first, then []float64, err error) {
	f, err := s.raise(0, 2)
	defer f.close()
	if err != nil {
		return nil, nil, err
	}
	peers := append(s.farmPeers(2), netip.AddrPortFrom(s.seats[weft].server.Addr(), farmPort(3)))
	if kind == "silent" { // an address of the link that nobody has
		a := peers[2].Addr().As4()
		a[3] = 99
		peers[2] = netip.AddrPortFrom(netip.AddrFrom4(a), farmPort(3))
	}
	for range max(1, o.rounds/4) {
		vip, err := s.balance(lb.LeastLatency, peers)
		if err != nil {
			return nil, nil, err
		}
		for _, to := range []*[]float64{&first, &then} {
			got, err := s.ask(vip, 4, 0, 10*o.span)
			if err != nil {
				return nil, nil, err
			}
			*to = append(*to, float64(got.failed))
		}
	}
	return first, then, nil
}

// rowsOf is one VIP of n, the last, that leads to the server of weft's client; the others lead nowhere.
func (s *stage) rowsOf(n int) compile.Rows {
	facts := compile.Facts{Networks: map[string]uint32{"bench": vni}}
	for i := range n {
		vip := service(i)
		facts.Backends = append(facts.Backends, lb.Backend{
			VIP:  lb.Key{Network: "bench", Addr: vip.Addr(), Port: vip.Port(), Protocol: lb.TCP},
			Task: "server", Addrs: []netip.Addr{s.seats[weft].server.Addr()}, Port: serverPort, Weight: 1,
		})
	}
	rows, _ := compile.Compile(facts, compile.Rows{Backends: map[row.BackendKey]row.Backend{}})
	return rows
}
