// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"weft/agent/sandbox"
	"weft/cmd/weft/dev"
	"weft/cmd/weft/labs"
	"weft/cmd/weft/master"
	"weft/cmd/weft/mesosdns"
	"weft/cmd/weft/netd"
	"weft/cmd/weft/node"
	"weft/cmd/weft/operator"
	"weft/cmd/weft/secrets"
	"weft/cmd/weft/show"
)

// Exit statuses; a task's own status is passed on by `weft run`.
const (
	exitError = 1
	exitUsage = 2
)

// run builds the command line and carries it out.
func run(args []string) int {
	if ours, status := sandbox.Init(); ours {
		return status
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	env := node.Env{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv}
	root := commands(env)
	root.SetArgs(args)
	return status(env, root.ExecuteContext(ctx))
}

// commands returns the whole command line.
func commands(env node.Env) *cobra.Command {
	root := &cobra.Command{
		Use:   "weft",
		Short: "virtual networks, VIPs and names for tasks, in the kernel",
		Long: "Weft weaves virtual networks across the machines that you have. Tasks join them, address groups keep\n" +
			"tasks apart, VIPs balance over hosts, names resolve in the kernel.\n\n" +
			"Try it: weft lab up --hosts 3",
		Version: version, SilenceErrors: true, SilenceUsage: true,
	}
	root.RunE, root.Args = show.Choose, cobra.ArbitraryArgs
	root.SetFlagErrorFunc(show.FlagError)
	root.AddGroup(&cobra.Group{ID: "process", Title: "Processes:"}, &cobra.Group{ID: "node", Title: "On a node:"},
		&cobra.Group{ID: "operator", Title: "For operators:"})
	add := func(group string, commands ...*cobra.Command) {
		for _, c := range commands {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add("process", netd.Command(env, version), master.Command(env, version), dev.Command(env, version), labs.Command(env),
		mesosdns.Command(env, version))
	operators := operator.Env{Stdout: env.Stdout, Stderr: env.Stderr, Getenv: env.Getenv}
	add("node", node.Commands(env, operator.Publishing(operators)...)...)
	add("operator", append(operator.Commands(operators), secrets.Command(env.Stdout))...)
	return root
}

// status prints the error of a command, in one line, and returns the exit status.
func status(env node.Env, err error) int {
	if err == nil {
		return 0
	}
	if exit, ok := errors.AsType[node.ExitError](err); ok {
		return exit.Code
	}
	fmt.Fprintln(env.Stderr, "weft:", err)
	if errors.Is(err, show.ErrUsage) {
		return exitUsage
	}
	return exitError
}
