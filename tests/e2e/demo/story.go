// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"weft/overlay"
	"weft/tests/lab"
)

// story is the demo as it goes.
type story struct {
	out            io.Writer
	lab            *lab.Lab
	peer           string // the tasks' program
	passed, failed int
	running        []*lab.Cmd
	tasks          map[string]overlay.Endpoint // by name
}

// tell is the table of contents.
func (s *story) tell(ctx context.Context) {
	s.networks(ctx)
	s.start(ctx)
	s.reach(ctx)
	s.isolation(ctx)
	s.rule(ctx)
	s.vip(ctx)
	s.names(ctx)
	s.daemonDies(ctx)
	s.backendDies(ctx)
	s.mastersDie(ctx)
	s.networkGoes(ctx)
}

func (s *story) networks(ctx context.Context) {
	s.chapter("An operator defines two networks and their address groups")
	for _, args := range [][]string{
		{"network", "add", "prod", "--subnet", "9.1.0.0/16", "--subnet6", "fd01:b:1::/64"},
		{"network", "add", "dev", "--subnet", "9.2.0.0/16", "--subnet6", "fd01:b:2::/64"},
		{"group", "add", "prod", "web"},
		{"group", "add", "prod", "db"},
		{"group", "add", "dev", "web"},
	} {
		_, err := s.weft(ctx, "m1", args...)
		s.verdict("weft "+strings.Join(args, " "), err)
	}
	_, err := s.weft(ctx, "m1", "network", "add", "bad", "--subnet", "9.1.128.0/17")
	if err == nil {
		err = fmt.Errorf("an overlapping network was accepted")
	} else if strings.Contains(err.Error(), "prod") {
		err = nil
	}
	s.verdict("a network that overlaps prod is refused, and the error names prod", err)
}

// tasksOf is who runs where.
var tasksOf = []struct {
	name, host, network string
	groups              []string
	vip                 string
	serve               []string
}{
	{"web1", "h1", "prod", []string{"web"}, "/web:80=8080,policy=round-robin", []string{"-tcp", "8080", "-udp", "8080"}},
	{"web2", "h2", "prod", []string{"web"}, "/web:80=8080,policy=round-robin", []string{"-tcp", "8080", "-udp", "8080"}},
	{"web3", "h3", "prod", []string{"web"}, "/web:80=8080,policy=round-robin", []string{"-tcp", "8080", "-udp", "8080"}},
	{"db", "h2", "prod", []string{"db"}, "", []string{"-tcp", "5432", "-udp", "5432"}},
	{"client", "h1", "prod", []string{"web", "db"}, "", []string{"-tcp", "7000"}},
	{"stranger", "h3", "dev", []string{"web"}, "", []string{"-tcp", "8080"}},
}

func (s *story) start(ctx context.Context) {
	s.chapter("Six tasks start with `weft run`")
	for _, t := range tasksOf {
		args := []string{"run", "--network", t.network, "--name", t.name}
		for _, g := range t.groups {
			args = append(args, "--group", g)
		}
		if t.vip != "" {
			args = append(args, "--vip", t.vip)
		}
		args = append(args, "--", s.peer, "serve", "-name", t.name)
		cmd := s.host(t.host).Weft(ctx, append(args, t.serve...)...)
		log, err := os.Create(filepath.Join(s.lab.Dir, t.name+".log"))
		if err != nil {
			s.verdict("log of "+t.name, err)
			continue
		}
		cmd.Stdout, cmd.Stderr = log, log
		if err := cmd.Start(); err != nil {
			s.verdict("start "+t.name, err)
			continue
		}
		s.running = append(s.running, cmd)
	}
	s.check("each has an IPv4 and an IPv6 address of its network", func() error { return s.listTasks(ctx) })
	for _, t := range tasksOf {
		e := s.tasks[t.name]
		fmt.Fprintf(s.out, "          %-9s on %s in %-5s groups %-7s %s %s\n", t.name, t.host, t.network, strings.Join(t.groups, ","), e.Addr4, e.Addr6)
	}
}

