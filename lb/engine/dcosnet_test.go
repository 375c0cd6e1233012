// SPDX-License-Identifier: Apache-2.0

package engine_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"weft/bpf/row"
	"weft/discovery"
	"weft/lb"
)

// What dcos-net's suites feed its L4LB and expect of it (apps/dcos_net, dcos_l4lb), told again with tasks as they are
// registered here. Where they differ: a backend is the container's own address on every node, so nothing is to be
// replaced by it on the container's; and a node's port mapping is the overlay's (docs/ports.md), no part of a VIP.

// at returns the VIP's row for a family as it is in the tables: weight after each backend.
func (n *node) at(vni uint32, vip string, port uint16, protocol string) string {
	n.t.Helper()
	proto := map[string]uint8{lb.TCP: 6, lb.UDP: 17}[protocol]
	v, ok, err := n.vips.Get(row.VIPKey{VNI: vni, Addr: row.AddrOf(netip.MustParseAddr(vip)), Port: row.Port(port), Proto: proto})
	if err != nil {
		n.t.Fatal(err)
	}
	if !ok {
		return "no VIP"
	}
	var list []string
	for slot := range v.Backends {
		b, _, err := n.backends.Get(row.BackendKey{VIP: v.ID, Slot: slot})
		if err != nil {
			n.t.Fatal(err)
		}
		list = append(list, fmt.Sprintf("%s=%d", netip.AddrPortFrom(b.Addr.Netip(), row.Port(b.Port)), b.Weight))
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}

func (n *node) want(vip string, port uint16, protocol, want string) {
	n.t.Helper()
	if got := n.at(7, vip, port, protocol); got != want {
		n.t.Errorf("%s:%d/%s has %q, want %q", vip, port, protocol, got, want)
	}
}

// marathon is a task as an executor registers it.
func marathon(task string, addrs []string, labels ...string) lb.Registration {
	r := lb.Registration{Task: task, Network: "prod", Framework: "marathon", Labels: labels}
	for _, a := range addrs {
		r.Addrs = append(r.Addrs, netip.MustParseAddr(a))
	}
	return r
}

// The files vip-labels, tcp-and-udp and hello-overlay (net-tests 4.1): labels on ports, by name, protocol and framework.
func TestVIPsOfDcosNetsFixtures(t *testing.T) {
	n := open(t)
	n.run(n.lead)
	n.run(n.Run)
	hello := func(task, addr string, labels ...string) lb.Registration {
		r := marathon(task, []string{addr}, labels...)
		r.Framework = "hello-world"
		return r
	}
	for _, r := range []lb.Registration{
		// Port qux has no label, and no VIP.
		marathon("labels.1", []string{"9.0.1.7"}, "/abc:80=9999/tcp", "/cbd:80=9999/tcp", "def:80=9999/tcp", "jkl:80=10000/tcp", "/xyz:443=10001/tcp"),
		marathon("both.1", []string{"9.0.1.8"}, "/app:80=6416/TCP", "/app:80=6416/UDP"), // "udp,tcp" is two ports
		hello("hello-0-server", "172.17.0.3", "/api.hello-world:80=19630/tcp"),          // on the host network
		hello("hello-overlay-0-server", "9.0.2.2"),
		hello("hello-overlay-vip-0-server", "9.0.2.3", "/overlay-vip:80=4044/tcp"),
		hello("hello-host-vip-0-server", "172.17.0.4", "/host-vip:80=4044/tcp"),
	} {
		n.publish(r)
	}
	for _, c := range []struct {
		name     string
		port     uint16
		protocol string
		want     string
	}{
		{"abc.marathon", 80, lb.TCP, "9.0.1.7:9999=1"},
		{"cbd.marathon", 80, lb.TCP, "9.0.1.7:9999=1"},
		{"def.marathon", 80, lb.TCP, "9.0.1.7:9999=1"},
		{"jkl.marathon", 80, lb.TCP, "9.0.1.7:10000=1"},
		{"xyz.marathon", 443, lb.TCP, "9.0.1.7:10001=1"},
		{"xyz.marathon", 80, lb.TCP, "no VIP"},
		{"abc.marathon", 80, lb.UDP, "no VIP"},
		{"app.marathon", 80, lb.TCP, "9.0.1.8:6416=1"},
		{"app.marathon", 80, lb.UDP, "9.0.1.8:6416=1"},
		{"foobar.marathon", 80, lb.TCP, "no VIP"},
		{"api.hello-world.hello-world", 80, lb.TCP, "172.17.0.3:19630=1"},
		{"overlay-vip.hello-world", 80, lb.TCP, "9.0.2.3:4044=1"},
		{"host-vip.hello-world", 80, lb.TCP, "172.17.0.4:4044=1"},
		{"overlay-vip.marathon", 80, lb.TCP, "no VIP"}, // frameworks never merge
	} {
		n.want(lb.HashAddr4(c.name).String(), c.port, c.protocol, c.want)
	}
	vips, err := n.VIPs(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range vips {
		if v.Name == "api.hello-world.hello-world" && v.DNS != "api.hello-world.hello-world.l4lb.thisdcos.directory" {
			t.Errorf("api has the DNS name %s", v.DNS)
		}
	}
}

// mesos_poller's life of a task: up, killed, down, up again elsewhere, unhealthy, well (net-tests 4.3); and the file
// unhealthy (4.1). Weight 0 is what drains: nothing new, and what is under way goes on.
func TestTheLifeOfATaskBehindAVIP(t *testing.T) {
	n := open(t)
	n.run(n.lead)
	n.run(n.Run)
	merp := lb.HashAddr4("merp.marathon").String()
	state := func(task string, s lb.State) {
		t.Helper()
		if late, err := n.SetState(t.Context(), task, s); err != nil || len(late) > 0 {
			t.Fatalf("%s is %+v: late %v, %v", task, s, late, err)
		}
	}
	stop := func(task string) {
		t.Helper()
		if err := n.Withdraw(t.Context(), task); err != nil {
			t.Fatal(err)
		}
	}
	n.publish(marathon("app.1", []string{"9.0.1.29"}, "merp:5000=80/tcp"))
	n.want(merp, 5000, lb.TCP, "9.0.1.29:80=1")
	state("app.1", lb.State{Draining: true}) // TASK_KILLING
	n.want(merp, 5000, lb.TCP, "9.0.1.29:80=0")
	stop("app.1")
	n.want(merp, 5000, lb.TCP, "") // no backend, and the address still refuses
	if names := n.Snapshot().Names; len(names) != 0 {
		t.Errorf("names %v after the last backend, want none", names)
	}
	n.publish(marathon("app.2", []string{"9.0.1.30"}, "merp:5000=80/tcp"))
	n.want(merp, 5000, lb.TCP, "9.0.1.30:80=1")

	// Of two the one whose checks fail has weight 0, as has one with a check that has not answered.
	r := marathon("app.3", []string{"9.0.1.6"}, "merp:5000=80/tcp")
	r.Health = lb.Unknown
	n.publish(r)
	n.want(merp, 5000, lb.TCP, "9.0.1.30:80=1 9.0.1.6:80=0")
	state("app.3", lb.State{Health: lb.Healthy})
	n.want(merp, 5000, lb.TCP, "9.0.1.30:80=1 9.0.1.6:80=1")
	state("app.3", lb.State{Health: lb.Unhealthy})
	n.want(merp, 5000, lb.TCP, "9.0.1.30:80=1 9.0.1.6:80=0")
	// Here docs/dcos.md differs: DC/OS would give weight 0 to the last as well.
	stop("app.2")
	n.want(merp, 5000, lb.TCP, "9.0.1.6:80=1")
	// Weight 0 by label is meant: it refuses even as the last.
	n.publish(marathon("app.3", []string{"9.0.1.6"}, "merp:5000=80/tcp,weight=0"))
	n.want(merp, 5000, lb.TCP, "9.0.1.6:80=0")
}

// dcos-net's unit tests of families (net-tests 4.3): a literal VIP has backends of its family alone, a name has both,
// each address those of its own.
func TestFamiliesOfDcosNetsVIPs(t *testing.T) {
	n := open(t)
	n.run(n.lead)
	n.run(n.Run)
	both := []string{"9.0.1.5", "fd01:b::1:8000:0:5"}
	n.publish(marathon("dual.1", both, "1.2.3.4:80=8080/tcp", "fd01:c::7:80=8080/tcp", "/named:80=8080/tcp"))
	n.publish(marathon("four.1", both[:1], "1.2.3.4:80=8080/tcp", "/named:80=8081/tcp", "/only4:80=8080/tcp"))
	sdk := marathon("sdk.1", []string{"9.0.1.6"}, "1.2.3.4:80=8080/tcp", "/named:80=8080/tcp")
	sdk.Framework = "kafka" // literal VIPs have no framework, names have one (net.md B1)
	n.publish(sdk)
	n.want("1.2.3.4", 80, lb.TCP, "9.0.1.5:8080=1 9.0.1.6:8080=1")
	n.want("fd01:c::7", 80, lb.TCP, "[fd01:b::1:8000:0:5]:8080=1")
	n.want(lb.HashAddr4("named.marathon").String(), 80, lb.TCP, "9.0.1.5:8080=1 9.0.1.5:8081=1")
	n.want(lb.HashAddr6("named.marathon").String(), 80, lb.TCP, "[fd01:b::1:8000:0:5]:8080=1")
	n.want(lb.HashAddr6("only4.marathon").String(), 80, lb.TCP, "")
	for _, name := range n.Snapshot().Names["prod"] {
		if families := len(name.Addrs); families != map[string]int{"named.marathon": 2, "named.kafka": 1, "only4.marathon": 1}[name.Name] {
			t.Errorf("%s has addresses %v", name.Name, name.Addrs)
		}
	}
}

// The file recovered-agents (net-tests 4.1): the agent of the only backend is away, and comes back as it was.
func TestTheBackendOfARecoveredAgentIsNotLost(t *testing.T) {
	n := open(t)
	n.run(n.lead)
	n.run(n.Run)
	n.ledger(discovery.KindAdmission, "n2", discovery.Admission{Node: "n2"})
	b := lb.Backend{
		VIP: lb.Key{Network: "prod", Name: "web.marathon", Port: 10080, Protocol: lb.TCP}, Task: "web",
		Addrs: []netip.Addr{netip.MustParseAddr("172.31.254.10")}, Port: 10080, Weight: 1,
	}
	n.put("n2", discovery.KindBackend, b.RowKey(), b)
	n.wait("prod/web.marathon:10080/tcp web=serving")
	vip, was := lb.HashAddr4("web.marathon").String(), "172.31.254.10:10080=1"
	n.want(vip, 10080, lb.TCP, was)
	n.members.kill("n2", true)
	n.wait("prod/web.marathon:10080/tcp web=node n2 is down, kept because no other backend is up")
	n.want(vip, 10080, lb.TCP, was)
	n.members.kill("n2", false)
	n.wait("prod/web.marathon:10080/tcp web=serving")
	n.want(vip, 10080, lb.TCP, was)
	if wrote := n.Snapshot().Stats.Wrote; wrote.Backends.Removed+wrote.Backends.Replaced > 0 || wrote.VIPs.Removed > 0 {
		t.Errorf("wrote %+v: its row was touched meanwhile", wrote)
	}
}

// test_l4lb (net-tests 8): five apps share a VIP, each has one of its own.
func TestAppsShareAVIPAndHaveTheirOwn(t *testing.T) {
	n := open(t)
	n.run(n.lead)
	n.run(n.Run)
	var all []string
	for i := range 5 {
		addr := fmt.Sprintf("172.17.0.%d", i+3)
		n.publish(marathon(fmt.Sprint("app-", i), []string{addr}, "/l4lbtest:5000=31000/tcp", fmt.Sprintf("/app-%d:80=31000/tcp", i)))
		all = append(all, addr+":31000=1")
		n.want(lb.HashAddr4(fmt.Sprintf("app-%d.marathon", i)).String(), 80, lb.TCP, addr+":31000=1")
	}
	n.want("11.128.73.162", 5000, lb.TCP, strings.Join(all, " "))
}

// vip_listener (net-tests 4.3): the zone has a name as long as somebody is behind it; an address that a name had comes
// back with it.
func TestNamesGoWithTheirLastBackend(t *testing.T) {
	n := open(t)
	n.run(n.lead)
	n.run(n.Run)
	names := func() (list []string) {
		for _, name := range n.Snapshot().Names["prod"] {
			list = append(list, name.Name)
		}
		return list
	}
	for range 2 {
		n.publish(marathon("foo.1", []string{"9.0.1.1"}, "foo.bar:80=80/tcp"))
		n.publish(marathon("foo.2", []string{"9.0.1.2"}, "foo.bar:80=80/tcp", "baz:80=80/tcp"))
		if got := names(); !slices.Equal(got, []string{"baz.marathon", "foo.bar.marathon"}) {
			t.Fatalf("names %v", got)
		}
		for i, want := range [][]string{{"baz.marathon", "foo.bar.marathon"}, nil} {
			if err := n.Withdraw(t.Context(), fmt.Sprint("foo.", i+1)); err != nil {
				t.Fatal(err)
			}
			if got := names(); !slices.Equal(got, want) {
				t.Errorf("after %d went: names %v, want %v", i+1, got, want)
			}
		}
	}
	if s := n.Snapshot().Stats; s.VIPs != 0 || s.Backends != 0 {
		t.Errorf("%+v, want no VIP declared", s)
	}
}
