// SPDX-License-Identifier: Apache-2.0

// Package dev is `weft dev`: a master and a node in one process, for one machine and nothing to
// configure. It wires the two as they are; neither knows that the other is near.
package dev

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"weft/cmd/weft/master"
	"weft/cmd/weft/netd"
	"weft/cmd/weft/node"
	"weft/cmd/weft/process"
	"weft/cmd/weft/show"
	"weft/overlay/apply"
)

const (
	defaultState = "/var/lib/weft/dev"
	masterGossip = 7947 // beside the node's 7946
)

// Command returns `weft dev`.
func Command(env node.Env, version string) *cobra.Command {
	o := netd.Defaults()
	o.Version = version
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "a whole cluster of one node, in one process",
		Long: "Dev is a master and a node daemon in one process, for this machine alone. `weft` finds both without\n" +
			"any flag. What it made stays in the kernel when it ends, as with netd.",
		Example: "  weft dev\n  weft network add prod --subnet 9.1.0.0/16 && weft run --network prod --name hello -- ip addr",
		Args:    show.Args(0, 0),
	}
	f := cmd.Flags()
	f.StringVar(&o.State, "state", defaultState, "folder of what must survive a restart")
	f.StringVar(&o.Underlay, "underlay", "", "interface whose address is the node's (default: that of the default route)")
	f.StringVar(&o.Socket, "socket", o.Socket, "unix socket for clients on this node")
	f.StringVar(&o.Pin, "pin", o.Pin, "folder of bpffs for what must survive the daemon")
	f.StringVar(&o.Cgroup, "cgroup", "", "cgroup2 folder whose processes see VIPs when they connect")
	f.BoolVar(&o.Debug, "debug", false, "log more")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return run(cmd.Context(), env, o)
	}
	return cmd
}

func run(ctx context.Context, env node.Env, o netd.Options) error {
	underlay, err := apply.FindUnderlay(o.Underlay, false)
	if err != nil {
		return err
	}
	m := master.Defaults()
	m.Addr, m.Gossip = underlay.Addr.String(), masterGossip
	m.State = filepath.Join(o.State, "master")
	o.State = filepath.Join(o.State, "netd")
	o.Masters = []string{fmt.Sprintf("%s:%d", m.Addr, m.Port)}
	o.Join = []string{fmt.Sprintf("%s:%d", m.Addr, masterGossip)}
	if err := o.Complete(); err != nil {
		return err
	}
	m.ID = o.Node + "-master"
	if err := m.Complete(); err != nil {
		return err
	}
	log := process.Log(env.Stderr, o.Debug)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return master.Run(ctx, m, log.With("process", "master")) })
	group.Go(func() error { return netd.Run(ctx, o, log.With("process", "netd")) })
	return group.Wait()
}
