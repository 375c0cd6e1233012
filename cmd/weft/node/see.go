// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"weft/bpf"
	"weft/cmd/weft/show"
	"weft/lb"
	"weft/overlay"
)

func (c *client) vip() *cobra.Command {
	group := &cobra.Command{Use: "vip", Short: "VIPs and their backends, as this node sees them"}
	list := &cobra.Command{Use: "list", Short: "list VIPs", Example: "  weft vip list\n  weft vip list --network prod -o json", Args: cobra.NoArgs}
	output, network := show.Output(list), list.Flags().String("network", "", "only VIPs of this network")
	c.command(list, func(ctx context.Context, d *Daemon, _ []string) error {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		vips, err := d.LB.VIPs(ctx, *network)
		if err != nil {
			return err
		}
		return show.Value(c.env.Stdout, *output, vips, func(w io.Writer) { vipTable(w, vips) })
	})
	one := &cobra.Command{
		Use: "show NAME", Short: "show the backends of a VIP, each with the reason why it is in or out",
		Example: "  weft vip show web.weft\n  weft vip show web", Args: cobra.ExactArgs(1),
	}
	oneOutput := show.Output(one)
	c.command(one, func(ctx context.Context, d *Daemon, args []string) error {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		vips, err := d.LB.VIPs(ctx, "")
		if err != nil {
			return err
		}
		var found []lb.VIPStatus
		for _, v := range vips {
			if v.Name == args[0] || strings.HasPrefix(v.Name, args[0]+".") || v.DNS == args[0] || v.Addr.IsValid() && v.Addr.String() == args[0] {
				found = append(found, v)
			}
		}
		if len(found) == 0 {
			return fmt.Errorf("no VIP %q: `weft vip list` shows them", args[0])
		}
		return show.Value(c.env.Stdout, *oneOutput, found, func(w io.Writer) {
			show.Row(w, "VIP", "NETWORK", "TASK", "NODE", "ADDRESS", "PORT", "WEIGHT", "IN", "REASON")
			for _, v := range found {
				for _, b := range v.Backends {
					show.Row(w, vipName(v), v.Network, b.Task, b.Node, show.List(b.Addrs), b.Port, b.Weight, b.In, b.Reason)
				}
			}
		})
	})
	group.AddCommand(list, one)
	return group
}

// vipName is a VIP as its label reads: web.weft:80/tcp.
func vipName(v lb.VIPStatus) string {
	name := v.Name
	if name == "" {
		name = v.Addr.String()
	}
	return fmt.Sprintf("%s:%d/%s", name, v.Port, v.Protocol)
}

func vipTable(w io.Writer, vips []lb.VIPStatus) {
	show.Row(w, "VIP", "NETWORK", "ADDRESSES", "BACKENDS", "NAME")
	for _, v := range vips {
		in := 0
		for _, b := range v.Backends {
			if b.In {
				in++
			}
		}
		show.Row(w, vipName(v), v.Network, show.List(v.Addrs), fmt.Sprintf("%d of %d", in, len(v.Backends)), v.DNS)
	}
}

func (c *client) name() *cobra.Command {
	group := &cobra.Command{Use: "name", Short: "names, as this node answers them"}
	one := &cobra.Command{
		Use: "show NAME", Short: "show the records of a name and who wrote the fact behind each",
		Example: "  weft name show web.weft.mesos\n  weft name show _web._tcp.weft.mesos --network prod", Args: cobra.ExactArgs(1),
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
	group.AddCommand(one)
	return group
}

func (c *client) why() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "why SOURCE DESTINATION PROTOCOL[/PORT]",
		Short: "tell whether two tasks may talk, which rule decides, and what would change it",
		Long: "Why asks the tables that the packet path reads. Source and destination are task names, task ids or\n" +
			"addresses; the answer names the rule, or the missing one and the command that adds it.",
		Example: "  weft why web db tcp/5432\n  weft why 9.0.1.2 9.0.2.2 icmp",
		Args:    cobra.ExactArgs(3),
	}
	output, network := show.Output(cmd), cmd.Flags().String("network", "", "network of the names (default: the one that has them)")
	return c.command(cmd, func(ctx context.Context, d *Daemon, args []string) error {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		protocol, port, err := parseService(args[2])
		if err != nil {
			return err
		}
		verdict, err := d.Overlay.Explain(ctx, overlay.Question{
			Source: args[0], Destination: args[1], Network: *network, Protocol: protocol, Port: port,
		})
		if err != nil {
			return err
		}
		return show.Value(c.env.Stdout, *output, verdict, func(w io.Writer) {
			word := "no"
			if verdict.Allowed {
				word = "yes"
			}
			fmt.Fprintf(w, "%s: %s (%s)\n", word, verdict.Text, verdict.Reason)
			if verdict.Owner != "" {
				fmt.Fprintf(w, "who can change it: %s\n", verdict.Owner)
			}
			if verdict.Suggestion != "" {
				fmt.Fprintf(w, "to change it: %s\n", verdict.Suggestion)
			}
		})
	})
}

// parseService reads tcp/80, udp/53 or icmp.
func parseService(text string) (string, uint16, error) {
	protocol, number, hasPort := strings.Cut(text, "/")
	switch {
	case protocol == "icmp" && !hasPort:
		return protocol, 0, nil
	case (protocol == "tcp" || protocol == "udp") && hasPort:
		port, err := strconv.ParseUint(number, 10, 16)
		if err == nil && port > 0 {
			return protocol, uint16(port), nil
		}
	}
	return "", 0, fmt.Errorf("%w: service is %q: tcp/PORT, udp/PORT (1 to 65535) or icmp are allowed", show.ErrUsage, text)
}

func (c *client) doctor() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "tell which kernel features this node has, and what the absence of one means",
		Args:  cobra.NoArgs,
	}
	output := show.Output(cmd)
	cmd.RunE = func(*cobra.Command, []string) error {
		features := bpf.Probe()
		return show.Value(c.env.Stdout, *output, features, func(w io.Writer) {
			show.Row(w, "FEATURE", "STATE", "WHY")
			for _, f := range features {
				state := "off"
				if f.On {
					state = "on"
				}
				show.Row(w, f.Name, state, f.Why)
			}
		})
	}
	return cmd
}
