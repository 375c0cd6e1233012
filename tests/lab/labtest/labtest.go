// SPDX-License-Identifier: Apache-2.0

// Package labtest gives labs to tests: it builds what they run, takes the lab down whatever happens,
// and skips where there is no root (in CI that is a failure).
package labtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"weft/cmd/weft/labs"
	"weft/tests/lab"
)

// Require skips the test without root; CI=true makes that a failure.
func Require(t testing.TB) {
	t.Helper()
	switch {
	case os.Geteuid() == 0:
	case os.Getenv("CI") == "true":
		t.Fatal("needs root")
	default:
		t.Skip("needs root")
	}
}

// Build compiles a command of this module into a folder of the test and returns its path.
func Build(t testing.TB, pkg string) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), filepath.Base(pkg))
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "weft/"+pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", pkg, err, out)
	}
	return binary
}

// Up makes a lab that ends with the test. Its daemons' logs are shown when the test failed.
func Up(t testing.TB, o lab.Options) *lab.Lab {
	t.Helper()
	Require(t)
	if o.Binary == "" {
		o.Binary = Build(t, "cmd/weft")
	}
	if o.Dir == "" {
		dir, err := os.MkdirTemp("/run", "weft-test-")
		if err != nil {
			t.Fatal(err)
		}
		o.Dir = dir
	}
	t.Cleanup(func() {
		if err := lab.Down(o.Dir); err != nil {
			t.Error(err)
		}
	})
	l, err := lab.Up(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		for _, h := range l.Hosts {
			t.Logf("netd of %s:\n%s", h.Name, h.Tail("netd", 40))
		}
		for _, m := range l.Masters {
			t.Logf("master %s:\n%s", m.Name, m.Tail("master", 40))
		}
	})
	if err := labs.WaitReady(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	return l
}
