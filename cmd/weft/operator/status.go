// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"context"
	"fmt"
	"io"
	"net"
	"strconv"

	"github.com/spf13/cobra"

	"weft/cmd/weft/show"
	"weft/control"
)

func (o *operator) status() *cobra.Command {
	cmd := &cobra.Command{
		Use: "status", Short: "the cluster in one screen", Args: show.Args(0, 0),
		Example: "  weft status\n  weft status -o json",
	}
	output := show.Output(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return o.ask(cmd.Context(), func(ctx context.Context, s control.Service) error {
			st, err := s.Status(ctx)
			if err != nil {
				return err
			}
			return show.Value(o.env.Stdout, *output, st, func(w io.Writer) { statusTable(w, st) })
		})
	}
	return cmd
}

func statusTable(w io.Writer, st control.Status) {
	for _, m := range st.Masters {
		text := net.JoinHostPort(m.Addr.String(), strconv.Itoa(int(m.Port)))
		if m.Leads {
			text += ", leads"
		}
		show.Row(w, "master "+m.ID, text)
	}
	if st.Ledger.Healthy {
		show.Row(w, "ledger", fmt.Sprintf("healthy, revision %d", st.Ledger.Revision))
	} else {
		show.Row(w, "ledger", fmt.Sprintf("UNAVAILABLE: %s (what follows is of revision %d)", st.Ledger.Problem, st.Ledger.Revision))
	}
	c := st.Counts
	show.Row(w, "overlay", fmt.Sprintf("%s, %s, %s, %s, %s", count(c.Networks, "network"), count(c.Groups, "group"),
		count(c.Rules, "rule"), count(c.Blocks, "block"), count(c.Endpoints, "task")))
	show.Row(w, "vips", count(c.Pins, "name"))
	alive := 0
	for _, n := range st.Nodes {
		if n.Alive && n.Admitted {
			alive++
		}
	}
	show.Row(w, "nodes", fmt.Sprintf("%d of %d are alive and admitted", alive, len(st.Nodes)))
	for _, n := range st.Nodes {
		text := state(n)
		if p := problem(n); p != "" {
			text += ": " + p
		}
		show.Row(w, "  "+string(n.ID), text)
	}
}
