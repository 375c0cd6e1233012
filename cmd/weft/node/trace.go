// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"io"

	"github.com/spf13/cobra"

	"weft/cmd/weft/show"
	"weft/overlay"
)

func (c *client) trace() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "trace SOURCE DESTINATION PROTOCOL[/PORT]",
		Short: "send one packet from a task and show its walk through the programs of both nodes",
		Long: "Trace sends one packet as SOURCE, a task of this node, would, and prints each program that met it, or its\n" +
			"answer: what was decided, and why. No process at the destination notices: a TCP SYN is reset before it is\n" +
			"accepted, a UDP datagram has a wrong checksum, an ICMP echo is answered by the stack. The destination may\n" +
			"also be a VIP's address, or one outside.",
		Example: "  weft trace web db tcp/5432\n  weft trace web 11.0.0.7 tcp/80\n  weft trace web db icmp -o json",
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
		var walk []overlay.Event
		err = d.Overlay.Events(ctx, overlay.Filter{Trace: &q}, func(e overlay.Event) error {
			walk = append(walk, e)
			return nil
		})
		if err != nil {
			return err
		}
		if len(walk) == 0 {
			return errors.New("no program of this node met the packet: weft doctor tells what is off")
		}
		return show.Value(c.env.Stdout, *output, walk, func(w io.Writer) { walkTable(w, walk) })
	})
}

// walkTable shows times since the step before, where one clock has both.
func walkTable(w io.Writer, walk []overlay.Event) {
	show.Row(w, "NODE", "PROGRAM", "FROM", "TO", "AFTER", "REASON", "WHAT")
	for i, e := range walk {
		after := ""
		if i > 0 && walk[i-1].Node == e.Node {
			after = e.Time.Sub(walk[i-1].Time).String()
		}
		show.Row(w, e.Node, e.Program, party(e.SourceTask, nil, e.Source.String()), party(e.DestTask, nil, e.Destination.String()),
			after, e.Reason, e.Text)
	}
	last := walk[len(walk)-1]
	advise(w, last.Owner, last.Suggestion)
}
