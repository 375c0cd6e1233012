// SPDX-License-Identifier: Apache-2.0

// Package operator is the part of the command line that asks masters: networks, groups, rules, nodes
// and the status of the cluster. It prints what the masters answer; what is allowed they decide.
package operator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"weft/cmd/weft/process"
	"weft/cmd/weft/show"
	"weft/control"
	"weft/control/controlpb"
)

// Variables of the environment.
const (
	envMaster = "WEFT_MASTER" // HOST:PORT[,HOST:PORT...]
	envSecret = "WEFT_SECRET"
)

// defaultMaster is asked when nothing else is said: a master on this host.
const defaultMaster = "127.0.0.1:7700"

// Client is a control.Service with an end.
type Client interface {
	control.Service
	Close() error
}

// Env is what commands use of the world.
type Env struct {
	Stdout, Stderr io.Writer
	Getenv         func(string) string
	// Dial connects to masters, by default controlpb.Dial.
	Dial func(addrs []string, secret string) (Client, error)
}

// operator carries what the commands share.
type operator struct {
	env        Env
	master     string
	secretFile string
}

// Commands returns `weft network`, `group`, `rule`, `node` and `status`.
func Commands(env Env) []*cobra.Command {
	return commands(env, (*operator).network, (*operator).group, (*operator).rule, (*operator).node, (*operator).status)
}

// commands makes each of makers, with the flags that all have.
func commands(env Env, makers ...func(*operator) *cobra.Command) []*cobra.Command {
	if env.Dial == nil {
		env.Dial = func(addrs []string, secret string) (Client, error) { return controlpb.Dial(addrs, secret) }
	}
	var commands []*cobra.Command
	for _, command := range makers {
		o := &operator{env: env}
		cmd := command(o)
		cmd.SetOut(env.Stdout)
		cmd.SetErr(env.Stderr)
		cmd.PersistentFlags().StringVar(&o.master, "master", "",
			"masters to ask, HOST:PORT[,HOST:PORT...], the first that answers (default $"+envMaster+", else "+defaultMaster+")")
		cmd.PersistentFlags().StringVar(&o.secretFile, "secret-file", "", "file with the cluster's secret (default: $"+envSecret+")")
		commands = append(commands, cmd)
	}
	return commands
}

// first is the first argument, empty if there is none.
func first(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

// ask connects to the masters and lets f ask them.
func (o *operator) ask(ctx context.Context, f func(context.Context, control.Service) error) (err error) {
	secret := o.env.Getenv(envSecret)
	if o.secretFile != "" {
		secrets, err := process.Secrets(o.secretFile)
		if err != nil {
			return err
		}
		shown, _ := process.First(secrets) // masters accept what follows it, too
		secret = string(shown)
	}
	list := o.master
	if list == "" {
		list = o.env.Getenv(envMaster)
	}
	if list == "" {
		list = defaultMaster
	}
	masters := strings.Split(list, ",")
	for i, m := range masters {
		masters[i] = strings.TrimSpace(m)
		host, port, err := net.SplitHostPort(masters[i])
		if n, bad := strconv.ParseUint(port, 10, 16); err != nil || bad != nil || n == 0 || host == "" {
			return fmt.Errorf("%w: master is %q: HOST:PORT is allowed, such as %s (--master, $%s)", show.ErrUsage, m, defaultMaster, envMaster)
		}
	}
	client, err := o.env.Dial(masters, secret)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	return f(ctx, client)
}

// say prints a line.
func (o *operator) say(format string, args ...any) {
	fmt.Fprintf(o.env.Stdout, format+"\n", args...)
}

// count says "1 rule", "2 rules".
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
