// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"weft/cmd/weft/ipfix"
	"weft/cmd/weft/show"
	"weft/overlay"
)

func (c *client) flows() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "flows",
		Short: "show the packets that the programs of this node report, with the names of tasks",
		Long: "Flows shows what was dropped, with reason, rule, owner and what would change it, and samples of what passed:\n" +
			"one of 1024 packets, or with --all each packet of one task of this node. -o json prints a line for each.",
		Example: "  weft flows --drops --follow\n  weft flows --task web --all --follow\n  weft flows --since 1m -o json\n  weft flows --follow --ipfix 192.0.2.1:4739",
		Args:    show.Args(0, 0),
	}
	output := show.Output(cmd)
	var f overlay.Filter
	cmd.Flags().StringVar(&f.Network, "network", "", "only packets of this network")
	cmd.Flags().StringVar(&f.Task, "task", "", "only packets from or to this task: its name, or an address")
	cmd.Flags().BoolVar(&f.Drops, "drops", false, "only packets that were dropped")
	cmd.Flags().BoolVar(&f.All, "all", false, fmt.Sprintf("every packet of --task (at most %d), not samples alone", overlay.MaxTraced))
	since := cmd.Flags().Duration("since", 0, "no recent packets that are older, such as 30s (default: all that are kept)")
	collector := cmd.Flags().String("ipfix", "", "send flows to this collector (HOST:PORT, UDP) as IPFIX instead of printing them")
	follow := cmd.Flags().BoolP("follow", "f", false, "go on until interrupted; without it, show the recent ones")
	return c.command(cmd, func(ctx context.Context, d *Daemon, _ []string) error {
		if *since < 0 {
			return fmt.Errorf("%w: since is %s: a duration of the past is allowed, such as 30s", show.ErrUsage, *since)
		}
		if *since > 0 {
			f.Since = time.Now().Add(-*since)
		}
		if f.All && f.Task == "" {
			return fmt.Errorf("%w: --all needs --task: it reports every packet of one task", show.ErrUsage)
		}
		if *collector != "" {
			return d.export(ctx, f, *follow || f.All, *collector)
		}
		found := false
		err := d.eachEvent(ctx, f, *follow || f.All, func(e overlay.Event) error {
			found = true
			if *output == "json" {
				return json.NewEncoder(c.env.Stdout).Encode(e)
			}
			_, err := fmt.Fprintln(c.env.Stdout, eventLine(e))
			return err
		})
		if err == nil && !found {
			_, err = fmt.Fprintln(c.env.Stderr, "weft: this node reported no packet that matches")
		}
		return err
	})
}

// export sends events to a flow collector.
func (d *Daemon) export(ctx context.Context, f overlay.Filter, follow bool, collector string) error {
	addr, err := net.ResolveUDPAddr("udp", collector)
	if err != nil || addr.Port == 0 || addr.IP == nil {
		return fmt.Errorf("%w: ipfix is %q: HOST:PORT of a collector is allowed", show.ErrUsage, collector)
	}
	at := addr.AddrPort()
	x, err := ipfix.Open(netip.AddrPortFrom(at.Addr().Unmap(), at.Port()))
	if err != nil {
		return err
	}
	defer x.Close()
	return d.eachEvent(ctx, f, follow, x.Send)
}

// replayQuiet is how long `flows` without --follow waits for a further recent event.
const replayQuiet = 300 * time.Millisecond

var errQuiet = errors.New("no further event")

// eachEvent hands events to emit until ctx ends or, without follow, until there are no more recent ones.
func (d *Daemon) eachEvent(ctx context.Context, f overlay.Filter, follow bool, emit func(overlay.Event) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var quiet *time.Timer
	if !follow {
		quiet = time.AfterFunc(replayQuiet, func() { cancel(errQuiet) })
		defer quiet.Stop()
	}
	err := d.Overlay.Events(ctx, f, func(e overlay.Event) error {
		if quiet != nil {
			quiet.Reset(replayQuiet)
		}
		return emit(e)
	})
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func eventLine(e overlay.Event) string {
	line := fmt.Sprintf("%s  %-8s %s -> %s  %s %d bytes  %s  %s: %s", e.Time.Format("15:04:05.000"), e.Network,
		party(e.SourceTask, e.SourceGroups, e.Source.String()), party(e.DestTask, e.DestGroups, e.Destination.String()),
		e.Protocol, e.Length*max(1, e.Packets), e.Program, e.Reason, e.Text)
	if e.Packets > 1 {
		line += fmt.Sprintf(" (for %d packets)", e.Packets)
	}
	if e.Owner != "" {
		line += "; owner: " + e.Owner
	}
	if e.Suggestion != "" {
		line += "; to change it: " + e.Suggestion
	}
	return line
}

// party is a side of a packet: web [web,api] (9.0.0.1:40000).
func party(task string, groups []string, addr string) string {
	switch {
	case task == "":
		return addr
	case len(groups) == 0:
		return task + " (" + addr + ")"
	}
	return task + " [" + strings.Join(groups, ",") + "] (" + addr + ")"
}
