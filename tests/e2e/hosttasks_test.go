// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"weft/lb"
	"weft/overlay"
	"weft/tests/lab"
	"weft/tests/lab/labtest"
)

// hostStory is an app in host networking with an instance on each host, all who may ask it, and what becomes of it when
// its instances and their daemons end.
type hostStory struct {
	portsStory
	t *testing.T
}

// instance runs one of the app's, at a port of its host.
func (s hostStory) instance(h *lab.Host, name string, flags ...string) *lab.Cmd {
	s.t.Helper()
	args := append([]string{"run", "--network", "host", "--name", name, "--port", "web=tcp/8080"}, flags...)
	return s.task(h, append(args, "--", s.peer, "serve", "-name", h.Name, "-tcp", "8080", "-udp", "8080"))
}

// idle runs a task in the network of its host that does nothing.
func (s hostStory) idle(h *lab.Host, name string) *lab.Cmd {
	s.t.Helper()
	return s.task(h, []string{"run", "--network", "host", "--name", name, "--vip", "/" + name + ":8080=8081", "--", "sleep", "1000"})
}

func (s hostStory) task(h *lab.Host, args []string) *lab.Cmd {
	s.t.Helper()
	cmd := h.Weft(s.t.Context(), args...)
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // the lab's end ends it anyway
		_ = cmd.Wait()
	})
	return cmd
}

// backends waits until a host sees these behind the app's VIP: NODE ADDRESSES REASON.
func (s hostStory) backends(h *lab.Host, want ...string) {
	s.t.Helper()
	s.behind(h, "app", want...)
}

