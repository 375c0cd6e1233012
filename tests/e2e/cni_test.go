// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"weft/tests/lab"
	"weft/tests/lab/labtest"
)

// TestCNI does what a container runtime does: a namespace, ADD, CHECK, traffic, DEL, GC.
func TestCNI(t *testing.T) {
	l := labtest.Up(t, lab.Options{Hosts: 2})
	plugin, peer := labtest.Build(t, "cmd/weft-cni"), labtest.Build(t, "tests/e2e/peer")
	h1, h2 := l.Hosts[0], l.Hosts[1]
	for _, args := range [][]string{
		{"network", "add", "prod", "--subnet", "9.1.0.0/16", "--subnet6", "fd01:b:1::/64"},
		{"group", "add", "prod", "web"},
	} {
		if _, err := h1.Weft(t.Context(), args...).Output(); err != nil {
			t.Fatal(err)
		}
	}
	server := h2.Weft(t.Context(), "run", "--network", "prod", "--group", "web", "--name", "server", "--vip", "/server:80=8080",
		"--", peer, "serve", "-name", "server", "-tcp", "8080")
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Signal(syscall.SIGTERM) // the lab's end ends it anyway
		_ = server.Wait()
	})

	// The container: a process with a network namespace of its own.
	container := exec.CommandContext(t.Context(), "sleep", "1000")
	container.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := container.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = container.Process.Kill() // it may be gone with the test's context
		_ = container.Wait()
	})
	netns := fmt.Sprintf("/proc/%d/ns/net", container.Process.Pid)
	conf := map[string]any{
		"cniVersion": "1.1.0", "name": "prod", "type": "weft-cni", "network": "prod", "groups": []string{"web"}, "socket": h1.Socket(),
	}
	cni := func(command string, more map[string]any) (string, error) {
		full := make(map[string]any)
		maps.Copy(full, conf)
		maps.Copy(full, more)
		stdin, err := json.Marshal(full)
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), plugin)
		cmd.Stdin = strings.NewReader(string(stdin))
		cmd.Env = append(os.Environ(), "CNI_COMMAND="+command, "CNI_CONTAINERID=c1", "CNI_NETNS="+netns, "CNI_IFNAME=eth0", "CNI_PATH=/opt/cni/bin")
		out, err := cmd.Output()
		if err != nil {
			err = fmt.Errorf("%s: %w: %s", command, err, out)
		}
		return string(out), err
	}
	if _, err := cni("STATUS", nil); err != nil {
		t.Fatal(err)
	}
	newsIsWaitedFor(t, h1, cni)
	out, err := cni("ADD", nil)
	if err != nil {
		t.Fatal(err)
	}
	var result struct {
		IPs []struct{ Address netip.Prefix }
	}
	if err := json.Unmarshal([]byte(out), &result); err != nil || len(result.IPs) != 2 {
		t.Fatalf("ADD answered %s (%v), want two addresses", out, err)
	}
	var previous any
	if err := json.Unmarshal([]byte(out), &previous); err != nil {
		t.Fatal(err)
	}
	if _, err := cni("CHECK", map[string]any{"prevResult": previous}); err != nil {
		t.Error(err)
	}
	ask := func() error {
		// Outside of the daemon's cgroup, so the VIP is translated packet by packet.
		vips, err := h1.Weft(t.Context(), "vip", "show", "server", "-o", "json").Output()
		if err != nil {
			return err
		}
		var status []struct{ Addrs []netip.Addr }
		if err := json.Unmarshal([]byte(vips), &status); err != nil {
			return err
		}
		if len(status) == 0 || len(status[0].Addrs) == 0 {
			return fmt.Errorf("vip show: %s", vips)
		}
		for _, addr := range status[0].Addrs {
			enter := exec.CommandContext(t.Context(), "nsenter", "--net="+netns, peer, "ask", "tcp", netip.AddrPortFrom(addr, 80).String())
			answer, err := enter.CombinedOutput()
			if err != nil || !strings.HasPrefix(string(answer), "server ") {
				return fmt.Errorf("%s answered %q: %w", addr, answer, err)
			}
			if saw := strings.TrimSpace(strings.TrimPrefix(string(answer), "server ")); saw != result.IPs[0].Address.Addr().String() && saw != result.IPs[1].Address.Addr().String() {
				return fmt.Errorf("the server saw %s, which is not the container", saw)
			}
		}
		return nil
	}
	eventually(t, ask)
	for range 2 { // twice: DEL is idempotent
		if _, err := cni("DEL", nil); err != nil {
			t.Error(err)
		}
	}
	if err := ask(); err == nil {
		t.Error("the container still reaches the network after DEL")
	}

	// What the runtime forgot goes by GC; what it names stays.
	if _, err := cni("ADD", nil); err != nil {
		t.Fatal(err)
	}
	valid := []map[string]string{{"containerID": "c1", "ifname": "eth0"}}
	if _, err := cni("GC", map[string]any{"cni.dev/valid-attachments": valid}); err != nil {
		t.Error(err)
	}
	eventually(t, ask)
	if _, err := cni("GC", map[string]any{"cni.dev/valid-attachments": []map[string]string{}}); err != nil {
		t.Error(err)
	}
	eventually(t, func() error {
		list, err := h1.Weft(t.Context(), "task", "list").Output()
		if err == nil && strings.Contains(list, "c1") {
			err = errors.New("GC left the attachment")
		}
		return err
	})
}

// newsIsWaitedFor joins networks that the node does not know: one that is added meanwhile, and one that never is.
func newsIsWaitedFor(t *testing.T, h *lab.Host, cni func(command string, more map[string]any) (string, error)) {
	t.Helper()
	began := time.Now()
	_, err := cni("ADD", map[string]any{"network": "never", "groups": nil})
	if took := time.Since(began); err == nil || took < 2*time.Second || !strings.Contains(err.Error(), `"code": 7`) || !strings.Contains(err.Error(), "known are prod") {
		t.Errorf("a network that nobody adds: %v after %v, want code 7 with the networks that are known, after two seconds", err, took)
	}
	fresh := map[string]any{"network": "fresh", "groups": nil}
	added := make(chan error, 1)
	go func() {
		_, err := cni("ADD", fresh)
		added <- err
	}()
	if _, err := h.Weft(t.Context(), "network", "add", "fresh", "--subnet", "9.2.0.0/16").Output(); err != nil {
		t.Error(err)
	}
	if err := <-added; err != nil {
		t.Errorf("a network that is added just now: %v", err)
	}
	if _, err := cni("DEL", fresh); err != nil {
		t.Error(err)
	}
}
