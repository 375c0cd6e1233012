// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Ports that the lab's daemons use.
const (
	masterPort = 7700 // operators and nodes
	etcdPort   = 7710
)

// Socket is where the host's node daemon answers clients.
func (h *Host) Socket() string { return filepath.Join(h.Dir, "netd.sock") }

// MasterAddrs returns host:port of every master.
func (l *Lab) MasterAddrs() []string {
	var addrs []string
	for _, m := range l.Masters {
		addrs = append(addrs, net.JoinHostPort(m.Addr.String(), strconv.Itoa(masterPort)))
	}
	return addrs
}

// Command returns a command that runs on the host: in its network namespace, with the environment
// that lets weft find the host's daemon and the masters; "weft" is the lab's own. It is placed in the host's cgroup, so that
// it sees VIPs and ends with the lab.
func (h *Host) Command(ctx context.Context, name string, args ...string) *Cmd {
	if name == "weft" {
		name = h.lab.Binary
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "WEFT_SOCKET="+h.Socket(), "WEFT_MASTER="+strings.Join(h.lab.MasterAddrs(), ","),
		"WEFT_HOST="+h.Name, "WEFT_CGROUP="+h.Cgroup(), "PATH="+filepath.Dir(h.lab.Binary)+":"+os.Getenv("PATH"))
	return &Cmd{Cmd: cmd, netns: h.netns(), cgroup: h.Cgroup()}
}

// Weft returns a command that runs the lab's weft on the host.
func (h *Host) Weft(ctx context.Context, args ...string) *Cmd {
	return h.Command(ctx, h.lab.Binary, args...)
}

// Cmd is an exec.Cmd that starts in a network namespace and a cgroup.
type Cmd struct {
	*exec.Cmd
	netns, cgroup string
}

// Start starts the command where it belongs.
func (c *Cmd) Start() error {
	group, err := os.Open(c.cgroup)
	if err != nil {
		return err
	}
	defer group.Close()
	if c.SysProcAttr == nil {
		c.SysProcAttr = new(syscall.SysProcAttr)
	}
	c.SysProcAttr.UseCgroupFD, c.SysProcAttr.CgroupFD = true, int(group.Fd())
	return inside(c.netns, c.Cmd.Start)
}

// Run starts the command and waits for it.
func (c *Cmd) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// Output runs the command and returns what it printed; its error carries what it said on stderr.
func (c *Cmd) Output() (string, error) {
	var out, diag strings.Builder
	c.Stdout, c.Stderr = &out, &diag
	if err := c.Run(); err != nil {
		return out.String(), fmt.Errorf("%s: %w: %s", strings.Join(c.Args, " "), err, strings.TrimSpace(diag.String()))
	}
	return out.String(), nil
}

// During starts the command, waits for the first line that it prints, acts, and returns what it printed after that line.
func (c *Cmd) During(act func() error) (string, error) {
	var diag strings.Builder
	c.Stderr = &diag
	pipe, err := c.StdoutPipe()
	if err != nil {
		return "", err
	}
	if err := c.Start(); err != nil {
		return "", err
	}
	out := bufio.NewReader(pipe)
	_, err = out.ReadString('\n')
	if err == nil {
		err = act()
	}
	rest, readErr := io.ReadAll(out)
	if e := errors.Join(readErr, c.Wait()); e != nil {
		err = fmt.Errorf("%s: %w: %s", strings.Join(c.Args, " "), e, strings.TrimSpace(diag.String()))
	}
	return string(rest), err
}

// StartNetd starts the host's node daemon; it outlives the caller.
func (h *Host) StartNetd() error {
	args := []string{
		"netd", "--node", h.Name, "--state", filepath.Join(h.Dir, "netd"), "--socket", h.Socket(),
		"--pin", h.Pins(), "--cgroup", h.Cgroup(), "--underlay", "eth0",
		"--metrics", "127.0.0.1:7780",
	}
	for _, m := range h.lab.Masters {
		args = append(args, "--master", net.JoinHostPort(m.Addr.String(), strconv.Itoa(masterPort)))
	}
	for _, peer := range h.lab.all() {
		args = append(args, "--join", peer.Addr.String())
	}
	return h.startDaemon("netd", append(args, h.lab.Netd...))
}

