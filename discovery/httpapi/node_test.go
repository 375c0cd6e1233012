// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"bufio"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"weft/discovery"
	"weft/discovery/zone"
)

func taskFact(id, label, addr string) zone.Change {
	return zone.Change{
		Source: zone.Source{Kind: discovery.KindName, Key: id, Writer: "host-a"},
		Fact: zone.Task{Name: discovery.Name{
			Task: id, Label: label, Framework: "marathon", Network: "prod", Node: "host-a", Addrs: []netip.Addr{netip.MustParseAddr(addr)},
			Ports: []discovery.NamedPort{{Name: "http", Protocol: "tcp", Port: 80}, {Name: "syslog", Protocol: "udp", Port: 514}},
		}},
	}
}

// cluster is what a node knows.
type cluster struct {
	zone    atomic.Pointer[zone.Zone]
	changed chan struct{}
	vips    []VIP
}

func newCluster() *cluster {
	c := &cluster{changed: make(chan struct{}), vips: []VIP{{
		VIP: "web.marathon.l4lb.thisdcos.directory:80", Protocol: "tcp",
		Backends: []Backend{{IP: netip.MustParseAddr("9.1.0.2"), Port: 8080, Weight: 1, In: true}},
	}}}
	z, _ := zone.New(zone.Options{}).Completed().With([]zone.Change{taskFact("t1", "web", "9.1.0.2")})
	c.zone.Store(z)
	return c
}

func (c *cluster) handler() http.Handler {
	return NewNode(NodeOptions{
		Zone: c.zone.Load, VIPs: func() []VIP { return c.vips },
		Nodes: func() []Node {
			return []Node{{Private: netip.MustParseAddr("10.0.0.1"), Public: []netip.Addr{}, Hostname: "a", ID: "host-a", Alive: true}}
		},
		Changed: func() (names, vips, nodes <-chan struct{}) { return c.changed, nil, nil }, Version: "v1",
	})
}

func TestNodePages(t *testing.T) {
	t.Parallel()
	h := newCluster().handler()
	for path, want := range map[string]string{
		"/v1/version":                           `{"service":"dcos-dns","version":"v1"}`,
		"/v1/hosts/web.marathon.mesos":          `[{"host":"web.marathon.mesos.","ip":"9.1.0.2"}]`,
		"/v1/hosts/missing.mesos":               `[]`,
		"/v1/services/_web._tcp.marathon.mesos": `"port":80,"ip":"9.1.0.2"`,
		"/v1/records":                           `{"name":"web.marathon.mesos.","host":"9.1.0.2","rtype":"A"}`,
		"/v1/vips":                              `[{"vip":"web.marathon.l4lb.thisdcos.directory:80","protocol":"tcp","backend":[{"ip":"9.1.0.2","port":8080,`,
		"/v1/nodes":                             `[{"private_ip":"10.0.0.1","public_ips":[],"hostname":"a",`,
		"/v1/targets?port=http&network=prod":    `[{"targets":["9.1.0.2:80"],"labels":{`,
		"/v1/targets?network=dev":               `[]`,
		"/v1/metrics/lashup":                    ``,
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s: %d %s, want %s", path, w.Code, w.Body, want)
		}
	}
	for path, want := range map[string]int{
		"/v1/config": 501, "/v1/enumerate": 501, "/v1/metrics/unknown": 404, "/lashup/kv/x": 404, "/v1/watch": 400,
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if w.Code != want {
			t.Errorf("%s: %d, want %d", path, w.Code, want)
		}
	}
}

func TestWhoHasAPageGetsItOnce(t *testing.T) {
	t.Parallel()
	h := newCluster().handler()
	first := httptest.NewRecorder()
	h.ServeHTTP(first, httptest.NewRequest(http.MethodGet, "/v1/vips", nil))
	again := httptest.NewRequest(http.MethodGet, "/v1/vips", nil)
	again.Header.Set("If-None-Match", first.Header().Get("ETag"))
	w := httptest.NewRecorder()
	if h.ServeHTTP(w, again); w.Code != http.StatusNotModified || w.Body.Len() != 0 {
		t.Errorf("%d with %d bytes, want 304 with none", w.Code, w.Body.Len())
	}
}

func TestWatchTellsWhatChanges(t *testing.T) {
	t.Parallel()
	c := newCluster()
	server := httptest.NewServer(c.handler())
	t.Cleanup(server.Close)
	r, err := server.Client().Get(server.URL + "/v1/watch?name=web.marathon.mesos&name=db.marathon.mesos&nodes")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Body.Close() })
	lines := bufio.NewScanner(r.Body)
	next := func(event, data string) {
		t.Helper()
		var got [3]string
		for i := range got {
			if !lines.Scan() {
				t.Fatalf("the stream ended: %v", lines.Err())
			}
			got[i] = lines.Text()
		}
		if got[0] != "event: "+event || !strings.Contains(got[1], data) {
			t.Fatalf("got %q, want a %s event with %s", got, event, data)
		}
	}
	next("name", `"data":"9.1.0.2","from":"name/t1","writer":"host-a"`)
	next("name", `{"name":"db.marathon.mesos.","gone":true`)
	next("nodes", `"id":"host-a"`)
	z, _ := c.zone.Load().With([]zone.Change{taskFact("t2", "db", "9.1.0.3")})
	c.zone.Store(z)
	close(c.changed)
	next("name", `{"name":"db.marathon.mesos.","records":[{"type":"A"`)
}
