// SPDX-License-Identifier: Apache-2.0

package discovery_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"weft/discovery"
)

func TestNameTellsEveryProblem(t *testing.T) {
	t.Parallel()
	good := func() discovery.Name {
		return discovery.Name{
			Task: "web.1", Label: "web", Framework: "/dev/kafka", Network: "prod", Node: "host-a",
			Addrs: []netip.Addr{netip.MustParseAddr("9.0.0.2"), netip.MustParseAddr("fd01::2")},
			Ports: []discovery.NamedPort{{Name: "http", Protocol: "tcp", Port: 80}},
		}
	}
	if err := good().Validate(); err != nil {
		t.Errorf("a good name: %v", err)
	}
	if err := (discovery.Name{Task: "t", Label: strings.Repeat("a", 63), Addrs: good().Addrs}).Validate(); err != nil {
		t.Errorf("a short name: %v", err)
	}
	check := func(want string, change func(*discovery.Name)) {
		t.Helper()
		n := good()
		change(&n)
		err := n.Validate()
		if !errors.Is(err, discovery.ErrInvalid) || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got %v, want ErrInvalid: %s...", err, want)
		}
	}
	check(`task "": invalid: a task id has 1 to 512 bytes`, func(n *discovery.Name) { n.Task = "" })
	check(`task "a\nb"`, func(n *discovery.Name) { n.Task = "a\nb" })
	check(`label "": invalid: a DNS label`, func(n *discovery.Name) { n.Label = "" })
	check(`label "Web"`, func(n *discovery.Name) { n.Label = "Web" })
	check(`label "a.b"`, func(n *discovery.Name) { n.Label = "a.b" })
	check(`label "-a"`, func(n *discovery.Name) { n.Label = "-a" })
	check(`label "a-"`, func(n *discovery.Name) { n.Label = "a-" })
	check(`label "aaaa`, func(n *discovery.Name) { n.Label = strings.Repeat("a", 64) })
	check(`framework "../_"`, func(n *discovery.Name) { n.Framework = "../_" })
	check(`network "Prod"`, func(n *discovery.Name) { n.Network = "Prod" })
	check(`node "host.a"`, func(n *discovery.Name) { n.Node = "host.a" })
	check(`addrs "0": invalid: a name has 1 to 64 addresses`, func(n *discovery.Name) { n.Addrs = nil })
	check(`addrs "127.0.0.1"`, func(n *discovery.Name) { n.Addrs[0] = netip.MustParseAddr("127.0.0.1") })
	check(`addrs "::ffff:127.0.0.1"`, func(n *discovery.Name) { n.Addrs[0] = netip.MustParseAddr("::ffff:127.0.0.1") })
	check(`addrs "ff02::1"`, func(n *discovery.Name) { n.Addrs[0] = netip.MustParseAddr("ff02::1") })
	check(`addrs "fe80::1%eth0"`, func(n *discovery.Name) { n.Addrs[0] = netip.MustParseAddr("fe80::1%eth0") })
	check(`addrs "invalid IP"`, func(n *discovery.Name) { n.Addrs[0] = netip.Addr{} })
	check(`ports name "a_b"`, func(n *discovery.Name) { n.Ports[0].Name = "a_b" })
	check(`ports protocol "sctp": invalid: tcp or udp`, func(n *discovery.Name) { n.Ports[0].Protocol = "sctp" })
	check(`ports port 0: invalid: 1 to 65535`, func(n *discovery.Name) { n.Ports[0].Port = 0 })
	both := good()
	both.Label, both.Ports[0].Port = "X", 0
	if err := both.Validate(); strings.Count(err.Error(), "\n") != 1 {
		t.Errorf("got %v, want two problems", err)
	}
}
