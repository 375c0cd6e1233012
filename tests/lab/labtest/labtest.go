// SPDX-License-Identifier: Apache-2.0

// Package labtest gives labs to tests: it builds what they run, takes the lab down whatever happens,
// and skips where there is no root (in CI that is a failure).
package labtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"weft/cmd/weft/labs"
	"weft/tests/lab"
	"weft/tests/lab/owned"
)

// Require skips the test without root; CI=true makes that a failure.
func Require(tb testing.TB) {
	tb.Helper()
	switch {
	case os.Geteuid() == 0:
	case os.Getenv("CI") == "true":
		tb.Fatal("needs root")
	default:
		tb.Skip("needs root")
	}
}

// built are the commands that this process has compiled, below a folder that Main removes.
var built struct {
	sync.Mutex
	dir   string // empty without Main
	paths map[string]string
}

// Main is a package's TestMain: each command is compiled once for all of its tests, for linking takes
// seconds.
func Main(m *testing.M) {
	dir, err := owned.Folder(os.TempDir(), "weft-built.", os.RemoveAll)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	built.dir, built.paths = dir, make(map[string]string)
	code := m.Run()
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// Build compiles a command of this module and returns its path, in a folder of the test where the package
// has no Main.
func Build(tb testing.TB, pkg string) string {
	tb.Helper()
	built.Lock()
	defer built.Unlock()
	if built.dir == "" {
		return build(tb, pkg, tb.TempDir())
	}
	if built.paths[pkg] == "" {
		dir, err := os.MkdirTemp(built.dir, "") //nolint:usetesting // outlives the test
		if err != nil {
			tb.Fatal(err)
		}
		built.paths[pkg] = build(tb, pkg, dir)
	}
	return built.paths[pkg]
}

func build(tb testing.TB, pkg, dir string) string {
	tb.Helper()
	binary := filepath.Join(dir, filepath.Base(pkg))
	cmd := exec.CommandContext(tb.Context(), "go", "build", "-o", binary, "weft/"+pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("build %s: %v\n%s", pkg, err, out)
	}
	return binary
}

// Up makes a lab that ends with the test. Its daemons' logs are shown when the test failed.
func Up(tb testing.TB, o lab.Options) *lab.Lab {
	tb.Helper()
	Require(tb)
	if o.Binary == "" {
		o.Binary = Build(tb, "cmd/weft")
	}
	if o.Dir == "" {
		dir, err := owned.Folder("/run", "weft-test.", lab.Down) // sockets need a short path
		if err != nil {
			tb.Fatal(err)
		}
		o.Dir = dir
	}
	tb.Cleanup(func() {
		if err := lab.Down(o.Dir); err != nil {
			tb.Error(err)
		}
	})
	l, err := lab.Up(tb.Context(), o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if !tb.Failed() {
			return
		}
		for _, h := range l.Hosts {
			tb.Logf("netd of %s:\n%s", h.Name, h.Tail("netd", 40))
		}
		for _, m := range l.Masters {
			tb.Logf("master %s:\n%s", m.Name, m.Tail("master", 40))
		}
	})
	if o.Bare {
		return l
	}
	if err := labs.WaitReady(tb.Context(), l); err != nil {
		tb.Fatal(err)
	}
	return l
}
