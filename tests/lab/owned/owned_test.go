// SPDX-License-Identifier: Apache-2.0

package owned_test

import (
	"bufio"
	"os"
	"os/exec"
	"strings"
	"testing"

	"weft/tests/lab/owned"
)

// TestAKilledProcessLeavesNothing has a process make a folder: it stays while the process lives, and goes once it was
// killed.
func TestAKilledProcessLeavesNothing(t *testing.T) {
	t.Parallel()
	if parent := os.Getenv("WEFT_OWNER"); parent != "" {
		dir, err := owned.Folder(parent, "x.", os.RemoveAll)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = os.Stdout.WriteString(dir + "\n")
		_, _ = os.Stdin.Read(make([]byte, 1)) // until it is killed
		return
	}
	parent := t.TempDir()
	owner := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestAKilledProcessLeavesNothing$")
	owner.Env = append(os.Environ(), "WEFT_OWNER="+parent)
	in, err := owner.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := owner.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := owner.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	dir := strings.TrimSpace(line)
	there := func(when string, want bool) {
		t.Helper()
		if _, err := owned.Folder(parent, "x.", os.RemoveAll); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(dir); (err == nil) != want {
			t.Errorf("%s: %v, want it there %t", when, err, want)
		}
	}
	there("while its process lives", true)
	if err := owner.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = owner.Wait() // killed
	there("after its process was killed", false)
}
