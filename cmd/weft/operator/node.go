// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"slices"

	"github.com/spf13/cobra"

	"weft/cmd/weft/show"
	"weft/control"
	"weft/discovery"
)

func (o *operator) node() *cobra.Command {
	return show.Noun("node", "nodes of the cluster", "  weft node list\n  weft node remove h3", o.nodeAdd(), o.nodeList(), o.nodeShow(), o.nodeRemove())
}

func (o *operator) nodeList() *cobra.Command {
	cmd := &cobra.Command{
		Use: "list", Short: "list the nodes, admitted or not", Args: show.Args(0, 0),
		Example: "  weft node list\n  weft node list -o json",
	}
	output := show.Output(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return o.ask(cmd.Context(), func(ctx context.Context, s control.Service) error {
			list, err := s.Nodes(ctx)
			if err != nil {
				return err
			}
			return show.Value(o.env.Stdout, *output, list, func(w io.Writer) { nodeTable(w, list) })
		})
	}
	return cmd
}

func nodeTable(w io.Writer, nodes []control.Node) {
	show.Row(w, "NODE", "STATE", "VTEP", "BLOCKS", "MTU", "VERSION", "PROBLEM")
	for _, n := range nodes {
		show.Row(w, n.ID, state(n), n.VTEP, n.Blocks, n.MTU, n.Version, problem(n))
	}
}

func state(n control.Node) string {
	switch {
	case n.Plain != nil:
		return "plain"
	case !n.Admitted && n.Alive:
		return "alive, not admitted"
	case !n.Admitted:
		return "not admitted"
	case n.Alive:
		return "alive"
	default:
		return "down"
	}
}

// problem is the first of refusals and warnings, and how many more there are.
func problem(n control.Node) string {
	switch all := slices.Concat(n.Refusals, n.Warnings); len(all) {
	case 0:
		return ""
	case 1:
		return all[0]
	default:
		return fmt.Sprintf("%s (and %d more)", all[0], len(all)-1)
	}
}

func (o *operator) nodeShow() *cobra.Command {
	cmd := &cobra.Command{Use: "show NODE", Short: "show a node", Args: show.Args(1, 1), Example: "  weft node show h1"}
	output := show.Output(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return o.ask(cmd.Context(), func(ctx context.Context, s control.Service) error {
			list, err := s.Nodes(ctx)
			if err != nil {
				return err
			}
			i := slices.IndexFunc(list, func(n control.Node) bool { return string(n.ID) == args[0] })
			if i < 0 {
				return fmt.Errorf("%w: no node %q; see weft node list", control.ErrNotFound, args[0])
			}
			n := list[i]
			networks, err := s.Networks(ctx, "")
			if err != nil {
				return err
			}
			return show.Value(o.env.Stdout, *output, n, func(w io.Writer) { nodeRows(w, n, networks) })
		})
	}
	return cmd
}

// nodeRows are what is to be shown of a node. Its processes have addresses towards the networks.
func nodeRows(w io.Writer, n control.Node, networks []control.Network) {
	show.Row(w, "node", n.ID)
	show.Row(w, "state", state(n))
	show.Row(w, "hostname", n.Hostname)
	show.Row(w, "addresses", show.List(n.Addrs))
	show.Row(w, "vtep", n.VTEP)
	for _, own := range []netip.Prefix{n.Host4, n.Host6} {
		if own.IsValid() {
			show.Row(w, "processes", own.Addr())
		}
	}
	plainRows(w, n.Plain)
	show.Row(w, "blocks", n.Blocks)
	for _, s := range n.Shares {
		for _, of := range networks {
			if of.Name == s.Network {
				show.Row(w, "addresses", fmt.Sprintf("in %s: %s", s.Network, share(s, of.Network)))
			}
		}
	}
	show.Row(w, "mtu", n.MTU)
	show.Row(w, "version", n.Version)
	for _, r := range slices.Concat(n.Refusals, n.Warnings) {
		show.Row(w, "problem", r)
	}
}

func (o *operator) nodeRemove() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "remove NODE", Short: "forget a node that is gone for good: its facts are void, its addresses free", Args: show.Args(1, 1),
		Example: "  weft node remove h3",
	}
	cmd.Flags().BoolVar(&force, "force", false, "also if the node is alive; its tasks lose their networks")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return o.ask(cmd.Context(), func(ctx context.Context, s control.Service) error {
			err := s.RemoveNode(ctx, discovery.NodeID(args[0]), force)
			if err == nil {
				o.say("node %s is removed", args[0])
			}
			return err
		})
	}
	return cmd
}
