// SPDX-License-Identifier: Apache-2.0

// Package labs is `weft lab`: several hosts on this machine, to try Weft on. The lab itself is
// tests/lab, which the story tests use as well.
package labs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"weft/cmd/weft/node"
	"weft/cmd/weft/show"
	"weft/discovery"
	"weft/tests/lab"
)

// readyTimeout bounds how long a new lab may take until every node knows every other.
const readyTimeout = 60 * time.Second

// Command returns `weft lab`.
func Command(env node.Env) *cobra.Command {
	var dir string
	group := show.Noun("lab", "several hosts on this machine, as network namespaces with real daemons",
		"  weft lab up --hosts 3\n  weft lab exec h1 -- weft run --network prod --name web --vip /web:80=8080 -- httpd -p 8080\n"+
			"  weft lab status\n  weft lab down", up(env, &dir), run(env, &dir), status(env, &dir), down(env, &dir))
	group.PersistentFlags().StringVar(&dir, "dir", lab.DefaultDir, "folder of the lab's state")
	return group
}

func up(env node.Env, dir *string) *cobra.Command {
	var o lab.Options
	cmd := &cobra.Command{Use: "up", Short: "make a lab and wait until its nodes know each other", Args: show.Args(0, 0), Example: "  weft lab up --hosts 3"}
	cmd.Flags().IntVar(&o.Hosts, "hosts", 3, "hosts for tasks: h1, h2, ...")
	cmd.Flags().IntVar(&o.Masters, "masters", 1, "masters: m1, ... (1, 3 or 5)")
	cmd.Flags().IntVar(&o.MTU, "mtu", 1500, "of the underlay, bytes")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		binary, err := os.Executable()
		if err != nil {
			return err
		}
		for flag, value := range map[string]int{"hosts": o.Hosts, "masters": o.Masters, "mtu": o.MTU} {
			if value == 0 { // Up would take the default
				return fmt.Errorf("%w: --%s is 0: a lab has some", show.ErrUsage, flag)
			}
		}
		o.Dir, o.Binary = *dir, binary
		began := time.Now()
		l, err := lab.Up(cmd.Context(), o)
		if err != nil {
			return err
		}
		if err := WaitReady(cmd.Context(), l); err != nil {
			return err
		}
		fmt.Fprintf(env.Stdout, "lab: up in %.1f s, %s and %s; state in %s\n", time.Since(began).Seconds(), names(l.Hosts), names(l.Masters), l.Dir)
		fmt.Fprintf(env.Stdout, "try: weft lab %sexec h1 -- weft node list\n", elsewhere(*dir))
		return nil
	}
	return cmd
}

// elsewhere is the flag that names a lab which is not in the default folder.
func elsewhere(dir string) string {
	if dir == lab.DefaultDir {
		return ""
	}
	return "--dir " + dir + " "
}

// names is h1, or h1 to h3.
func names(hosts []*lab.Host) string {
	if first, last := hosts[0].Name, hosts[len(hosts)-1].Name; first != last {
		return first + " to " + last
	}
	return hosts[0].Name
}

// WaitReady waits until every node of l is admitted and seen alive by every other.
func WaitReady(ctx context.Context, l *lab.Lab) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for _, h := range l.Hosts {
		d, err := node.Dial(h.Socket())
		if err != nil {
			return err
		}
		err = waitNodes(ctx, d.Discovery, len(l.Hosts))
		if err := errors.Join(err, d.Close()); err != nil {
			return fmt.Errorf("host %s: %w; the end of its log:\n%s", h.Name, err, h.Tail("netd", 8))
		}
	}
	return nil
}

func waitNodes(ctx context.Context, service discovery.Service, want int) error {
	for {
		nodes, err := service.Nodes(ctx)
		ready := 0
		for _, n := range nodes {
			if n.Alive && n.Admitted {
				ready++
			}
		}
		if err == nil && ready >= want {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("%d of %d nodes are admitted and alive after %s", ready, want, readyTimeout), err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func run(env node.Env, dir *string) *cobra.Command {
	return &cobra.Command{
		Use: "exec HOST [flags] -- COMMAND [ARG...]", Short: "run a command on a host of the lab",
		Example: "  weft lab exec h1 -- weft task list\n  weft lab exec m1 -- weft status", Args: show.Args(2, show.Many),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := lab.Open(*dir)
			if err != nil {
				return err
			}
			h, err := l.Host(args[0])
			if err != nil {
				return err
			}
			c := h.Command(cmd.Context(), args[1], args[2:]...)
			c.Stdin, c.Stdout, c.Stderr = env.Stdin, env.Stdout, env.Stderr
			err = c.Run()
			if exit, ok := errors.AsType[*exec.ExitError](err); ok {
				return node.ExitError{Code: exitStatus(exit)}
			}
			return err
		},
	}
}

// exitStatus is the command's own or, as shells have it, 128 and the number of the signal that ended it.
func exitStatus(exit *exec.ExitError) int {
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal())
	}
	return exit.ExitCode()
}

// hostStatus is one line of `weft lab status`.
type hostStatus struct {
	Name    string `json:"name"`
	Addr    string `json:"addr"`
	Daemon  string `json:"daemon"`
	Running bool   `json:"running"`
	Tasks   int    `json:"tasks"`
	Log     string `json:"log"`
}

func status(env node.Env, dir *string) *cobra.Command {
	cmd := &cobra.Command{Use: "status", Short: "show the lab's hosts and what runs on them", Args: show.Args(0, 0), Example: "  weft lab status"}
	output := show.Output(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		l, err := lab.Open(*dir)
		if err != nil {
			return err
		}
		var hosts []hostStatus
		for _, h := range l.Masters {
			hosts = append(hosts, hostStatus{Name: h.Name, Addr: h.Addr.String(), Daemon: "master", Running: h.Running("master"), Log: h.Dir + "/master.log"})
		}
		for _, h := range l.Hosts {
			s := hostStatus{Name: h.Name, Addr: h.Addr.String(), Daemon: "netd", Running: h.Running("netd"), Log: h.Dir + "/netd.log"}
			if s.Running {
				s.Tasks = tasks(cmd.Context(), h)
			}
			hosts = append(hosts, s)
		}
		return show.Value(env.Stdout, *output, hosts, func(w io.Writer) {
			show.Row(w, "HOST", "ADDRESS", "DAEMON", "RUNNING", "TASKS", "LOG")
			for _, h := range hosts {
				show.Row(w, h.Name, h.Addr, h.Daemon, h.Running, h.Tasks, h.Log)
			}
		})
	}
	return cmd
}

// tasks counts the endpoints of a host; -1 when its daemon does not answer.
func tasks(ctx context.Context, h *lab.Host) int {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	d, err := node.Dial(h.Socket())
	if err != nil {
		return -1
	}
	endpoints, err := d.Overlay.Endpoints(ctx)
	if errors.Join(err, d.Close()) != nil {
		return -1
	}
	return len(endpoints)
}

func down(env node.Env, dir *string) *cobra.Command {
	return &cobra.Command{
		Use: "down", Short: "end the lab and remove all it made; no lab is no error", Args: show.Args(0, 0), Example: "  weft lab down",
		RunE: func(*cobra.Command, []string) error {
			if err := lab.Down(*dir); err != nil {
				return err
			}
			_, err := fmt.Fprintf(env.Stdout, "lab: down, nothing is left in %s\n", *dir)
			return err
		},
	}
}
