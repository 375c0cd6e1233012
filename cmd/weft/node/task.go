// SPDX-License-Identifier: Apache-2.0

package node

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"weft/agent/sandbox"
	"weft/cmd/weft/show"
	"weft/lb"
	"weft/overlay"
)

func (c *client) task() *cobra.Command {
	return show.Noun("task", "tasks of this node", "  weft task list\n  weft task exec web -- ip address",
		c.taskList(), c.taskShow(), c.taskExec(), c.taskGroups(), c.taskKill())
}

func (c *client) taskList() *cobra.Command {
	cmd := &cobra.Command{
		Use: "list", Short: "list the tasks of this node and their addresses", Args: show.Args(0, 0),
		Example: "  weft task list\n  weft task list -o json",
	}
	output := show.Output(cmd)
	return c.command(cmd, func(ctx context.Context, d *Daemon, _ []string) error {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		endpoints, err := d.Overlay.Endpoints(ctx)
		if err != nil {
			return err
		}
		return show.Value(c.env.Stdout, *output, endpoints, func(w io.Writer) { taskTable(w, endpoints) })
	})
}

func taskTable(w io.Writer, endpoints []overlay.Endpoint) {
	show.Row(w, "TASK", "NAME", "NETWORK", "GROUPS", "ADDRESSES", "PORTS", "PID", "AGE")
	for _, e := range endpoints {
		show.Row(w, e.Task, e.Name, e.Network, show.List(e.Groups), show.List(e.Addrs()), show.List(e.Ports), e.OwnerPID, show.Age(e.Since, time.Now()))
	}
}

func (c *client) taskShow() *cobra.Command {
	cmd := &cobra.Command{
		Use: "show TASK", Short: "show one task, in every network that it is in", Args: show.Args(1, 1),
		Long:    "Show prints a task with all its networks; as JSON, what it is in the first one, or in that of --network.",
		Example: "  weft task show web\n  weft task show web --network prod -o json",
	}
	output, network := show.Output(cmd), cmd.Flags().String("network", "", "network that is shown, where the task is in several")
	return c.command(cmd, func(ctx context.Context, d *Daemon, args []string) error {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		in, err := memberships(ctx, d, args[0])
		if err != nil {
			return err
		}
		if *network != "" {
			e, err := pick(in, *network)
			if err != nil {
				return err
			}
			in = []overlay.Endpoint{e}
		}
		return show.Value(c.env.Stdout, *output, in[0], func(w io.Writer) { taskRows(w, in) })
	})
}

// taskRows are what there is of a task as a whole, then of each of its networks.
func taskRows(w io.Writer, in []overlay.Endpoint) {
	e := in[0]
	for _, line := range [][2]any{
		{"task", e.Task},
		{"name", e.Name},
		{"namespace", e.NetNS},
		{"cgroup", e.Cgroup},
		{"pid", e.OwnerPID},
		{"since", e.Since.Format(time.RFC3339)},
	} {
		show.Row(w, line[0], line[1])
	}
	for _, e := range in {
		for _, line := range [][2]any{
			{"network", e.Network},
			{"groups", show.List(e.Groups)},
			{"interface", e.Interface},
			{"addresses", show.List(e.Addrs())},
			{"ports", show.List(e.Ports)},
			{"mac", e.MAC},
			{"mtu", e.MTU},
			{"identity", e.Identity},
			{"link", e.HostInterface},
		} {
			show.Row(w, line[0], line[1])
		}
	}
}

func (c *client) taskExec() *cobra.Command {
	cmd := &cobra.Command{
		Use: "exec TASK [flags] -- COMMAND [ARG...]", Short: "run a command in a task's namespaces and cgroup",
		Example: "  weft task exec web -- ip addr\n  weft task exec client -- curl http://web.weft.l4lb.thisdcos.directory",
		Args:    show.Args(2, show.Many),
	}
	return c.command(cmd, func(ctx context.Context, d *Daemon, args []string) error {
		question, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		e, err := find(question, d, args[0])
		if err != nil {
			return err
		}
		if e.OwnerPID == 0 {
			return fmt.Errorf("task %s was not started by weft run: enter %s by other means", e.Task, e.NetNS)
		}
		exit, err := sandbox.Exec(ctx, sandbox.Target{PID: e.OwnerPID, StartTime: e.OwnerStart, Cgroup: e.Cgroup},
			sandbox.Visit{Command: args[1:], Stdio: [3]*os.File{c.env.Stdin, c.env.Stdout, c.env.Stderr}})
		if err == nil && exit != (sandbox.Exit{}) {
			err = ExitError{Code: exit.Status()}
		}
		return err
	})
}