// StartMaster starts a master; it outlives the caller.
func (h *Host) StartMaster() error {
	args := []string{
		"master", "--id", h.Name, "--state", filepath.Join(h.Dir, "master"), "--addr", h.Addr.String(),
		"--port", strconv.Itoa(masterPort), "--etcd-port", strconv.Itoa(etcdPort), "--metrics", "127.0.0.1:7781",
	}
	for _, m := range h.lab.Masters {
		args = append(args, "--peer", m.Name+"="+net.JoinHostPort(m.Addr.String(), strconv.Itoa(etcdPort)))
	}
	for _, peer := range h.lab.all() {
		args = append(args, "--join", peer.Addr.String())
	}
	return h.startDaemon("master", append(args, h.lab.Master...))
}

func (h *Host) startDaemon(name string, args []string) error {
	log, err := h.logFile(name)
	if err != nil {
		return err
	}
	defer log.Close()
	binary := h.lab.Binary
	if h.Binary != "" {
		binary = h.Binary
	}
	cmd := &Cmd{Cmd: exec.Command(binary, args...), netns: h.netns(), cgroup: h.daemons()}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), "GOMAXPROCS=2", "GOTRACEBACK=all")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s of %s: %w", name, h.Name, err)
	}
	if err := os.WriteFile(filepath.Join(h.Dir, name+".pid"), fmt.Appendf(nil, "%d\n", cmd.Process.Pid), 0o600); err != nil {
		return err
	}
	go func() { _ = cmd.Wait() }() // reaps it when the caller lives longer; its log tells the rest
	return nil
}

// Pid returns the process id of a daemon (netd or master) of the host.
func (h *Host) Pid(daemon string) (int, error) {
	text, err := os.ReadFile(filepath.Join(h.Dir, daemon+".pid"))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

// Running reports whether the daemon's process lives: it is in the host's cgroup of daemons.
func (h *Host) Running(daemon string) bool {
	pid, err := h.Pid(daemon)
	if err != nil {
		return false
	}
	procs, err := os.ReadFile(filepath.Join(h.daemons(), "cgroup.procs"))
	return err == nil && strings.Contains("\n"+string(procs), fmt.Sprintf("\n%d\n", pid))
}

// Signal sends sig to a daemon and, for signals that end it, waits until it is gone.
func (h *Host) Signal(daemon string, sig syscall.Signal) error {
	pid, err := h.Pid(daemon)
	if err != nil {
		return err
	}
	if !h.Running(daemon) {
		return fmt.Errorf("%s of %s does not run", daemon, h.Name)
	}
	if err := unix.Kill(pid, sig); err != nil {
		return fmt.Errorf("signal %s of %s: %w", daemon, h.Name, err)
	}
	if sig != unix.SIGKILL && sig != unix.SIGTERM {
		return nil
	}
	for deadline := time.Now().Add(20 * time.Second); h.Running(daemon) || isEnding(pid); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("%s of %s did not end within 20 s of %s", daemon, h.Name, sig)
		}
	}
	return nil
}

// isEnding reports whether threads of a process that its cgroup lists no more have its files open still.
func isEnding(pid int) bool {
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	return err == nil && len(threads) > 1
}

// WaitReady waits until the host's daemon answers on its socket.
func (h *Host) WaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	for {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", h.Socket())
		if err == nil {
			return conn.Close()
		}
		if !h.Running("netd") {
			return fmt.Errorf("netd of %s ended at its start; its log:\n%s", h.Name, h.Tail("netd", 15))
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("netd of %s does not answer on %s; its log:\n%s", h.Name, h.Socket(), h.Tail("netd", 15)), ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Tail returns the last n lines of a daemon's log.
func (h *Host) Tail(daemon string, n int) string {
	text, err := os.ReadFile(filepath.Join(h.Dir, daemon+".log"))
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	return "  " + strings.Join(lines[max(0, len(lines)-n):], "\n  ")
}
