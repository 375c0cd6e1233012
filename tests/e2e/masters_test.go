// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"weft/tests/lab"
	"weft/tests/lab/labtest"
)

// TestThreeMasters kills the leader of three, of a cluster with a secret: another decides, and what was
// decided stays.
func TestThreeMasters(t *testing.T) {
	const secret = "of a test, and long enough"
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("WEFT_SECRET", secret)
	with := []string{"--secret-file", file}
	l := labtest.Up(t, lab.Options{Hosts: 1, Masters: 3, Netd: with, Master: with})
	weft := func(args ...string) (string, error) { return l.Hosts[0].Weft(t.Context(), args...).Output() }
	must := func(args ...string) string {
		t.Helper()
		out, err := weft(args...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	t.Run("without the secret", func(t *testing.T) {
		t.Setenv("WEFT_SECRET", "")
		if out, err := weft("network", "list"); err == nil || !strings.Contains(err.Error()+out, "--secret-file") {
			t.Errorf("got %q, %v; want to be told of --secret-file", out, err)
		}
	})
	must("network", "add", "prod", "--subnet", "9.1.0.0/16")
	must("run", "--network", "prod", "--name", "before", "--", "true")
	leader := func() (string, error) {
		out, err := weft("status", "-o", "json")
		if err != nil {
			return "", err
		}
		var status struct {
			Masters []struct {
				ID    string
				Leads bool
			}
		}
		if err := json.Unmarshal([]byte(out), &status); err != nil {
			return "", err
		}
		for _, m := range status.Masters {
			if m.Leads {
				return m.ID, nil
			}
		}
		return "", fmt.Errorf("nobody leads: %s", out)
	}
	var first string
	eventually(t, func() (err error) { first, err = leader(); return err })
	killed, err := l.Host(first)
	if err != nil {
		t.Fatal(err)
	}
	if err := killed.Signal("master", syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		now, err := leader()
		if err == nil && now == first {
			err = errors.New("the dead master still leads")
		}
		return err
	})
	// A network that nobody holds a block of yet needs a decision of the new leader.
	eventually(t, func() error {
		_, err := weft("network", "add", "dev", "--subnet", "9.2.0.0/16")
		if err != nil && strings.Contains(err.Error(), "exists") {
			return nil
		}
		return err
	})
	out := must("run", "--network", "dev", "--name", "after", "--", "cat", "/proc/net/fib_trie")
	if !strings.Contains(out, "9.2.0.1") {
		t.Errorf("the task has no address of dev:\n%s", out)
	}
	if out := must("network", "list"); !strings.Contains(out, "prod") {
		t.Errorf("prod is lost:\n%s", out)
	}
	// The dead one comes back as a follower.
	if err := killed.StartMaster(); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		out, err := weft("status", "--master", fmt.Sprintf("%s:7700", killed.Addr))
		if err == nil && !strings.Contains(out, "prod") && !strings.Contains(out, first) {
			err = fmt.Errorf("said %q", out)
		}
		return err
	})
}