func (c *client) taskKill() *cobra.Command {
	cmd := &cobra.Command{
		Use: "kill TASK", Short: "end every process of a task; its address, names and VIPs go with it",
		Long: "Kill takes the task out of its VIPs first, and ends it when no node opens connections to it any more and none is\n" +
			"open, or when the VIP's deadline is over.",
		Example: "  weft task kill web\n  weft task kill web --now",
		Args:    show.Args(1, 1),
	}
	now := cmd.Flags().Bool("now", false, "end it at once, whoever is connected to it")
	return c.command(cmd, func(ctx context.Context, d *Daemon, args []string) error {
		ctx, cancel := context.WithTimeout(ctx, callTimeout+lb.MaxWait)
		defer cancel()
		e, err := find(ctx, d, args[0])
		if err != nil {
			return err
		}
		if e.Cgroup == "" {
			return fmt.Errorf("task %s was not started by weft run: end it by what started it", e.Task)
		}
		if !*now {
			if err := drainEndpoints(ctx, d, c.env.Stderr, e); err != nil {
				return err
			}
		}
		return sandbox.Kill(e.Cgroup)
	})
}

func (c *client) taskGroups() *cobra.Command {
	var network string
	var names []string
	var none bool
	cmd := &cobra.Command{
		Use: "groups TASK (--group GROUP... | --none)", Short: "put a running task into other groups; its flows follow at once",
		Example: "  weft task groups web --group web --group db\n  weft task groups web --network prod --none",
		Args:    show.Args(1, 1),
	}
	cmd.Flags().StringVar(&network, "network", "", "network that the groups are of, where the task is in several")
	cmd.Flags().StringSliceVar(&names, "group", nil, "group that the task is in from now on, in place of those it is in (repeatable)")
	cmd.Flags().BoolVar(&none, "none", false, "no group")
	return c.command(cmd, func(ctx context.Context, d *Daemon, args []string) error {
		if none == (len(names) > 0) {
			return fmt.Errorf("%w: name the groups by --group, or give --none for no group", show.ErrUsage)
		}
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		e, err := member(ctx, d, args[0], network)
		if err != nil {
			return err
		}
		if e.InHost() {
			return fmt.Errorf("task %s is in network %s, its node's own, which has no groups: who reaches it is the node's firewall's to say", e.Task, e.Network)
		}
		e.Groups = names
		if e, err = d.Overlay.Attach(ctx, e.Attachment); err == nil {
			fmt.Fprintf(c.env.Stdout, "task %s is in %s of network %s\n", e.Task, cmp.Or(show.List(e.Groups), "no group"), e.Network)
		}
		return err
	})
}

// member finds a task's endpoint in a network, in the only one when that is empty.
func member(ctx context.Context, d *Daemon, task, network string) (overlay.Endpoint, error) {
	in, err := memberships(ctx, d, task)
	if err != nil {
		return overlay.Endpoint{}, err
	}
	return pick(in, network)
}

// memberships returns the endpoints of a task, in the order of its networks.
func memberships(ctx context.Context, d *Daemon, task string) (in []overlay.Endpoint, err error) {
	found, err := find(ctx, d, task)
	if err != nil {
		return nil, err
	}
	all, err := d.Overlay.Endpoints(ctx)
	if err != nil {
		return nil, err
	}
	for _, e := range all {
		if e.Task == found.Task {
			in = append(in, e)
		}
	}
	if in == nil { // it ended meanwhile
		return nil, fmt.Errorf("no task %q on this node: `weft task list` shows them", task)
	}
	return in, nil
}

// pick returns a task's endpoint in a network, the only one when that is empty.
func pick(in []overlay.Endpoint, network string) (overlay.Endpoint, error) {
	var names []string
	for _, e := range in {
		if e.Network == network || network == "" && len(in) == 1 {
			return e, nil
		}
		names = append(names, e.Network)
	}
	if network != "" {
		return overlay.Endpoint{}, fmt.Errorf("task %s is not in network %q; it is in %s", in[0].Task, network, strings.Join(names, ", "))
	}
	return overlay.Endpoint{}, fmt.Errorf("task %s is in %s: say which by --network", in[0].Task, strings.Join(names, ", "))
}
