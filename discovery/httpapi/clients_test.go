// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"testing"

	"weft/discovery"
	"weft/discovery/zone"
)

// `dcos node list` asks the pages of names for the masters, and those of nodes for what is public (recorded:
// GET /mesos_dns/v1/hosts/master.mesos, GET /net/v1/nodes).
func TestWhatNodeListOfTheDCOSCommandAsks(t *testing.T) {
	t.Parallel()
	c := newCluster()
	var changes []zone.Change
	for id, addr := range map[string]string{"m1": "10.0.0.1", "m2": "10.0.0.2", "m3": "10.0.0.3"} {
		changes = append(changes, zone.Change{
			Source: zone.Source{Kind: discovery.KindMaster, Key: id, Writer: discovery.Ledger},
			Fact:   zone.Master{Master: discovery.Master{ID: id, Addr: netip.MustParseAddr(addr), Port: 7700}},
		})
	}
	changes = append(changes, zone.Change{
		Source: zone.Source{Kind: discovery.KindLeader, Key: "leader", Writer: discovery.Ledger},
		Fact:   zone.Leader{Master: discovery.Master{ID: "m2", Addr: netip.MustParseAddr("10.0.0.2"), Port: 7700}},
	})
	z, _ := c.zone.Load().With(changes)
	c.zone.Store(z)
	mesos := New(Options{Snapshot: func() Snapshot { return Snapshot{Zone: z} }})
	ask := func(h http.Handler, path string, into any) {
		t.Helper()
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if err := json.Unmarshal(w.Body.Bytes(), into); err != nil || w.Code != http.StatusOK {
			t.Fatalf("%s: %d %s, %v", path, w.Code, w.Body, err)
		}
	}
	type host struct{ Host, IP string }
	for name, want := range map[string][]string{"master.mesos": {"10.0.0.1", "10.0.0.2", "10.0.0.3"}, "leader.mesos": {"10.0.0.2"}} {
		for dot, h := range map[string]http.Handler{".": mesos, "": c.handler()} { // how the name ends
			var hosts []host
			ask(h, "/v1/hosts/"+name, &hosts)
			var got []string
			for _, one := range hosts {
				if got = append(got, one.IP); one.Host != name+dot {
					t.Errorf("%s: %+v", name, one)
				}
			}
			if slices.Sort(got); !slices.Equal(got, want) {
				t.Errorf("%s: %v, want %v", name, got, want)
			}
		}
	}
	var nodes []struct { // lists, not null
		PrivateIP string   `json:"private_ip"`
		PublicIPs []string `json:"public_ips"`
	}
	ask(c.handler(), "/v1/nodes", &nodes)
	if len(nodes) != 1 || nodes[0].PrivateIP != "10.0.0.1" || nodes[0].PublicIPs == nil {
		t.Errorf("nodes %+v", nodes)
	}
}
