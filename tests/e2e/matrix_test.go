// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"weft/cmd/weft/node"
	"weft/lb"
	"weft/overlay"
	"weft/tests/lab"
	"weft/tests/lab/labtest"
)

// The matrix of DC/OS' end-to-end test of VIPs (net-tests 8: test_vip, test_vip_port_mapping, test_vip_ipv6), with what
// runs tasks here: each place is a task or a process that asks, and those of h1 are behind VIPs of their own as well.
//
//	host     a process of the node's own network; behind VIPs a task of `weft run --network host`
//	run      a task of `weft run`
//	mapped   the same, with a port of its node that has the number of every VIP's port
//	cni      a container of weft-cni, outside of the daemon's cgroup: its packets are translated one by one
//	bridged  the same, with a port of its node
//
// From every place of both nodes, to every backend, by name and by literal address, TCP and UDP, IPv4 and IPv6.

// vipPort is that of every VIP, and of a port of each node that leads to a task.
const vipPort = 8080

// place is where a question comes from, and what may be behind VIPs.
type place struct {
	kind  string
	on    *lab.Host
	addrs []netip.Addr // as backends see it, where it is in the network
	// ask runs peer there.
	ask func(args ...string) (string, error)
}

func (p *place) String() string { return p.kind + " on " + p.on.Name }

// matrix is the story.
type matrix struct {
	*lab.Lab
	t            *testing.T
	peer, plugin string
}

// label is a place's name in the cluster.
func label(kind string, h *lab.Host) string { return kind + "-" + h.Name }

// vips are the VIPs of a kind of backend: name, IPv4, IPv6.
func vips(kind string) []string {
	i := slices.Index([]string{"host", "run", "mapped", "cni", "bridged"}, kind) + 1
	return []string{"/" + kind, fmt.Sprintf("198.51.100.%d", 100+i), fmt.Sprintf("[fd01:c::%d]", 100+i)}
}

// labels are the labels of a backend whose own port is port.
func labels(kind string, port int) (list []string) {
	for _, v := range vips(kind) {
		list = append(list, fmt.Sprintf("%s:%d=%d", v, vipPort, port))
	}
	for _, asker := range connecting {
		for _, host := range []string{"h1", "h2"} {
			list = append(list, fmt.Sprintf("/five-%s-%s:5000=%d/tcp", asker, host, port))
		}
	}
	return list
}

// connecting are the places whose sockets choose when they connect. Each has a VIP that all five kinds are behind.
var connecting = []string{"host", "run", "mapped"}

// all asks 25 times at a VIP with five backends, as DC/OS' test_l4lb does, until there was an answer of each: where all are
// equally fast, chance leaves one out of 25 in 1 of 50 cases, and one that was slow once is asked again after a while.
func (p *place) all() error {
	to := netip.AddrPortFrom(lb.HashAddr4("five-"+p.kind+"-"+p.on.Name+".weft"), 5000).String()
	seen := make(map[string]int)
	return becomes(func() error {
		out, err := p.ask("ask", "-n", "25", "tcp", to)
		for line := range strings.Lines(out) {
			who, _, _ := strings.Cut(line, " ")
			seen[who]++
		}
		if err == nil && len(seen) != 5 {
			err = fmt.Errorf("%s: of five backends of %s %v answered", p, to, seen)
		}
		return err
	})
}

// run starts a task of `weft run`.
func (m *matrix) run(h *lab.Host, kind string, flags ...string) *place {
	m.start(h, "prod", kind, 80, flags...)
	return &place{kind: kind, on: h, ask: func(args ...string) (string, error) {
		return h.Weft(m.t.Context(), append([]string{"task", "exec", label(kind, h), "--", m.peer}, args...)...).Output()
	}}
}

// start runs a server as a task of a network, at a port.
func (m *matrix) start(h *lab.Host, network, kind string, port int, flags ...string) {
	args := append([]string{"run", "--network", network, "--name", label(kind, h)}, flags...)
	if h == m.Hosts[0] {
		for _, l := range labels(kind, port) {
			args = append(args, "--vip", l)
		}
	}
	serve := []string{"--", m.peer, "serve", "-name", kind, "-tcp", strconv.Itoa(port), "-udp", strconv.Itoa(port)}
	task := h.Weft(m.t.Context(), append(args, serve...)...)
	if err := task.Start(); err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() {
		_ = task.Process.Signal(syscall.SIGTERM) // the lab's end ends it anyway
		_ = task.Wait()
	})
}

