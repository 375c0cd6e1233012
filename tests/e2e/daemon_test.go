// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"weft/tests/lab"
	"weft/tests/lab/labtest"
)

// TestDaemonsRefuseClearly starts daemons where they can't run: each says in its last line what is
// wrong, ends with a status that is not zero, and leaves the one that runs alone.
func TestDaemonsRefuseClearly(t *testing.T) {
	l := labtest.Up(t, lab.Options{Hosts: 1})
	h, m := l.Hosts[0], l.Masters[0]
	for _, c := range []struct {
		name string
		on   *lab.Host
		args []string
		want string
	}{
		{"second netd at the socket", h, []string{"netd", "--node", "other", "--state", h.Dir + "/other", "--socket", h.Socket(), "--pin", l.Dir + "/bpf/other", "--port", "7799", "--gossip-port", "7798", "--metrics", ""}, "one netd"},
		{"second netd in the namespace", h, []string{"netd", "--node", "other", "--state", h.Dir + "/other", "--socket", h.Dir + "/other.sock", "--pin", l.Dir + "/bpf/other", "--port", "7799", "--gossip-port", "7798", "--metrics", ""}, "one netd"},
		{"port in use", m, []string{"netd", "--node", "other", "--state", m.Dir + "/other", "--socket", m.Dir + "/other.sock", "--pin", l.Dir + "/bpf/other", "--cgroup", m.Cgroup(), "--gossip-port", "7798", "--metrics", "127.0.0.1:7781"}, "127.0.0.1:7781"},
		{"unknown underlay", h, []string{"netd", "--underlay", "nothere0", "--state", h.Dir + "/other"}, "nothere0"},
		{"master that is no address", h, []string{"netd", "--master", "nowhere"}, "nowhere"},
		{"names at no address", h, []string{"netd", "--dns", "localhost:61053"}, `dns is "localhost:61053"`},
		{"state folder that is read-only", m, []string{"netd", "--node", "other", "--state", readOnly(t), "--socket", m.Dir + "/other.sock", "--pin", l.Dir + "/bpf/other", "--cgroup", m.Cgroup(), "--underlay", "eth0"}, "read-only file system"},
		{"secret that is too short", h, []string{"netd", "--secret-file", shortSecret(t)}, "16 or more"},
		{"master without address", m, []string{"master", "--state", m.Dir + "/other"}, "addr"},
		{"master's port in use", m, []string{"master", "--id", "other", "--addr", m.Addr.String(), "--state", m.Dir + "/other", "--gossip-port", "7798", "--http-port", "0", "--metrics", ""}, "7700"},
		{"master's state in use", m, []string{"master", "--id", "m1", "--addr", m.Addr.String(), "--state", m.Dir + "/master", "--port", "7799", "--gossip-port", "7798", "--http-port", "0", "--metrics", ""}, m.Dir + "/master"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			_, err := c.on.Weft(ctx, c.args...).Output()
			if ctx.Err() != nil {
				t.Fatalf("still runs after %s: %v", patience, err)
			}
			if err == nil || !strings.Contains(lastLine(err), c.want) {
				t.Errorf("got %v, want a last line with %q", err, c.want)
			}
		})
	}
	if _, err := h.Weft(t.Context(), "task", "list").Output(); err != nil {
		t.Errorf("the daemon that ran is gone: %v", err)
	}
}

// What an operator wrote wrong is refused before a host is changed.
func TestRefusedBeforeTheHostIsTouched(t *testing.T) {
	l := labtest.Up(t, lab.Options{Hosts: 1, Bare: true})
	h := l.Hosts[0]
	file := filepath.Join(t.TempDir(), "names.json")
	if err := os.WriteFile(file, []byte(`{"ttl": "soon"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for flag, value := range map[string]string{"--names": file, "--resolver": "nowhere"} {
		_, err := h.Weft(t.Context(), "netd", "--node", "h1", "--state", h.Dir+"/netd", "--socket", h.Socket(), "--pin", h.Pins(), "--cgroup", h.Cgroup(), flag, value).Output()
		if err == nil || !strings.Contains(err.Error(), value) {
			t.Errorf("%s %s: %v", flag, value, err)
		}
		if out, err := h.Command(t.Context(), "ip", "-o", "link").Output(); err != nil || strings.Contains(out, "weft") {
			t.Errorf("%s %s left %s, %v", flag, value, out, err)
		}
		if out, err := h.Command(t.Context(), "cat", "/proc/sys/net/ipv4/ip_forward").Output(); err != nil || strings.TrimSpace(out) != "0" {
			t.Errorf("%s %s: forwarding is %s, %v", flag, value, out, err)
		}
	}
}

func lastLine(err error) string {
	lines := strings.Split(strings.TrimSpace(err.Error()), "\n")
	return lines[len(lines)-1]
}

// readOnly is a folder that nothing can be written to, not even by root.
func readOnly(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func shortSecret(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte("short\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestWithoutRoot runs what needs root as nobody.
func TestWithoutRoot(t *testing.T) {
	labtest.Require(t)
	dir, err := os.MkdirTemp("/tmp", "weft-nobody-") //nolint:usetesting // nobody must be able to enter it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	binary, err := os.ReadFile(labtest.Build(t, "cmd/weft"))
	if err != nil {
		t.Fatal(err)
	}
	weft := filepath.Join(dir, "weft")
	if err := os.WriteFile(weft, binary, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"netd"}, {"lab", "--dir", dir + "/lab", "up"}} {
		cmd := exec.CommandContext(t.Context(), weft, args...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		var said bytes.Buffer
		cmd.Stderr = &said
		if err := cmd.Run(); err == nil || !strings.Contains(said.String(), "needs root") {
			t.Errorf("weft %s as nobody: %v, said %q", strings.Join(args, " "), err, said.String())
		}
	}
}

// TestBrokenStateFile damages what a node keeps on disk while its daemon is away: the next one says
// so, names the file, and goes on with its tasks.
func TestBrokenStateFile(t *testing.T) {
	l := labtest.Up(t, lab.Options{Hosts: 1})
	h := l.Hosts[0]
	weft := func(args ...string) string {
		t.Helper()
		out, err := h.Weft(t.Context(), args...).Output()
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	weft("network", "add", "prod", "--subnet", "9.1.0.0/16")
	task := h.Weft(t.Context(), "run", "--network", "prod", "--name", "stays", "--", "sleep", "1000")
	if err := task.Start(); err != nil {
		t.Fatal(err)
	}
	// It is attached; VIPs and names come next, so the daemon dies while `weft run` still needs it.
	eventually(t, func() error { _, err := h.Weft(t.Context(), "task", "show", "stays").Output(); return err })
	before := weft("task", "show", "stays")
	if err := h.Signal("netd", syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	damage(t, filepath.Join(h.Dir, "netd", "rows", "rows.log"))
	if err := h.StartNetd(); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error { _, err := h.Weft(t.Context(), "name", "show", "stays.weft.mesos").Output(); return err })
	if after := weft("task", "show", "stays"); after != before {
		t.Errorf("the task changed:\n%s\nwas:\n%s", after, before)
	}
	if log := h.Tail("netd", 1000); !strings.Contains(log, filepath.Join(h.Dir, "netd", "rows")) {
		t.Errorf("the log does not name the broken file:\n%s", log)
	}
	weft("task", "kill", "stays")
	if err := task.Wait(); err == nil {
		t.Error("the killed task ended well")
	}
}

// damage overwrites the middle of a file.
func damage(t *testing.T, path string) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := len(content) / 3; i < len(content)*2/3; i++ {
		content[i] ^= 0x5a
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}
