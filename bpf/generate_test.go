// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const generateLine = "//go:generate go run github.com/cilium/ebpf/cmd/bpf2go "

// TestObjectsDoNotDependOnTheFolder builds every object in a deeper folder outside of the repository, by
// the lines of generate.go, and wants the committed ones, which `make fresh` builds in their place.
func TestObjectsDoNotDependOnTheFolder(t *testing.T) {
	for _, tool := range []string{"clang-19", "llvm-strip-19", "go"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip("generating needs make tools: ", err)
		}
	}
	temp := t.TempDir()
	bpf2go := filepath.Join(temp, "bpf2go")
	run(t, ".", "go", "build", "-o", bpf2go, "github.com/cilium/ebpf/cmd/bpf2go")
	source, err := os.ReadFile("generate.go")
	must(t, err)
	dir := filepath.Join(temp, "a", "much", "deeper", "folder", "bpf")
	must(t, os.CopyFS(filepath.Join(dir, "src"), os.DirFS("src")))
	for line := range strings.Lines(string(source)) {
		if args, ok := strings.CutPrefix(line, generateLine); ok {
			run(t, dir, bpf2go, append([]string{"-go-package", "bpf"}, strings.Fields(args)...)...)
		}
	}
	built := generated(t, dir)
	if len(built) == 0 || len(built)%2 != 0 {
		t.Fatalf("built %d files, want a .go and a .o for each source", len(built))
	}
	if diff := cmp.Diff(generated(t, "."), built); diff != "" {
		t.Errorf("objects of the other folder (-committed +built):\n%s", diff)
	}
	for name, content := range built {
		if bytes.Contains([]byte(content), []byte(temp)) {
			t.Errorf("%s holds the name of the folder it was built in", name)
		}
	}
}

// generated reads what was written into dir.
func generated(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := make(map[string]string)
	for _, name := range names(t, dir) {
		if strings.Contains(name, "_bpfel.") {
			content, err := os.ReadFile(filepath.Join(dir, name))
			must(t, err)
			files[name] = string(content)
		}
	}
	return files
}

func run(t *testing.T, dir, name string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}