func (s *story) listTasks(ctx context.Context) error {
	tasks := make(map[string]overlay.Endpoint)
	for _, h := range s.lab.Hosts {
		out, err := s.weft(ctx, h.Name, "task", "list", "-o", "json")
		if err != nil {
			return err
		}
		var endpoints []overlay.Endpoint
		if err := json.Unmarshal([]byte(out), &endpoints); err != nil {
			return err
		}
		for _, e := range endpoints {
			tasks[e.Name] = e
		}
	}
	for _, t := range tasksOf {
		if e, ok := tasks[t.name]; !ok || !e.Addr4.IsValid() || !e.Addr6.IsValid() {
			log, _ := os.ReadFile(filepath.Join(s.lab.Dir, t.name+".log")) // best effort: it explains the failure
			return fmt.Errorf("task %s has no addresses; it said: %s", t.name, strings.TrimSpace(string(log)))
		}
	}
	s.tasks = tasks
	return nil
}

func (s *story) reach(ctx context.Context) {
	s.chapter("Tasks with a common group reach each other")
	s.check("across hosts: client (h1) reaches web2 (h2), TCP and UDP, IPv4 and IPv6", func() error { return s.reaches(ctx, "client", "web2", 8080, "tcp", "udp") })
	s.check("on one host: client (h1) reaches web1 (h1)", func() error { return s.reaches(ctx, "client", "web1", 8080, "tcp", "udp") })
	s.check("client is in group db too: it reaches db (h2)", func() error { return s.reaches(ctx, "client", "db", 5432, "tcp", "udp") })
	s.check("client reaches the outside world, as its node", func() error {
		return s.lab.InWorld(func() error { return s.world(ctx) })
	})
	s.check("a node reaches its own task, and the task its node", func() error {
		out, err := s.host("h1").Command(ctx, s.peer, "ask", "tcp", s.both("web1", 8080)[0]).Output()
		if err == nil && !strings.HasPrefix(out, "web1 ") {
			err = fmt.Errorf("answered %q", out)
		}
		return err
	})
}

