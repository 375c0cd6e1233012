// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"weft/tests/lab"
)

// wait bounds how long one sentence may take to become true.
const wait = 15 * time.Second

// check prints one sentence and whether it is true. It waits for it to become true: facts travel.
func (s *story) check(sentence string, f func() error) bool {
	began := time.Now()
	err := f()
	for err != nil && time.Since(began) < wait {
		time.Sleep(100 * time.Millisecond)
		err = f()
	}
	return s.verdict(sentence, err)
}

// verdict prints one sentence that err tells is true or not.
func (s *story) verdict(sentence string, err error) bool {
	if err != nil {
		s.failed++
		fmt.Fprintf(s.out, "  FAILED  %s: %v\n", sentence, err)
		return false
	}
	s.passed++
	fmt.Fprintf(s.out, "  ok      %s\n", sentence)
	return true
}

func (s *story) chapter(title string) { fmt.Fprintf(s.out, "%s\n", title) }

func (s *story) host(name string) *lab.Host {
	h, err := s.lab.Host(name)
	if err != nil {
		panic(err) // the story's own names
	}
	return h
}

// weft runs the command line on a host.
func (s *story) weft(ctx context.Context, host string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	return s.host(host).Weft(ctx, args...).Output()
}

// in runs the tasks' program inside a task.
func (s *story) in(ctx context.Context, task string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	return s.cmd(ctx, task, args...).Output()
}

// cmd is peer inside a task.
func (s *story) cmd(ctx context.Context, task string, args ...string) *lab.Cmd {
	e := s.tasks[task]
	return s.host(string(e.Node)).Weft(ctx, append([]string{"task", "exec", e.Task, "--", s.peer}, args...)...)
}

// both returns the task's addresses with a port, IPv4 and IPv6.
func (s *story) both(task string, port int) []string {
	e := s.tasks[task]
	return []string{fmt.Sprintf("%s:%d", e.Addr4, port), fmt.Sprintf("[%s]:%d", e.Addr6, port)}
}

// reaches expects answers of the task over TCP and UDP in both families, with the asker's address.
func (s *story) reaches(ctx context.Context, from, to string, port int, protocols ...string) error {
	for _, protocol := range protocols {
		for i, addr := range s.both(to, port) {
			out, err := s.in(ctx, from, "ask", protocol, addr)
			if err != nil {
				return err
			}
			self := s.tasks[from].Addrs()[i].String()
			if want := to + " " + self; strings.TrimSpace(out) != want {
				return fmt.Errorf("%s %s answered %q, want %q", protocol, addr, strings.TrimSpace(out), want)
			}
		}
	}
	return nil
}

// blocked expects that nothing comes through, in both families.
func (s *story) blocked(ctx context.Context, from, to string, port int, protocols ...string) error {
	for _, protocol := range protocols {
		for _, addr := range s.both(to, port) {
			if out, err := s.in(ctx, from, "ask", "-timeout", "300ms", protocol, addr); err == nil {
				return fmt.Errorf("%s %s answered %q", protocol, addr, strings.TrimSpace(out))
			}
		}
	}
	return nil
}

const vipName = "web.weft.l4lb.thisdcos.directory:80"

// backends asks the VIP from a task and expects exactly the given backends and the task's address.
func (s *story) backends(ctx context.Context, task, protocol string, want ...string) error {
	out, err := s.in(ctx, task, "ask", "-n", "40", protocol, vipName)
	if err != nil {
		return err
	}
	self := s.tasks[task]
	hit := make(map[string]int)
	for line := range strings.Lines(out) {
		name, addr, _ := strings.Cut(strings.TrimSpace(line), " ")
		hit[name]++
		if name != task && addr != self.Addr4.String() && addr != self.Addr6.String() {
			return fmt.Errorf("%s saw %s, which is not %s's address", name, addr, task)
		}
	}
	for _, name := range want {
		if hit[name] == 0 {
			return fmt.Errorf("backend %s was never hit: %v", name, hit)
		}
	}
	if len(hit) != len(want) {
		return fmt.Errorf("hit %v, want %v", hit, want)
	}
	return nil
}

// counter reads a packet counter of a host's node daemon.
func (s *story) counter(ctx context.Context, host, reason string) (int, error) {
	out, err := s.host(host).Command(ctx, s.peer, "get", "http://127.0.0.1:7780/metrics").Output()
	if err != nil {
		return 0, err
	}
	m := regexp.MustCompile(`(?m)^weft_packets_total\{reason="` + reason + `"\} (\S+)$`).FindStringSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("no counter %s in the metrics of %s", reason, host)
	}
	value, err := strconv.ParseFloat(m[1], 64)
	return int(value), err
}

// result is what peer stream and peer connects print.
type result struct{ Sent, Received, Lost int }

// during runs a stream while f acts, and returns what was lost of it.
func (s *story) during(ctx context.Context, task string, args []string, f func() error) (r result, err error) {
	out, err := s.cmd(ctx, task, args...).During(f)
	if err == nil {
		err = json.Unmarshal([]byte(out), &r)
	}
	return r, err
}

// nothingLeft looks for what a lab could leave on the machine.
func (s *story) nothingLeft(dir string) error {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	if strings.Contains(string(mounts), dir+"/") {
		err = fmt.Errorf("a mount is left below %s", dir)
	} else if _, e := os.Stat(dir); e == nil {
		err = fmt.Errorf("%s is left", dir)
	} else if _, e := os.Stat(s.lab.Cgroup); e == nil {
		err = fmt.Errorf("cgroup %s is left", s.lab.Cgroup)
	}
	s.verdict("nothing is left: no namespace, link, mount, cgroup or pinned object", err)
	return nil
}
