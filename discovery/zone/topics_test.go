// SPDX-License-Identifier: Apache-2.0

package zone

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"weft/discovery"
	"weft/discovery/dnsname"
)

// Whatever a record of a task is called, the question for it leads to the topic of the task's row.
func TestAQuestionLeadsToTheRowsThatAnswerIt(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		label := rapid.StringMatching(`[a-z0-9]([a-z0-9]|-?[a-z0-9]){0,62}`).Filter(func(s string) bool { return len(s) <= 63 }).Draw(t, "label")
		framework := rapid.SampledFrom([]string{"", "marathon", "a.b", "Prod Team"}).Draw(t, "framework")
		node := rapid.SampledFrom([]string{"h1", "node-with-a-name", "5f2b-s12", "n"}).Draw(t, "node")
		c := task("t"+label, label, framework, []netip.Addr{netip.MustParseAddr("9.0.0.1"), netip.MustParseAddr("fd01:b::1")},
			discovery.NamedPort{Name: rapid.SampledFrom([]string{"", "http"}).Draw(t, "port"), Port: 80, Protocol: "tcp"})
		z, _ := New(options).With([]Change{
			{Source{Kind: discovery.KindNetwork, Key: "prod", Writer: discovery.Ledger}, Network{
				Name: "prod", VNI: 1, Subnets: []netip.Prefix{netip.MustParsePrefix("9.0.0.0/8"), netip.MustParsePrefix("fd01:b::/64")},
			}},
			{Source{Kind: discovery.KindNode, Key: node, Writer: node}, Host{Node: discovery.Node{ID: discovery.NodeID(node), Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}}},
			c,
		})
		of := discovery.NameTopic(dnsname.Label(label))
		every := discovery.Topic{Kind: discovery.KindName, Of: discovery.Every}
		found := 0
		for r := range z.All {
			if r.From != c.From() {
				continue
			}
			names := []string{r.Name}
			if m, ok := z.options.mirror(r.Name); ok {
				names = append(names, m)
				if !dnsname.Within(r.Name, "slave.mesos") {
					names = append(names, z.options.ownName(r.Name, "prod"))
				}
			}
			for _, name := range names {
				found++
				if topics := z.Topics(name); !slices.Contains(topics, of) && !slices.Contains(topics, every) {
					t.Fatalf("%s leads to %v, its row is on %v", name, topics, of)
				}
			}
		}
		if found < 10 {
			t.Fatalf("%d names of the task, want more than ten", found)
		}
	})
}

func TestTopicsOfQuestions(t *testing.T) {
	t.Parallel()
	z, _ := New(options).With([]Change{{Source{Kind: discovery.KindNetwork, Key: "prod", Writer: discovery.Ledger}, Network{
		Name: "prod", VNI: 1, Subnets: []netip.Prefix{netip.MustParsePrefix("9.0.0.0/8")},
	}}})
	for name, want := range map[string]string{
		"web.weft.mesos.":                          "[name/web]",
		"web.weft.mesos.thisdcos.directory.":       "[name/web]",
		"web-4.weft.mesos.":                        "[name/web-4]",
		"web-abcde-h1.weft.slave.mesos.":           "[name/web name/web-abcde-h1]",
		"_http._web._tcp.weft.mesos.":              "[name/http name/web]",
		"web.weft.autoip.dcos.thisdcos.directory.": "[name/web]",
		"1.0.0.9.in-addr.arpa.":                    "[name/*]",
		"1.0.0.10.in-addr.arpa.":                   "[]",
		"0.9.in-addr.arpa.":                        "[]",
		"leader.mesos.":                            "[]",
		"h1.node.thisdcos.directory.":              "[]",
		"web.weft.l4lb.thisdcos.directory.":        "[]",
		"example.com.":                             "[]",
	} {
		if got := fmt.Sprint(z.Topics(name)); got != want {
			t.Errorf("%s leads to %s, want %s", name, got, want)
		}
	}
}
