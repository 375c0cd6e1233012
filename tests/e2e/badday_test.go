// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"weft/tests/lab"
	"weft/tests/lab/labtest"
)

// TestDaemonStartsOnABadDay: whatever is wrong with the machine when a daemon starts again, the tasks that are
// there are served, and the log says what is wrong.
func TestDaemonStartsOnABadDay(t *testing.T) {
	l := labtest.Up(t, lab.Options{Hosts: 1})
	h := l.Hosts[0]
	state := filepath.Join(h.Dir, "netd")
	if _, err := h.Weft(t.Context(), "network", "add", "prod", "--subnet", "9.1.0.0/16").Output(); err != nil {
		t.Fatal(err)
	}
	task := h.Weft(t.Context(), "run", "--network", "prod", "--name", "stays", "--", "sleep", "1000")
	if err := task.Start(); err != nil {
		t.Fatal(err)
	}
	serves := func() error {
		if !h.Running("netd") {
			t.Fatalf("the daemon ended:\n%s", h.Tail("netd", 10))
		}
		_, err := h.Weft(t.Context(), "name", "show", "stays.weft.mesos").Output()
		return err
	}
	eventually(t, serves)
	for _, day := range []struct {
		name        string
		begins, end func() error
		said        string // in the log; empty: nothing
	}{
		{"the disk is full", func() error { return fullDisk(state) }, func() error { return unix.Unmount(state, unix.MNT_DETACH) }, "no space left"},
		{"the underlay has no carrier", func() error { return h.Cut(true) }, func() error { return h.Cut(false) }, ""},
		{"the underlay has no address", func() error { return errors.Join(h.RemoveAddress(h.Addr), h.RemoveAddress(h.Addr6)) }, func() error { return h.AddAddress(h.Addr) }, "waiting for the underlay"},
		{"somebody removed the pins", h.WipePins, func() error { return nil }, "the kernel half was removed"},
	} {
		if err := h.Signal("netd", syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		before := len(h.Tail("netd", 1<<20))
		if err := errors.Join(day.begins(), h.StartNetd()); err != nil {
			t.Fatalf("%s: %v", day.name, err)
		}
		said := func() error {
			if log := h.Tail("netd", 1<<20)[before:]; !strings.Contains(log, day.said) {
				return errors.New("the log does not say " + day.said + ":\n" + log)
			}
			return nil
		}
		if strings.HasPrefix(day.said, "waiting") { // it serves when what it waits for comes
			eventually(t, said)
			if err := day.end(); err != nil {
				t.Fatal(err)
			}
			eventually(t, serves)
			continue
		}
		eventually(t, serves)
		eventually(t, said)
		if err := day.end(); err != nil {
			t.Fatalf("%s: %v", day.name, err)
		}
	}
	if _, err := h.Weft(t.Context(), "task", "kill", "stays").Output(); err != nil {
		t.Error(err)
	}
	_ = task.Wait() // killed
}

// fullDisk puts a file system in the place of dir that holds what is in it and no page more.
func fullDisk(dir string) error {
	var files []string
	content := make(map[string][]byte)
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		files = append(files, path)
		content[path], err = os.ReadFile(path)
		return err
	})
	if err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=16m"); err != nil {
		return err
	}
	for _, path := range files {
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, content[path], 0o600)); err != nil {
			return err
		}
	}
	return fill(filepath.Join(dir, "filler"))
}

// fill writes a file until the disk is full.
func fill(path string) error {
	filler, err := os.Create(path)
	if err != nil {
		return err
	}
	for block := make([]byte, 64<<10); err == nil; {
		_, err = filler.Write(block)
	}
	if !errors.Is(err, unix.ENOSPC) {
		return err
	}
	return filler.Close()
}

// TestAMasterThatCanNotWriteEnds refuses the only master to write: it ends, for whoever supervises it to start it again,
// and knows what it had promised. Nodes go on meanwhile.
func TestAMasterThatCanNotWriteEnds(t *testing.T) {
	l := labtest.Up(t, lab.Options{Hosts: 1})
	h, m := l.Hosts[0], l.Masters[0]
	add := func(name, subnet string) error {
		_, err := h.Weft(t.Context(), "network", "add", name, "--subnet", subnet).Output()
		return err
	}
	if err := add("prod", "9.1.0.0/16"); err != nil {
		t.Fatal(err)
	}
	task := h.Weft(t.Context(), "run", "--network", "prod", "--name", "stays", "--", "sleep", "1000")
	if err := task.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = task.Wait() }) // it ends with the lab
	eventually(t, func() error { _, err := taskOf(t, h, "stays"); return err })
	master, err := m.Pid("master")
	if err != nil {
		t.Fatal(err)
	}
	const enough = 16 << 10 // for its log; the store's files are larger
	if err := unix.Prlimit(master, unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: enough, Max: enough}, nil); err != nil {
		t.Fatal(err)
	}
	promised := []string{"prod"}
	eventually(t, func() error {
		name := fmt.Sprint("late-", len(promised))
		if err := add(name, fmt.Sprintf("9.%d.0.0/16", 1+len(promised))); err == nil {
			promised = append(promised, name)
		}
		if m.Running("master") {
			return errors.New("the master goes on")
		}
		return nil
	})
	if _, err := taskOf(t, h, "stays"); err != nil {
		t.Errorf("without the master: %v", err)
	}
	if err := m.StartMaster(); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error { return add("after", "9.200.0.0/16") })
	out, err := h.Weft(t.Context(), "network", "list").Output()
	if err != nil {
		t.Fatal(err)
	}
	wantPrinted(t, out, promised...)
}
