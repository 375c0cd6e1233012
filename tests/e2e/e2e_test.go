// SPDX-License-Identifier: Apache-2.0

// Package e2e holds the stories that cross rooms: scripts that type what an operator types, on a lab
// with real daemons, and the README's own session. What one room does alone its own tests show.
package e2e

import (
	"context"
	"os"
	"os/exec"
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
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", tools+":"+filepath.Dir(l.Binary)+":"+os.Getenv("PATH"))
			env.Setenv("LAB", l.Dir)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"eventually": scriptEventually},
	})
}

// scriptEventually runs a command again until it succeeds (! until it fails), for at most 20 s: facts
// travel, and nothing in a script sleeps.
func scriptEventually(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) == 0 {
		ts.Fatalf("usage: eventually COMMAND [ARG...]")
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := ts.Exec(args[0], args[1:]...)
		if (err == nil) != neg {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%s: still %v after 20 s", strings.Join(args, " "), err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// TestReadme types the README's first session into a shell, in a lab of its own.
func TestReadme(t *testing.T) {
	out := typeSession(t, "../../README.md")
	for _, want := range []string{"web", "no:", "yes:", "web.weft.mesos."} {
		if !strings.Contains(out, want) {
			t.Errorf("the session's output lacks %q:\n%s", want, out)
		}
	}
}

// TestOperationsPage does the same with docs/operations.md.
func TestOperationsPage(t *testing.T) {
	out := typeSession(t, "../../docs/operations.md")
	if pins := strings.Count(out, "-from_underlay"); pins != 2 || !strings.Contains(out, "web") {
		t.Errorf("the underlay's link is listed %d times, want before the daemon died and after its pins were gone:\n%s", pins, out)
	}
}

// typeSession runs the block of a page that begins with `make build`, and returns what it printed.
func typeSession(t *testing.T, page string) string {
	t.Helper()
	labtest.Require(t)
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	_, session, found := strings.Cut(string(text), "```sh\nmake build\n")
	session, _, closed := strings.Cut(session, "```")
	if !found || !closed {
		t.Fatalf("%s has no session that begins with `make build`", page)
	}
	weft := labtest.Build(t, "cmd/weft")
	dir := filepath.Join("/run", filepath.Base(t.TempDir())+"-readme")
	t.Cleanup(func() {
		if err := lab.Down(dir); err != nil {
			t.Error(err)
		}
	})
	// The session uses the default folder; here it is the test's own.
	session = strings.ReplaceAll(session, "weft lab ", "weft lab --dir "+dir+" ")
	session = strings.ReplaceAll(session, lab.DefaultDir, dir)
	session = strings.ReplaceAll(session, "$PWD/bin", filepath.Dir(weft))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	shell := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", session)
	out, err := shell.CombinedOutput()
	if err != nil {
		t.Fatalf("the session of %s failed: %v\n%s", page, err, out)
	}
	return string(out)
}
