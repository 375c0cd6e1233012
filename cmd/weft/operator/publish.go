// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/netip"

	"github.com/spf13/cobra"

	"weft/cmd/weft/show"
	"weft/control"
	"weft/lb"
)

// Publishing returns `publish`, `unpublish` and `published`, for `weft vip`.
func Publishing(env Env) []*cobra.Command {
	return commands(env, (*operator).publish, (*operator).unpublish, (*operator).published)
}

func (o *operator) publish() *cobra.Command {
	var p lb.Publication
	var address, back string
	cmd := &cobra.Command{
		Use:   "publish NETWORK VIP --address ADDRESS[:PORT]",
		Short: "let clients outside of every network reach a VIP, by the nodes of the edge; the same again is no error",
		Long: "Publish makes a VIP (NAME:PORT[/tcp|/udp], without a protocol tcp) known outside, at an address that leads to nodes\n" +
			"whose netd has --edge. Without a port it is the VIP's. Tasks see the client's own address; groups and rules decide\n" +
			"whether the world may reach them (weft rule add NETWORK --from world).",
		Example: "  weft vip publish prod web.weft:80 --address 203.0.113.10\n  weft vip publish prod web.weft:443/udp --address [2001:db8::10]:443 --quic",
		Args:    show.Args(2, 2),
	}
	cmd.Flags().StringVar(&address, "address", "", "address, and port, that clients know")
	cmd.Flags().BoolVar(&p.Affinity, "affinity", false, "all connections of a client's address go to one backend")
	cmd.Flags().BoolVar(&p.QUIC, "quic", false, "QUIC connection ids may name the backend")
	cmd.Flags().StringVar(&back, "return", "direct", "way of answers: direct, by the routes of the task's node, or edge, by the edge node that the client came by")
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		if p.VIP, err = lb.ParseKey(args[0], args[1]); err != nil {
			return fmt.Errorf("%w: %w", show.ErrUsage, err)
		}
		if p.Addr, p.Port, err = addressPort(address); err != nil {
			return err
		}
		p.Port = cmp.Or(p.Port, p.VIP.Port)
		if p.Return, err = lb.ParseReturn(back); err != nil {
			return fmt.Errorf("%w: --return: %w", show.ErrUsage, err)
		}
		return o.ask(cmd.Context(), func(ctx context.Context, s control.Service) error {
			err := s.Publish(ctx, p)
			if err == nil {
				o.say("%s leads to %s", p.Name(), p.VIP)
			}
			return err
		})
	}
	return cmd
}

// addressPort reads an address with or without a port; 0: without.
func addressPort(text string) (netip.Addr, uint16, error) {
	if a, err := netip.ParseAddr(text); err == nil {
		return a, 0, nil
	}
	a, err := netip.ParseAddrPort(text)
	if err != nil || a.Port() == 0 {
		return netip.Addr{}, 0, fmt.Errorf("%w: --address is %q: ADDRESS or ADDRESS:PORT is allowed, such as 203.0.113.10:443 or [2001:db8::10]:443", show.ErrUsage, text)
	}
	return a.Addr(), a.Port(), nil
}

func (o *operator) unpublish() *cobra.Command {
	return &cobra.Command{
		Use: "unpublish ADDRESS:PORT/PROTOCOL", Short: "take a publication back; flows that there are end", Args: show.Args(1, 1),
		Example: "  weft vip unpublish 203.0.113.10:80/tcp",
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.ask(cmd.Context(), func(ctx context.Context, s control.Service) error {
				err := s.Unpublish(ctx, args[0])
				if err == nil {
					o.say("%s leads nowhere now", args[0])
				}
				return err
			})
		},
	}
}

func (o *operator) published() *cobra.Command {
	cmd := &cobra.Command{
		Use: "published [NETWORK]", Short: "list what VIPs of a network are published, or of all", Args: show.Args(0, 1),
		Example: "  weft vip published\n  weft vip published prod -o json",
	}
	output := show.Output(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return o.ask(cmd.Context(), func(ctx context.Context, s control.Service) error {
			list, err := s.Publications(ctx, first(args))
			if err != nil {
				return err
			}
			return show.Value(o.env.Stdout, *output, list, func(w io.Writer) {
				show.Row(w, "PUBLICATION", "VIP", "AFFINITY", "QUIC", "RETURN")
				for _, p := range list {
					show.Row(w, p.Name(), p.VIP, p.Affinity, p.QUIC, p.Return)
				}
			})
		})
	}
	return cmd
}
