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
	"weft/tests/lab/owned"
)

// What pages say is typed into a shell, in a lab of its own, and has to print what the page is about.

func TestReadme(t *testing.T) {
	wantPrinted(t, typePage(t, "README.md"), "web", "no:", "yes:", "web.weft.mesos.")
}

func TestRulesPage(t *testing.T) {
	wantPrinted(t, typePage(t, "docs/rules.md"),
		"they share none", "are both in group db", "rule 1 (allow web to db tcp/5432) lets", "(allow 192.0.2.0/24 to web tcp/8000-8999) lets",
		"(deny 192.0.2.66/32 to web tcp/80,443) denies", "udp/5000-5999,7000")
}

func TestNetworksPage(t *testing.T) {
	wantPrinted(t, typePage(t, "docs/networks.md"),
		"9.0.3.7", "9.0.3.0/24 of h1", "of h1: 0 used, 254 free; IPv6 0 used, 65535 free",
		"plain node old-1 is in network prod, its VXLAN device has 0a:58:0a:4d:00:c9", "legacy", "plain",
		"network prod is vni 1, subnet 9.0.0.0/16 in blocks of /24, subnet fd01:b::/64 in blocks of /112, ungrouped own",
		"9.0.0.0/16 in blocks of /24, subnet fd01:b::/64 in blocks of /112, ungrouped open")
}

func TestOperationsPage(t *testing.T) {
	out := typePage(t, "docs/operations.md")
	if pins := strings.Count(out, "-from_underlay"); pins != 2 || !strings.Contains(out, "web") {
		t.Errorf("the underlay's link is listed %d times, want before the daemon died and after its pins were gone:\n%s", pins, out)
	}
}

func wantPrinted(t *testing.T, out string, words ...string) {
	t.Helper()
	for _, want := range words {
		if !strings.Contains(out, want) {
			t.Errorf("the output lacks %q:\n%s", want, out)
		}
	}
}

// started is how pages start a task that stays.
var started = regexp.MustCompile(`^(weft lab exec \S+ -- weft )run .*--name (\S+) .*&$`)

// patient lets each pause of a session last until what it is for is so, which takes longer on a busy machine: the tasks that
// were started have names, and the next command succeeds.
func patient(session string) string {
	until := func(command string) string { return "until " + command + "\ndo sleep 0.1; done >/dev/null 2>&1\n" }
	var typed, tasks strings.Builder
	paused := false
	for line := range strings.Lines(session) {
		command := strings.TrimSuffix(line, "\n")
		if paused {
			typed.WriteString(tasks.String() + until(command))
			tasks.Reset()
		}
		if run := started.FindStringSubmatch(command); run != nil {
			tasks.WriteString(until(run[1] + "name show " + run[2] + ".weft.mesos"))
		}
		paused = strings.HasPrefix(command, "sleep ")
		typed.WriteString(line)
	}
	return typed.String()
}

var shellBlock = regexp.MustCompile("(?s)```sh\n(.*?)```")

// typePage types the commands of a page from `make build` or the first `weft lab up` on, and returns what they
// print. Pages use the default folder of labs; here it is the test's own.
func typePage(t *testing.T, page string) string {
	t.Helper()
	labtest.Require(t)
	text, err := os.ReadFile(filepath.Join("../..", page))
	if err != nil {
		t.Fatal(err)
	}
	var session strings.Builder
	for _, block := range shellBlock.FindAllStringSubmatch(string(text), -1) {
		if session.Len() > 0 || strings.HasPrefix(block[1], "make build\n") || strings.HasPrefix(block[1], "weft lab up") {
			session.WriteString(block[1])
		}
	}
	if session.Len() == 0 {
		t.Fatalf("%s has no session", page)
	}
	weft := labtest.Build(t, "cmd/weft")
	dir, err := owned.Folder("/run", "weft-page.", lab.Down) // of this process: another one may type pages, too
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Down(dir); err != nil {
			t.Error(err)
		}
	})
	commands := strings.NewReplacer(
		"make build\n", "", "$PWD/bin", filepath.Dir(weft), "weft lab ", "weft lab --dir "+dir+" ", lab.DefaultDir, dir,
	).Replace(patient(session.String()))
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	shell := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", commands)
	shell.Env = append(os.Environ(), "PATH="+filepath.Dir(weft)+":"+os.Getenv("PATH"))
	out, err := shell.CombinedOutput()
	if err != nil {
		t.Fatalf("the session of %s failed: %v\n%s", page, err, out)
	}
	return string(out)
}