func (s hostStory) behind(h *lab.Host, app string, want ...string) {
	s.t.Helper()
	eventually(s.t, func() error {
		out, err := h.Weft(s.t.Context(), "vip", "list", "-o", "json").Output()
		if err != nil {
			return err
		}
		var vips []lb.VIPStatus
		if err := json.Unmarshal([]byte(out), &vips); err != nil {
			return err
		}
		var got []string
		for _, v := range vips {
			for _, b := range v.Backends {
				if v.Protocol == lb.TCP && v.Name == app+".weft" {
					got = append(got, fmt.Sprint(v.Network, " ", b.Node, " ", b.Addrs, " ", b.Reason))
				}
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			err = fmt.Errorf("%s has %q, want %q", h.Name, got, want)
		}
		return err
	})
}

// resolves waits until a name has these addresses, as a host answers it.
func (s hostStory) resolves(h *lab.Host, name string, want ...netip.Addr) {
	s.t.Helper()
	eventually(s.t, func() error {
		out, err := h.Weft(s.t.Context(), "name", "show", name, "-o", "json").Output()
		if want == nil {
			if err == nil {
				return fmt.Errorf("%s of %s is there: %s", name, h.Name, out)
			}
			return nil
		}
		var got []string
		var records []struct{ Data string }
		if err = errors.Join(err, json.Unmarshal([]byte(out), &records)); err != nil {
			return err
		}
		for _, r := range records {
			got = append(got, r.Data)
		}
		slices.Sort(got)
		var list []string
		for _, a := range want {
			list = append(list, a.String())
		}
		if slices.Sort(list); !slices.Equal(got, list) {
			return fmt.Errorf("%s of %s is %q, want %q", name, h.Name, got, list)
		}
		return nil
	})
}

// TestHostTasks runs tasks in the networks of their hosts.
func TestHostTasks(t *testing.T) {
	l := labtest.Up(t, lab.Options{Hosts: 2})
	s := hostStory{portsStory{Lab: l, peer: labtest.Build(t, "tests/e2e/peer"), h1: l.Hosts[0], h2: l.Hosts[1]}, t}
	for _, args := range [][]string{
		{"network", "add", "prod", "--subnet", "9.1.0.0/16", "--subnet6", "fd01:b:1::/64"},
		{"network", "add", "other", "--subnet", "9.2.0.0/16"},
		{"group", "add", "prod", "web"},
	} {
		if _, err := s.h1.Weft(t.Context(), args...).Output(); err != nil {
			t.Fatal(err)
		}
	}
	flags := []string{"--vip", "/app:8080=8080,policy=round-robin", "--health", "tcp:8080,interval=100ms,grace=0s"}
	s.instance(s.h1, "app", flags...)
	two := s.instance(s.h2, "app", flags...)
	s.start(t, s.h1, "near", "--group", "web")
	s.start(t, s.h2, "far")
	s.start(t, s.h2, "stranger", "--network", "other")
	at := func(h *lab.Host) string { return fmt.Sprintf("host %s [%s %s] ", h.Name, h.Addr, h.Addr6) }
	for _, h := range l.Hosts {
		s.backends(h, at(s.h1)+"serving, healthy", at(s.h2)+"serving, healthy")
	}
	t.Run("asked", s.asked)
	t.Run("named", s.named)
	t.Run("told", s.told)
	t.Run("the app moves to a network", s.moves)
	sick := s.sick(t)
	t.Run("instances are unwell", sick.story)
	t.Run("instances are replaced", func(t *testing.T) { s.replaced(t, two, flags) })
	t.Run("daemons and tasks end", s.ends)
	t.Run("instances are unwell where their node moved", sick.moved)
}

// asked asks the app's VIP, of both families and protocols, from everywhere: the instances' own hosts (each may get itself),
// tasks with and without groups, and a task of a network that knows nothing of it.
func (s hostStory) asked(t *testing.T) {
	for _, protocol := range []string{"tcp", "udp"} {
		for _, vip := range []netip.Addr{lb.HashAddr4("app.weft"), lb.HashAddr6("app.weft")} {
			to := netip.AddrPortFrom(vip, 8080).String()
			for _, from := range []struct {
				h    *lab.Host
				task string
			}{{s.h1, ""}, {s.h2, ""}, {s.h1, "app"}, {s.h1, "near"}, {s.h2, "far"}, {s.h2, "stranger"}} {
				if from.task == "stranger" && vip.Is6() {
					continue // it has no IPv6
				}
				args := []string{s.peer, "ask", "-n", "20", "-timeout", "2s", protocol, to}
				if from.task != "" {
					args = append([]string{from.h.Weft(t.Context()).Path, "task", "exec", from.task, "--"}, args...)
				}
				eventually(t, func() error {
					out, err := from.h.Command(t.Context(), args[0], args[1:]...).Output()
					if protocol == "tcp" && err == nil && (!strings.Contains(out, "h1 ") || !strings.Contains(out, "h2 ")) {
						err = fmt.Errorf("of 20 connections to %s from %s %s one host got none: %s", to, from.h.Name, from.task, out)
					}
					return err
				})
			}
		}
	}
}

// named looks at the names of tasks of Mesos' agents, in DC/OS' words too.
func (s hostStory) named(t *testing.T) {
	s.t = t
	both := []netip.Addr{s.h1.Addr, s.h1.Addr6, s.h2.Addr, s.h2.Addr6}
	for _, name := range []string{
		"app.weft.mesos", "app.weft.slave.mesos", "app.weft.agentip.dcos.thisdcos.directory",
		"app.weft.containerip.dcos.thisdcos.directory", "app.weft.autoip.dcos.thisdcos.directory",
	} {
		s.resolves(s.h1, name, both...)
	}
	vip := []netip.Addr{lb.HashAddr4("app.weft"), lb.HashAddr6("app.weft")}
	s.resolves(s.h2, "app.weft.l4lb.thisdcos.directory", vip...)
	out, err := s.h1.Weft(t.Context(), "name", "show", "_web._app._tcp.weft.mesos").Output()
	if err != nil || strings.Count(out, "0 1 8080 app-") != 2 {
		t.Errorf("got %s, %v, want two SRV records", out, err)
	}
	for _, from := range []string{"near", "app"} { // by the resolver that they have
		s.says(t, s.h1, from, "udp", "app.weft.l4lb.thisdcos.directory:8080", "h")
	}
	if out, err := s.h1.Weft(t.Context(), "name", "show", "1.0.77.10.in-addr.arpa").Output(); err != nil || strings.Contains(out, "app") {
		t.Errorf("got %s, %v, want the host's own name", out, err)
	}
}

// told looks at what commands say, and at what they refuse.
func (s hostStory) told(t *testing.T) {
	var app overlay.Endpoint
	out, err := s.h1.Weft(t.Context(), "task", "show", "app", "-o", "json").Output()
	if err = errors.Join(err, json.Unmarshal([]byte(out), &app)); err != nil {
		t.Fatal(err)
	}
	if app.Network != "host" || app.Addr4 != s.h1.Addr || app.Addr6 != s.h1.Addr6 || app.OwnerPID == 0 || app.HostInterface != "" {
		t.Errorf("got %+v, want a task at its node's addresses", app)
	}
	for _, c := range []struct {
		want string
		args []string
	}{
		{"yes: far", []string{"why", "far", "app", "tcp/8080"}},
		{"a task and its own node may always talk", []string{"why", "near", "app", "tcp/8080"}},
		{"app", []string{"task", "list"}},
		{"10.77.0.1", []string{"vip", "show", "app"}},
	} {
		if out, err := s.h1.Weft(t.Context(), c.args...).Output(); err != nil || !strings.Contains(out, c.want) {
			t.Errorf("weft %v: got %s, %v, want it to say %q", c.args, out, err, c.want)
		}
	}
	for _, c := range []struct {
		want string
		args []string
	}{
		{"which has no groups", []string{"task", "groups", "app", "--group", "web"}},
		{"which has no groups", []string{"task", "groups", "app", "--none"}},
		{"--group web: a task in network host is in no group", []string{"run", "--network", "host", "--group", "web", "--", "true"}},
		{"network of the VIP is host: a virtual network is allowed", []string{"vip", "publish", "host", "app:8080", "--address", "203.0.113.1"}},
		{"container runtimes mean another thing", []string{"network", "add", "host", "--subnet", "9.9.0.0/16"}},
	} {
		if _, err := s.h1.Weft(t.Context(), c.args...).Output(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("weft %v: got %v, want it to say %q", c.args, err, c.want)
		}
	}
}

// sees asks an app's VIP until all these answer and nobody else does.
func (s hostStory) sees(t *testing.T, h *lab.Host, task, app string, want ...string) {
	t.Helper()
	args := []string{s.peer, "ask", "-n", "60", "-timeout", "2s", "tcp", netip.AddrPortFrom(lb.HashAddr4(app+".weft"), 8080).String()}
	if task != "" {
		args = append([]string{h.Weft(t.Context()).Path, "task", "exec", task, "--"}, args...)
	}
	eventually(t, func() error {
		out, err := h.Command(t.Context(), args[0], args[1:]...).Output()
		var got []string
		for line := range strings.Lines(out) {
			who, _, _ := strings.Cut(line, " ")
			got = append(got, who)
		}
		slices.Sort(got)
		if got = slices.Compact(got); err == nil && !slices.Equal(got, want) {
			err = fmt.Errorf("%s %s sees %v behind %s, want %v", h.Name, task, got, app, want)
		}
		return err
	})
}

// moves has an instance of the app in a network: there, and for hosts, all three are behind the VIP, elsewhere the two.
func (s hostStory) moves(t *testing.T) {
	args := []string{"run", "--network", "prod", "--name", "moved", "--vip", "/app:8080=80,policy=round-robin", "--", s.peer, "serve", "-name", "moved", "-tcp", "80", "-udp", "80"}
	moved := s.h2.Weft(t.Context(), args...)
	if err := moved.Start(); err != nil {
		t.Fatal(err)
	}
	sees := func(h *lab.Host, task string, want ...string) {
		t.Helper()
		s.sees(t, h, task, "app", want...)
	}
	sees(s.h2, "far", "h1", "h2", "moved")
	sees(s.h1, "", "h1", "h2", "moved")
	sees(s.h2, "stranger", "h1", "h2")
	if _, err := s.h2.Weft(t.Context(), "task", "kill", "moved").Output(); err != nil {
		t.Error(err)
	}
	_ = moved.Wait() // killed
	sees(s.h2, "far", "h1", "h2")
}

// sickStory is an app whose instances are asked how they are: the one of h1 by TCP, at a port that another process has, the
// one of h2 by a command, which wants a file.
type sickStory struct {
	hostStory
	file string
}

const sickPort = "8086"

func (s hostStory) sick(t *testing.T) sickStory {
	t.Helper()
	story := sickStory{s, filepath.Join(t.TempDir(), "well")}
	for h, check := range map[*lab.Host]string{s.h1: "tcp:" + sickPort, s.h2: "command:test -e " + story.file} {
		s.task(h, []string{
			"run", "--network", "host", "--name", "frail", "--vip", "/frail:8080=8085/tcp,policy=round-robin",
			"--health", check + ",interval=50ms,unhealthy=2,grace=0s", "--", s.peer, "serve", "-name", h.Name, "-tcp", "8085",
		})
	}
	return story
}

// well makes the check of the instance of h1 succeed until the process ends.
func (s sickStory) well(t *testing.T) *lab.Cmd {
	t.Helper()
	server := s.h1.Command(t.Context(), s.peer, "serve", "-name", "well", "-tcp", sickPort)
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sicken(server) })
	return server
}

