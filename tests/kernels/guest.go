// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// guest is what to boot.
type guest struct {
	kernel, initrd string
	benchmarks     bool // the clock counts instructions
	silence        time.Duration
}

// result counts tests, subtests left out, as `go test` does, and benchmarks as passed tests.
type result struct {
	passed, failed, skipped int
	measured                []string // lines of benchmarks
	processor               time.Duration
}

// errHangs says that the guest printed nothing for too long. How long it takes for all that it does is not a fault: the
// machine may have other things to do.
var errHangs = errors.New("the guest hangs")

// errNoBoot says that the guest's first process never ran.
var errNoBoot = errors.New("the guest's kernel did not come up")

// noise is what tells nothing of a failure.
var noise = regexp.MustCompile(`^(=== |\s*--- (PASS|SKIP): |PASS$)`)

// tailLines is how much of the console is shown of a guest that failed.
const tailLines = 200

// boot runs a guest until it is off, and counts. log takes its console.
func (g guest) boot(ctx context.Context, log io.Writer) (result, error) {
	khz, err := clock()
	if err != nil {
		return result{}, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	said := time.AfterFunc(g.silence, func() { cancel(fmt.Errorf("%w: it said nothing for %s", errHangs, g.silence)) })
	defer said.Stop()
	accel := []string{"-accel", "tcg,thread=multi"}
	if g.benchmarks { // the virtual clock goes on by a nanosecond with each instruction
		accel, khz = []string{"-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off"}, 1000000
	}
	// Without the frequency (tsc_early_khz) this machine type hangs in calibration at every second boot.
	// Without cx16=off, the kernel dies now and then of a double fault in its allocator: the emulator (QEMU
	// 7.2) leaves rubbish in EFLAGS after cmpxchg16b. Linux 7.3 then has no memory for socket storage (it
	// takes it without locks, by that instruction), but for slab_debug, which takes another way.
	// Without erms and fsrm, the kernel copies by words: emulated, "rep movsb" takes as long for a byte, and copying was
	// a quarter of all that loading programs took. Without smap and la57, the emulator has less to do at each access of
	// the kernel to memory of a process, and at each miss of its translation buffer.
	line := fmt.Sprintf("console=ttyS0 quiet tsc_early_khz=%d tsc=reliable no_timer_check mitigations=off "+
		"nokaslr random.trust_cpu=on panic=-1 reboot=t slab_debug=F,kmalloc-*", khz)
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", append(accel, "-M", "microvm,rtc=on",
		"-cpu", "max,cx16=off,erms=off,fsrm=off,smap=off,la57=off", "-smp", "1", "-m", "2048", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
		"-serial", "stdio", "-kernel", g.kernel, "-initrd", g.initrd, "-append", line)...)
	cmd.WaitDelay = 10 * time.Second
	// A run that is killed leaves no guest: it dies with the thread that started it, so this one is kept.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	console, err := cmd.StdoutPipe()
	if err != nil {
		return result{}, err
	}
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		return result{}, err
	}
	r, rerr := read(console, log, func() { said.Reset(g.silence) })
	werr := cmd.Wait()
	if ctx.Err() != nil {
		werr = context.Cause(ctx)
	}
	r.processor = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	return r, errors.Join(rerr, werr)
}

var (
	outcome  = regexp.MustCompile(`^--- (PASS|FAIL|SKIP): `)
	measured = regexp.MustCompile(`^Benchmark\S+\s+\d+\s`)
)

// read follows the console. A guest that neither says that it is done nor that all went well failed;
// the error shows what it said last. heard is called for each line.
func read(console io.Reader, out io.Writer, heard func()) (result, error) {
	var r result
	var tail []string
	var bad []string
	started, done := false, false
	lines := bufio.NewScanner(console)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		heard()
		text := strings.TrimRight(lines.Text(), "\r")
		_, _ = fmt.Fprintln(out, text)
		if !noise.MatchString(text) {
			tail = append(tail[max(0, len(tail)+1-tailLines):], text)
		}
		if m := outcome.FindStringSubmatch(text); m != nil {
			r.count(m[1])
		}
		if measured.MatchString(text) {
			r.measured = append(r.measured, text)
			r.passed++
		}
		if word, ok := strings.CutPrefix(text, "guest: failed "); ok {
			bad = append(bad, word)
		}
		started = started || text == "guest: start"
		done = done || text == "guest: done"
	}
	switch {
	case lines.Err() != nil:
		return r, lines.Err()
	case !started:
		return r, fmt.Errorf("%w; its console ended:\n%s", errNoBoot, strings.Join(tail, "\n"))
	case !done:
		bad = append(bad, "the guest stopped before its end")
	case len(bad) == 0 && r.failed == 0 && r.passed > 0:
		return r, nil
	case len(bad) == 0:
		bad = append(bad, "tests failed, or there were none")
	}
	return r, fmt.Errorf("%s; its console ended:\n%s", strings.Join(bad, "; "), strings.Join(tail, "\n"))
}

func (r *result) count(word string) {
	switch word {
	case "PASS":
		r.passed++
	case "FAIL":
		r.failed++
	case "SKIP":
		r.skipped++
	}
}

var megahertz = regexp.MustCompile(`(?m)^cpu MHz\s*:\s*([0-9.]+)$`)

// clock returns the frequency of this machine's time stamp counter, which the emulator hands through,
// in kHz.
func clock() (int, error) {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return 0, err
	}
	m := megahertz.FindSubmatch(info)
	if m == nil {
		return 0, errors.New("/proc/cpuinfo names no frequency")
	}
	mhz, err := strconv.ParseFloat(string(m[1]), 64)
	return int(mhz * 1000), err
}
