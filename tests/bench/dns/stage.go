// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"weft/tests/bench/dns/generator"
	"weft/tests/bench/ends"
)

// asker is a generator in a network namespace of its own, behind a link.
type asker struct {
	cmd       *exec.Cmd
	in        io.WriteCloser
	out       *bufio.Scanner
	complaint strings.Builder
	link      int // its end at the node
}

// newAsker starts a generator and joins it to the node by a link, whose end here is called name.
func newAsker(ctx context.Context, name string, hostMAC, taskMAC string) (*asker, error) {
	a := &asker{cmd: exec.CommandContext(ctx, "/proc/self/exe", "-role", "generate")}
	a.cmd.Stderr = &a.complaint
	a.cmd.Env = append(os.Environ(), "GODEBUG=asyncpreemptoff=1", "GOMAXPROCS=1")
	a.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL}
	in, err1 := a.cmd.StdinPipe()
	out, err2 := a.cmd.StdoutPipe()
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	a.in, a.out = in, bufio.NewScanner(out)
	if err := a.cmd.Start(); err != nil {
		return nil, err
	}
	veth := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: "eth0"}
	veth.Name = name
	veth.HardwareAddr, _ = net.ParseMAC(hostMAC)
	veth.PeerHardwareAddr, _ = net.ParseMAC(taskMAC)
	veth.PeerNamespace = netlink.NsPid(a.cmd.Process.Pid)
	if err := netlink.LinkAdd(veth); err != nil {
		return a, fmt.Errorf("make the link of %s: %w", name, err)
	}
	a.link = veth.Attrs().Index
	return a, netlink.LinkSetUp(veth)
}

func (a *asker) inside(f func() error) error {
	return ends.Inside(fmt.Sprintf("/proc/%d/ns/net", a.cmd.Process.Pid), f)
}

// ask has the generator carry out an order.
func (a *asker) ask(o generator.Order) (generator.Outcome, error) {
	line, err := json.Marshal(o)
	if err != nil {
		return generator.Outcome{}, err
	}
	if _, err := a.in.Write(append(line, '\n')); err != nil {
		return generator.Outcome{}, err
	}
	if !a.out.Scan() {
		return generator.Outcome{}, fmt.Errorf("a generator ended: %s", a.complaint.String())
	}
	var r generator.Outcome
	if err := json.Unmarshal(a.out.Bytes(), &r); err != nil {
		return r, err
	}
	if r.Error != "" {
		return r, errors.New(r.Error)
	}
	return r, nil
}

func (a *asker) stop() error { return errors.Join(a.in.Close(), a.cmd.Wait()) }

// stage is the node with three askers: a task of Weft's, a host on a plain link for all other servers, and one whose
// link, like the task's, has the mirror.
type stage struct{ task, host, mirror *asker }

// newStage builds the links in the calling thread's namespace.
func newStage(ctx context.Context) (*stage, error) {
	s := &stage{}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return s, err
	}
	if err := errors.Join(netlink.LinkSetUp(lo), give(lo, netip.PrefixFrom(dnsAddr, 32)), give(lo, netip.PrefixFrom(nodeAddr, 32))); err != nil {
		return s, err
	}
	if s.task, err = newTask(ctx, "task0"); err != nil {
		return s, err
	}
	route := netlink.Route{LinkIndex: s.task.link, Dst: ipNet(netip.PrefixFrom(taskAddr, 32)), Scope: unix.RT_SCOPE_LINK}
	if err := netlink.RouteReplace(&route); err != nil {
		return s, fmt.Errorf("the task's route: %w", err)
	}
	if s.mirror, err = newTask(ctx, "mirror0"); err != nil {
		return s, err
	}
	if s.host, err = newAsker(ctx, "host0", "0a:00:00:00:00:01", "0a:00:00:00:00:02"); err != nil {
		return s, err
	}
	link, err := netlink.LinkByName("host0")
	if err != nil {
		return s, err
	}
	return s, errors.Join(give(link, wireNode), s.host.inside(func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return errors.Join(give(eth0, wireAsker), netlink.LinkSetUp(eth0))
	}))
}

// link is the index of the one whose program a server is; 0 for those that are none.
func (s *stage) link(server string) int {
	switch server {
	case kernel:
		return s.task.link
	case mirror:
		return s.mirror.link
	}
	return 0
}

// newTask starts an asker behind a link as a task has it.
func newTask(ctx context.Context, name string) (*asker, error) {
	a, err := newAsker(ctx, name, "0a:77:65:66:74:01", "0a:58:09:00:00:05")
	if err != nil {
		return a, err
	}
	if err := a.inside(configureTask); err != nil {
		return a, fmt.Errorf("the link %s: %w", name, err)
	}
	return a, nil
}

// configureTask is what netd does inside a task.
func configureTask() error {
	eth0, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	mac, err := net.ParseMAC("0a:77:65:66:74:01")
	if err != nil {
		return err
	}
	gateway := net.IPv4(169, 254, 1, 1)
	return errors.Join(
		give(eth0, netip.PrefixFrom(taskAddr, 32)), netlink.LinkSetUp(eth0),
		netlink.NeighSet(&netlink.Neigh{LinkIndex: eth0.Attrs().Index, State: netlink.NUD_PERMANENT, IP: gateway, HardwareAddr: mac}),
		netlink.RouteReplace(&netlink.Route{
			LinkIndex: eth0.Attrs().Index, Dst: ipNet(netip.MustParsePrefix("0.0.0.0/0")), Gw: gateway, Flags: int(netlink.FLAG_ONLINK),
		}),
	)
}

func give(link netlink.Link, p netip.Prefix) error {
	return netlink.AddrReplace(link, &netlink.Addr{IPNet: ipNet(p)})
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// close ends the generators; their links end with them.
func (s *stage) close() error {
	var errs []error
	for _, a := range []*asker{s.task, s.host, s.mirror} {
		if a != nil {
			errs = append(errs, a.stop())
		}
	}
	for _, name := range []string{"task0", "host0", "mirror0"} {
		if link, err := netlink.LinkByName(name); err == nil {
			errs = append(errs, netlink.LinkDel(link))
		}
	}
	return errors.Join(errs...)
}
