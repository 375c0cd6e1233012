// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// pack writes the initramfs: the first process, the drivers with the order to load them in, and the
// tests with the flags to run them by.
func pack(path string, b *binaries, drivers []module, flags []string) (err error) {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	a := &archive{w: bufio.NewWriter(file)}
	for _, dir := range []string{"dev", "proc", "sys", "tmp", "run", "etc", "modules", "tests"} {
		a.add(dir, modeDir, nil)
	}
	a.addFile("init", b.init)
	var order, tests []string
	for _, m := range drivers {
		a.add("modules/"+m.name, modeFile, m.content)
		order = append(order, m.name)
	}
	a.add("modules/ORDER", modeFile, []byte(strings.Join(order, "\n")))
	for _, t := range b.tests {
		a.addFile("tests/"+t.name, t.path)
		tests = append(tests, t.name)
	}
	a.add("tests/ORDER", modeFile, []byte(strings.Join(tests, "\n")))
	a.add("tests/FLAGS", modeFile, []byte(strings.Join(flags, "\n")))
	return a.close()
}

// Modes of entries: type and permissions (inode(7)).
const (
	modeDir  = 0o040755
	modeFile = 0o100755
)

// archive writes the format that the kernel unpacks (Documentation/driver-api/early-userspace,
// "newc"): a header of 6+13*8 hex digits, name, content, each filled up to a multiple of 4 bytes.
type archive struct {
	w     *bufio.Writer
	inode int
	err   error
}

func (a *archive) addFile(name, path string) {
	content, err := os.ReadFile(path)
	if err != nil {
		a.err = errors.Join(a.err, err)
		return
	}
	a.add(name, modeFile, content)
}

func (a *archive) add(name string, mode int, content []byte) {
	a.inode++
	// ino mode uid gid nlink mtime size devmajor devminor rdevmajor rdevminor namesize check
	header := []byte("070701")
	for _, field := range []int{a.inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0} {
		header = fmt.Appendf(header, "%08x", field)
	}
	a.write(append(header, name+"\x00"...))
	a.write(content)
}

// write pads to 4 bytes: header and name begin aligned, and so does what follows.
func (a *archive) write(b []byte) {
	if a.err != nil {
		return
	}
	if _, err := a.w.Write(b); err != nil {
		a.err = err
		return
	}
	_, a.err = io.WriteString(a.w, "\x00\x00\x00"[:(4-len(b)%4)%4])
}

func (a *archive) close() error {
	a.add("TRAILER!!!", 0, nil)
	return errors.Join(a.err, a.w.Flush())
}
