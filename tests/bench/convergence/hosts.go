// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"weft/cmd/weft/labs"
	"weft/discovery"
	"weft/lb"
	"weft/overlay"
	"weft/tests/bench/report"
	"weft/tests/lab"
	"weft/tests/lab/owned"
)

// rounds is how often something is done on real hosts.
type rounds struct {
	hosts, tasks, deaths int
}

// stage is a lab of real hosts with one task each, which is called and published anew in every round.
type stage struct {
	lab   *lab.Lab
	hosts []*host
}

// measureHosts measures real node daemons: from a task's word to answers and VIPs on every node, and from a node's
// death to its backends' end.
func measureHosts(ctx context.Context, weft string, r rounds) (lines []report.Line, err error) {
	if weft, err = filepath.Abs(weft); err != nil {
		return nil, err
	}
	dir, err := owned.Folder("/run", "weft-convergence.", lab.Down)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, lab.Down(dir)) }()
	l, err := lab.Up(ctx, lab.Options{Dir: dir, Hosts: r.hosts, Binary: weft})
	if err != nil {
		return nil, err
	}
	s := &stage{lab: l}
	defer func() { err = errors.Join(err, s.end()) }()
	if err := s.set(ctx); err != nil {
		return nil, err
	}
	say("%d hosts are up, each with a task", r.hosts)
	var known []float64
	for i := range r.tasks {
		took, err := s.announce(ctx, i)
		if err != nil {
			return nil, err
		}
		known = append(known, took.Seconds()*1000)
	}
	slices.Sort(known)
	var out []float64
	for i := range r.deaths {
		took, err := s.die(ctx, s.hosts[len(s.hosts)-1-i])
		if err != nil {
			return nil, err
		}
		out = append(out, took.Seconds())
	}
	slices.Sort(out)
	of := fmt.Sprintf("%d hosts", r.hosts)
	say("running to known: %.1f ms; death to backends and names out: %.2f s", known, out)
	return []report.Line{
		report.NewLine("running_to_known_p99_ms", of, []float64{report.Quantile(known, 0.99)}, report.Bar{Most: 100}),
		report.NewLine("running_to_known_ms", of, known, report.Bar{}),
		report.NewLine("death_to_backends_and_names_out_longest_s", of, out[len(out)-1:], report.Bar{Most: 2}),
		report.NewLine("death_to_backends_and_names_out_s", of, out, report.Bar{}),
	}, nil
}

// set makes the network and a task on each host, whose clients it opens.
func (s *stage) set(ctx context.Context) error {
	if err := labs.WaitReady(ctx, s.lab); err != nil {
		return err
	}
	if _, err := s.lab.Masters[0].Weft(ctx, "network", "add", prod.Name, "--subnet", "9.1.0.0/16").Output(); err != nil {
		return err
	}
	for _, l := range s.lab.Hosts {
		h, err := openHost(ctx, l)
		if err != nil {
			return err
		}
		s.hosts = append(s.hosts, h)
	}
	for _, h := range s.hosts {
		err := until(ctx, "the task of "+h.lab.Name+" is there", func() error {
			text, err := h.lab.Weft(ctx, "task", "list", "-o", "json").Output()
			if err != nil {
				return err
			}
			var tasks []overlay.Endpoint
			if err := json.Unmarshal([]byte(text), &tasks); err != nil || len(tasks) != 1 {
				return fmt.Errorf("%d tasks: %w", len(tasks), err)
			}
			h.task = tasks[0]
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *stage) end() error {
	var errs []error
	for _, h := range s.hosts {
		errs = append(errs, h.close())
	}
	return errors.Join(errs...)
}

// announce gives a task another name and another VIP, after every host asked for that name, and returns how long it
// takes until all of them answer with its address and have it behind the VIP.
func (s *stage) announce(ctx context.Context, round int) (time.Duration, error) {
	h := s.hosts[round%len(s.hosts)]
	label := fmt.Sprintf("round-%d", round)
	for _, o := range s.hosts {
		if addrs, err := o.resolve(label); err != nil || len(addrs) > 0 {
			return 0, fmt.Errorf("%s is known as %v before its task runs: %w", label, addrs, err)
		}
	}
	began := time.Now()
	var waiting errgroup.Group
	took := make([]time.Duration, len(s.hosts))
	for i, o := range s.hosts {
		waiting.Go(func() error {
			err := o.await(ctx, label, h.task)
			took[i] = time.Since(began)
			return err
		})
	}
	err := errors.Join(h.announce(ctx, label), waiting.Wait())
	return slices.Max(took), err
}

// die ends a host as if its power went: from one moment to the next it is not heard of any more.
func (s *stage) die(ctx context.Context, h *host) (time.Duration, error) {
	label, other := "dying-"+h.lab.Name, s.hosts[0] // a VIP keeps its last backend, dead or alive
	if err := errors.Join(h.announce(ctx, label), other.announce(ctx, label)); err != nil {
		return 0, err
	}
	rest := slices.DeleteFunc(slices.Clone(s.hosts), func(o *host) bool { return o.dead || o == h })
	for _, o := range rest {
		err := until(ctx, "both tasks are known on "+o.lab.Name, func() error {
			one, err1 := o.serves(ctx, label, h.task)
			two, err2 := o.serves(ctx, label, other.task)
			addrs, err3 := o.resolve(label)
			if err := errors.Join(err1, err2, err3); err != nil || !one || !two || len(addrs) != 2 {
				return fmt.Errorf("backends %v %v, name %v: %w", one, two, addrs, err)
			}
			return nil
		})
		if err != nil {
			return 0, err
		}
	}
	began := time.Now()
	if err := errors.Join(h.lab.Cut(true), h.lab.Signal("netd", unix.SIGKILL)); err != nil {
		return 0, err
	}
	h.dead = true
	for _, o := range rest {
		err := each(ctx, askEvery, "the dead host's task is out on "+o.lab.Name, func() error {
			if in, err := o.serves(ctx, label, h.task); err != nil || in {
				return fmt.Errorf("its backend is in: %w", err)
			}
			if addrs, err := o.resolve(label); err != nil || len(addrs) != 1 || addrs[0] != other.task.Addr4 {
				return fmt.Errorf("the name leads to %v: %w", addrs, err)
			}
			return nil
		})
		if err != nil {
			return 0, err
		}
	}
	return time.Since(began), nil
}

// registration puts a task behind the VIP of a name.
func registration(name string, task overlay.Endpoint) lb.Registration {
	return lb.Registration{
		Task: task.Task, Network: prod.Name, Addrs: []netip.Addr{task.Addr4}, Labels: []string{"/" + name + ":80=8080"},
	}
}

func nameOf(label string, task overlay.Endpoint) discovery.Name {
	return discovery.Name{
		Task: task.Task, Label: label, Network: prod.Name, Addrs: []netip.Addr{task.Addr4},
		Ports: []discovery.NamedPort{{Name: "http", Protocol: "tcp", Port: 8080}},
	}
}
