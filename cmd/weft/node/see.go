// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"weft/bpf/probe"
	"weft/cmd/weft/show"
	"weft/overlay"
)

func (c *client) name() *cobra.Command {
	one := &cobra.Command{
		Use: "show NAME", Short: "show the records of a name and who wrote the fact behind each",
		Example: "  weft name show web.weft.mesos\n  weft name show _web._tcp.weft.mesos --network prod", Args: show.Args(1, 1),
	}
	output, network := show.Output(one), one.Flags().String("network", "", "as tasks of this network see it (default: the host)")
	c.command(one, func(ctx context.Context, d *Daemon, args []string) error {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		records, err := d.Discovery.Lookup(ctx, *network, strings.TrimSuffix(args[0], ".")+".")
		if err != nil {
			return err
		}
		return show.Value(c.env.Stdout, *output, records, func(w io.Writer) {
			show.Row(w, "NAME", "TYPE", "TTL", "DATA", "FROM", "WRITER")
			for _, r := range records {
				show.Row(w, r.Name, r.Type, r.TTL, r.Data, r.From, r.Writer)
			}
		})
	})
	return show.Noun("name", "names, as this node answers them", "  weft name show web.weft.mesos", one)
}

func (c *client) why() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "why SOURCE DESTINATION PROTOCOL[/PORT]",
		Short: "tell whether two tasks may talk, which rule decides, and what would change it",
		Long: "Why asks the tables that the packet path reads. Source and destination are task names, task ids or\n" +
			"addresses; the answer names the rule, or the missing one and the command that adds it.",
		Example: "  weft why web db tcp/5432\n  weft why 9.0.1.2 9.0.2.2 icmp",
		Args:    show.Args(3, 3),
	}
	output, network := show.Output(cmd), cmd.Flags().String("network", "", "network of the names (default: the one that has them)")
	return c.command(cmd, func(ctx context.Context, d *Daemon, args []string) error {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		q, err := question(args, *network)
		if err != nil {
			return err
		}
		verdict, err := d.Overlay.Explain(ctx, q)
		if err != nil {
			return err
		}
		return show.Value(c.env.Stdout, *output, verdict, func(w io.Writer) {
			word := "no"
			if verdict.Allowed {
				word = "yes"
			}
			fmt.Fprintf(w, "%s: %s (%s)\n", word, verdict.Text, verdict.Reason)
			advise(w, verdict.Owner, verdict.Suggestion)
		})
	})
}

// advise says who can change what was answered, and how, as far as there is any change to it.
func advise(w io.Writer, owner, suggestion string) {
	if owner != "" {
		fmt.Fprintf(w, "who can change it: %s\n", owner)
	}
	if suggestion != "" {
		fmt.Fprintf(w, "to change it: %s\n", suggestion)
	}
}

// question reads SOURCE DESTINATION PROTOCOL[/PORT]; the last is tcp/80, udp/53 or icmp.
func question(args []string, network string) (overlay.Question, error) {
	protocol, number, hasPort := strings.Cut(args[2], "/")
	q := overlay.Question{Source: args[0], Destination: args[1], Network: network, Protocol: protocol}
	switch {
	case protocol == "icmp" && !hasPort:
		return q, nil
	case (protocol == "tcp" || protocol == "udp") && hasPort:
		port, err := strconv.ParseUint(number, 10, 16)
		if q.Port = uint16(port); err == nil && port > 0 {
			return q, nil
		}
	}
	return q, fmt.Errorf("%w: service is %q: tcp/PORT, udp/PORT (1 to 65535) or icmp are allowed", show.ErrUsage, args[2])
}

func (c *client) doctor() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "doctor",
		Short:   "tell which kernel features this node has, and what the absence of one means",
		Long:    "Doctor tries what the kernel half uses. Where a feature is off something stands in for it; one that is\nmissing is needed: without it netd does not start.",
		Example: "  weft doctor\n  weft doctor -o json",
		Args:    show.Args(0, 0),
	}
	output := show.Output(cmd)
	cmd.RunE = func(*cobra.Command, []string) error {
		features := probe.Features()
		return show.Value(c.env.Stdout, *output, features, func(w io.Writer) {
			show.Row(w, "FEATURE", "STATE", "WHY")
			for _, f := range features {
				show.Row(w, f.Name, featureState(f), f.Why)
			}
		})
	}
	return cmd
}

func featureState(f probe.Feature) string {
	switch {
	case f.On:
		return "on"
	case f.Needed:
		return "missing"
	}
	return "off"
}
