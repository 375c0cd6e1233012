// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"weft/tests/bench/dns/generator"
)

// Servers, by the name that results have for them.
const (
	kernel  = "weft"        // the program on the task's link
	goAlone = "weft-server" // netd's server without it
	plain   = "miekg"       // two sockets and a map
	nsd     = "nsd"
	knot    = "knot"
	unbound = "unbound"      // local data
	hosts   = "coredns"      // its hosts plugin
	file    = "coredns-file" // its file plugin
	mirror  = "mirror"       // no server: a program that sends back what comes
)

// allServers in the order of tables.
var allServers = []string{kernel, goAlone, nsd, knot, unbound, plain, hosts, file, weftMesos, mesosDNS, mirror}

// server is one that runs.
type server struct {
	name string
	addr netip.AddrPort
	cmd  *exec.Cmd
	log  string
}

func at(port uint16) netip.AddrPort { return netip.AddrPortFrom(wireNode.Addr(), port) }

// serverNames are those that serve a zone. Who takes minutes to read a large one, or reads a master, is left out there.
func serverNames(o options, large bool) []string {
	list := []string{kernel, goAlone, nsd, knot, mirror, file}
	if !large {
		list = append(list, plain, unbound, hosts, weftMesos, mesosDNS)
	}
	return slices.DeleteFunc(list, func(name string) bool { return !o.has(name) })
}

// has tells whether a server is compared. What is not there is left out.
func (o options) has(name string) bool {
	switch name {
	case file, hosts:
		if o.coredns == "" {
			return false
		}
	case weftMesos:
		if o.weft == "" {
			return false
		}
	case mesosDNS:
		if o.mesosDNS == "" {
			return false
		}
	}
	return o.only == "" || slices.Contains(strings.Split(o.only, ","), name)
}

// startServer writes a server's configuration and starts it.
func startServer(ctx context.Context, o options, dir string, f files, name string, link, names int) (*server, error) {
	own := filepath.Join(dir, name)
	if err := os.MkdirAll(own, 0o755); err != nil {
		return nil, err
	}
	config := filepath.Join(own, "config")
	s := &server{name: name, log: filepath.Join(own, "log")}
	var text string
	var args []string
	us := []string{"/proc/self/exe", "-few", strconv.Itoa(o.few), "-tasks", strconv.Itoa(names), "-role"}
	switch name {
	case kernel:
		s.addr, args = netip.AddrPortFrom(dnsAddr, 53), append(us, "weft", "-ifindex", strconv.Itoa(link))
	case mirror:
		s.addr, args = netip.AddrPortFrom(dnsAddr, 53), append(us, "mirror", "-ifindex", strconv.Itoa(link))
	case goAlone:
		s.addr, args = at(portGo), append(us, "server")
	case plain:
		s.addr, args = at(portPlain), append(us, "plain", "-names", f.plain)
	case nsd:
		s.addr, args = at(portNSD), []string{"nsd", "-d", "-c", config}
		text = fmt.Sprintf("server:\n ip-address: %s@%d\n username: \"\"\n chroot: \"\"\n database: \"\"\n pidfile: %[3]s/pid\n xfrdfile: %[3]s/xfrd\n"+
			" zonelistfile: %[3]s/zones\n zonesdir: %[3]s\n xfrdir: %[3]s\n server-count: 2\n reuseport: yes\n rrl-ratelimit: 0\n"+
			"remote-control:\n control-enable: no\nzone:\n name: mesos\n zonefile: %s\n", s.addr.Addr(), s.addr.Port(), own, f.zone)
	case knot:
		s.addr, args = at(portKnot), []string{"knotd", "-c", config}
		text = fmt.Sprintf("server:\n  listen: %s@%d\n  rundir: %[3]s\ndatabase:\n  storage: %[3]s\n"+
			"zone:\n  - domain: mesos\n    file: %s\n    journal-content: none\n    zonefile-sync: -1\n", s.addr.Addr(), s.addr.Port(), own, f.zone)
	case unbound:
		s.addr, args = at(portUnbound), []string{"unbound", "-d", "-c", config}
		local, err := os.ReadFile(f.local)
		if err != nil {
			return nil, err
		}
		text = fmt.Sprintf("server:\n interface: %s@%d\n username: \"\"\n chroot: \"\"\n directory: %s\n pidfile: \"\"\n do-daemonize: no\n use-syslog: no\n"+
			" num-threads: 2\n so-reuseport: yes\n access-control: 10.9.0.0/24 allow\n local-zone: \"mesos.\" static\n%s", s.addr.Addr(), s.addr.Port(), own, local)
	case weftMesos:
		s.addr, args = at(portWeftMesos), []string{o.weft, "mesos-dns", "-config", config}
		text = mesosConfig(s.addr.Port(), f.refresh)
	case mesosDNS:
		s.addr, args = at(portMesosDNS), []string{o.mesosDNS, "-config", config}
		text = mesosConfig(s.addr.Port(), f.refresh)
	case hosts:
		s.addr, args = at(portHosts), []string{o.coredns, "-conf", config}
		text = fmt.Sprintf(".:%d {\n bind %s\n hosts %s mesos {\n no_reverse\n reload 0\n }\n}\n", s.addr.Port(), s.addr.Addr(), f.hosts)
	case file:
		s.addr, args = at(portFile), []string{o.coredns, "-conf", config}
		text = fmt.Sprintf("mesos:%d {\n bind %s\n file %s\n}\n", s.addr.Port(), s.addr.Addr(), f.zone)
	}
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return nil, err
	}
	log, err := os.Create(s.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	s.cmd = exec.CommandContext(ctx, args[0], args[1:]...)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return s, nil
}

// questions that a server is asked instead of those of a file: the mirror has its answers brought.
func (s *server) questions(file string) string {
	if s.name == mirror {
		return answersTo(file)
	}
	return file
}

// ready waits until a server answers, and asks it everything once.
func (s *server) ready(a *asker, questions ...string) error {
	deadline := time.Now().Add(startWithin)
	for _, q := range questions {
		for {
			_, err := a.ask(generator.Order{Questions: s.questions(q), Addr: s.addr, All: true})
			if err == nil {
				break
			}
			if s.ended() || time.Now().After(deadline) {
				text, _ := os.ReadFile(s.log)
				return fmt.Errorf("%s does not answer: %w\n%s", s.name, err, text)
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
	return nil
}

// ended tells whether the server's process is there no more.
func (s *server) ended() bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	return err != nil || strings.Contains(string(stat), ") Z ")
}

// cpu is the time on a CPU of the server's processes, nanoseconds.
func (s *server) cpu() (int64, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, err
	}
	var sum int64
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if group, err := syscall.Getpgid(pid); err == nil && group == s.cmd.Process.Pid {
			sum += processTime(pid)
		}
	}
	return sum, nil
}

// stop ends the server and its children.
func (s *server) stop() error {
	if err := syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL); err != nil {
		return fmt.Errorf("end %s: %w", s.name, err)
	}
	err := s.cmd.Wait()
	if _, killed := errors.AsType[*exec.ExitError](err); killed {
		return nil
	}
	return err
}

// buildCoreDNS builds it from its own module, unless there is an executable or nothing is compared.
func buildCoreDNS(ctx context.Context, o options, dir string) (string, error) {
	switch {
	case o.coredns == "none":
		return "", nil
	case o.coredns != "", o.short:
		return o.coredns, nil
	}
	path := filepath.Join(dir, "coredns")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", path, ".")
	cmd.Dir, cmd.Env = "tests/bench/dns/coredns", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build CoreDNS: %w\n%s", err, strings.TrimSpace(string(out)))
	}
	return path, nil
}
