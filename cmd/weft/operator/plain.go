// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"context"
	"fmt"
	"io"
	"net/netip"

	"github.com/spf13/cobra"

	"weft/cmd/weft/show"
	"weft/control"
	"weft/discovery"
	"weft/overlay"
)

func (o *operator) nodeAdd() *cobra.Command {
	var n overlay.PlainNode
	var vtep string
	var blocks []string
	cmd := &cobra.Command{
		Use:   "add NAME --vtep ADDRESS --network NETWORK --block PREFIX",
		Short: "take a host with a VXLAN device, and no Weft, into a network; the same again is no error",
		Long: "Take a plain node into a network: a host without Weft that has a VXLAN device of the kernel's, or another\n" +
			"VXLAN end. All of it counts as one sender in the groups given; the nodes of Weft judge what it sends and what\n" +
			"is sent to it. Nodes of Weft are not added: they say themselves that they are there.",
		Example: "  weft node add legacy-1 --vtep 192.0.2.77 --network prod --block 9.0.250.0/24 --group db",
		Args:    show.Args(1, 1),
	}
	f := cmd.Flags()
	f.StringVar(&vtep, "vtep", "", "underlay address of the host (needed)")
	f.StringVar(&n.Network, "network", "", "network that it is in (needed)")
	f.StringArrayVar(&blocks, "block", nil, "block of the network that it sends from; may be given again (needed)")
	f.StringArrayVar(&n.Groups, "group", nil, "group that it counts as a task of; may be given again (default none)")
	f.StringVar(&n.MAC, "mac", "", "link address of its VXLAN device (default 0a:58 and the last four bytes of --vtep)")
	f.IntVar(&n.MTU, "mtu", 0, "largest underlay packet on the way there, bytes (default that of each node's own link)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		n.Node = discovery.NodeID(args[0])
		var err error
		if n.VTEP, err = netip.ParseAddr(vtep); err != nil {
			return fmt.Errorf("%w: --vtep %q: an IPv4 or IPv6 address is allowed, such as 192.0.2.77", show.ErrUsage, vtep)
		}
		for _, text := range blocks {
			b, err := prefix("block", text)
			if err != nil {
				return err
			}
			n.Blocks = append(n.Blocks, b)
		}
		return o.ask(cmd.Context(), func(ctx context.Context, s control.Service) error {
			made, err := s.AddPlainNode(ctx, n)
			if err == nil {
				o.say("plain node %s is in network %s, its VXLAN device has %s", made.Node, made.Network, made.MAC)
			}
			return err
		})
	}
	return cmd
}

// plainRows are what is to be shown of a plain node.
func plainRows(w io.Writer, n *overlay.PlainNode) {
	if n == nil {
		return
	}
	show.Row(w, "network", n.Network)
	show.Row(w, "groups", show.List(n.Groups))
	show.Row(w, "mac", n.MAC)
	for _, b := range n.Blocks {
		show.Row(w, "block", b)
	}
}
