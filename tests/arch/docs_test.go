// SPDX-License-Identifier: Apache-2.0

package arch

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// reference is a name that leads to a file: [`name`](../path).
var reference = regexp.MustCompile("\\[`([A-Za-z0-9_]+)`\\]\\(\\.\\./([^)]+)\\)")

func TestPacketWalkNamesExist(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root(t), "docs/packet-walk.md"))
	if err != nil {
		t.Fatal(err)
	}
	names := reference.FindAllStringSubmatch(string(text), -1)
	if len(names) < 20 {
		t.Fatalf("found %d names in the packet walk; is the form of its links still [`name`](../file)?", len(names))
	}
	for _, m := range names {
		source, err := os.ReadFile(filepath.Join(root(t), m[2]))
		if err != nil {
			t.Error(err)
			continue
		}
		if !regexp.MustCompile(`(?m)^(static |__noinline |func |int |SEC).*\b` + m[1] + `\(`).Match(source) {
			t.Errorf("the packet walk names %s, which %s does not define", m[1], m[2])
		}
	}
}

// link is any link of a document to a file of the tree.
var link = regexp.MustCompile(`\]\(([^)#:]+)\)`)

func TestLinksOfDocumentsLeadSomewhere(t *testing.T) {
	for _, path := range tree(t) {
		if !strings.HasSuffix(path, ".md") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(root(t), path))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			if _, err := os.Stat(filepath.Join(root(t), filepath.Dir(path), m[1])); err != nil {
				t.Errorf("%s links to %s: %v", path, m[1], err)
			}
		}
	}
}
