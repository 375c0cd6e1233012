// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// binaries are files on this machine.
type binaries struct {
	init  string
	tests []testBinary
}

type testBinary struct{ name, path string }

// build compiles the tests of packages and the guest's first process, statically.
func build(ctx context.Context, work string, packages []string) (*binaries, error) {
	listed, err := goTool(ctx, append([]string{
		"list", "-f", "{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}",
	}, packages...)...)
	if err != nil {
		return nil, err
	}
	b := &binaries{init: filepath.Join(work, "init")}
	for path := range strings.FieldsSeq(listed) {
		name := strings.ReplaceAll(path, "/", "-") + ".test"
		b.tests = append(b.tests, testBinary{name, filepath.Join(work, name)})
		if _, err := goTool(ctx, "test", "-c", "-ldflags=-s -w", "-o", filepath.Join(work, name), path); err != nil {
			return nil, err
		}
	}
	if len(b.tests) == 0 {
		return nil, fmt.Errorf("no package of %s has tests", strings.Join(packages, " "))
	}
	_, err = goTool(ctx, "build", "-ldflags=-s -w", "-o", b.init, "weft/tests/kernels/init")
	return b, err
}

func goTool(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		err = fmt.Errorf("%w: %s", err, exit.Stderr)
	}
	if err != nil {
		return "", fmt.Errorf("go %s: %w", args[0], err)
	}
	return string(out), nil
}
