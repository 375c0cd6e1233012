// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"weft/tests/lab"
	"weft/tests/lab/labtest"
)

// documented returns the configurations of docs/cni.md by name, for the daemon of a host.
func documented(t *testing.T, h *lab.Host) map[string]string {
	t.Helper()
	text, err := os.ReadFile("../../docs/cni.md")
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[string]string)
	for _, block := range strings.Split(string(text), "```json\n")[1:] {
		block, _, _ = strings.Cut(block, "```")
		var conf struct {
			CNIVersion string           `json:"cniVersion"`
			Name       string           `json:"name"`
			Plugins    []map[string]any `json:"plugins"`
		}
		if err := json.Unmarshal([]byte(block), &conf); err != nil {
			t.Fatalf("docs/cni.md: %v in %s", err, block)
		}
		conf.Plugins[0]["socket"] = h.Socket()
		whole, err := json.Marshal(conf)
		if err != nil {
			t.Fatal(err)
		}
		files[conf.Name] = string(whole)
	}
	if len(files) != 2 {
		t.Fatalf("docs/cni.md has configurations %v, want prod and dev", files)
	}
	return files
}

// TestCNITool holds the plugin to the specification's own client.
func TestCNITool(t *testing.T) {
	l := labtest.Up(t, lab.Options{Hosts: 2})
	h1, h2 := l.Hosts[0], l.Hosts[1]
	dir := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(dir, "cnitool"), "github.com/containernetworking/cni/cnitool")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build cnitool: %v\n%s", err, out)
	}
	for name, conf := range documented(t, h1) {
		if err := os.WriteFile(filepath.Join(dir, name+".conflist"), []byte(conf), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range []string{
		"network add prod --subnet 9.1.0.0/16 --subnet6 fd01:b:1::/64", "network add dev --subnet 9.2.0.0/16", "group add prod web",
	} {
		if _, err := h1.Weft(t.Context(), strings.Fields(args)...).Output(); err != nil {
			t.Fatal(err)
		}
	}
	peer := labtest.Build(t, "tests/e2e/peer")
	container := exec.CommandContext(t.Context(), peer, "serve", "-name", "container", "-tcp", "80")
	container.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := container.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = container.Process.Kill() // it may be gone with the test's context
		_ = container.Wait()
	})
	netns := fmt.Sprintf("/proc/%d/ns/net", container.Process.Pid)
	plugins := filepath.Dir(labtest.Build(t, "cmd/weft-cni"))
	tool := func(verb, network, ifname string) (string, error) {
		cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "cnitool"), "--ifname", ifname, verb, network, netns)
		cmd.Env = append(os.Environ(), "CNI_PATH="+plugins, "NETCONFPATH="+dir, "CNI_ARGS=WEFT_NAME=container",
			`CAP_ARGS={"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}`)
		out, err := cmd.Output()
		if exit, ok := err.(*exec.ExitError); ok { //nolint:errorlint // Output returns it bare
			err = fmt.Errorf("cnitool %s %s: %w: %s", verb, network, err, exit.Stderr)
		}
		return string(out), err
	}
	for i, network := range []string{"prod", "dev"} {
		ifname := fmt.Sprint("eth", i)
		for _, verb := range []string{"status", "add", "check"} {
			out, err := tool(verb, network, ifname)
			if err != nil {
				t.Fatal(err)
			}
			if want := `"dst": "0.0.0.0/0"`; verb == "add" && strings.Contains(out, want) != (i == 0) {
				t.Errorf("ADD of %s says %s: only the first interface has the default route", network, out)
			}
		}
	}
	to := netip.AddrPortFrom(h1.Addr, 8080).String()
	ask := func() error { _, err := h2.Command(t.Context(), peer, "ask", "tcp", to).Output(); return err }
	eventually(t, ask)
	for range 2 { // twice: DEL is idempotent
		for i, network := range []string{"dev", "prod"} {
			if _, err := tool("del", network, fmt.Sprint("eth", 1-i)); err != nil {
				t.Error(err)
			}
		}
	}
	if err := ask(); err == nil {
		t.Error("the port still leads to the container after DEL")
	}
	if list, err := h1.Weft(t.Context(), "task", "list").Output(); err != nil || strings.Contains(list, "container") {
		t.Errorf("DEL has left something: %s %v", list, err)
	}
}
