// SPDX-License-Identifier: Apache-2.0

package node

import (
	"net/netip"
	"strings"
	"testing"

	"weft/discovery"
	"weft/discovery/fake"
)

func TestExplainNamesRowAndWriter(t *testing.T) {
	s := fake.New("host-a")
	name := discovery.Name{
		Task: "t1", Label: "web", Network: "prod", Addrs: []netip.Addr{netip.MustParseAddr("9.1.0.2")},
		Ports: []discovery.NamedPort{{Protocol: "tcp", Port: 80}},
	}
	if err := s.Announce(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	for asked, want := range map[string]string{
		"web.weft.mesos.":       "address of task t1",
		"_web._tcp.weft.mesos.": "a port of task t1, at its own name",
	} {
		list, err := explain(t.Context(), s, "", asked)
		if err != nil || len(list) == 0 {
			t.Errorf("%s: %v, %v", asked, list, err)
			continue
		}
		if e := list[0]; e.Why != want || e.From != "name/web/t1" || e.Writer != "host-a" || e.WriterAlive == nil || !*e.WriterAlive {
			t.Errorf("%s: %+v, want %q from name/web/t1 of host-a, which lives", asked, e, want)
		}
	}
	if _, err := explain(t.Context(), s, "", "missing.weft.mesos."); err == nil || !strings.Contains(err.Error(), "missing.weft.mesos") {
		t.Errorf("a missing name: %v", err)
	}
}

func TestWhyFollowsTheRuleOfTheName(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, kind, from, want string }{
		{"web.weft.slave.mesos.", "A", "name/web/t1", "node of task t1"},
		{"web.weft.autoip.dcos.thisdcos.directory.", "A", "name/web/t1", "where task t1 is reached"},
		{"web.weft.l4lb.thisdcos.directory.", "A", "pin/web.weft", "VIP web.weft: its addresses by the masters' word"},
		{"2.0.1.9.in-addr.arpa.", "PTR", "name/web/t1", "reverse name of an address of name t1"},
		{"mesos.", "SOA", "zone/apex", "the zone itself"},
		{"db.corp.example.", "A", "static//etc/weft/names.json", "configuration of this node"},
		{"slave.mesos.", "A", "node/host-a", "address of node host-a"},
	} {
		if got := why(discovery.Record{Name: c.name, Type: c.kind, From: c.from}); got != c.want {
			t.Errorf("%s %s from %s: %q, want %q", c.name, c.kind, c.from, got, c.want)
		}
	}
}