// world serves one question outside of every network, while client asks.
func (s *story) world(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	server := exec.CommandContext(ctx, s.peer, "serve", "-name", "world", "-tcp", "4000")
	if err := server.Start(); err != nil {
		return err
	}
	defer func() { cancel(); _ = server.Wait() }() // ended by cancel
	var out string
	var err error
	for range 20 {
		if out, err = s.in(ctx, "client", "ask", "tcp", fmt.Sprintf("%s:4000", lab.World)); err == nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if want := "world " + s.host("h1").Addr.String(); err == nil && strings.TrimSpace(out) != want {
		err = fmt.Errorf("answered %q, want %q", strings.TrimSpace(out), want)
	}
	return err
}

func (s *story) isolation(ctx context.Context) {
	s.chapter("Address groups and networks keep tasks apart")
	s.verdict("web1 cannot reach db: no common group", s.blocked(ctx, "web1", "db", 5432, "tcp", "udp"))
	s.verdict("stranger in network dev, same group name, reaches no task of prod", func() error {
		for _, to := range []string{"web1", "web3"} {
			if err := s.blocked(ctx, "stranger", to, 8080, "tcp"); err != nil {
				return err
			}
		}
		return nil
	}())
	s.check("`weft why web1 db tcp/5432` explains it and names the rule that would open it", func() error {
		out, err := s.weft(ctx, "h2", "why", "web1", "db", "tcp/5432", "--network", "prod")
		if err == nil && (!strings.HasPrefix(out, "no:") || !strings.Contains(out, "weft rule add prod --from web --to db --port tcp/5432")) {
			err = fmt.Errorf("said %q", out)
		}
		return err
	})
	s.check("`weft flows --drops` on the receiving host shows the drop with the tasks' names", func() error {
		out, err := s.weft(ctx, "h2", "flows", "--drops")
		if err == nil && (!strings.Contains(out, "web1") || !strings.Contains(out, "no_common_group")) {
			err = fmt.Errorf("said %q", out)
		}
		return err
	})
}

func (s *story) rule(ctx context.Context) {
	s.chapter("A rule opens one port in one direction")
	_, err := s.weft(ctx, "m1", "rule", "add", "prod", "--from", "web", "--to", "db", "--port", "tcp/5432")
	s.verdict("weft rule add prod --from web --to db --port tcp/5432", err)
	s.check("now web1 reaches db on tcp/5432", func() error { return s.reaches(ctx, "web1", "db", 5432, "tcp") })
	s.verdict("but not on udp/5432", s.blocked(ctx, "web1", "db", 5432, "udp"))
	s.verdict("and db does not reach web1", s.blocked(ctx, "db", "web1", 8080, "tcp", "udp"))
}

func (s *story) vip(ctx context.Context) {
	s.chapter("A VIP balances over hosts")
	for _, task := range []string{"client", "web2", "web3"} {
		for _, protocol := range []string{"tcp", "udp"} {
			sentence := fmt.Sprintf("%s on %s hits web1, web2 and web3 by the VIP's name over %s, and they see its own address", task, s.tasks[task].Node, protocol)
			s.check(sentence, func() error { return s.backends(ctx, task, protocol, "web1", "web2", "web3") })
		}
	}
}

func (s *story) names(ctx context.Context) {
	s.chapter("Names resolve, in the kernel")
	client := s.tasks["client"]
	lookup := func(args ...string) (string, error) {
		return s.weft(ctx, string(client.Node), append([]string{"task", "exec", client.Task, "--"}, args...)...)
	}
	dig := func(want string, args ...string) func() error {
		return func() error {
			out, err := lookup(append([]string{"dig", "+short", "+time=2", "+tries=1"}, args...)...)
			if err == nil && !regexp.MustCompile(want).MatchString(strings.TrimSpace(out)) {
				err = fmt.Errorf("answered %q, want %s", strings.TrimSpace(out), want)
			}
			return err
		}
	}
	db := s.tasks["db"]
	s.check("A: db.weft.mesos", dig("^"+regexp.QuoteMeta(db.Addr4.String())+"$", "db.weft.mesos", "A"))
	s.check("AAAA: db.weft.mesos", dig("^"+regexp.QuoteMeta(db.Addr6.String())+"$", "db.weft.mesos", "AAAA"))
	s.check("SRV: _web1._tcp.weft.mesos", dig(`^0 \d+ 8080 web1-\S+\.weft\.mesos\.$`, "_web1._tcp.weft.mesos", "SRV"))
	s.check("PTR: the address of db", dig(`db\S*\.weft\.mesos\.`, "-x", db.Addr4.String()))
	s.check("A: leader.mesos is the master", dig("^"+regexp.QuoteMeta(s.lab.Masters[0].Addr.String())+"$", "leader.mesos", "A"))
	s.check("the C library resolves db.weft.mesos too", func() error {
		out, err := lookup("getent", "ahostsv4", "db.weft.mesos")
		if err == nil && !strings.HasPrefix(out, db.Addr4.String()) {
			err = fmt.Errorf("answered %q", out)
		}
		return err
	})
	before, err := s.counter(ctx, "h1", "answered_dns")
	s.verdict("the node counts what its programs did", err)
	for range 10 {
		_ = dig(".", "db.weft.mesos", "A")() // what counts is the counter
	}
	after, err := s.counter(ctx, "h1", "answered_dns")
	if err == nil && after-before < 10 {
		err = fmt.Errorf("%d of 10 questions were answered in the kernel", after-before)
	}
	s.verdict("the kernel answered ten of ten further questions", err)
}

func (s *story) daemonDies(ctx context.Context) {
	s.chapter("The node daemon of h1 is killed (-9) for 10 seconds, under traffic")
	web2 := s.tasks["web2"]
	sink := s.host("h2").Weft(ctx, "task", "exec", web2.Task, "--", s.peer, "sink", "-udp", "9000")
	if err := sink.Start(); err != nil {
		s.verdict("start the sink in web2", err)
		return
	}
	s.running = append(s.running, sink)
	h1 := s.host("h1")
	connects := make(chan error, 1)
	names := make(chan error, 1)
	r, err := s.during(ctx, "client", []string{"stream", "-rate", "20000", "-for", "14s", s.both("web2", 9000)[0]}, func() error {
		go func() {
			out, err := s.in(ctx, "client", "connects", "-rate", "200", "-for", "12s", vipName)
			var r result
			if err == nil {
				err = json.Unmarshal([]byte(out), &r)
			}
			if err == nil && (r.Lost > 0 || r.Received < 100) {
				err = fmt.Errorf("%d of %d connects failed", r.Lost, r.Sent)
			}
			connects <- err
		}()
		time.Sleep(500 * time.Millisecond)
		if err := h1.Signal("netd", unix.SIGKILL); err != nil {
			return err
		}
		dead := time.Now()
		client := s.tasks["client"]
		_, err := h1.Command(ctx, "nsenter", "-t", strconv.Itoa(client.OwnerPID), "-n", "-m", "dig", "+short", "+time=1", "+tries=1", "db.weft.mesos", "A").Output()
		names <- err
		time.Sleep(10*time.Second - time.Since(dead))
		return h1.StartNetd()
	})
	if err == nil && r.Lost != 0 {
		err = fmt.Errorf("%d of %d packets lost", r.Lost, r.Sent)
	}
	s.verdict(fmt.Sprintf("no packet lost: %d sent at 20,000 a second, %d received", r.Sent, r.Received), err)
	s.verdict("no connection to the VIP failed", <-connects)
	s.verdict("names were answered with the daemon dead", <-names)
	s.check("the new daemon has the same tasks", func() error { return s.listTasks(ctx) })
}

func (s *story) backendDies(ctx context.Context) {
	s.chapter("A backend is killed")
	_, err := s.weft(ctx, "h3", "task", "kill", "web3")
	s.verdict("weft task kill web3", err)
	time.Sleep(time.Second)
	s.verdict("one second later the VIP uses web1 and web2 only", s.backends(ctx, "client", "tcp", "web1", "web2"))
}

func (s *story) mastersDie(ctx context.Context) {
	s.chapter("The only master is stopped")
	s.verdict("kill the master", s.host("m1").Signal("master", unix.SIGKILL))
	s.check("tasks reach each other", func() error { return s.reaches(ctx, "client", "web2", 8080, "tcp", "udp") })
	s.check("the VIP balances", func() error { return s.backends(ctx, "client", "tcp", "web1", "web2") })
	s.check("groups hold", func() error { return s.blocked(ctx, "db", "web1", 8080, "tcp") })
	e := s.tasks["web2"]
	_, err := s.weft(ctx, string(e.Node), "task", "kill", e.Task)
	s.verdict("a backend is killed without a master: weft task kill web2", err)
	s.check("and the VIP on the other host still hears of it", func() error { return s.backends(ctx, "client", "tcp", "web1") })
	s.verdict("start the master again", s.host("m1").StartMaster())
	s.check("it knows what it knew", func() error {
		out, err := s.weft(ctx, "m1", "network", "list")
		if err == nil && !strings.Contains(out, "prod") {
			err = fmt.Errorf("said %q", out)
		}
		return err
	})
}

func (s *story) networkGoes(ctx context.Context) {
	s.chapter("Network dev is removed at run time")
	s.check("weft network remove dev", func() error {
		_, err := s.weft(ctx, "m1", "network", "remove", "dev")
		if err != nil && strings.Contains(err.Error(), "no network") {
			return nil
		}
		return err
	})
	s.check("no node knows it any more", func() error {
		for _, h := range s.lab.Hosts {
			out, err := s.weft(ctx, h.Name, "task", "list")
			if err == nil && strings.Contains(out, "stranger") {
				err = fmt.Errorf("%s still lists stranger", h.Name)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	s.check("prod goes on", func() error { return s.reaches(ctx, "client", "web1", 8080, "tcp") })
}

// end stops what the story started.
func (s *story) end() error {
	for _, cmd := range s.running {
		_ = cmd.Process.Signal(unix.SIGTERM) // it may have ended with its task
	}
	for _, cmd := range s.running {
		_ = cmd.Wait() // ended by a signal: its status says nothing
	}
	return nil
}
