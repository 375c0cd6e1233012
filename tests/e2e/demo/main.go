// SPDX-License-Identifier: Apache-2.0

// Command demo tells the story of Weft on three hosts of one machine and checks every sentence of it.
// It runs the real daemons and the real command line; story.go is the story.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"weft/cmd/weft/labs"
	"weft/tests/lab"
	"weft/tests/lab/owned"
)

func main() {
	weft := flag.String("weft", "bin/weft", "the weft executable")
	keep := flag.Bool("keep", false, "leave the lab up at the end")
	dir := flag.String("dir", lab.DefaultDir, "folder of the lab")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	if err := run(ctx, os.Stdout, *weft, *dir, *keep); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// run makes the lab, tells the story, and cleans up whatever happened.
func run(ctx context.Context, out io.Writer, weft, dir string, keep bool) (err error) {
	weft, err = filepath.Abs(weft)
	if err != nil {
		return err
	}
	tools, err := owned.Folder(os.TempDir(), "weft-demo.", os.RemoveAll)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tools)) }()
	peer := filepath.Join(tools, "peer")
	build := exec.CommandContext(ctx, "go", "build", "-o", peer, "./tests/e2e/peer")
	build.Stdout, build.Stderr = out, os.Stderr
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if err := build.Run(); err != nil {
		return fmt.Errorf("build the tasks' program: %w", err)
	}
	began := time.Now()
	l, err := lab.Up(ctx, lab.Options{Dir: dir, Hosts: 3, Masters: 1, Binary: weft})
	if err != nil {
		return err
	}
	s := &story{out: out, lab: l, peer: peer}
	if !keep {
		defer func() {
			err = errors.Join(err, s.end(), lab.Down(dir))
			if err == nil {
				err = s.nothingLeft(dir)
			}
			fmt.Fprintf(out, "demo: %d passed, %d failed\n", s.passed, s.failed)
			if err == nil && s.failed > 0 {
				err = errors.New("the story is not true")
			}
		}()
	}
	if err := labs.WaitReady(ctx, l); err != nil {
		return err
	}
	fmt.Fprintf(out, "three hosts and a master are up (%.1f s)\n", time.Since(began).Seconds())
	s.tell(ctx)
	if keep {
		fmt.Fprintf(out, "demo: %d passed, %d failed\n\nThe lab is up. Try:\n%s", s.passed, s.failed, hints)
		if s.failed > 0 {
			return errors.New("the story is not true")
		}
	}
	return nil
}

const hints = `  bin/weft lab status
  bin/weft lab exec h1 -- weft task list
  bin/weft lab exec h1 -- weft vip show web
  bin/weft lab exec h1 -- weft why client db tcp/5432
  bin/weft lab exec h1 -- weft flows --drops --follow
  bin/weft lab exec m1 -- weft rule list prod
  bin/weft lab down
`