func sicken(server *lab.Cmd) {
	_ = server.Process.Kill() // it may be gone
	_ = server.Wait()
}

// everywhere wants every host to see the instances so, and clients of all kinds to get the same ones.
func (s sickStory) everywhere(t *testing.T, one, two string, seen ...string) {
	t.Helper()
	s.t = t
	for _, h := range []*lab.Host{s.h1, s.h2} {
		s.behind(h, "frail", fmt.Sprintf("host h1 [%s %s] ", s.h1.Addr, s.h1.Addr6)+one, fmt.Sprintf("host h2 [%s %s] ", s.h2.Addr, s.h2.Addr6)+two)
		s.sees(t, h, "", "frail", seen...)
	}
	s.sees(t, s.h1, "near", "frail", seen...)
	s.sees(t, s.h2, "far", "frail", seen...)
	s.sees(t, s.h2, "stranger", "frail", seen...)
}

func (s sickStory) refused() string {
	return fmt.Sprintf("unhealthy: tcp %s: connect: connection refused", netip.AddrPortFrom(s.h1.Addr, 8086))
}

// story makes them well and unwell: who is unwell gets nothing, unless both are; and where tasks of a network are behind the
// same VIP these get all there, as long as they are well.
func (s sickStory) story(t *testing.T) {
	s.t = t
	const well, kept = "serving, healthy", ", kept because no other backend is up"
	failing := "unhealthy: command test -e " + s.file + ": status 1"
	s.everywhere(t, s.refused()+kept, failing+kept, "h1", "h2")
	server := s.well(t)
	s.everywhere(t, well, failing, "h1")
	if err := os.WriteFile(s.file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s.everywhere(t, well, well, "h1", "h2")
	sicken(server)
	s.everywhere(t, s.refused(), well, "h2")
	if err := os.Remove(s.file); err != nil {
		t.Fatal(err)
	}
	s.everywhere(t, s.refused()+kept, failing+kept, "h1", "h2")
	args := []string{"run", "--network", "prod", "--name", "fit", "--vip", "/frail:8080=80/tcp", "--", s.peer, "serve", "-name", "fit", "-tcp", "80"}
	fit := s.task(s.h2, args)
	s.sees(t, s.h2, "far", "frail", "fit")
	s.sees(t, s.h1, "", "frail", "fit")
	s.sees(t, s.h2, "stranger", "frail", "h1", "h2")
	if _, err := s.h2.Weft(t.Context(), "task", "kill", "fit").Output(); err != nil {
		t.Error(err)
	}
	_ = fit.Wait() // killed
	s.sees(t, s.h2, "far", "frail", "h1", "h2")
}

// moved asks where h1 has another address than when the instance started.
func (s sickStory) moved(t *testing.T) {
	s.t = t
	one := func(reason string) {
		t.Helper()
		s.behind(s.h2, "frail", fmt.Sprintf("host h1 [%s %s] ", s.h1.Addr, s.h1.Addr6)+reason,
			fmt.Sprintf("host h2 [%s %s] ", s.h2.Addr, s.h2.Addr6)+"unhealthy: command test -e "+s.file+": status 1")
	}
	server := s.well(t)
	one("serving, healthy")
	sicken(server)
	s.sees(t, s.h2, "far", "frail", "h1", "h2")
	s.well(t)
	one("serving, healthy")
	s.sees(t, s.h2, "far", "frail", "h1")
}

// replaced ends and starts the instance of h2 again and again under clients' connections, of which none fails.
func (s hostStory) replaced(t *testing.T, two *lab.Cmd, flags []string) {
	t.Helper()
	s.t = t
	to := netip.AddrPortFrom(lb.HashAddr4("app.weft"), 8080).String()
	type counts struct{ Sent, Received, Lost int }
	results := make(chan error, 3) // one for each client
	for _, from := range []struct {
		h    *lab.Host
		task string
	}{{s.h1, ""}, {s.h1, "near"}, {s.h2, "far"}} {
		args := []string{s.peer, "connects", "-rate", "200", "-for", "6s", "-timeout", "5s", to}
		if from.task != "" {
			args = append([]string{from.h.Weft(t.Context()).Path, "task", "exec", from.task, "--"}, args...)
		}
		go func() {
			var c counts
			out, err := from.h.Command(t.Context(), args[0], args[1:]...).Output()
			err = errors.Join(err, json.Unmarshal([]byte(out), &c))
			if err == nil && (c.Lost > 0 || c.Received < 50) {
				err = fmt.Errorf("%s %s: %+v, want none lost", from.h.Name, from.task, c)
			}
			results <- err
		}()
	}
	at := func(h *lab.Host) string {
		return fmt.Sprintf("host %s [%s %s] serving, healthy", h.Name, h.Addr, h.Addr6)
	}
	for range 3 {
		if err := two.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := two.Wait(); err == nil || !strings.Contains(err.Error(), "exit status 143") {
			t.Errorf("got %v, want that the signal was the end", err)
		}
		s.backends(s.h1, at(s.h1))
		two = s.instance(s.h2, "app", flags...)
		s.backends(s.h1, at(s.h1), at(s.h2))
	}
	for range cap(results) {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	if err := two.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = two.Wait() // as above
	s.backends(s.h1, at(s.h1))
}

// ends kills, one after the other, the daemon, what runs a task, and both at once.
func (s hostStory) ends(t *testing.T) {
	s.t = t
	at1 := fmt.Sprintf("host h1 [%s %s] serving, healthy", s.h1.Addr, s.h1.Addr6)
	restart := func(h *lab.Host, meanwhile func()) {
		t.Helper()
		if err := h.Signal("netd", syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		meanwhile()
		if err := errors.Join(h.StartNetd(), h.WaitReady(t.Context())); err != nil {
			t.Fatal(err)
		}
	}
	pid := func(task string) int {
		var e overlay.Endpoint
		out, err := s.h1.Weft(t.Context(), "task", "show", task, "-o", "json").Output()
		if err = errors.Join(err, json.Unmarshal([]byte(out), &e)); err != nil {
			t.Fatal(err)
		}
		return e.OwnerPID
	}
	app := pid("app")
	restart(s.h1, func() {})
	s.backends(s.h2, at1)
	if now := pid("app"); now != app {
		t.Errorf("the task is process %d, was %d", now, app)
	}
	// kill -9 of what runs it: nothing of it is left.
	runner := s.idle(s.h1, "brief")
	s.resolves(s.h2, "brief.weft.mesos", s.h1.Addr, s.h1.Addr6)
	brief := pid("brief")
	if err := runner.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	s.resolves(s.h2, "brief.weft.mesos")
	s.resolves(s.h2, "brief.weft.l4lb.thisdcos.directory")
	eventually(t, func() error {
		if _, err := os.Stat(fmt.Sprintf("/proc/%d", brief)); err == nil {
			return errors.New("the task lives")
		}
		return nil
	})
	// A task that ends while no daemon looks.
	runner = s.idle(s.h1, "unseen")
	s.resolves(s.h2, "unseen.weft.mesos", s.h1.Addr, s.h1.Addr6)
	restart(s.h1, func() { _ = runner.Process.Kill() })
	s.resolves(s.h2, "unseen.weft.mesos")
	s.resolves(s.h2, "unseen.weft.l4lb.thisdcos.directory")
	s.backends(s.h2, at1)
	// The node moves: its tasks with it.
	if err := s.h1.Readdress(netip.MustParseAddr("10.77.0.31")); err != nil {
		t.Fatal(err)
	}
	s.backends(s.h2, strings.Replace(at1, s.h1.Addr.String(), "10.77.0.31", 1))
	s.resolves(s.h2, "app.weft.mesos", netip.MustParseAddr("10.77.0.31"), s.h1.Addr6)
	s.says(t, s.h2, "far", "tcp", netip.AddrPortFrom(lb.HashAddr4("app.weft"), 8080).String(), "h1 ")
}
