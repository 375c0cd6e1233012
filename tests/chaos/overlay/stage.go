// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"weft/lb"
	"weft/overlay"
	"weft/tests/chaos/actor"
	"weft/tests/chaos/script"
	"weft/tests/lab"
)

// stage is the cluster that things happen to.
//
//	h1: client1 outside1 server1     h2: client2 server2     h3: nobody     m1, m2, m3: masters
//
// Clients are in group web, servers in db, and rules let web talk to db: answers come back by the flow table.
// outside1 is a client whose processes are outside of the host's cgroup: the packet path translates what it
// sends to the VIP, and nothing else has its ports.
type stage struct {
	o       options
	out     interface{ Write([]byte) (int, error) }
	lab     *lab.Lab
	traffic string // the tasks' program
	tasks   map[string]overlay.Endpoint
	vip     netip.AddrPort // of both servers
	flow    uint32         // the last one given
	running []*lab.Cmd
	servers []*actor.Actor
}

var cast = []struct {
	name, host, group, vip string
}{
	{"client1", "h1", "web", ""},
	{"outside1", "h1", "web", ""},
	{"client2", "h2", "web", ""},
	{"server1", "h1", "db", "/db:9001=9001"},
	{"server2", "h2", "db", "/db:9001=9001"},
}

func (s *stage) host(name string) *lab.Host {
	h, err := s.lab.Host(name)
	if err != nil {
		panic(err) // the stage's own names
	}
	return h
}

func (s *stage) weft(ctx context.Context, host string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, script.Patience)
	defer cancel()
	return s.host(host).Weft(ctx, args...).Output()
}

// set makes network and tasks, and starts the servers.
func (s *stage) set(ctx context.Context) error {
	for _, args := range [][]string{
		{"network", "add", "prod", "--subnet", "9.1.0.0/16", "--subnet6", "fd01:b:1::/64"},
		{"group", "add", "prod", "web"},
		{"group", "add", "prod", "db"},
		{"rule", "add", "prod", "--from", "web", "--to", "db", "--port", "tcp/9001"},
		{"rule", "add", "prod", "--from", "web", "--to", "db", "--port", "udp/9000"},
	} {
		if _, err := s.weft(ctx, "m1", args...); err != nil {
			return err
		}
	}
	for _, t := range cast {
		args := []string{"run", "--network", "prod", "--name", t.name, "--group", t.group}
		if t.vip != "" {
			args = append(args, "--vip", t.vip)
		}
		cmd := s.host(t.host).Weft(ctx, append(args, "--", "sleep", "100000")...)
		log, err := os.Create(filepath.Join(s.lab.Dir, t.name+".log"))
		if err != nil {
			return err
		}
		cmd.Stdout, cmd.Stderr = log, log
		if err := errors.Join(cmd.Start(), log.Close()); err != nil {
			return err
		}
		s.running = append(s.running, cmd)
	}
	if err := script.Until(ctx, s.ready); err != nil {
		return err
	}
	for _, name := range []string{"server1", "server2"} {
		p, err := s.start(ctx, name, true, "serve")
		if err != nil {
			return err
		}
		s.servers = append(s.servers, p)
	}
	return nil
}

// ready finds the tasks, and the VIP with both of its backends on both hosts.
func (s *stage) ready(ctx context.Context) error {
	s.tasks = make(map[string]overlay.Endpoint)
	for _, host := range []string{"h1", "h2"} {
		var endpoints []overlay.Endpoint
		if err := s.json(ctx, host, &endpoints, "task", "list"); err != nil {
			return err
		}
		for _, e := range endpoints {
			s.tasks[e.Name] = e
		}
		var vips []lb.VIPStatus
		if err := s.json(ctx, host, &vips, "vip", "list"); err != nil {
			return err
		}
		in := 0
		for _, v := range vips {
			for _, b := range v.Backends {
				if b.In {
					in++
				}
			}
			for _, a := range v.Addrs {
				if a.Is4() {
					s.vip = netip.AddrPortFrom(a, v.Port)
				}
			}
		}
		if in < 2 || !s.vip.IsValid() {
			return fmt.Errorf("%s sees %d backends of the VIP %v, want 2", host, in, s.vip)
		}
	}
	if len(s.tasks) != len(cast) {
		return fmt.Errorf("%d of %d tasks are there", len(s.tasks), len(cast))
	}
	return nil
}

func (s *stage) json(ctx context.Context, host string, to any, args ...string) error {
	out, err := s.weft(ctx, host, append(args, "-o", "json")...)
	if err != nil {
		return err
	}
	return json.Unmarshal([]byte(out), to)
}

// end stops what the stage started; the lab ends the rest.
func (s *stage) end() error {
	for _, p := range s.servers {
		_ = p.End() // its status says nothing
	}
	for _, cmd := range s.running {
		_ = cmd.Process.Signal(unix.SIGTERM) // it may have ended with its task
	}
	for _, cmd := range s.running {
		_ = cmd.Wait()
	}
	return nil
}
