// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"weft/tests/lab"
	"weft/tests/lab/labtest"
)

// podman is Debian's podman on a host of a lab, with everything of its own below one folder.
type podman struct {
	host *lab.Host
	dir  string
}

// newPodman gives podman the CNI configurations of docs/cni.md, weft-cni, and a root file system of one
// static busybox.
func newPodman(t *testing.T, h *lab.Host) podman {
	t.Helper()
	for _, name := range []string{"podman", "runc", "busybox"} {
		if _, err := exec.LookPath(name); err != nil {
			if os.Getenv("CI") != "" {
				t.Fatalf("%v: .ci/need.sh installs it", err)
			}
			t.Skipf("%v: .ci/need.sh installs it", err)
		}
	}
	p := podman{h, t.TempDir()}
	file := func(path, text string) {
		t.Helper()
		path = filepath.Join(p.dir, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o755)); err != nil { //nolint:gosec // programs of the container
			t.Fatal(err)
		}
	}
	for name, conf := range documented(t, h) {
		file("conf/"+name+".conflist", conf)
	}
	file("containers.conf", `
[network]
network_backend = "cni"
cni_plugin_dirs = ["`+filepath.Dir(labtest.Build(t, "cmd/weft-cni"))+`"]
network_config_dir = "`+p.dir+`/conf"
[engine]
runtime = "runc"
events_logger = "none"
`)
	binary, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	file("rootfs/bin/busybox", string(text))
	file("rootfs/www/index.html", "from a container\n")
	_, err = os.Stat(namespaces)
	first := errors.Is(err, fs.ErrNotExist)
	t.Cleanup(func() {
		p.clean(t)
		if !first {
			return
		}
		// podman mounts the folder over itself.
		if err := errors.Join(unix.Unmount(namespaces, unix.MNT_DETACH), os.Remove(namespaces)); err != nil {
			t.Error(err)
		}
	})
	return p
}

// namespaces is where podman keeps those of its containers.
const namespaces = "/run/netns"

func (p podman) run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := p.host.Command(context.WithoutCancel(t.Context()), "podman", slices.Concat([]string{
		"--root", p.dir + "/root", "--runroot", p.dir + "/run", "--tmpdir", p.dir + "/tmp", "--storage-driver", "vfs",
		"--cgroup-manager", "cgroupfs",
	}, args)...)
	cmd.Env = append(cmd.Env, "CONTAINERS_CONF="+p.dir+"/containers.conf")
	return cmd.Output()
}

// cgroup is above those of its containers: of this process, for podman may run elsewhere on the machine, too.
func (p podman) cgroup() string { return fmt.Sprint("weft-podman-", os.Getpid()) }

// clean removes the cgroups that podman leaves: it keeps the parents of those of its containers, and what watched one
// ends a moment after it.
func (p podman) clean(t *testing.T) {
	t.Helper()
	var parents []string
	for _, in := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/"} { // version 2, and 1
		found, err := filepath.Glob(in + p.cgroup())
		if err != nil {
			t.Error(err)
		}
		parents = append(parents, found...)
	}
	for _, parent := range parents {
		err := becomes(func() error {
			var folders []string
			err := filepath.WalkDir(parent, func(path string, d fs.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					folders = append(folders, path)
				}
				return err
			})
			slices.Reverse(folders)
			for _, f := range folders {
				err = errors.Join(err, os.Remove(f))
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// TestPodman runs a real container of a real runtime on two networks, reached by name, by group and by
// a port of its host.
func TestPodman(t *testing.T) {
	l := labtest.Up(t, lab.Options{Hosts: 2})
	h1, h2 := l.Hosts[0], l.Hosts[1]
	p := newPodman(t, h1)
	for _, args := range []string{
		"network add prod --subnet 9.1.0.0/16 --subnet6 fd01:b:1::/64", "network add dev --subnet 9.2.0.0/16",
		"group add prod web", "group add prod other",
	} {
		if _, err := h1.Weft(t.Context(), strings.Fields(args)...).Output(); err != nil {
			t.Fatal(err)
		}
	}
	// An ulimit, since raising one needs a capability that not every machine gives.
	_, err := p.run(t, "run", "--cgroup-parent", "/"+p.cgroup(), "--detach", "--name", "shop", "--network", "prod:interface_name=eth0", "--network", "dev:interface_name=eth1", "--publish", "8080:80",
		"--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", "--rootfs", p.dir+"/rootfs",
		"/bin/busybox", "httpd", "-f", "-p", "80", "-h", "/www")
	if err != nil {
		t.Fatal(err)
	}
	gone := false
	remove := func() {
		if _, err := p.run(t, "rm", "--force", "--time", "0", "shop"); err != nil {
			t.Error(err)
		}
		gone = true
	}
	t.Cleanup(func() {
		if !gone {
			remove()
		}
	})
	links, err := p.run(t, "exec", "shop", "/bin/busybox", "ip", "-4", "route")
	if err != nil || !strings.Contains(links, "default via 169.254.1.1 dev eth0") || !strings.Contains(links, "9.2.0.0/16 via 169.254.1.1 dev eth1") {
		t.Errorf("routes of the container: %s %v", links, err)
	}
	peer := labtest.Build(t, "tests/e2e/peer")
	get := func(h *lab.Host, url string, run ...string) func() error {
		return func() error {
			args := append(run, peer, "get", "-timeout", "1s", url)
			out, err := h.Command(t.Context(), args[0], args[1:]...).Output()
			if err == nil && out != "from a container\n" {
				err = fmt.Errorf("%s: got %q", url, out)
			}
			return err
		}
	}
	task := func(flags ...string) []string { return slices.Concat([]string{"weft", "run"}, flags, []string{"--"}) }
	at := func(h *lab.Host) string { return "http://" + h.Addr.String() + ":8080/" }
	eventually(t, get(h2, at(h1)))
	eventually(t, get(h1, "http://127.0.0.1:8080/"))
	eventually(t, get(h2, "http://shop/", task("--network", "prod", "--group", "web")...))
	if err := get(h2, "http://shop/", task("--network", "prod", "--group", "other")...)(); err == nil {
		t.Error("a task of another group reaches the container")
	}
	remove()
	eventually(t, func() error {
		if list, err := h1.Weft(t.Context(), "task", "list").Output(); err != nil || strings.Contains(list, "shop") {
			return fmt.Errorf("the container has left something: %s %w", list, err)
		}
		return nil
	})
	if err := get(h2, at(h1))(); err == nil {
		t.Error("the port leads somewhere after the container's end")
	}
}
