// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"debug/elf"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// module is a driver, unpacked.
type module struct {
	name    string
	content []byte
}

// modules returns those of wanted that dir holds, each behind what it depends on: the order to load
// them in.
func modules(ctx context.Context, dir string, wanted []string) ([]module, error) {
	files := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if name, _, ok := strings.Cut(d.Name(), ".ko"); ok && err == nil && !d.IsDir() {
			files[moduleName(name)] = path
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	l := loader{files: files, seen: make(map[string]bool)}
	for _, name := range wanted {
		if err := l.add(ctx, name); err != nil {
			return nil, err
		}
	}
	return l.order, nil
}

// moduleName is a module's name as the kernel says it: file names may have dashes.
func moduleName(file string) string { return strings.ReplaceAll(file, "-", "_") }

type loader struct {
	files map[string]string
	seen  map[string]bool
	order []module
}

func (l *loader) add(ctx context.Context, name string) error {
	name = moduleName(name)
	path, ok := l.files[name]
	if !ok || l.seen[name] { // not there: built in
		return nil
	}
	l.seen[name] = true
	packed, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	content, err := unpack(ctx, packed)
	if err != nil {
		return fmt.Errorf("module %s: %w", name, err)
	}
	needs, err := dependencies(content)
	if err != nil {
		return fmt.Errorf("module %s: %w", name, err)
	}
	for _, need := range needs {
		if err := l.add(ctx, need); err != nil {
			return err
		}
	}
	l.order = append(l.order, module{name, content})
	return nil
}

// dependencies reads the depends= line of section .modinfo, which is NUL-separated.
func dependencies(content []byte) ([]string, error) {
	file, err := elf.NewFile(bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	section := file.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("no section .modinfo")
	}
	info, err := section.Data()
	if err != nil {
		return nil, err
	}
	for line := range bytes.SplitSeq(info, []byte{0}) {
		if list, ok := bytes.CutPrefix(line, []byte("depends=")); ok && len(list) > 0 {
			return strings.Split(string(list), ","), nil
		}
	}
	return nil, nil
}
