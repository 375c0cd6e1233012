// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"weft/cmd/weft/node/origin"
	"weft/cmd/weft/show"
	"weft/discovery/dns"
)

// Where a node answers.
const (
	askAt  = nameServer4 + ":53"
	askAt6 = "[" + nameServer6 + "]:53"
)

func (c *client) dns() *cobra.Command {
	return show.Noun("dns", "ask this node for a name, and why it answers so", "  weft dns query web.weft.mesos\n  weft dns explain web.weft.mesos",
		c.dnsQuery(), c.dnsExplain())
}

func (c *client) dnsQuery() *cobra.Command {
	cmd := &cobra.Command{
		Use: "query NAME [TYPE]", Short: "ask a question as a task's resolver does",
		Long: "Query asks over UDP, and over TCP when the answer is too long for that. It needs no daemon: the kernel may\n" +
			"answer. The view is that of whoever runs the command: the host's, or a task's inside of one.",
		Example: "  weft dns query web.weft.mesos\n  weft dns query _web._tcp.weft.mesos SRV\n  weft dns query 9.1.0.2 PTR",
		Args:    show.Args(1, 2),
	}
	output, server := show.Output(cmd), cmd.Flags().String("server", askAt, "address:port to ask, where IPv4 goes nowhere "+askAt6)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		at, err := netip.ParseAddrPort(*server)
		if err != nil {
			return fmt.Errorf("%w: server is %q: address:port is allowed, for example %s", show.ErrUsage, *server, askAt)
		}
		name, qtype := args[0], "A"
		if len(args) == 2 {
			qtype = args[1]
		}
		if addr, err := netip.ParseAddr(name); err == nil {
			name = dns.ReverseName(addr)
			if len(args) < 2 {
				qtype = "PTR"
			}
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), callTimeout)
		defer cancel()
		reply, err := dns.Ask(ctx, at, name, qtype)
		if !cmd.Flags().Changed("server") && errors.Is(err, unix.ENETUNREACH) { // in a task of IPv6 alone
			reply, err = dns.Ask(ctx, netip.MustParseAddrPort(askAt6), name, qtype)
		}
		if err != nil {
			return err
		}
		return show.Value(c.env.Stdout, *output, reply, func(w io.Writer) { printReply(w, reply) })
	}
	return cmd
}

func printReply(w io.Writer, r dns.Reply) {
	how := "UDP"
	if r.TCP {
		how = "TCP"
	}
	fmt.Fprintf(w, "%s (%s) from %s over %s in %s\n", r.Status, strings.Join(r.Flags, " "), r.Server, how, r.Took.Round(time.Microsecond))
	for _, section := range []struct {
		name  string
		lines []string
	}{{"answer", r.Answer}, {"authority", r.Authority}, {"additional", r.Additional}, {"remark", r.Remarks}} {
		for _, line := range section.lines {
			fmt.Fprintf(w, "%s\t%s\n", section.name, line)
		}
	}
}

func (c *client) dnsExplain() *cobra.Command {
	cmd := &cobra.Command{
		Use: "explain NAME", Short: "tell which facts a name is made of, who wrote them, and why they give this name",
		Example: "  weft dns explain web.weft.mesos\n  weft dns explain web.weft.l4lb.thisdcos.directory --network prod",
		Args:    show.Args(1, 1),
	}
	output, network := show.Output(cmd), cmd.Flags().String("network", "", "as tasks of this network see it (default: the host)")
	return c.command(cmd, func(ctx context.Context, d *Daemon, args []string) error {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		name := strings.ToLower(strings.TrimSuffix(args[0], ".")) + "."
		if addr, err := netip.ParseAddr(args[0]); err == nil {
			name = dns.ReverseName(addr)
		}
		list, err := origin.Of(ctx, d.Discovery, *network, name)
		if err != nil {
			return err
		}
		return show.Value(c.env.Stdout, *output, list, func(w io.Writer) {
			show.Row(w, "RECORD", "WHY", "ROW", "WRITER", "ORDER")
			for _, e := range list {
				writer := e.Writer
				if e.WriterAlive != nil && !*e.WriterAlive {
					writer += " (does not answer)"
				}
				show.Row(w, fmt.Sprintf("%s %d %s", e.Type, e.TTL/time.Second, e.Data), e.Why, e.From, writer, fmt.Sprintf("%d/%d", e.Incarnation, e.Seq))
			}
		})
	})
}
