// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"bufio"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"weft/discovery"
	"weft/discovery/zone"
	"weft/discovery/zone/record"
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
	both := taskFact("t9", "both", "9.1.0.3")
	fact, _ := both.Fact.(zone.Task) // taskFact makes no other
	fact.Network, fact.Addrs = "dual", append(fact.Addrs, netip.MustParseAddr("fd01::3"))
	both.Fact = fact
	z, _ := zone.New(zone.Options{Zones: []string{"corp.example"}, Static: []record.Record{
		{Name: "_x._tcp.corp.example.", Type: record.SRV, Target: "nowhere.corp.example.", Port: 5432},
		{Name: "www.corp.example.", Type: record.CNAME, Target: "web.marathon.mesos."},
	}}).Completed().With([]zone.Change{taskFact("t1", "web", "9.1.0.2"), both})
	c.zone.Store(z)
	return c
}

func (c *cluster) handler() http.Handler {
	updated := Moment{time.Date(2026, 11, 27, 20, 0, 0, 120345678, time.FixedZone("", 3600))}
	return NewNode(NodeOptions{
		Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain; version=0.0.4")
			_, _ = w.Write([]byte("weft_rows 1\n"))
		}),
		Zone: c.zone.Load, VIPs: func() []VIP { return c.vips },
		Nodes: func() []Node {
			return []Node{{Private: netip.MustParseAddr("10.0.0.1"), Public: []netip.Addr{}, Hostname: "a", ID: "host-a", Alive: true, Updated: updated}}
		},
		Changed: func() (names, vips, nodes <-chan struct{}) { return c.changed, nil, nil }, Version: "v1",
	})
}

// The pages of dcos-net (net.md B7, net-tests 4.5 and 8: Diagnostics), to the byte where they are dcos-net's.
func TestNodePages(t *testing.T) {
	t.Parallel()
	h := newCluster().handler()
	ask := func(method, path, accept string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, path, nil)
		if accept != "" {
			r.Header.Set("Accept", accept)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}
	const task = "web-hw4uo-a.marathon.mesos"
	whole := map[string]string{
		"/v1/version":                            `{"Service":"dcos-dns","Version":"v1"}`,
		"/v1/hosts/web.marathon.mesos":           `[{"host":"web.marathon.mesos","ip":"9.1.0.2"}]`,
		"/v1/hosts/WEB.marathon.mesos.":          `[{"host":"web.marathon.mesos","ip":"9.1.0.2"}]`,
		"/v1/hosts/missing.mesos":                `[]`,
		"/v1/services/_web._tcp.marathon.mesos":  `[{"service":"_web._tcp.marathon.mesos","host":"` + task + `","port":80,"ip":"9.1.0.2"}]`,
		"/v1/services/_both._tcp.marathon.mesos": `[{"service":"_both._tcp.marathon.mesos","host":"both-t34wk-a.marathon.mesos","port":80,"ip":"9.1.0.3"}]`,
		"/v1/services/_x._tcp.corp.example":      `[{"service":"_x._tcp.corp.example","host":"nowhere.corp.example","port":5432}]`,
		"/v1/services/_none._tcp.marathon.mesos": `[]`,
		"/v1/nodes":                              `[{"private_ip":"10.0.0.1","public_ips":[],"hostname":"a","updated":"2026-11-27T19:00:00.120Z","id":"host-a","alive":true}]`,
		"/v1/targets?network=dev":                `[]`,
		"/v1/metrics/lashup":                     ``,
		"/v1/metrics/mesos_listener":             ``,
	}
	parts := map[string]string{
		"/v1/vips":                           `[{"vip":"web.marathon.l4lb.thisdcos.directory:80","protocol":"tcp","backend":[{"ip":"9.1.0.2","port":8080,`,
		"/v1/targets?port=http&network=prod": `[{"targets":["9.1.0.2:80"],"labels":{`,
		"/v1/nodes?force":                    `[{"private_ip":"10.0.0.1",`,
		"/v1/metrics":                        "weft_rows 1",
		"/v1/metrics/default":                "weft_rows 1",
		"/v1/metrics/dns":                    "weft_rows 1",
		"/v1/metrics/l4lb":                   "weft_rows 1",
		"/v1/metrics/overlay":                "weft_rows 1",
	}
	for path, want := range whole {
		if w := ask("GET", path, ""); w.Code != http.StatusOK || w.Body.String() != want {
			t.Errorf("%s: %d %s, want %s", path, w.Code, w.Body, want)
		}
	}
	for path, want := range parts {
		if w := ask("GET", path, ""); w.Code != http.StatusOK || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s: %d %s, want %s", path, w.Code, w.Body, want)
		}
	}
	for _, record := range []string{
		`{"name":"web.marathon.mesos","host":"9.1.0.2","rtype":"A"}`, `{"name":"both.marathon.mesos","host":"fd01::3","rtype":"AAAA"}`,
		`{"name":"_web._tcp.marathon.mesos","host":"` + task + `:80","rtype":"SRV"}`, `{"name":"www.corp.example","host":"web.marathon.mesos","rtype":"CNAME"}`,
	} {
		if w := ask("GET", "/v1/records", ""); !strings.Contains(w.Body.String(), record) {
			t.Errorf("/v1/records: %s has no %s", w.Body, record)
		}
	}

	// A trailing slash is none. Nobody writes, and JSON is all there is, but for metrics.
	pages := slices.Concat(slices.Collect(maps.Keys(whole)), slices.Collect(maps.Keys(parts)), []string{"/v1/records", "/v1/config", "/v1/enumerate"})
	for _, page := range pages {
		path, query, _ := strings.Cut(page, "?")
		metrics := strings.HasPrefix(path, "/v1/metrics")
		was, slashed := ask("GET", page, ""), ask("GET", path+"/?"+query, "")
		if slashed.Code != was.Code || slashed.Body.String() != was.Body.String() {
			t.Errorf("%s/: %d %s, want %d %s", path, slashed.Code, slashed.Body, was.Code, was.Body)
		}
		kind := "application/json"
		if metrics {
			kind = "text/plain; version=0.0.4"
		}
		if got := was.Header().Get("Content-Type"); was.Code == http.StatusOK && got != kind {
			t.Errorf("%s is %q, want %q", page, got, kind)
		}
		for _, method := range []string{"POST", "PUT", "DELETE", "HEAD"} {
			if w := ask(method, page, ""); w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != "GET" {
				t.Errorf("%s %s: %d, allowed %q; want 405, GET", method, page, w.Code, w.Header().Get("Allow"))
			}
		}
		if w := ask("GET", page, "text/plain"); w.Code == http.StatusNotAcceptable == metrics {
			t.Errorf("%s for who takes text alone: %d", page, w.Code)
		}
	}
	for path, want := range map[string]int{
		"/v1/config": 501, "/v1/enumerate": 501, "/v1/metrics/unknown": 404, "/lashup/key": 404, "/lashup/kv/x": 404, "/v1/watch": 400, "/v1": 404, "/": 404,
		"/v1/hosts/": 404, "/v1/services": 404,
	} {
		if w := ask("GET", path, ""); w.Code != want {
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

// One more than may watch is told so, and may when another has gone.
func TestWatchersAreCounted(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(newCluster().handler())
	t.Cleanup(server.Close)
	watch := func() (status int, body io.ReadCloser) {
		t.Helper()
		r, err := server.Client().Get(server.URL + "/v1/watch?nodes")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = r.Body.Close() })
		return r.StatusCode, r.Body
	}
	var last io.ReadCloser
	for i := range MaxWatchers {
		status, body := watch()
		if status != http.StatusOK {
			t.Fatalf("%d of %d gets %d", i+1, MaxWatchers, status)
		}
		last = body
	}
	status, body := watch()
	if status != http.StatusServiceUnavailable {
		t.Fatalf("one more gets %d, want 503", status)
	}
	if text, err := io.ReadAll(body); err != nil || !strings.Contains(string(text), "64 watch") {
		t.Errorf("one more reads %s (%v), want how many watch", text, err)
	}
	if err := last.Close(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); status != http.StatusOK; status, _ = watch() {
		if time.Now().After(deadline) {
			t.Fatal("a place that was given back is nobody's")
		}
	}
}

