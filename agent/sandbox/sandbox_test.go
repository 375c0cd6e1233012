// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

const patience = 30 * time.Second

// helperEnv makes the test binary a caller that a test can kill; its value is a Spec.
const helperEnv = "WEFT_SANDBOX_CALLER"

func TestMain(m *testing.M) {
	if ours, status := Init(); ours {
		os.Exit(status)
	}
	if text, ok := os.LookupEnv(helperEnv); ok {
		os.Exit(caller(text))
	}
	goleak.VerifyTestMain(m)
}

// caller starts a task and waits to be killed.
func caller(text string) int {
	var s struct {
		Spec
		Release bool
	}
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		fmt.Println(err)
		return 1
	}
	task, err := Start(context.Background(), s.Spec)
	if err == nil && s.Release {
		err = task.Release(context.Background(), Names{})
	}
	fmt.Println(task.PID, err)
	<-task.Done()
	return 1
}

// folder makes a cgroup for a test's tasks, and sees at the end that they left nothing.
func folder(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
	root, err := CgroupRoot()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(root, fmt.Sprintf("weft-sandbox-test-%d-%s", os.Getpid(), t.Name()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if left := folders(t, dir); len(left) > 0 {
			t.Errorf("cgroups are left: %v", left)
		}
		if err := removeCgroup(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func folders(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names
}

func shell(dir, script string) Spec {
	return Spec{ID: "web.1", Command: []string{"sh", "-c", script}, Cgroup: dir}
}

func start(t *testing.T, s Spec) *Task {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	task, err := Start(ctx, s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := task.Close(); err != nil {
			t.Error(err)
		}
	})
	return task
}

func release(t *testing.T, task *Task, servers ...string) {
	t.Helper()
	n := Names{Search: []string{"weft.mesos", "weft.l4lb.thisdcos.directory"}}
	for _, s := range servers {
		n.Servers = append(n.Servers, netip.MustParseAddr(s))
	}
	if err := task.Release(t.Context(), n); err != nil {
		t.Fatal(err)
	}
}

func wait(t *testing.T, task *Task) Exit {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	exit, err := task.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return exit
}

// output returns a pipe for a task's standard output, whose lines can be read one by one.
func output(t *testing.T, s *Spec) *bufio.Scanner {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	s.Stdio[1] = w
	t.Cleanup(func() {
		if err := errors.Join(r.Close(), w.Close()); err != nil {
			t.Error(err)
		}
	})
	if err := r.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return bufio.NewScanner(r)
}

func line(t *testing.T, s *bufio.Scanner) string {
	t.Helper()
	if !s.Scan() {
		t.Fatalf("no line: %v", s.Err())
	}
	return s.Text()
}

// gone waits until a process is no more, or nobody's but init's to bury.
func gone(t *testing.T, pid int) {
	t.Helper()
	until(t, fmt.Sprintf("process %d is gone", pid), func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || strings.Contains(string(stat), ") Z ")
	})
}

func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("it never came true that %s", what)
		}
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestATaskHasAWorldOfItsOwn(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	before := read(t, "/etc/resolv.conf")
	s := shell(dir, `cat /etc/resolv.conf; uname -n; grep -c : /proc/net/dev; grep -c ' lo$' /proc/net/if_inet6; pwd; echo $COLOR; grep ^0:: /proc/self/cgroup`)
	s.Hostname, s.Dir, s.Env = "web-1", "/usr", []string{"PATH=" + os.Getenv("PATH"), "COLOR=blue"}
	out := output(t, &s)
	task := start(t, s)
	release(t, task, "198.51.100.1", "fd01:d::c633:6401")
	for _, want := range []string{
		"nameserver 198.51.100.1", "nameserver fd01:d::c633:6401", "search weft.mesos weft.l4lb.thisdcos.directory",
		"web-1", "1", "1", "/usr", "blue", "0::/" + filepath.Base(dir) + "/web.1",
	} {
		if got := line(t, out); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if exit := wait(t, task); exit != (Exit{}) {
		t.Errorf("exit %+v", exit)
	}
	if after := read(t, "/etc/resolv.conf"); after != before {
		t.Errorf("the node's resolv.conf changed: %q", after)
	}
}

func TestATaskMayShareTheNodesNetwork(t *testing.T) {
	t.Parallel()
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	s := shell(folder(t), `readlink /proc/self/ns/net; cat /etc/resolv.conf; sleep 1000`)
	s.HostNetwork = true
	out := output(t, &s)
	task := start(t, s)
	release(t, task, "198.51.100.1")
	for _, want := range []string{own, "nameserver 198.51.100.1", "search weft.mesos weft.l4lb.thisdcos.directory"} {
		if got := line(t, out); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if at, err := os.Readlink(task.NetNS); err != nil || at != own {
		t.Errorf("NetNS is %s, %v, want %s", at, err, own)
	}
	exit, err := Exec(t.Context(), Target{PID: task.PID, StartTime: task.StartTime, Cgroup: task.Cgroup}, Visit{Command: []string{"true"}})
	if err != nil || exit != (Exit{}) {
		t.Errorf("exec: %+v, %v", exit, err)
	}
}

func TestATaskWaitsForRelease(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	s := shell(dir, "echo begun")
	out := output(t, &s)
	task := start(t, s)
	if got := read(t, fmt.Sprintf("/proc/%d/cmdline", task.PID)); got != "weft-sandbox\x00task\x00" {
		t.Errorf("the process is %q, want it waiting", got)
	}
	if got := strings.Fields(read(t, filepath.Join(task.Cgroup, "cgroup.procs"))); !slices.Equal(got, []string{strconv.Itoa(task.PID)}) {
		t.Errorf("in the cgroup: %v, want %d", got, task.PID)
	}
	theirs, err := os.Readlink(task.NetNS)
	if err != nil {
		t.Fatal(err)
	}
	ours, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	if theirs == ours {
		t.Error("the task is in the caller's network namespace")
	}
	if got, err := StartTime(task.PID); err != nil || got != task.StartTime || got == 0 {
		t.Errorf("start time %d %v, want %d", got, err, task.StartTime)
	}
	release(t, task)
	if got := line(t, out); got != "begun" {
		t.Errorf("got %q", got)
	}
}

func TestExitStatus(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	for script, want := range map[string]Exit{
		"exit 0":          {},
		"exit 7":          {Code: 7},
		"kill -TERM $$":   {Signal: syscall.SIGTERM},
		"kill -KILL $$":   {Signal: syscall.SIGKILL},
		"exec sleep 1000": {Signal: syscall.SIGINT}, // by Signal, below
	} {
		task := start(t, shell(dir, script))
		release(t, task)
		if want.Signal == syscall.SIGINT {
			if err := task.Signal(syscall.SIGINT); err != nil {
				t.Error(err)
			}
		}
		if got := wait(t, task); got != want {
			t.Errorf("%s: %+v, want %+v", script, got, want)
		}
		if err := task.Signal(syscall.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
			t.Errorf("signal after the end: %v, want os.ErrProcessDone", err)
		}
		if err := task.Close(); err != nil {
			t.Error(err)
		}
	}
	if got := (Exit{Signal: syscall.SIGKILL}).Status(); got != 137 {
		t.Errorf("status %d, want 137", got)
	}
	if got := (Exit{Code: 7}).Status(); got != 7 {
		t.Errorf("status %d, want 7", got)
	}
}

func TestCommandsThatCannotRun(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	for command, want := range map[string]error{
		"weft-no-such-command": fs.ErrNotExist,
		"/no/such/file":        fs.ErrNotExist,
		"/etc/passwd":          fs.ErrPermission,
	} {
		s := Spec{ID: "web.1", Command: []string{command}, Cgroup: dir}
		task := start(t, s)
		err := task.Release(t.Context(), Names{})
		if !errors.Is(err, want) || !strings.Contains(err.Error(), command) {
			t.Errorf("%s: %v, want %v that names it", command, err, want)
		}
		if status := wait(t, task).Status(); errors.Is(want, fs.ErrNotExist) && status != 127 || errors.Is(want, fs.ErrPermission) && status != 126 {
			t.Errorf("%s: status %d", command, status)
		}
		if err := task.Close(); err != nil {
			t.Error(err)
		}
	}
	s := shell(dir, "true")
	s.Dir = "/no/such/dir"
	if _, err := Start(t.Context(), s); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "/no/such/dir") {
		t.Errorf("%v, want fs.ErrNotExist that names the folder", err)
	}
	s = shell(filepath.Join(dir, "nosuch"), "true")
	if _, err := Start(t.Context(), s); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "nosuch") {
		t.Errorf("%v, want fs.ErrNotExist that names the cgroup", err)
	}
}

// family is a task whose command has children: one in a session of its own, one in a cgroup below.
const family = `
	sleep 1000 & echo $!
	setsid sleep 1000 & echo $!
	mkdir -p "$CG/a/b"; sh -c 'echo $$ >"$CG/a/b/cgroup.procs"; echo $$; exec sleep 1000' &
	wait`

func TestCloseEndsEveryProcess(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	s := shell(dir, family)
	s.Env = append(os.Environ(), "CG="+filepath.Join(dir, s.ID))
	out := output(t, &s)
	task := start(t, s)
	release(t, task)
	var pids []int
	for range 3 {
		pid, err := strconv.Atoi(line(t, out))
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	if err := task.Close(); err != nil {
		t.Error(err)
	}
	if err := task.Close(); err != nil {
		t.Errorf("the second time: %v", err)
	}
	if _, err := os.Stat(task.Cgroup); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the cgroup is still there: %v", err)
	}
	for _, pid := range append(pids, task.PID) {
		gone(t, pid)
	}
}

func TestKill(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	for name, kill := range map[string]func(*Task) error{
		"at once":   (*Task).Kill,
		"by path":   func(task *Task) error { return Kill(task.Cgroup) },
		"in rounds": func(task *Task) error { return killInRounds(task.Cgroup) },
	} {
		s := shell(dir, family)
		s.Env = append(os.Environ(), "CG="+filepath.Join(dir, s.ID))
		out := output(t, &s)
		task := start(t, s)
		release(t, task)
		for range 3 {
			line(t, out)
		}
		if err := kill(task); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if exit := wait(t, task); exit.Signal != syscall.SIGKILL {
			t.Errorf("%s: %+v, want SIGKILL", name, exit)
		}
		until(t, "the cgroup is empty", func() bool {
			pids, err := processes(task.Cgroup)
			return err == nil && len(pids) == 0
		})
		if err := task.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestKillOfWhatIsNoTask(t *testing.T) {
	t.Parallel()
	if err := Kill(filepath.Join(t.TempDir(), "gone")); err != nil {
		t.Errorf("a task that is gone: %v", err)
	}
	for _, path := range []string{"", "web.1"} {
		if err := Kill(path); err == nil || !strings.Contains(err.Error(), "absolute path") {
			t.Errorf("%q: %v, want that a path is needed", path, err)
		}
	}
}

func TestNothingIsLeftWhenTheCallerIsKilled(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	for _, released := range []bool{false, true} {
		text, err := json.Marshal(map[string]any{
			"ID": "web.1", "Command": []string{"sh", "-c", "sleep 1000 & wait"}, "Cgroup": dir,
			"Resolver": []string{"198.51.100.1"}, "Release": released,
		})
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
		cmd.Env = append(os.Environ(), helperEnv+"="+string(text))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var pid int
		var failure string
		if _, err := fmt.Fscanln(out, &pid, &failure); err != nil || failure != "<nil>" {
			t.Fatalf("%d %s %v", pid, failure, err)
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, out); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err == nil {
			t.Error("the caller ended by itself")
		}
		gone(t, pid)
		until(t, "the cgroup is removed", func() bool { return len(folders(t, dir)) == 0 })
	}
}

func TestAnIDInUseIsRefused(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	task := start(t, shell(dir, "exec sleep 1000"))
	release(t, task)
	if _, err := Start(t.Context(), shell(dir, "true")); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("%v, want that it is in use", err)
	}
	select {
	case <-task.Done():
		t.Error("the first task ended")
	default:
	}
	if err := task.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the first task: %v", err)
	}
}

func TestAKilledGuardIsReplaced(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	task := start(t, shell(dir, "sleep 1000 & wait"))
	release(t, task)
	if err := task.guard.handle.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := task.Close(); err != nil {
		t.Error(err)
	}
	// One that was killed with its caller leaves an empty folder, which does not stand in the way.
	if err := os.Mkdir(filepath.Join(dir, "web.1"), 0o755); err != nil {
		t.Fatal(err)
	}
	again := start(t, shell(dir, "exit 3"))
	release(t, again)
	if exit := wait(t, again); exit.Code != 3 {
		t.Errorf("%+v, want code 3", exit)
	}
}

func TestANameServerThatIsNotSetIsRefused(t *testing.T) {
	t.Parallel()
	task := start(t, Spec{ID: "web.1", Command: []string{"true"}, Cgroup: folder(t)})
	if err := task.Release(t.Context(), Names{Servers: []netip.Addr{{}}}); err == nil || !strings.Contains(err.Error(), "not set") {
		t.Errorf("got %v, want that an address is not set", err)
	}
}

func TestAnEndedContextLeavesNothing(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Start(ctx, shell(dir, "true")); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want context.Canceled", err)
	}
	if left := folders(t, dir); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	task := start(t, shell(dir, "exec sleep 1000"))
	if err := task.Release(ctx, Names{}); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want context.Canceled", err)
	}
	if _, err := task.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want context.Canceled", err)
	}
}

