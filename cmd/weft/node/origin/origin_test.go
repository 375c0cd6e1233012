// SPDX-License-Identifier: Apache-2.0

package origin

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

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
		list, err := Of(t.Context(), s, "", asked)
		if err != nil || len(list) == 0 {
			t.Errorf("%s: %v, %v", asked, list, err)
			continue
		}
		if e := list[0]; e.Why != want || e.From != "name/web/t1" || e.Writer != "host-a" || e.WriterAlive == nil || !*e.WriterAlive {
			t.Errorf("%s: %+v, want %q from name/web/t1 of host-a, which lives", asked, e, want)
		}
	}
	if _, err := Of(t.Context(), s, "", "missing.weft.mesos."); err == nil || !strings.Contains(err.Error(), "missing.weft.mesos") {
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
		{"zk-2.zk.", "A", "zone/masters", "a master, in the order of their ids; with fewer masters than names again from the first"},
		{"mesos.", "SOA", "zone/apex", "the zone itself"},
		{"db.corp.example.", "A", "static//etc/weft/names.json", "configuration of this node"},
		{"slave.mesos.", "A", "node/host-a", "address of node host-a"},
	} {
		if got := why(discovery.Record{Name: c.name, Type: c.kind, From: c.from}); got != c.want {
			t.Errorf("%s %s from %s: %q, want %q", c.name, c.kind, c.from, got, c.want)
		}
	}
}

// silent is a cluster in which host-b, which runs web, does not answer.
type silent struct{ discovery.Service }

func (s silent) Nodes(context.Context) ([]discovery.NodeStatus, error) {
	return []discovery.NodeStatus{
		{Node: discovery.Node{ID: "host-a"}, Alive: true},
		{Node: discovery.Node{ID: "host-b"}, Since: time.Unix(0, 0).UTC()},
	}, nil
}

func (s silent) Rows(context.Context, discovery.Kind) ([]discovery.Row, error) {
	return []discovery.Row{
		{Writer: "host-b", Kind: discovery.KindName, Key: "web/t1", Value: []byte(`{"task":"t1","label":"Web"}`)},
		{Writer: "host-a", Kind: discovery.KindName, Key: "db/t2", Value: []byte(`{"task":"t2","label":"db"}`)},
	}, nil
}

func TestExplainTellsWhoseNodeIsSilent(t *testing.T) {
	s := silent{fake.New("host-a")}
	for name, want := range map[string]bool{"web.weft.mesos.": true, "_web._tcp.weft.mesos.": true, "db.weft.mesos.": false, "webs.weft.mesos.": false} {
		_, err := Of(t.Context(), s, "", name)
		if told := err != nil && strings.Contains(err.Error(), "task t1 of that name is on host-b, which does not answer since 1970-01-01T00:00:00Z"); told != want || err == nil {
			t.Errorf("%s: %v, want the silent node told of: %t", name, err, want)
		}
	}
}