// pipe is a listener of one connection, which takes nothing that is not read.
type pipe struct {
	net.Conn
	taken, closed chan struct{}
}

func (p *pipe) Accept() (net.Conn, error) {
	select {
	case p.taken <- struct{}{}:
		return p.Conn, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipe) Addr() net.Addr { return p.LocalAddr() }

func (p *pipe) Close() error {
	close(p.closed)
	return nil
}

// A reader that takes nothing loses its connection: the first event, or the next sign of life, is not waited with for ever.
func TestWhoDoesNotReadIsNoWatcher(t *testing.T) {
	t.Parallel()
	for reads, want := range []time.Duration{takeWithin, keepAlive + takeWithin} {
		synctest.Test(t, func(t *testing.T) {
			ours, theirs := net.Pipe()
			p := &pipe{Conn: ours, taken: make(chan struct{}, 1), closed: make(chan struct{})}
			ended := make(chan time.Time, 1)
			page := newCluster().handler()
			server := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				page.ServeHTTP(w, r)
				ended <- time.Now()
			})}
			done := make(chan error, 1)
			go func() { done <- server.Serve(p) }()
			began := time.Now()
			if _, err := io.WriteString(theirs, "GET /v1/watch?nodes HTTP/1.1\r\nHost: node\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			for range reads {
				buf := make([]byte, 1<<16)
				if n, err := theirs.Read(buf); err != nil || !strings.Contains(string(buf[:n]), `"anew":true`) {
					t.Fatalf("read %s, %v", buf[:n], err)
				}
			}
			if took := (<-ended).Sub(began); took != want {
				t.Errorf("after %d events it is given up in %v, want %v", reads, took, want)
			}
			synctest.Wait()
			if n, err := theirs.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
				t.Errorf("then %d bytes, %v, want the end", n, err)
			}
			if err := server.Close(); err != nil {
				t.Error(err)
			}
			if err := <-done; !errors.Is(err, http.ErrServerClosed) {
				t.Error(err)
			}
		})
	}
}
