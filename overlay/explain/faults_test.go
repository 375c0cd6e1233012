// SPDX-License-Identifier: Apache-2.0

package explain_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"weft/bpf/row"
	"weft/overlay/explain"
)

// TestEveryDropHasAFault holds faults.go to the list of reasons.
func TestEveryDropHasAFault(t *testing.T) {
	t.Parallel()
	faults := explain.Faults()
	for reason := range row.ReasonMax {
		f, known := faults[reason]
		if named := reason.Text() != ""; named && reason.Drop() != known && reason != row.ReasonAudited {
			t.Errorf("%s: overlay/explain/faults.go has %v, want an entry for each drop of reason.h and for nothing else", reason, f)
		}
		if known && (f.Owner == "" || f.Step == "" || f.Means == "" || f.Check == "") {
			t.Errorf("%s: an entry without owner, step, meaning or check: %+v", reason, f)
		}
	}
}

// TestStepsOfFaultsAreFunctions looks for each Step among the programs' functions.
func TestStepsOfFaultsAreFunctions(t *testing.T) {
	t.Parallel()
	var source strings.Builder
	for _, pattern := range []string{"../../bpf/src/*.c", "../../bpf/src/lib/*.h"} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			source.Write(text)
		}
	}
	for reason, f := range explain.Faults() {
		if !regexp.MustCompile(`(?m)^(static|__noinline).*\b` + f.Step + `\(`).MatchString(source.String()) {
			t.Errorf("%s: bpf/src has no function %s", reason, f.Step)
		}
	}
}

func TestTroubleshootingPageIsFresh(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	if string(page) != explain.Troubleshooting() {
		t.Error("docs/troubleshooting.md is not what its sources give: make generate, and commit it")
	}
}
