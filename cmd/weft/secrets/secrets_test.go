// SPDX-License-Identifier: Apache-2.0

package secrets

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"weft/cmd/weft/process"
)

func TestASecretIsChangedInThreeSteps(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	var out bytes.Buffer
	do := func(verb string) [][]byte {
		t.Helper()
		out.Reset()
		cmd := Command(&out)
		cmd.SetArgs([]string{verb, path})
		if err := cmd.Execute(); err != nil {
			t.Fatal(err)
		}
		secrets, err := process.Secrets(path)
		if err != nil {
			t.Fatal(err)
		}
		return secrets
	}
	first := do("add")
	both := do("add")
	if len(first) != 1 || len(both) != 2 || !bytes.Equal(both[0], first[0]) || bytes.Equal(both[0], both[1]) {
		t.Fatalf("%q, then %q: want one, and another behind it", first, both)
	}
	if turned := do("use"); !bytes.Equal(turned[0], both[1]) || !bytes.Equal(turned[1], both[0]) {
		t.Errorf("%q, want the last of %q first", turned, both)
	}
	if got := out.String(); strings.Count(got, "used") != 1 || strings.Count(got, "accepted") != 1 || strings.Contains(got, string(both[0])) {
		t.Errorf("printed %q, want one used, one accepted, and neither told", got)
	}
	if last := do("drop"); len(last) != 1 || !bytes.Equal(last[0], both[1]) {
		t.Errorf("%q, want the new one alone", last)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", info.Mode(), err)
	}
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	do("show")
	if after, err := os.Stat(path); err != nil || !os.SameFile(before, after) {
		t.Errorf("show wrote the file anew (%v): it changes nothing", err)
	}
	cmd := Command(&out)
	cmd.SetArgs([]string{"use", path})
	cmd.SetErr(&out)
	if err := cmd.Execute(); err == nil || !strings.Contains(err.Error(), "add another first") {
		t.Errorf("use of one: %v", err)
	}
}