// container starts a process in a namespace of its own and joins it by weft-cni.
func (m *matrix) container(h *lab.Host, kind string, hostPort int) *place {
	serve := exec.CommandContext(m.t.Context(), m.peer, "serve", "-name", kind, "-tcp", "80", "-udp", "80")
	serve.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := serve.Start(); err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() {
		_ = serve.Process.Kill() // it may be gone with the test's context
		_ = serve.Wait()
	})
	conf := map[string]any{"cniVersion": "1.1.0", "name": "prod", "type": "weft-cni", "network": "prod", "socket": h.Socket()}
	if h == m.Hosts[0] {
		conf["vips"] = labels(kind, 80)
	}
	if hostPort != 0 {
		conf["runtimeConfig"] = map[string]any{"portMappings": []map[string]any{
			{"hostPort": hostPort, "containerPort": 80, "protocol": "tcp"}, {"hostPort": hostPort, "containerPort": 80, "protocol": "udp"},
		}}
	}
	stdin, err := json.Marshal(conf)
	if err != nil {
		m.t.Fatal(err)
	}
	netns := fmt.Sprintf("/proc/%d/ns/net", serve.Process.Pid)
	add := exec.CommandContext(m.t.Context(), m.plugin)
	add.Stdin = bytes.NewReader(stdin)
	add.Env = append(os.Environ(), "CNI_COMMAND=ADD", "CNI_CONTAINERID="+label(kind, h), "CNI_NETNS="+netns, "CNI_IFNAME=eth0",
		"CNI_PATH=/opt/cni/bin", "CNI_ARGS=WEFT_NAME="+label(kind, h))
	if out, err := add.Output(); err != nil {
		m.t.Fatalf("ADD of %s on %s: %v: %s", kind, h.Name, err, out)
	}
	return &place{kind: kind, on: h, ask: func(args ...string) (string, error) {
		out, err := exec.CommandContext(m.t.Context(), "nsenter", append([]string{"--net=" + netns, m.peer}, args...)...).Output()
		return string(out), err
	}}
}

// host is a process of the node's own network, and on h1 a task there.
func (m *matrix) host(h *lab.Host) *place {
	p := &place{kind: "host", on: h, ask: func(args ...string) (string, error) { return h.Command(m.t.Context(), m.peer, args...).Output() }}
	if h == m.Hosts[0] {
		p.addrs = []netip.Addr{h.Addr, h.Addr6}
		m.start(h, "host", "host", 9090)
	}
	return p
}

// cell is one question.
type cell struct {
	from          *place
	to            string // kind of backend
	named         bool
	protocol, vip string // ADDR:PORT
	four          bool
}

func (c cell) String() string {
	how, family := "literal", "IPv6"
	if c.named {
		how = "named"
	}
	if c.four {
		family = "IPv4"
	}
	return fmt.Sprintf("%s asks %s on h1 at the %s VIP %s, %s, %s", c.from, c.to, how, c.vip, c.protocol, family)
}

// judge says what is wrong with an answer; empty: nothing. A backend sees who asks; itself as the VIP, where packets
// are translated one by one. What leaves the network for a process of a node may do so with the asker's node's address.
func (c cell) judge(answer string) string {
	who, saw, _ := strings.Cut(answer, " ")
	if who != c.to {
		return fmt.Sprintf("%q, want an answer of %s", answer, c.to)
	}
	want := c.from.addrs
	own := c.from.kind == c.to && c.from.on.Name == "h1"
	switch {
	case c.to == "host":
		want = append([]netip.Addr{c.from.on.Addr, c.from.on.Addr6}, want...)
	case own && (c.to == "cni" || c.to == "bridged"):
		want = []netip.Addr{netip.MustParseAddrPort(c.vip).Addr()}
	}
	if seen, err := netip.ParseAddr(saw); err != nil || !slices.Contains(want, seen) {
		return fmt.Sprintf("%s saw %s, want one of %v", c.to, saw, want)
	}
	return ""
}

