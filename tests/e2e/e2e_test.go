// SPDX-License-Identifier: Apache-2.0

// Package e2e holds the stories that cross rooms: scripts that type what an operator types, on a lab
// with real daemons, and the README's own session. What one room does alone its own tests show.
package e2e

import (
	"os"
	"path/filepath"
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
