// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"context"
	"fmt"
	"io"
	"math"
	"net/netip"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"weft/cmd/weft/show"
	"weft/control"
	"weft/overlay"
)

func (o *operator) network() *cobra.Command {
	return show.Noun("network", "virtual networks", "  weft network add prod --subnet 9.0.0.0/16 --subnet6 fd01:b::/64\n  weft network list",
		o.networkAdd(), o.networkSet(), o.networkList(), o.networkShow(), o.networkRemove())
}

// form is what add and set are told of a network.
type form struct {
	overlay.Network
	subnet4, subnet6, ungrouped string
}

func (f *form) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.subnet4, "subnet", "", "IPv4 subnet, such as 9.0.0.0/16")
	cmd.Flags().StringVar(&f.subnet6, "subnet6", "", "IPv6 subnet, such as fd01:b::/64")
	cmd.Flags().IntVar(&f.Block4, "block", 0, "prefix length of a node's IPv4 block (default 24)")
	cmd.Flags().IntVar(&f.Block6, "block6", 0, "prefix length of a node's IPv6 block (default 112)")
	cmd.Flags().StringVar(&f.ungrouped, "ungrouped", "own", "whom tasks without groups may talk to: own (each other) or open (every task)")
}

func (f *form) read() (err error) {
	f.Ungrouped = overlay.Ungrouped(f.ungrouped)
	if f.Subnet4, err = prefix("subnet", f.subnet4); err != nil {
		return err
	}
	f.Subnet6, err = prefix("subnet6", f.subnet6)
	return err
}

func (o *operator) networkAdd() *cobra.Command {
	var f form
	var vni uint32
	cmd := &cobra.Command{
		Use:   "add NAME --subnet PREFIX [--subnet6 PREFIX]",
		Short: "add a network; the same again is no error",
		Long: "Add a network. At least one of --subnet and --subnet6 is needed; neither may overlap another network,\n" +
			"the underlay or the range of VIPs.",
		Example: "  weft network add prod --subnet 9.0.0.0/16 --subnet6 fd01:b::/64\n" +
			"  weft network add legacy --subnet 9.8.0.0/16 --block 26 --ungrouped open",
		Args: show.Args(1, 1),
	}
	f.flags(cmd)
	cmd.Flags().Uint32Var(&vni, "vni", 0, "VXLAN network identifier, 1 to 16777215 (default: one that is free)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := f.read(); err != nil {
			return err
		}
		f.Name, f.VNI = args[0], overlay.VNI(vni)
		return o.ask(cmd.Context(), func(ctx context.Context, s control.Service) error {
			made, err := s.AddNetwork(ctx, f.Network)
			if err == nil {
				o.say("network %s has vni %d", made.Name, made.VNI)
			}
			return err
		})
	}
	return cmd
}

func (o *operator) networkSet() *cobra.Command {
	var f form
	cmd := &cobra.Command{
		Use:   "set NAME [--subnet PREFIX] [--subnet6 PREFIX] [--ungrouped own|open]",
		Short: "change a network that is in use; what is not given stays",
		Long: "Change a network while its tasks run. A subnet may grow, or shrink where no node has a block, and a family\n" +
			"may be added; tasks that run already get no address of it. An empty --subnet or --subnet6 removes the family.\n" +
			"The length of blocks can change while no node has one. Nothing is changed when something is in the way.",
		Example: "  weft network set prod --subnet 9.0.0.0/15\n  weft network set prod --ungrouped open",
		Args:    show.Args(1, 1),
	}
	f.flags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := f.read(); err != nil {
			return err
		}
		return o.ask(cmd.Context(), func(ctx context.Context, s control.Service) error {
			list, err := s.Networks(ctx, args[0])
			if err != nil {
				return err
			}
			if len(list) != 1 {
				return fmt.Errorf("network %q: the master answered with %d networks", args[0], len(list))
			}
			made, err := s.SetNetwork(ctx, f.onto(list[0].Network, cmd.Flags().Changed))
			if err == nil {
				o.say("network %s is %s", made.Name, made.Form())
			}
			return err
		})
	}
	return cmd
}

// onto returns the network with those fields changed that were given.
func (f *form) onto(n overlay.Network, given func(flag string) bool) overlay.Network {
	if given("subnet") {
		n.Subnet4 = f.Subnet4
	}
	if given("subnet6") {
		n.Subnet6 = f.Subnet6
	}
	if given("block") || !n.Subnet4.IsValid() {
		n.Block4 = f.Block4
	}
	if given("block6") || !n.Subnet6.IsValid() {
		n.Block6 = f.Block6
	}
	if given("ungrouped") {
		n.Ungrouped = f.Ungrouped
	}
	return n
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
		Use: "list", Short: "list the networks", Args: show.Args(0, 0),
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

// free is a count of blocks or addresses, empty for a family that the network has not.
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
		Use: "show NAME", Short: "show a network and who holds which block of it", Args: show.Args(1, 1),
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
	show.Row(w, "sets", fmt.Sprintf("%d of groups, of 65520", n.GroupSets))
	for _, b := range n.Blocks {
		show.Row(w, "block", fmt.Sprintf("%s of %s", b.Prefix, b.Node))
	}
	for _, s := range n.Shares {
		show.Row(w, "addresses", fmt.Sprintf("of %s: %s", s.Node, share(s, n.Network)))
	}
}

// share tells how many addresses of a network a node has, in the families that the network has.
func share(s control.Share, n overlay.Network) string {
	var parts []string
	if n.Subnet4.IsValid() {
		parts = append(parts, fmt.Sprintf("%d used, %s free", s.Used4, free(n.Subnet4, s.Free4)))
	}
	if n.Subnet6.IsValid() {
		parts = append(parts, fmt.Sprintf("IPv6 %d used, %s free", s.Used6, free(n.Subnet6, s.Free6)))
	}
	return strings.Join(parts, "; ")
}

func (o *operator) networkRemove() *cobra.Command {
	return &cobra.Command{
		Use: "remove NAME", Short: "remove a network with its groups and rules; its tasks run on without it", Args: show.Args(1, 1),
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
