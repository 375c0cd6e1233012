// SPDX-License-Identifier: Apache-2.0

// Command nextlayout builds weft as a later release could be: from the same sources, with rows of another shape and so
// another LAYOUT_VERSION. With it and the ordinary build, tests go from one layout to another and back.
//
//	nextlayout -o bin/weft-next
//
// It works on a copy of the tree, which it removes, and needs what `make generate` does.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"weft/tests/lab/owned"
)

func main() {
	out := flag.String("o", "bin/weft-next", "the executable to write")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *out); err != nil {
		fmt.Fprintln(os.Stderr, "nextlayout:", err)
		os.Exit(1) //nolint:gocritic // nothing is left to be undone
	}
}

func run(ctx context.Context, out string) (err error) {
	out, err = filepath.Abs(out)
	if err != nil {
		return err
	}
	dir, err := owned.Folder(os.TempDir(), "weft-next.", os.RemoveAll)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := copyTree(ctx, dir); err != nil {
		return err
	}
	shared := filepath.Join(dir, "bpf", "src", "shared")
	if err := changeAll(shared); err != nil {
		return fmt.Errorf("change %s: %w", shared, err)
	}
	for _, args := range [][]string{
		{"generate", "./bpf"},
		{"build", "-ldflags", "-s -w -X main.version=next", "-o", out, "./cmd/weft"},
	} {
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Dir, cmd.Stdout, cmd.Stderr = dir, os.Stdout, os.Stderr
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("go %s: %w", strings.Join(args, " "), err)
		}
	}
	return nil
}

// copyTree copies what git tracks or would track.
func copyTree(ctx context.Context, to string) error {
	list, err := exec.CommandContext(ctx, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard").Output()
	if err != nil {
		return fmt.Errorf("list the tree: %w", err)
	}
	for name := range strings.SplitSeq(strings.Trim(string(list), "\x00"), "\x00") {
		content, err := os.ReadFile(name)
		if errors.Is(err, os.ErrNotExist) {
			continue // removed, and not committed yet
		}
		if err != nil {
			return err
		}
		path := filepath.Join(to, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, content, 0o644)); err != nil {
			return err
		}
	}
	return nil
}

// reshaped are the rows that get a field more, in front of all others; and its type, which keeps them without padding.
// There are rows that Go writes, rows that programs write, and a key. Others stay, as in any release: their maps are
// shared by both builds.
var reshaped = map[string]string{
	"workload": "__u32", "endpoint": "__u32", "block": "__u32", "vtep": "__u32", "verdict": "__u32", "backend": "__u32",
	"flow_key": "__u32", "flow": "__u64", "translation": "__u64",
}

// after is added to LAYOUT_VERSION: no release gets so far.
const after = 1000

var version = regexp.MustCompile(`(LAYOUT_VERSION = )(\d+)`)

// changeAll makes the headers of a folder those of another layout.
func changeAll(dir string) error {
	headers, err := filepath.Glob(filepath.Join(dir, "*.h"))
	if err != nil {
		return err
	}
	changes := 0
	for _, header := range headers {
		text, err := os.ReadFile(header)
		if err != nil {
			return err
		}
		changed, n, err := change(string(text))
		if err != nil {
			return fmt.Errorf("%s: %w", header, err)
		}
		if err := os.WriteFile(header, []byte(changed), 0o644); err != nil {
			return err
		}
		changes += n
	}
	if want := len(reshaped) + 1; changes != want {
		return fmt.Errorf("%d of LAYOUT_VERSION and the rows are there, want %d", changes, want)
	}
	return nil
}

// change makes what a header has of version and rows that of another layout, and tells how many it found. What
// asserts the old sizes goes.
func change(header string) (changed string, n int, err error) {
	if m := version.FindStringSubmatch(header); m != nil {
		old, err := strconv.Atoi(m[2])
		if err != nil {
			return "", 0, err
		}
		header = version.ReplaceAllString(header, fmt.Sprintf("${1}%d", old+after))
		n++
	}
	for name, kind := range reshaped {
		begin := "struct " + name + " {\n"
		n += strings.Count(header, begin)
		header = strings.Replace(header, begin, begin+"\t"+kind+" next_layout;\n", 1)
		sizes := regexp.MustCompile(`_Static_assert\(sizeof\(struct ` + name + `\)[^;]*;\n`)
		header = sizes.ReplaceAllString(header, "")
	}
	return header, n, nil
}
