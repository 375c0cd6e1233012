// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"weft/cmd/weft/node"
	"weft/cmd/weft/show"
)

// try runs a command line that must not get as far as to ask anybody.
func try(args ...string) error {
	root := commands(node.Env{Getenv: func(string) string { return "" }, Stdout: os.Stdout})
	root.SetOut(io.Discard)
	root.SetErr(io.Discard)
	root.SetArgs(args)
	return root.Execute()
}

// TestEveryCommandTellsHowItIsCalled wants of each command an example, and an error of usage for what it can't mean.
func TestEveryCommandTellsHowItIsCalled(t *testing.T) {
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.DisableFlagParsing {
			return // it has the flags of another program
		}
		if c.HasParent() && (c.Short == "" || !strings.Contains(c.Example, c.CommandPath())) {
			t.Errorf("%s: short help %q, example %q: want both", c.CommandPath(), c.Short, c.Example)
		}
		path := strings.Fields(c.CommandPath())[1:]
		for _, wrong := range [][]string{{"--no-such-flag"}, strings.Fields(strings.Repeat("no-such-word ", 9)), {"no-such-word", "-x"}} {
			if wrong[0] == "no-such-word" && strings.Contains(c.Use, " -- ") {
				continue // it runs what it is given
			}
			if err := try(append(path, wrong...)...); !errors.Is(err, show.ErrUsage) {
				t.Errorf("%s %s: %v, want an error of usage", c.CommandPath(), strings.Join(wrong, " "), err)
			}
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(commands(node.Env{Getenv: os.Getenv}))
}

func TestErrorsOfUsageSayWhatIsMeant(t *testing.T) {
	for line, want := range map[string]string{
		"nothere":                                       `weft has no command "nothere": it has `,
		"task lst -o json":                              `weft task has no command "lst": it has exec, groups, kill, list, show`,
		"task show":                                     "weft task show TASK [flags]: arguments given: 0, allowed: 1",
		"task list -o yaml":                             `--output is "yaml": table and json are allowed`,
		"flows -o yaml":                                 "table and json are allowed",
		"run --network prod httpd -p 80":                "stands behind --: weft run --network NET [flags] -- COMMAND [ARG...]",
		"task exec web ls -l":                           "stands behind --: weft task exec TASK [flags] -- COMMAND [ARG...]",
		"lab exec h1 weft task list -o json":            "stands behind --: weft lab exec HOST [flags] -- COMMAND [ARG...]",
		"netd --port 70000":                             `--port is "70000": 0 to 65535 are allowed`,
		"flows --since x":                               `--since is "x": a duration such as 500ms, 30s or 5m is allowed`,
		"run --network prod --vip /web:0=80":            `--vip is "/web:0=80": invalid label "/web:0=80": port of the VIP: 0 is out of range`,
		"run --network prod --ip x":                     `--ip is "x": an IPv4 or IPv6 address is allowed`,
		"master --addr 10.0.0.1 --port 0 --etcd-port 0": "etcd-port is 0: 1 to 65535 are allowed",
		"netd --tunnel-port 0":                          "tunnel-port is 0: 1 to 65535 are allowed",
		"secret show":                                   "weft secret show FILE [flags]: arguments given: 0, allowed: 1",
	} {
		if err := try(strings.Fields(line)...); !errors.Is(err, show.ErrUsage) || !strings.Contains(err.Error(), want) {
			t.Errorf("weft %s: %v, want an error of usage with %q", line, err, want)
		}
	}
}