func TestNoDescriptorIsLeft(t *testing.T) {
	dir := folder(t)
	round := func() int {
		task := start(t, shell(dir, "true"))
		release(t, task)
		if _, err := Exec(t.Context(), Target{PID: task.PID, Cgroup: task.Cgroup}, Visit{}); err == nil {
			t.Error("an empty command ran")
		}
		wait(t, task)
		if err := task.Close(); err != nil {
			t.Error(err)
		}
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	first := round()
	var last int
	for range 3 {
		last = round()
	}
	if last > first {
		t.Errorf("%d descriptors after the first task, %d after the fourth", first, last)
	}
}

func TestExecJoinsATask(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	s := shell(dir, "exec sleep 1000")
	s.Hostname = "web-1"
	task := start(t, s)
	release(t, task, "198.51.100.1")
	target := Target{PID: task.PID, StartTime: task.StartTime, Cgroup: task.Cgroup}
	var sink Spec
	out := output(t, &sink)
	exit, err := Exec(t.Context(), target, Visit{
		Command: []string{"sh", "-c", "readlink /proc/self/ns/net /proc/self/ns/mnt; uname -n; cat /etc/resolv.conf; grep ^0:: /proc/self/cgroup; pwd; exit 5"},
		Stdio:   sink.Stdio,
	})
	if err != nil || exit.Code != 5 {
		t.Errorf("%+v %v, want code 5", exit, err)
	}
	for _, kind := range []string{"net", "mnt"} {
		want, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", task.PID, kind))
		if err != nil {
			t.Fatal(err)
		}
		if got := line(t, out); got != want {
			t.Errorf("%s namespace %s, want %s", kind, got, want)
		}
	}
	for _, want := range []string{"web-1", "nameserver 198.51.100.1", "search weft.mesos weft.l4lb.thisdcos.directory", "0::/" + filepath.Base(dir) + "/web.1", "/"} {
		if got := line(t, out); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestExecThatCannotBe(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	task := start(t, shell(dir, "exec sleep 1000"))
	release(t, task)
	target := Target{PID: task.PID, StartTime: task.StartTime, Cgroup: task.Cgroup}
	if _, err := Exec(t.Context(), target, Visit{Command: []string{"weft-no-such-command"}}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v, want fs.ErrNotExist", err)
	}
	another := target
	another.StartTime++
	if _, err := Exec(t.Context(), another, Visit{Command: []string{"true"}}); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("%v, want os.ErrProcessDone: the number is another process's", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := Exec(ctx, target, Visit{Command: []string{"sleep", "1000"}}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, want context.DeadlineExceeded", err)
	}
	if got := strings.Fields(read(t, filepath.Join(task.Cgroup, "cgroup.procs"))); !slices.Equal(got, []string{strconv.Itoa(task.PID)}) {
		t.Errorf("in the cgroup: %v, want the task alone", got)
	}
	if err := task.Close(); err != nil {
		t.Error(err)
	}
	if _, err := Exec(t.Context(), target, Visit{Command: []string{"true"}}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v, want fs.ErrNotExist: the task has ended", err)
	}
}

func TestBadSpecsAreRefused(t *testing.T) {
	t.Parallel()
	good := Spec{ID: "a", Command: []string{"true"}, Cgroup: "/sys/fs/cgroup"}
	for name, c := range map[string]struct {
		change func(*Spec)
		want   string
	}{
		"no id":         {func(s *Spec) { s.ID = "" }, `id ""`},
		"path":          {func(s *Spec) { s.ID = "../a" }, `id "../a"`},
		"dots":          {func(s *Spec) { s.ID = ".." }, `id ".."`},
		"long":          {func(s *Spec) { s.ID = strings.Repeat("a", 256) }, "1 to 255"},
		"no command":    {func(s *Spec) { s.Command = nil }, "no command"},
		"empty command": {func(s *Spec) { s.Command = []string{""} }, "no command"},
		"no cgroup":     {func(s *Spec) { s.Cgroup = "" }, `cgroup ""`},
		"hostname":      {func(s *Spec) { s.Hostname = strings.Repeat("a", 65) }, "at most 64"},
	} {
		s := good
		c.change(&s)
		if _, err := Start(t.Context(), s); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q in it", name, err, c.want)
		}
	}
}

func TestStartTime(t *testing.T) {
	t.Parallel()
	const rest = " S 1 2 2 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 %d 100 200\n"
	for _, name := range []string{"sh", "a b", "a) S 1 (b", ")"} {
		if got, err := startTime("7 (" + name + ")" + fmt.Sprintf(rest, 4711)); err != nil || got != 4711 {
			t.Errorf("%q: %d %v, want 4711", name, got, err)
		}
	}
	for _, bad := range []string{"", "7 (sh)", "7 (sh) S 1", strings.Replace(fmt.Sprintf(rest, 1), " 1 100", " x 100", 1)} {
		if got, err := startTime(bad); err == nil {
			t.Errorf("%q: %d, want an error", bad, got)
		}
	}
}

func TestCgroupRootIsFound(t *testing.T) {
	t.Parallel()
	const v1 = "30 23 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
	for name, c := range map[string]struct{ mountinfo, want string }{
		"none":    {v1, ""},
		"unified": {"29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n", "/sys/fs/cgroup"},
		"hybrid":  {v1 + "42 32 0:27 / /sys/fs/cgroup/unified rw - cgroup2 none rw\n", "/sys/fs/cgroup/unified"},
		"part":    {"42 32 0:27 /a /mnt rw - cgroup2 none rw\n43 32 0:27 / /b rw - cgroup2 none rw\n", "/b"},
		"space":   {"42 32 0:27 / /a\\040b rw - cgroup2 none rw\n", "/a b"},
		"broken":  {"42 - cgroup2 none rw\n\\\n", ""},
	} {
		if got := cgroupRoot(c.mountinfo); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func FuzzProc(f *testing.F) {
	f.Add("7 (sh) S 1 2 2 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 9 100 200")
	f.Add("42 32 0:27 / /a\\040b\\0 rw - cgroup2 none rw")
	f.Fuzz(func(_ *testing.T, text string) {
		cgroupRoot(text)
		startTime(text) //nolint:errcheck // it must not panic
	})
}

// BenchmarkTask is start to end of `true`, with a cgroup and three namespaces.
func BenchmarkTask(b *testing.B) {
	if os.Geteuid() != 0 {
		b.Skip("needs root")
	}
	root, err := CgroupRoot()
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		task, err := Start(b.Context(), Spec{ID: "weft-sandbox-bench", Command: []string{"true"}, Cgroup: root})
		if err != nil {
			b.Fatal(err)
		}
		err = task.Release(b.Context(), Names{})
		_, waitErr := task.Wait(b.Context())
		if err := errors.Join(err, waitErr, task.Close()); err != nil {
			b.Fatal(err)
		}
	}
}
