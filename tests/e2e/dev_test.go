// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"weft/tests/lab"
	"weft/tests/lab/labtest"
)

// TestDev starts `weft dev` on a bare host, types its example, and ends it as a terminal would.
func TestDev(t *testing.T) {
	l := labtest.Up(t, lab.Options{Hosts: 1, Bare: true})
	h := l.Hosts[0]
	dev := h.Weft(t.Context(), "dev", "--state", filepath.Join(h.Dir, "dev"), "--socket", h.Socket(),
		"--pin", filepath.Join(l.Dir, "bpf", "dev"), "--cgroup", h.Cgroup())
	var log strings.Builder
	dev.Stderr = &log
	dev.Env = append(dev.Env, "WEFT_MASTER=")
	if err := dev.Start(); err != nil {
		t.Fatal(err)
	}
	weft := func(args ...string) (string, error) {
		cmd := h.Weft(t.Context(), args...)
		cmd.Env = append(cmd.Env, "WEFT_MASTER=")
		return cmd.Output()
	}
	eventually(t, func() error {
		_, err := weft("network", "add", "prod", "--subnet", "9.1.0.0/16")
		if err != nil && strings.Contains(err.Error(), "exists") {
			err = nil // an earlier try came through
		}
		return err
	})
	eventually(t, func() error {
		out, err := weft("run", "--network", "prod", "--name", "hello", "--", "cat", "/proc/net/fib_trie")
		if err == nil && !strings.Contains(out, "9.1.0.1") {
			t.Fatalf("the task has no address of prod:\n%s", out)
		}
		return err
	})
	if err := dev.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := dev.Wait(); err != nil {
		t.Errorf("weft dev ended with %v:\n%s", err, log.String())
	}
}

// patience is how long a state is waited for: what takes a second by itself takes many beside the rest of CI.
const patience = time.Minute

// eventually calls f until it returns nil.
func eventually(t *testing.T, f func() error) {
	t.Helper()
	if err := becomes(f); err != nil {
		t.Fatal(err)
	}
}

// becomes is eventually for goroutines: it returns what f said last.
func becomes(f func() error) error {
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		if err := f(); err == nil || time.Now().After(deadline) {
			return err
		}
	}
}
