// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"weft/tests/lab"
	"weft/tests/lab/labtest"
)

// TestContainersAreChecked joins a container with a check: the node asks it, also after its daemon was killed, and tells
// every node.
func TestContainersAreChecked(t *testing.T) {
	l := labtest.Up(t, lab.Options{Hosts: 2})
	h, plugin, peer := l.Hosts[0], labtest.Build(t, "cmd/weft-cni"), labtest.Build(t, "tests/e2e/peer")
	if _, err := h.Weft(t.Context(), "network", "add", "prod", "--subnet", "9.1.0.0/16").Output(); err != nil {
		t.Fatal(err)
	}
	start := func(own uintptr, name string, args ...string) *exec.Cmd {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: own, Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Kill() // it may be gone by then
			_ = cmd.Wait()
		})
		return cmd
	}
	netns := fmt.Sprintf("/proc/%d/ns/net", start(syscall.CLONE_NEWNET, "sleep", "1000").Process.Pid)
	cni := func(command, args string) error {
		conf, err := json.Marshal(map[string]any{
			"cniVersion": "1.1.0", "name": "prod", "type": "weft-cni", "socket": h.Socket(), "vips": []string{"/checked:80=80/tcp"},
			"health": "tcp:80,interval=50ms,unhealthy=2,grace=0s",
		})
		if err != nil {
			return err
		}
		cmd := exec.CommandContext(t.Context(), plugin)
		cmd.Stdin = bytes.NewReader(conf)
		cmd.Env = append(os.Environ(), "CNI_COMMAND="+command, "CNI_CONTAINERID=c1", "CNI_NETNS="+netns, "CNI_IFNAME=eth0", "CNI_PATH=/opt/cni/bin",
			"CNI_ARGS=WEFT_NAME=checked;"+args)
		if out, err := cmd.Output(); err != nil {
			return fmt.Errorf("%s: %w: %s", command, err, out)
		}
		return nil
	}
	for args, want := range map[string]string{"WEFT_HEALTH=command:true": "tcp, http, https and grpc are allowed", "WEFT_HEALTH=tcp:0": "health check"} {
		if err := cni("ADD", args); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", args, err, want)
		}
	}
	if err := cni("ADD", ""); err != nil {
		t.Fatal(err)
	}
	is := func(health string) {
		t.Helper()
		for _, on := range l.Hosts {
			eventually(t, func() error {
				out, err := on.Weft(t.Context(), "vip", "show", "checked", "-o", "json").Output()
				if err == nil && !strings.Contains(out, `"health": "`+health+`"`) {
					err = fmt.Errorf("%s has %s, want health %s", on.Name, out, health)
				}
				return err
			})
		}
	}
	serve := func() *exec.Cmd {
		return start(0, "nsenter", "--net="+netns, peer, "serve", "-name", "checked", "-tcp", "80")
	}
	is("unhealthy") // nobody is at the port
	server := serve()
	is("healthy")
	if err := h.Signal("netd", syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := server.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := h.StartNetd(); err != nil {
		t.Fatal(err)
	}
	is("unhealthy")
	serve()
	is("healthy")
	if err := cni("DEL", ""); err != nil {
		t.Error(err)
	}
}
