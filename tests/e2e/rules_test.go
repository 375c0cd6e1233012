// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"weft/tests/lab"
	"weft/tests/lab/labtest"
)

// TestRulesPage types the commands of docs/rules.md into a shell, in a lab of its own.
func TestRulesPage(t *testing.T) {
	labtest.Require(t)
	text, err := os.ReadFile("../../docs/rules.md")
	if err != nil {
		t.Fatal(err)
	}
	var session strings.Builder
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		session.WriteString(block[1])
	}
	weft := labtest.Build(t, "cmd/weft")
	dir := filepath.Join("/run", filepath.Base(t.TempDir())+"-rules")
	t.Cleanup(func() {
		if err := lab.Down(dir); err != nil {
			t.Error(err)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	shell := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", strings.ReplaceAll(session.String(), "weft lab ", "weft lab --dir "+dir+" "))
	shell.Env = append(os.Environ(), "PATH="+filepath.Dir(weft)+":"+os.Getenv("PATH"))
	out, err := shell.CombinedOutput()
	if err != nil {
		t.Fatalf("the page's commands failed: %v\n%s", err, out)
	}
	for _, want := range []string{
		"they share none", "are both in group db", "rule 1 (allow web to db tcp/5432) lets", "(allow 192.0.2.0/24 to web tcp/8000-8999) lets",
		"(deny 192.0.2.66/32 to web tcp/80,443) denies", "udp/5000-5999,7000",
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the output lacks %q:\n%s", want, out)
		}
	}
}
