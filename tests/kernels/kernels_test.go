// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// TestArchiveIsNewc reads what pack writes as the kernel does: names, modes and contents, aligned.
func TestArchiveIsNewc(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{"init", "x.test"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("content of "+name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b := &binaries{init: filepath.Join(dir, "init"), tests: []testBinary{{"x.test", filepath.Join(dir, "x.test")}}}
	drivers := []module{{"a", []byte("a")}, {"bc", []byte("bcdef")}}
	if err := pack(filepath.Join(dir, "initrd"), b, drivers, []string{"-test.run=TestX"}); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(dir, "initrd"))
	if err != nil {
		t.Fatal(err)
	}
	got := unpackNewc(t, raw)
	want := map[string]string{
		"dev": "dir", "proc": "dir", "sys": "dir", "tmp": "dir", "run": "dir", "etc": "dir", "modules": "dir", "tests": "dir",
		"init": "content of init", "modules/a": "a", "modules/bc": "bcdef", "modules/ORDER": "a\nbc",
		"tests/x.test": "content of x.test", "tests/ORDER": "x.test", "tests/FLAGS": "-test.run=TestX",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("archive (-want +got):\n%s", diff)
	}
}

func unpackNewc(t *testing.T, raw []byte) map[string]string {
	t.Helper()
	entries := make(map[string]string)
	for at := 0; ; {
		header := raw[at : at+110]
		if string(header[:6]) != "070701" || at%4 != 0 {
			t.Fatalf("no header at %d: %q", at, header)
		}
		field := func(i int) int {
			n, err := strconv.ParseUint(string(header[6+8*i:14+8*i]), 16, 32)
			if err != nil {
				t.Fatal(err)
			}
			return int(n)
		}
		mode, size, nameSize := field(1), field(6), field(11)
		name := string(raw[at+110 : at+110+nameSize-1])
		at = (at + 110 + nameSize + 3) &^ 3
		content := string(raw[at : at+size])
		at = (at + size + 3) &^ 3
		if name == "TRAILER!!!" {
			return entries
		}
		if mode&0o170000 == 0o040000 {
			content = "dir"
		}
		entries[name] = content
	}
}

func TestPayloadIsCutOutOfTheImage(t *testing.T) {
	t.Parallel()
	image := make([]byte, 2048)
	image[offsetSetupSectors] = 1
	copy(image[offsetMagic:], "HdrS")
	binary.LittleEndian.PutUint32(image[offsetPayloadStart:], 16)
	binary.LittleEndian.PutUint32(image[offsetPayloadLength:], 9)
	copy(image[1024+16:], "kernelEND")
	if got, err := payloadOf(image); err != nil || string(got) != "kerne" {
		t.Errorf("payload %q, %v; want kerne", got, err)
	}
	binary.LittleEndian.PutUint32(image[offsetPayloadLength:], 4096)
	if _, err := payloadOf(image); err == nil {
		t.Error("took a payload beyond the image")
	}
	if _, err := payloadOf([]byte("MZ")); err == nil {
		t.Error("took what is no image")
	}
}

func TestUnpackKnowsWhatItIsGiven(t *testing.T) {
	t.Parallel()
	plain := []byte("\x7fELF and so on")
	if got, err := unpack(t.Context(), plain); err != nil || !bytes.Equal(got, plain) {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := unpack(t.Context(), []byte("neither")); err == nil {
		t.Error("unpacked what no tool packs")
	}
}

func TestConsoleIsCounted(t *testing.T) {
	t.Parallel()
	const benchmark = "BenchmarkX/y         \t       1\t       321.0 ns/packet"
	const begin, end = "guest: start\r\nguest: run x.test\r\n", "guest: done\r\n"
	for _, c := range []struct {
		name    string
		console string
		want    result
		err     string
	}{
		{"all pass", begin + "--- PASS: TestA (0.1s)\r\n    --- PASS: TestA/b (0s)\r\n" + end, result{passed: 1}, ""},
		{"one is skipped", begin + "--- PASS: TestA (0s)\n--- SKIP: TestB (0s)\n" + end, result{passed: 1, skipped: 1}, ""},
		{"one fails", begin + "--- PASS: TestA (0s)\n--- FAIL: TestB (0s)\n" + end, result{passed: 1, failed: 1}, "tests failed"},
		{"a benchmark", begin + benchmark + "\n" + end, result{passed: 1, measured: []string{benchmark}}, ""},
		{"nothing ran", begin + end, result{}, "there were none"},
		{"a binary dies", begin + "--- PASS: TestA (0s)\nguest: failed x.test: signal\n" + end, result{passed: 1}, "x.test: signal"},
		{"the guest dies", begin + "--- PASS: TestA (0s)\n", result{passed: 1}, "before its end"},
		{"the kernel dies", "PANIC: double fault\n", result{}, errNoBoot.Error()},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := read(strings.NewReader(c.console), io.Discard, func() {})
			if !reflect.DeepEqual(got, c.want) || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("got %+v, %v; want %+v, %q", got, err, c.want, c.err)
			}
			if errors.Is(err, errNoBoot) != (c.name == "the kernel dies") {
				t.Errorf("booting again after %v", err)
			}
		})
	}
}

// TestSilentGuestHangs has one that says nothing after its start.
func TestSilentGuestHangs(t *testing.T) {
	dir := t.TempDir()
	emulator := "#!/bin/sh\necho guest: start\nexec sleep 100\n"
	if err := os.WriteFile(filepath.Join(dir, "qemu-system-x86_64"), []byte(emulator), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	if _, err := (guest{silence: 10 * time.Millisecond}).boot(t.Context(), io.Discard); !errors.Is(err, errHangs) {
		t.Errorf("%v, want %v", err, errHangs)
	}
}

// TestAKilledRunLeavesNoGuest has a process boot a guest that would stay, and kills the process.
func TestAKilledRunLeavesNoGuest(t *testing.T) {
	if os.Getenv("WEFT_BOOTS") != "" {
		_, _ = guest{silence: time.Hour}.boot(t.Context(), os.Stdout) // until it is killed
		return
	}
	dir := t.TempDir()
	emulator := "#!/bin/sh\necho $$\nexec sleep 1000\n"
	if err := os.WriteFile(filepath.Join(dir, "qemu-system-x86_64"), []byte(emulator), 0o700); err != nil {
		t.Fatal(err)
	}
	run := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestAKilledRunLeavesNoGuest$")
	run.Env = append(os.Environ(), "WEFT_BOOTS=1", "PATH="+dir+":"+os.Getenv("PATH"))
	out, err := run.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	ended, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(ended) }()
	if err := run.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = run.Wait() // killed
	const soon = 10 * time.Second
	if n, err := unix.Poll([]unix.PollFd{{Fd: int32(ended), Events: unix.POLLIN}}, int(soon.Milliseconds())); n != 1 || err != nil {
		t.Errorf("the guest outlives its run by %s (%v)", soon, errors.Join(err, unix.Kill(pid, unix.SIGKILL)))
	}
}
