// SPDX-License-Identifier: Apache-2.0

package zone

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft/discovery"
	"weft/discovery/dnsname"
	"weft/discovery/zone/record"
)

// A task in its node's own network is named as Mesos-DNS names one by IPSources host, and is no word about whose the node's
// address is. The name of its VIP is one of every network.
func TestTasksInTheirNodesNetwork(t *testing.T) {
	t.Parallel()
	host := Change{Source: Source{Kind: discovery.KindName, Key: "t9", Writer: "host-a"}, Fact: Task{discovery.Name{
		Task: "t9", Label: "api", Framework: "marathon", Network: discovery.HostNetwork, Node: "host-a", Addrs: addrs("10.0.0.11"),
		Ports: []discovery.NamedPort{{Name: "http", Protocol: "tcp", Port: 31000}},
	}}}
	z, _ := New(options).With(append(sample(), host, service("", "api.marathon", "11.0.0.9"), service("prod", "api.marathon", "11.0.0.9")))
	own := dnsname.Canonical("api", "t9", "host-a")
	for _, c := range []struct {
		network, name string
		want          []string
	}{
		{"prod", "api.marathon.mesos.", []string{"10.0.0.11"}},
		{"", own + ".marathon.mesos.", []string{"10.0.0.11"}},
		{"dev", "api.marathon.slave.mesos.", []string{"10.0.0.11"}},
		{"dev", "_http._api._tcp.marathon.mesos.", []string{"0 1 31000 " + own + ".marathon.mesos."}},
		{"", "api.marathon.agentip.dcos.thisdcos.directory.", []string{"10.0.0.11"}},
		{"", "api.marathon.containerip.dcos.thisdcos.directory.", []string{"10.0.0.11"}},
		{"", "api.marathon.autoip.dcos.thisdcos.directory.", []string{"10.0.0.11"}},
		{"", "11.0.0.10.in-addr.arpa.", []string{"host-a.node.thisdcos.directory."}},
		{"prod", "api.marathon.l4lb.thisdcos.directory.", []string{"11.0.0.9"}},
		{"dev", "api.marathon.l4lb.thisdcos.directory.", []string{"11.0.0.9"}},
		{"", "9.0.0.11.in-addr.arpa.", []string{"api.marathon.l4lb.thisdcos.directory."}},
		{"", "api.marathon.host.weft.", nil}, // no network is called so
		{"prod", "api.marathon.prod.weft.", nil},
	} {
		var got []string
		for _, r := range z.Lookup(c.network, c.name).Of(record.Any) {
			got = append(got, r.Data())
		}
		slices.Sort(got)
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%s in %q (-want +got):\n%s", c.name, c.network, d)
		}
	}
}
