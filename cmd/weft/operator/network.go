// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"context"
	"fmt"
	"io"
	"math"
	"net/netip"
	"strconv"

	"github.com/spf13/cobra"

	"weft/cmd/weft/show"
	"weft/control"
	"weft/overlay"
)

func (o *operator) network() *cobra.Command {
	return noun("network", "virtual networks", "  weft network add prod --subnet 9.0.0.0/16 --subnet6 fd01:b::/64\n  weft network list",
		o.networkAdd(), o.networkList(), o.networkShow(), o.networkRemove())
}

func (o *operator) networkAdd() *cobra.Command {
	var n overlay.Network
	var subnet4, subnet6, ungrouped string
	var vni uint32
	cmd := &cobra.Command{
		Use:   "add NAME --subnet PREFIX [--subnet6 PREFIX]",
		Short: "add a network; the same again is no error",
		Long: "Add a network. At least one of --subnet and --subnet6 is needed; neither may overlap another network,\n" +
			"the underlay or the range of VIPs.",
		Example: "  weft network add prod --subnet 9.0.0.0/16 --subnet6 fd01:b::/64\n" +
			"  weft network add legacy --subnet 9.8.0.0/16 --block 26 --ungrouped open",
		Args: args(1, 1),
	}
	cmd.Flags().StringVar(&subnet4, "subnet", "", "IPv4 subnet, such as 9.0.0.0/16")
	cmd.Flags().StringVar(&subnet6, "subnet6", "", "IPv6 subnet, such as fd01:b::/64")
	cmd.Flags().Uint32Var(&vni, "vni", 0, "VXLAN network identifier, 1 to 16777215 (default: one that is free)")
	cmd.Flags().IntVar(&n.Block4, "block", 0, "prefix length of a node's IPv4 block (default 24)")
	cmd.Flags().IntVar(&n.Block6, "block6", 0, "prefix length of a node's IPv6 block (default 112)")
	cmd.Flags().StringVar(&ungrouped, "ungrouped", "own", "whom tasks without groups may talk to: own (each other) or open (every task)")
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		n.Name, n.VNI, n.Ungrouped = args[0], overlay.VNI(vni), overlay.Ungrouped(ungrouped)
		if n.Subnet4, err = prefix("subnet", subnet4); err != nil {
			return err
		}
		if n.Subnet6, err = prefix("subnet6", subnet6); err != nil {
			return err
		}
		return o.ask(cmd.Context(), func(ctx context.Context, s control.Service) error {
			made, err := s.AddNetwork(ctx, n)
			if err == nil {
				o.say("network %s has vni %d", made.Name, made.VNI)
			}
			return err
		})
	}
	return cmd
}

// prefix reads a flag; a subnet that is none is the command's fault, not the masters'.
func prefix(flag, text string) (netip.Prefix, error) {
	if text == "" {
		return netip.Prefix{}, nil
	}
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return p, fmt.Errorf("%w: --%s %q: ADDRESS/LENGTH is allowed, such as 9.0.0.0/16 or fd01:b::/64", show.ErrUsage, flag, text)
	}
	return p, nil
}

func (o *operator) networkList() *cobra.Command {
	cmd := &cobra.Command{
		Use: "list", Short: "list the networks", Args: args(0, 0),
		Example: "  weft network list\n  weft network list -o json",
	}
	output := show.Output(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return o.ask(cmd.Context(), func(ctx context.Context, s control.Service) error {
			list, err := s.Networks(ctx, "")
			if err != nil {
				return err
			}
			return show.Value(o.env.Stdout, *output, list, func(w io.Writer) {
				show.Row(w, "NAME", "VNI", "SUBNET", "SUBNET6", "UNGROUPED", "GROUPS", "BLOCKS", "FREE", "FREE6")
				for _, n := range list {
					show.Row(w, n.Name, n.VNI, n.Subnet4, n.Subnet6, n.Ungrouped, len(n.Groups), len(n.Blocks),
						free(n.Subnet4, n.Free4), free(n.Subnet6, n.Free6))
				}
			})
		})
	}
	return cmd
}

// free is a count of blocks, empty for a family that the network has not.
func free(subnet netip.Prefix, blocks int) string {
	switch {
	case !subnet.IsValid():
		return ""
	case blocks == math.MaxInt32:
		return "many"
	default:
		return strconv.Itoa(blocks)
	}
}

func (o *operator) networkShow() *cobra.Command {
	cmd := &cobra.Command{
		Use: "show NAME", Short: "show a network and who holds which block of it", Args: args(1, 1),
		Example: "  weft network show prod\n  weft network show prod -o json",
	}
	output := show.Output(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return o.ask(cmd.Context(), func(ctx context.Context, s control.Service) error {
			list, err := s.Networks(ctx, args[0])
			if err != nil {
				return err
			}
			if len(list) != 1 {
				return fmt.Errorf("network %q: the master answered with %d networks", args[0], len(list))
			}
			return show.Value(o.env.Stdout, *output, list[0], func(w io.Writer) { networkTable(w, list[0]) })
		})
	}
	return cmd
}

func networkTable(w io.Writer, n control.Network) {
	show.Row(w, "name", n.Name)
	show.Row(w, "vni", n.VNI)
	if n.Subnet4.IsValid() {
		show.Row(w, "subnet", fmt.Sprintf("%s in blocks of /%d, %s free", n.Subnet4, n.Block4, free(n.Subnet4, n.Free4)))
	}
	if n.Subnet6.IsValid() {
		show.Row(w, "subnet6", fmt.Sprintf("%s in blocks of /%d, %s free", n.Subnet6, n.Block6, free(n.Subnet6, n.Free6)))
	}
	show.Row(w, "ungrouped", n.Ungrouped)
	show.Row(w, "groups", show.List(n.Groups))
	for _, b := range n.Blocks {
		show.Row(w, "block", fmt.Sprintf("%s of %s", b.Prefix, b.Node))
	}
}

func (o *operator) networkRemove() *cobra.Command {
	return &cobra.Command{
		Use: "remove NAME", Short: "remove a network with its groups and rules; its tasks run on without it", Args: args(1, 1),
		Example: "  weft network remove dev",
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.ask(cmd.Context(), func(ctx context.Context, s control.Service) error {
				err := s.RemoveNetwork(ctx, args[0])
				if err == nil {
					o.say("network %s is removed", args[0])
				}
				return err
			})
		},
	}
}