// cells are the questions of one place.
func cells(from *place) (list []cell) {
	for _, to := range []string{"host", "run", "mapped", "cni", "bridged"} {
		literal := vips(to)
		for i, four := range []bool{true, false} {
			named := lb.HashAddr4(to + ".weft")
			if !four {
				named = lb.HashAddr6(to + ".weft")
			}
			for _, protocol := range []string{"tcp", "udp"} {
				list = append(list,
					cell{from, to, true, protocol, netip.AddrPortFrom(named, vipPort).String(), four},
					cell{from, to, false, protocol, fmt.Sprintf("%s:%d", literal[i+1], vipPort), four})
			}
		}
	}
	return list
}

// wrong asks all questions of a place, and returns those that were answered wrongly, with how.
func wrong(list []cell) (failed []cell, how []string) {
	args := []string{"asks"}
	for _, c := range list {
		args = append(args, c.protocol+"/"+c.vip)
	}
	out, err := list[0].from.ask(args...)
	answers := strings.Split(strings.TrimSpace(out), "\n")
	for i, c := range list {
		why := fmt.Sprintf("peer did not run: %v", err)
		if i < len(answers) && err == nil {
			why = c.judge(answers[i])
		}
		if why != "" {
			failed, how = append(failed, c), append(how, why)
		}
	}
	return failed, how
}

// knows waits until the daemon of a host knows a network.
func knows(t *testing.T, h *lab.Host, network string) {
	t.Helper()
	d, err := node.Dial(h.Socket())
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	eventually(t, func() error {
		networks, err := d.Overlay.Networks(t.Context())
		if err == nil && !slices.ContainsFunc(networks, func(n overlay.NetworkStatus) bool { return n.Name == network }) {
			err = fmt.Errorf("%s does not know network %s", h.Name, network)
		}
		return err
	})
}

func TestVIPMatrix(t *testing.T) {
	l := labtest.Up(t, lab.Options{Hosts: 2})
	m := &matrix{Lab: l, t: t, peer: labtest.Build(t, "tests/e2e/peer"), plugin: labtest.Build(t, "cmd/weft-cni")}
	if _, err := l.Hosts[0].Weft(t.Context(), "network", "add", "prod", "--subnet", "9.1.0.0/16", "--subnet6", "fd01:b:1::/64").Output(); err != nil {
		t.Fatal(err)
	}
	for _, h := range l.Hosts { // so that no ADD waits for it
		knows(t, h, "prod")
	}
	var places []*place
	for _, h := range l.Hosts {
		mapped := fmt.Sprintf("%d:80", vipPort)
		places = append(places, m.host(h), m.run(h, "run"), m.run(h, "mapped", "--publish", mapped, "--publish", mapped+"/udp"),
			m.container(h, "cni", 0), m.container(h, "bridged", vipPort+1))
	}
	for _, p := range places {
		if p.kind == "host" {
			continue
		}
		eventually(t, func() error {
			out, err := p.on.Weft(t.Context(), "task", "list", "-o", "json").Output()
			if err != nil {
				return err
			}
			var tasks []overlay.Endpoint
			if err := json.Unmarshal([]byte(out), &tasks); err != nil {
				return err
			}
			for _, e := range tasks {
				if e.Name == label(p.kind, p.on) {
					p.addrs = e.Addrs()
					return nil
				}
			}
			return fmt.Errorf("%s is no task yet", p)
		})
	}
	for _, a := range hostAddrs(t, l.Hosts[1]) {
		places[len(places)/2].addrs = append(places[len(places)/2].addrs, a) // the host of h2
	}
	// All at once; what was answered wrongly is asked again, for facts travel and servers start.
	began := time.Now()
	asked := 0
	var report sync.Mutex
	var all sync.WaitGroup
	for _, p := range places {
		list := cells(p)
		asked += len(list)
		all.Go(func() {
			failed, how := wrong(list)
			for deadline := time.Now().Add(patience); len(failed) > 0 && time.Now().Before(deadline); {
				failed, how = wrong(failed)
			}
			report.Lock()
			defer report.Unlock()
			for i, c := range failed {
				t.Errorf("%s: %s", c, how[i])
			}
		})
	}
	all.Wait()
	t.Logf("%d cells in %s", asked, time.Since(began).Round(time.Millisecond))
	for _, p := range places {
		if !slices.Contains(connecting, p.kind) {
			continue
		}
		if err := p.all(); err != nil {
			t.Error(err)
		}
	}
}
