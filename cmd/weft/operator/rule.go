// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"weft/cmd/weft/show"
	"weft/control"
	"weft/overlay"
)

func (o *operator) rule() *cobra.Command {
	return show.Noun("rule", "rules: what else may pass, or may not, from group to group", "  weft rule add prod --from web --to db --port tcp/5432\n  weft rule list prod",
		o.ruleAdd(), o.ruleList(), o.ruleShow(), o.ruleRemove())
}

func (o *operator) ruleAdd() *cobra.Command {
	var r overlay.Rule
	var action string
	var ports []string
	cmd := &cobra.Command{
		Use:   "add NETWORK --from GROUP|world|ADDRESSES --to GROUP [--port PROTOCOL[/PORT[-PORT]]]...",
		Short: "add a rule, in one direction; replies pass by themselves; the same again is no error",
		Example: "  weft rule add prod --from web --to db --port tcp/5432\n  weft rule add prod --from world --to web --port tcp/80,tcp/443\n" +
			"  weft rule add prod --from 192.0.2.0/24 --to web --port tcp/8000-8999\n  weft rule add prod --from web --to db --port icmp\n  weft rule add prod --from web --to db --action deny --audit",
		Args: show.Args(1, 1),
	}
	cmd.Flags().StringVar(&r.From, "from", "", "group that sends, world (all that is outside of every network), or addresses of it such as 192.0.2.0/24")
	cmd.Flags().StringVar(&r.To, "to", "", "group that accepts")
	cmd.Flags().StringSliceVar(&ports, "port", nil, "tcp, udp or icmp; tcp/80; udp/5000-5010; repeatable; without: everything")
	cmd.Flags().StringVar(&action, "action", "allow", "allow or deny")
	cmd.Flags().BoolVar(&r.Audit, "audit", false, "with deny: report what would be dropped, drop nothing")
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		if r.From == "" || r.To == "" {
			return fmt.Errorf("%w: --from and --to are needed, such as --from web --to db", show.ErrUsage)
		}
		if r.Protocol, r.Ports, err = parsePorts(ports); err != nil {
			return err
		}
		r.Network, r.Action = args[0], overlay.Action(action)
		return o.ask(cmd.Context(), func(ctx context.Context, s control.Service) error {
			made, err := s.AddRule(ctx, r)
			if err == nil {
				o.say("rule %d of network %s: %s", made.ID, made.Network, sentence(made))
			}
			return err
		})
	}
	return cmd
}

// parsePorts reads the --port flags, which must agree on the protocol: a rule has one.
func parsePorts(flags []string) (protocol string, ports []overlay.PortRange, err error) {
	every := false
	for _, flag := range flags {
		name, numbers, some := strings.Cut(flag, "/")
		if protocol != "" && name != protocol {
			return "", nil, fmt.Errorf("%w: --port %s beside %s: a rule has one protocol; add another rule", show.ErrUsage, flag, protocol)
		}
		if !slices.Contains([]string{"tcp", "udp", "icmp"}, name) {
			return "", nil, fmt.Errorf("%w: --port %q: tcp, udp or icmp is allowed, then /PORT or /PORT-PORT", show.ErrUsage, flag)
		}
		protocol = name
		if !some {
			every = true
			continue
		}
		low, high, isRange := strings.Cut(numbers, "-")
		if !isRange {
			high = low
		}
		first, err1 := strconv.ParseUint(low, 10, 16)
		last, err2 := strconv.ParseUint(high, 10, 16)
		if err1 != nil || err2 != nil || first == 0 || last < first || name == "icmp" {
			return "", nil, fmt.Errorf("%w: --port %q: ports are 1 to 65535, such as tcp/80 or udp/5000-5010; icmp has none", show.ErrUsage, flag)
		}
		ports = append(ports, overlay.PortRange{First: uint16(first), Last: uint16(last)})
	}
	if every {
		ports = nil
	}
	return protocol, ports, nil
}

// sentence says a rule in words: allow web to db tcp/5432.
func sentence(r overlay.Rule) string {
	text := fmt.Sprintf("%s %s to %s", r.Action, r.From, r.To)
	if what := r.Service(); what != "" {
		text += " " + what
	}
	if r.Audit {
		text += " (audit: reported, not dropped)"
	}
	return text
}

func (o *operator) ruleList() *cobra.Command {
	cmd := &cobra.Command{
		Use: "list [NETWORK]", Short: "list the rules of a network, or of all", Args: show.Args(0, 1),
		Example: "  weft rule list prod\n  weft rule list -o json",
	}
	output := show.Output(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return o.ask(cmd.Context(), func(ctx context.Context, s control.Service) error {
			list, err := s.Rules(ctx, first(args))
			if err != nil {
				return err
			}
			return show.Value(o.env.Stdout, *output, list, func(w io.Writer) {
				show.Row(w, "NETWORK", "ID", "ACTION", "FROM", "TO", "TRAFFIC", "AUDIT")
				for _, r := range list {
					show.Row(w, r.Network, r.ID, r.Action, r.From, r.To, cmp.Or(r.Service(), "any"), r.Audit)
				}
			})
		})
	}
	return cmd
}

func (o *operator) ruleShow() *cobra.Command {
	cmd := &cobra.Command{
		Use: "show NETWORK ID", Short: "show a rule", Args: show.Args(2, 2), Example: "  weft rule show prod 1",
	}
	output := show.Output(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		id, err := ruleID(args[1])
		if err != nil {
			return err
		}
		return o.ask(cmd.Context(), func(ctx context.Context, s control.Service) error {
			list, err := s.Rules(ctx, args[0])
			if err != nil {
				return err
			}
			i := slices.IndexFunc(list, func(r overlay.Rule) bool { return r.ID == id })
			if i < 0 {
				return fmt.Errorf("%w: no rule of network %s \"%d\"; see weft rule list %s", control.ErrNotFound, args[0], id, args[0])
			}
			r := list[i]
			return show.Value(o.env.Stdout, *output, r, func(w io.Writer) {
				show.Row(w, "network", r.Network)
				show.Row(w, "id", r.ID)
				show.Row(w, "rule", sentence(r))
			})
		})
	}
	return cmd
}

func ruleID(text string) (overlay.RuleID, error) {
	id, err := strconv.ParseUint(text, 10, 32)
	if err != nil || id == 0 {
		return 0, fmt.Errorf("%w: rule id %q: a number is allowed, see weft rule list", show.ErrUsage, text)
	}
	return overlay.RuleID(id), nil
}

func (o *operator) ruleRemove() *cobra.Command {
	return &cobra.Command{
		Use: "remove NETWORK ID", Short: "remove a rule", Args: show.Args(2, 2), Example: "  weft rule remove prod 1",
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := ruleID(args[1])
			if err != nil {
				return err
			}
			return o.ask(cmd.Context(), func(ctx context.Context, s control.Service) error {
				err := s.RemoveRule(ctx, args[0], id)
				if err == nil {
					o.say("rule %d of network %s is removed", id, args[0])
				}
				return err
			})
		},
	}
}
