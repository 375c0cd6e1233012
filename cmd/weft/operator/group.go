// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"weft/cmd/weft/show"
	"weft/control"
	"weft/overlay"
)

func (o *operator) group() *cobra.Command {
	return show.Noun("group", "address groups: tasks of a network talk when they share one", "  weft group add prod web\n  weft group list prod",
		o.groupAdd(), o.groupList(), o.groupShow(), o.groupRemove())
}

func (o *operator) groupAdd() *cobra.Command {
	return &cobra.Command{
		Use: "add NETWORK GROUP", Short: "declare a group; the same again is no error", Args: show.Args(2, 2),
		Example: "  weft group add prod web",
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.ask(cmd.Context(), func(ctx context.Context, s control.Service) error {
				err := s.AddGroup(ctx, overlay.Group{Network: args[0], Name: args[1]})
				if err == nil {
					o.say("network %s has group %s", args[0], args[1])
				}
				return err
			})
		},
	}
}

func (o *operator) groupList() *cobra.Command {
	cmd := &cobra.Command{
		Use: "list [NETWORK]", Short: "list the groups of a network, or of all", Args: show.Args(0, 1),
		Example: "  weft group list\n  weft group list prod -o json",
	}
	output := show.Output(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return o.ask(cmd.Context(), func(ctx context.Context, s control.Service) error {
			list, err := s.Groups(ctx, first(args))
			if err != nil {
				return err
			}
			return show.Value(o.env.Stdout, *output, list, func(w io.Writer) {
				show.Row(w, "NETWORK", "GROUP", "TASKS", "RULES")
				for _, g := range list {
					show.Row(w, g.Network, g.Name, g.Tasks, show.List(g.Rules))
				}
			})
		})
	}
	return cmd
}

func (o *operator) groupShow() *cobra.Command {
	cmd := &cobra.Command{
		Use: "show NETWORK GROUP", Short: "show a group and the rules that name it", Args: show.Args(2, 2),
		Example: "  weft group show prod web",
	}
	output := show.Output(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return o.ask(cmd.Context(), func(ctx context.Context, s control.Service) error {
			list, err := s.Groups(ctx, args[0])
			if err != nil {
				return err
			}
			i := slices.IndexFunc(list, func(g control.Group) bool { return g.Name == args[1] })
			if i < 0 {
				return fmt.Errorf("%w: no group of network %s %q; see weft group list %s", control.ErrNotFound, args[0], args[1], args[0])
			}
			g := list[i]
			rules, err := s.Rules(ctx, args[0])
			if err != nil {
				return err
			}
			return show.Value(o.env.Stdout, *output, g, func(w io.Writer) {
				show.Row(w, "network", g.Network)
				show.Row(w, "group", g.Name)
				show.Row(w, "tasks", g.Tasks)
				for _, r := range rules {
					if slices.Contains(g.Rules, r.ID) {
						show.Row(w, "rule", fmt.Sprintf("%d: %s", r.ID, sentence(r)))
					}
				}
			})
		})
	}
	return cmd
}

func (o *operator) groupRemove() *cobra.Command {
	return &cobra.Command{
		Use: "remove NETWORK GROUP", Short: "remove a group that no rule names and no task is in", Args: show.Args(2, 2),
		Example: "  weft group remove prod web",
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.ask(cmd.Context(), func(ctx context.Context, s control.Service) error {
				err := s.RemoveGroup(ctx, overlay.Group{Network: args[0], Name: args[1]})
				if err == nil {
					o.say("group %s of network %s is removed", args[1], args[0])
				}
				return err
			})
		},
	}
}
