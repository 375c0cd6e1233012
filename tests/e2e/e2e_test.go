// SPDX-License-Identifier: Apache-2.0

// Package e2e holds the stories that cross rooms: scripts that type what an operator types, on a lab
// with real daemons, and the README's own session. What one room does alone its own tests show.
package e2e

import (
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"weft/tests/lab"
	"weft/tests/lab/labtest"
)

// TestScripts runs testdata/*.txtar on one lab of two hosts and a master. In a script, `exec weft on
// HOST ...` is `weft lab exec HOST -- weft ...`.
func TestScripts(t *testing.T) {
	l := labtest.Up(t, lab.Options{Hosts: 2})
	tools := t.TempDir()
	wrapper := "#!/bin/sh\nhost=$1; shift\nexec " + l.Binary + " lab --dir " + l.Dir + " exec $host -- weft \"$@\"\n"
	if err := os.WriteFile(filepath.Join(tools, "on"), []byte(wrapper), 0o755); err != nil {
		t.Fatal(err)
	}
	peer := labtest.Build(t, "tests/e2e/peer")
	resolved, err := filepath.Abs("../../.tools/resolved/lib/systemd/systemd-resolved")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", tools+":"+filepath.Dir(l.Binary)+":"+os.Getenv("PATH"))
			env.Setenv("LAB", l.Dir)
			env.Setenv("PEER", peer)
			env.Setenv("RESOLVED", resolved) // .ci/need.sh resolved
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"eventually": scriptEventually},
	})
}

var scriptAdds = regexp.MustCompile(`(?m)^exec on \S+ network add (\S+)(.*)`)

// TestScriptsAddOtherNetworks: scripts run side by side on one lab, so what one adds no other may add.
func TestScriptsAddOtherNetworks(t *testing.T) {
	t.Parallel()
	scripts, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(scripts) == 0 {
		t.Fatal(scripts, err)
	}
	nets, names := make(map[netip.Prefix]string), make(map[string]string)
	for _, script := range scripts {
		text, err := os.ReadFile(script)
		if err != nil {
			t.Fatal(err)
		}
		for _, add := range scriptAdds.FindAllStringSubmatch(string(text), -1) {
			if other := names[add[1]]; other != "" {
				t.Errorf("%s and %s add network %s", other, script, add[1])
			}
			names[add[1]] = script
			for word := range strings.FieldsSeq(add[2]) {
				net, err := netip.ParsePrefix(word)
				if err != nil {
					continue // a flag
				}
				for n, other := range nets {
					if n.Overlaps(net) {
						t.Errorf("%s and %s add networks with %s and %s", other, script, n, net)
					}
				}
				nets[net] = script
			}
		}
	}
	if len(nets) < len(names) {
		t.Errorf("%d subnets of %d networks were found", len(nets), len(names))
	}
}

// scriptEventually runs a command again until it succeeds (! until it fails): facts travel, and nothing in a script
// sleeps.
func scriptEventually(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) == 0 {
		ts.Fatalf("usage: eventually COMMAND [ARG...]")
	}
	deadline := time.Now().Add(patience)
	for {
		err := ts.Exec(args[0], args[1:]...)
		if (err == nil) != neg {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%s: still %v after %s", strings.Join(args, " "), err, patience)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
